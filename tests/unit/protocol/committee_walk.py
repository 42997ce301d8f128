"""Four members, one of them a Byzantine puppet, on a wire that a walk delivers, drops, doubles and reorders by hand."""

from dataclasses import dataclass, field

from protocol.committee.evidence import convict
from protocol.committee.repeats import resend, wanted
from protocol.committee.storage import CHAIN, unpack_block
from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.messages.committee import (
    Certified,
    Offer,
    SignedBatch,
    State,
    StatementKind,
    SyncRequest,
    header_digest,
)
from protocol.roles.oracle.syncing import make_page
from tests.unit.protocol.committee_at_hand import (
    DOMAIN,
    KEYS,
    NULLIFY,
    PARAMS,
    START_MS,
    Crashed,
    Made,
    Member,
    batch,
    build,
    digest_of,
    leader,
    propose,
    say,
)

TRAITOR = 3
HONEST = (0, 1, 2)


@dataclass
class Walk:
    """The members at the places 0, 1 and 2, and all that is under way to them."""

    now_ms: int = START_MS
    bag: list[tuple[int, Message]] = field(default_factory=list)
    made: dict[int, list[SignedBatch]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.members = [Member(place=place) for place in HONEST]

    # What may happen

    def step(self, what: str, one: int, other: int) -> None:
        """Something happens; numbers choose among what there is."""
        member = self.members[one % 3]
        match what:
            case "deliver" | "double" | "drop" | "late" if self.bag:
                at = other % (len(self.bag) if what == "late" else min(6, len(self.bag)))
                to, message = self.bag[at] if what == "double" else self.bag.pop(at)
                if what != "drop":
                    self.hand(self.members[to], message)
            case "time":
                self.time(member, 100_000 if other % 4 == 0 else PARAMS.block_interval_ms_min)
            case "crash":
                member.fuse = other % 12
            case "restart":
                self.restart(member)
            case "offer":
                self.offer(one % 4)
            case "again":
                self.again(member)
            case "sync":
                self.catch_up(member)
            case "traitor":
                self.betray(one, other)

    def hand(self, member: Member, message: Message) -> None:
        """A message arrives."""
        member.now_ms = self.now_ms
        self.does(member, lambda: member.hear(message))

    def does(self, member: Member, action) -> None:  # type: ignore[no-untyped-def]
        """Whatever it sends goes into the bag; where it crashes, what it sent is lost with it."""
        try:
            self.sent(member.place, action())
        except RemoteProtocolError:
            pass
        except Crashed:
            self.restart(member)

    def sent(self, place: int, messages: list[Message]) -> None:
        """To all others."""
        self.bag += [(to, message) for message in messages for to in HONEST if to != place]

    def time(self, member: Member, most_ms: int = 0) -> None:
        """Time passes to a member's next deadline, or less; for the others it is as late."""
        at = member.simplex.next_deadline()
        self.now_ms = max(self.now_ms, min(at or self.now_ms, self.now_ms + most_ms))
        member.now_ms = self.now_ms
        self.does(member, lambda: member.do(member.simplex.on_time(self.now_ms)))

    def restart(self, member: Member) -> None:
        """With nothing but its disk."""
        member.fuse = None
        member.now_ms = self.now_ms
        member.restart()

    def again(self, member: Member) -> None:
        """All that may have been lost; a crash before it leaves is as good as one before."""
        self.does(member, lambda: member.do(list(resend(member.simplex))))

    def offer(self, place: int) -> None:
        """An oracle has something to say."""
        chain = self.made.setdefault(place, [])
        previous = digest_of(chain[-1]) if chain else bytes(32)
        chain.append(batch(place, len(chain) + 1, previous))  # type: ignore[arg-type]
        self.bag += [(to, Offer(chain[-1])) for to in HONEST]

    def betray(self, one: int, other: int) -> None:
        """The traitor signs whatever there is to sign, and tells whom it likes."""
        member = self.members[one % 3]
        tree, height = member.simplex.tree, member.simplex.height - other % 3
        known = [digest for digest, header in tree.headers.items() if header.height == height] or [b"\1" * 32]
        kind = list(StatementKind)[other % 4]
        header = known[one % len(known)]
        if member.simplex.committee.epoch != 1 or height < 1:
            return
        if kind is StatementKind.PROPOSAL and leader(height) == TRAITOR and (parent := tree.parent_for(height)):
            state = tree.state_after(parent)
            block = build(Made(tree.headers[parent], parent, b"", state), height, self.fresh(state, other))
            between = [tree.nullifications[at] for at in sorted(tree.nullifications) if at < height]
            told: Message = propose(block, tree.certified(parent, tree.headers[parent].height), between)
        else:
            told = State(say(TRAITOR, kind, height, bytes(32) if kind is NULLIFY else header))
        self.bag += [(to, told) for to in HONEST if (one + other) >> to & 1]

    def fresh(self, state, other: int) -> list[SignedBatch]:  # type: ignore[no-untyped-def]
        """What the traitor includes, so that its blocks differ: some of its own batches."""
        number, previous = state.included(1, KEYS[TRAITOR].node_id)
        return [batch(TRAITOR, number + 1, previous, bytes([other % 3]))] if other % 3 else []

    # What must hold

    def check(self) -> None:
        """S1, S2 and S17; ``Member`` holds S2 and S3 against each of its words."""
        # A closing block is final at those alone who did not close the epoch with one below it, and changes nothing.
        chains = [[at for at in self.chain(member) if at[1] <= PARAMS.epoch_blocks] for member in self.members]
        longest = max(chains, key=len)
        for chain in chains:
            assert chain == longest[: len(chain)], "two conflicting blocks are final"
        counts = [(epoch, count) for epoch, _, _, count in longest]
        assert counts == sorted(counts)
        for member in self.members:
            assert member.lost == []
            for evidence in member.convicted:
                assert convict(DOMAIN, evidence) == KEYS[TRAITOR].node_id, "a correct member is convicted"

    @staticmethod
    def chain(member: Member) -> list[tuple[int, int, bytes, int]]:
        """What is final on a disk."""
        found = []
        for name in sorted(member.disk):
            if name.startswith(CHAIN):
                header = unpack_block(member.disk[name]).header
                found.append((header.epoch, header.height, header_digest(DOMAIN, header), header.results_count))
        return found

    # Healing

    def heal(self, rounds: int = 1_000) -> None:
        """All that is said again arrives, what is missing is asked for, and time goes on; the traitor is silent."""
        for member in self.members:
            member.fuse = None
        self.bag.clear()
        self.offer(0)
        wish = len(self.made[0])
        for _ in range(rounds):
            for member in self.members:
                self.again(member)
                self.catch_up(member)
            self.deliver_all()
            if all(self.included(member) >= wish for member in self.members):
                return
            self.now_ms += PARAMS.delta_ms
            for member in self.members:
                if (at := member.simplex.next_deadline()) is not None and at <= self.now_ms:
                    self.time(member)
            self.deliver_all()
            self.bag += [(to, Offer(signed)) for signed in self.made[0] for to in HONEST]
        raise AssertionError("nothing becomes final though all is well")

    def included(self, member: Member) -> int:
        """How many batches of the first oracle are final at a member."""
        return int(member.simplex.tree.base.state.included(1, KEYS[0].node_id)[0])

    def deliver_all(self) -> None:
        """In order."""
        while self.bag:
            to, message = self.bag.pop(0)
            self.hand(self.members[to], message)

    def catch_up(self, member: Member) -> None:
        """What ``sync`` would bring."""
        for other in self.members:
            if other is member:
                continue
            epoch, base = member.simplex.committee.epoch, member.simplex.tree.base.header.height
            first, last = wanted(member.simplex) or (base + 1, base + 64)
            if other.simplex.committee.epoch < epoch:
                continue
            load = other.disk
            page = make_page(
                lambda name, load=load: {key: load[key] for key in load if key.startswith(name)},  # type: ignore[misc]
                other.simplex,
                SyncRequest(epoch, first, last),
            )
            for certificate in page.nullifications:
                self.hand(member, Certified(certificate, None))
            for block in page.blocks:
                self.does(member, lambda block=block: member.hear(block))  # type: ignore[misc]

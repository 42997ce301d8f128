"""A session's papers, commits and openings as its nodes would make them, signed by keyed hashes."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from p2pnode.sim.crypto import Key
from protocol.core.genesis import Genesis
from protocol.core.ids import NOBODY, ZERO_DIGEST, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain, typed_digest
from protocol.messages.results import (
    AckWord,
    Commit,
    CommitMessage,
    Commits,
    Observation,
    Opening,
    Papers,
    Reveal,
    RevealMessage,
    SignedCommit,
    SignedReveal,
    SignedSession,
    Verdict,
)
from protocol.messages.sessions import Assignment, SessionOpen, session_id
from protocol.messages.tasks import Ack, SegmentHead, TaskOrder
from protocol.results.commitment import commit_of, make_opening, opening_root, segment_of
from tests.unit.protocol.committee_at_hand import HASHES, KEYS, members_of

CLIENT, ROUTER, OTHER_ROUTER, MALLORY = (HASHES.key(name) for name in ("client", "router", "router 2", "mallory"))
MINERS = tuple(HASHES.key(f"miner {number}") for number in range(8))
MODEL = b"\x0a" * 32
BALANCE_WEI = 10**9

PARAMS = replace(
    Params(), epoch_blocks=8, commit_window_ms=5_000, reveal_window_ms=3_000, lanes_observed_max=64
).validate()


def genesis_of(params: Params = PARAMS, size: int = 4) -> Genesis:
    """A network whose client has money."""
    return Genesis("results", params=params, committee=members_of(size), allocation=((CLIENT.node_id, BALANCE_WEI),))


DOMAIN = genesis_of().domain()


@dataclass(frozen=True)
class Job:
    """One order, as its client, router and miners see it. ``lanes`` miners work on it unless ``miners`` are named."""

    lanes: int = 1
    number: int = 0
    """Of the session."""
    task: int = 1
    home_epoch: int = 1
    miners: tuple[Key | None, ...] = ()
    assignment: int = 1
    generation: int = 1
    router: Key = ROUTER
    wrong: dict[str, Any] = field(default_factory=dict)
    """Fields of the session put in by hand."""
    domain: Domain = DOMAIN

    @property
    def opening(self) -> SessionOpen:
        """The session."""
        content: dict[str, Any] = {
            "client": CLIENT.node_id,
            "routers": (ROUTER.node_id, OTHER_ROUTER.node_id),
            "model": MODEL,
            "lanes": self.lanes,
            "price_cap_wei": 100,
            "cap_wei": 100_000,
            "tasks_max": 10,
            "expires_ms": 10**15,
            "audits": False,
            "nonce": self.number.to_bytes(32, "big"),
            "header": ZERO_DIGEST,
        }
        return SessionOpen(**{**content, **self.wrong})

    @property
    def session(self) -> bytes:
        """Its id."""
        return session_id(self.domain, self.opening)

    @property
    def signed_session(self) -> SignedSession:
        """As the client signed it."""
        return SignedSession(self.opening, CLIENT.sign(session_id(self.domain, self.opening)))

    @property
    def order(self) -> TaskOrder:
        """What was ordered."""
        return TaskOrder(
            self.session, self.task, self.home_epoch, b"\x01" * 32, b"\x02" * 32, b"\x03" * 32, 400, 50_000
        )

    @property
    def team(self) -> tuple[Key | None, ...]:
        """Who works, by lane."""
        return self.miners or MINERS[: self.lanes]

    def generation_of(self, lane: int) -> bytes:
        """The lease of a lane."""
        return bytes([self.generation]) * 23 + bytes([lane])

    @property
    def papers(self) -> Papers:
        """What proves all that."""
        team = tuple(NOBODY if key is None else key.node_id for key in self.team)
        generations = tuple(self.generation_of(lane) for lane in range(len(team)))
        assignment = Assignment(self.session, self.assignment, self.router.node_id, team, generations, ZERO_DIGEST)
        order = self.order
        return Papers(
            self.signed_session,
            order,
            CLIENT.sign(typed_digest(self.domain, order)),
            assignment,
            self.router.sign(typed_digest(self.domain, assignment)),
        )

    def head(self, lane: int = 0) -> SegmentHead:
        """Of a lane's only segment."""
        order, miner = self.order, self.miner(lane)
        return SegmentHead(
            session=self.session,
            task=self.task,
            lane=lane,
            generation=self.generation_of(lane),
            miner=miner.node_id,
            order=typed_digest(self.domain, order),
            prompt=order.prompt,
            router=self.router.node_id,
            price_wei=7,
            prompt_tokens=b"\x04" * 32,
            prompt_token_count=3,
            model=MODEL,
            sampling=order.sampling,
            start_index=0,
            previous_head=ZERO_DIGEST,
        )

    def miner(self, lane: int = 0) -> Key:
        """Of a lane."""
        key = self.team[lane]
        assert key is not None
        return key

    def shown(self, lane: int = 0, count: int = 10, acked: int | None = None, chain: bytes = b"\x05" * 32) -> Opening:
        """What becomes public of a lane; lane 0 is acknowledged to the end unless said otherwise."""
        head, order = self.head(lane), self.order
        segment = segment_of(head)
        acked = count if acked is None and lane == 0 else acked
        if acked is not None:
            ack = Ack(self.session, self.task, 0, head.generation, typed_digest(self.domain, head), acked, b"\x06" * 32)
            word = AckWord(acked, b"\x06" * 32, CLIENT.sign(typed_digest(self.domain, ack)))
            segment = msgspec.structs.replace(segment, ack=word)
        return make_opening(
            self.domain, order, CLIENT.sign(typed_digest(self.domain, order)), [head], chain, count, [segment]
        )

    def reveal(self, lane: int = 0, salt: bytes = b"\x07" * 32, **opening: Any) -> SignedReveal:
        """What opens the commit of a lane."""
        shown, miner = self.shown(lane, **opening), self.miner(lane)
        reveal = Reveal(
            self.session,
            self.task,
            lane,
            self.generation_of(lane),
            miner.node_id,
            opening_root(self.domain, shown),
            shown.count,
            salt,
        )
        return SignedReveal(reveal, miner.sign(typed_digest(self.domain, reveal)))

    def commit(self, lane: int = 0, **reveal: Any) -> SignedCommit:
        """A lane's miner binds itself."""
        commit = commit_of(self.domain, self.reveal(lane, **reveal).reveal)
        return signed_commit(self.miner(lane), commit, self.domain)

    def commits(self, lane: int = 0, **reveal: Any) -> CommitMessage:
        """With its papers; with one lane opened at once."""
        if self.lanes > 1:
            return CommitMessage(self.commit(lane, **reveal), self.papers)
        opening = {name: value for name, value in reveal.items() if name != "salt"}
        return CommitMessage(
            self.commit(lane, **reveal), self.papers, self.reveal(lane, **reveal), self.shown(lane, **opening)
        )

    def reveals(self, lane: int = 0, salt: bytes = b"\x07" * 32, **opening: Any) -> RevealMessage:
        """A lane is opened."""
        return RevealMessage(self.reveal(lane, salt, **opening), self.shown(lane, **opening))

    def bare(self, *lanes: int) -> Commits:
        """Commits of one miner as they go by gossip."""
        return Commits(self.miner(lanes[0]).node_id, 1, tuple(self.commit(lane) for lane in lanes))

    def ok(self, lane: int = 0, **opening: Any) -> Observation:
        """What an oracle says of a lane that is as it should be."""
        shown = self.shown(lane, **opening)
        return Observation(self.session, self.task, lane, Verdict.OK, opening_root(self.domain, shown), shown.count)

    def failed(self, verdict: Verdict, lane: int = 0, miner: NodeId | None = None) -> Observation:
        """What an oracle says of a lane that failed."""
        name = self.miner(lane).node_id if miner is None else miner
        return Observation(self.session, self.task, lane, verdict, bytes(12) + name, 0)


def signed_commit(key: Key, commit: Commit, domain: Domain = DOMAIN) -> SignedCommit:
    """A commit as a key signs it."""
    return SignedCommit(commit, key.sign(typed_digest(domain, commit)))


def oracles(size: int = 4) -> Sequence[Key]:
    """The keys of the committee."""
    return KEYS[:size]

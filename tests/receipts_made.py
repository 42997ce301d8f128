"""Receipts with real signatures, made by hand: everybody who signs in one is here with their keys.

The same arguments always give the same bytes. Each part is a method, so a test that wants another one overrides it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

from protocol.committee.election import committee_root
from protocol.committee.payload import Roots, make_header
from protocol.core.codec import pack
from protocol.core.genesis import Contracts, Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, Generation, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain, keccak, typed_digest
from protocol.light.evm import Acceptance
from protocol.light.headers import HeaderTrust
from protocol.light.levels import Level
from protocol.messages.committee import (
    EMPTY_BODY,
    Batch,
    Certificate,
    CertificateKind,
    Certified,
    Header,
    MemberSignature,
    SignedBatch,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.handover import HandOver
from protocol.messages.receipts import (
    RECEIPT_FORMAT,
    EpochMembers,
    EvmProof,
    Finality,
    Receipt,
    SegmentRecord,
    Settlement,
    SignedAssignment,
    Tokens,
)
from protocol.messages.results import (
    AckWord,
    Content,
    Observation,
    Outcome,
    Reveal,
    SignedCommit,
    SignedReveal,
    SignedSession,
    Verdict,
)
from protocol.messages.sampling import SamplingParams
from protocol.messages.sessions import (
    Announcement,
    Assignment,
    Bid,
    BidReceipt,
    BidSet,
    CountersignedBid,
    Measurement,
    SessionOpen,
    session_id,
)
from protocol.messages.tasks import (
    Ack,
    EndReason,
    EndRecord,
    Prompt,
    PromptMessage,
    SegmentHead,
    TaskOrder,
)
from protocol.results.commitment import chain_heads, commit_of, result_root
from protocol.results.mountain import Mountain, Place, outcome_leaf, prove
from protocol.session.transcript import SegmentWriter, prompt_tokens_digest, segment_id
from tests.evm_made import make_block
from tests.unit.protocol.keys import Key, key

NOW_MS = 1_800_000_000_000
CLIENT, ROUTER = key(1), key(2)
MINERS = tuple(key(10 + number) for number in range(4))
ORACLES = tuple(key(100 + number) for number in range(64))
"""The committee of epoch e begins at place ``shift * (e - 1)``."""
MODEL = keccak(b"a model")
PROMPT_TOKENS = (1, 2, 3)
WORDS = (b"In ", b"the ", b"wo", b"ods", b", of", b" cour", b"se", b". ")
PRICES = (7, 9, 8, 7)
OTHERS_BEFORE, OTHERS_AFTER = 5, 3
"""Outcomes beside the answer's in the results tree."""


@dataclass(frozen=True)
class Maker:
    """One answer and all who signed something of it. ``receipt()`` is its receipt."""

    level: Level = Level.FINALIZED
    """The highest part that the receipt has."""
    tokens: int = 12
    failover: bool = False
    """The second miner goes on after a third of the tokens."""
    lanes: int = 1
    home: int = 1
    """The epoch in which the answer was ordered."""
    final_epoch: int = 1
    """The one that decided it."""
    shift: int = 0
    """How many members are new in each epoch."""
    size: int = 4
    skip: bool = False
    """Hand-overs of as few epochs as can be."""
    carried: int = 0
    """The committee of this epoch is in the receipt, and hand-overs lead on from it; 0: from the genesis."""
    settling: bool = False
    """The network has contracts."""
    founded_s: int = 0
    acks: bool = True
    by_proof: bool = False
    """What the contract accepted is shown by the chain's state."""
    question: str = "Where does a bear live?"

    # The network

    @cached_property
    def genesis(self) -> Genesis:
        """The network's."""
        contracts = Contracts(1, *(NodeId(keccak(bytes([place]))[:20]) for place in range(6)))
        return Genesis(
            "made",
            chain_id=31_337 if self.settling else 0,
            params=replace(Params(), bids_good=2).validate(),
            committee=self.committee(1),
            contracts=contracts if self.settling else None,
            founded_s=self.founded_s,
        )

    @cached_property
    def domain(self) -> Domain:
        """Its signing domain."""
        return self.genesis.domain()

    def oracles(self, epoch: int) -> tuple[Key, ...]:
        """The members of an epoch."""
        first = self.shift * (epoch - 1)
        return ORACLES[first : first + self.size]

    def committee(self, epoch: int) -> tuple[NodeId, ...]:
        """Their addresses."""
        return tuple(oracle.node for oracle in self.oracles(epoch))

    def trust(self, epoch: int = 0) -> HeaderTrust:
        """Of a reader who has the genesis, and followed hand-over by hand-over up to an epoch's committee."""
        trust = HeaderTrust(self.genesis)
        for each in range(1, epoch):
            trust.take(self.hand_over(each))
        return trust

    # The session

    @cached_property
    def opening(self) -> SessionOpen:
        """What the client signed first."""
        return SessionOpen(
            client=CLIENT.node,
            routers=(ROUTER.node,),
            model=MODEL,
            lanes=self.lanes,
            price_cap_wei=1_000,
            cap_wei=1_000_000,
            tasks_max=10,
            expires_ms=NOW_MS + 3_600_000,
            audits=False,
            nonce=bytes(32),
            header=ZERO_DIGEST,
        )

    @cached_property
    def session(self) -> Digest:
        """Its id."""
        return session_id(self.domain, self.opening)

    @cached_property
    def bid_set(self) -> Envelope:
        """The router's."""
        return self.bids_to(ROUTER)

    def bids_to(self, router: Key) -> Envelope:
        """Four miners bid; of the first the router has measured something."""
        announcement = Announcement(self.session, router.node, (), MODEL, self.lanes, 1_000, 4, 0, NOW_MS)
        opened = seal(self.domain, router.sign, announcement)
        round_ = envelope_digest(self.domain, opened, Announcement)
        entries = []
        for position, (miner, price) in enumerate(zip(MINERS, PRICES, strict=True)):
            bid = seal(self.domain, miner.sign, Bid(self.session, miner.node, MODEL, price, 2, 2, 40, 25, 512, NOW_MS))
            named = BidReceipt(envelope_digest(self.domain, bid, Bid), self.session, position, round_)
            entries.append(CountersignedBid(bid, seal(self.domain, router.sign, named)))
        measured = (Measurement(MINERS[0].node, 3, 41, 24, 10_000),)
        return seal(self.domain, router.sign, BidSet(self.session, opened, tuple(entries), measured))

    def generation(self, number: int, lane: int = 0) -> Generation:
        """The lease of an assignment's lane."""
        return Generation(bytes([0x44 + lane]) * 16 + number.to_bytes(8, "big"))

    def assignment(self, number: int) -> SignedAssignment:
        """The router's, of rising numbers from 1: number n gives lane 0 to miner n."""
        miners = tuple(MINERS[(number - 1 + lane) % len(MINERS)].node for lane in range(self.lanes))
        generations = tuple(self.generation(number, lane) for lane in range(self.lanes))
        bid_set = envelope_digest(self.domain, self.bid_set, BidSet)
        assignment = Assignment(self.session, number, ROUTER.node, miners, generations, bid_set)
        return SignedAssignment(assignment, ROUTER.sign(typed_digest(self.domain, assignment)))

    # The answer

    @cached_property
    def prompt(self) -> Prompt:
        """What the client asks."""
        return Prompt(b"\x05" * 32, (PromptMessage("user", self.question),), SamplingParams())

    @cached_property
    def order(self) -> TaskOrder:
        """The client's order."""
        digest = self.prompt.sampling.digest()
        home = self.home if self.genesis.committee else 0
        return TaskOrder(
            self.session, 1, home, self.prompt.commitment(), digest, b"\x06" * 32, max(16, self.tokens), 100_000
        )

    @cached_property
    def shown(self) -> Tokens:
        """The tokens."""
        return Tokens(
            tuple(100 + place for place in range(self.tokens)),
            tuple(WORDS[place % len(WORDS)] for place in range(self.tokens)),
        )

    @cached_property
    def end(self) -> EndRecord:
        """How it ended."""
        return EndRecord(EndReason.STOP, len(PROMPT_TOKENS), self.tokens, 1)

    def head(self, number: int, start_index: int, previous_head: bytes) -> SegmentHead:
        """Of the segment of an assignment."""
        return SegmentHead(
            session=self.session,
            task=1,
            lane=0,
            generation=self.generation(number),
            miner=MINERS[number - 1].node,
            order=typed_digest(self.domain, self.order),
            prompt=self.order.prompt,
            router=ROUTER.node,
            price_wei=PRICES[number - 1],
            prompt_tokens=prompt_tokens_digest(self.prompt.nonce, PROMPT_TOKENS),
            prompt_token_count=len(PROMPT_TOKENS),
            model=MODEL,
            sampling=self.order.sampling,
            start_index=start_index,
            previous_head=previous_head,
        )

    @cached_property
    def written(self) -> tuple[tuple[SegmentRecord, ...], Digest]:
        """The segments, and the chain after the last token."""
        cuts = [0, self.tokens // 3, self.tokens] if self.failover else [0, self.tokens]
        records, before = [], bytes(ZERO_DIGEST)
        chain = ZERO_DIGEST
        for number, (first, last) in enumerate(pairwise(cuts), start=1):
            head, miner = self.head(number, first, before), MINERS[number - 1]
            writer = SegmentWriter(self.domain, miner.sign, head)
            end = self.end if last == self.tokens else None
            frame = writer.frame(self.shown.ids[first:last], self.shown.texts[first:last], end)
            chain, before = writer.chain, writer.chain
            signed = end.close(chain) if end is not None else chain
            ack = self.ack(head, last, chain) if self.acks else None
            records.append(SegmentRecord(head, last, signed, frame.signature, ack))
        return tuple(records), chain

    def ack(self, head: SegmentHead, index: int, chain: bytes) -> AckWord:
        """The client has seen a segment up to a token."""
        name = segment_id(self.domain, head)
        ack = Ack(self.session, 1, 0, head.generation, name, index, chain)
        return AckWord(index, chain, CLIENT.sign(typed_digest(self.domain, ack)))

    @cached_property
    def root(self) -> Digest:
        """The result root."""
        records, chain = self.written
        heads = chain_heads(ZERO_DIGEST, [segment_id(self.domain, record.head) for record in records])
        return result_root(self.domain, self.order, MODEL, heads, self.end.close(chain), self.tokens)

    # Its proof

    @cached_property
    def opened(self) -> tuple[SignedCommit, SignedReveal]:
        """What the last miner committed to, and how it opened that."""
        last = self.written[0][-1].head
        place = (self.session, 1, 0, last.generation, last.miner)
        reveal = Reveal(*place, self.root, self.tokens, b"\x07" * 32)
        commit = commit_of(self.domain, reveal)
        sign = next(miner.sign for miner in MINERS if miner.node == last.miner)
        return (
            SignedCommit(commit, sign(typed_digest(self.domain, commit))),
            SignedReveal(reveal, sign(typed_digest(self.domain, reveal))),
        )

    @property
    def quorum(self) -> int:
        """2f+1."""
        return 2 * ((self.size - 1) // 3) + 1

    def batch(self, oracle: Key, **value: Any) -> SignedBatch:
        """What an oracle says of the lane, and of another before."""
        said = {"verdict": Verdict.OK, "root": self.root, "count": self.tokens, **value}
        other = Observation(keccak(b"another session"), 3, 0, Verdict.LATE, ZERO_DIGEST, 0)
        content = pack(Content(observations=(other, Observation(self.session, 1, 0, **said))))
        batch = Batch(self.home, oracle.node, 2, keccak(b"batch 1"), keccak(content))
        return SignedBatch(batch, oracle.sign(typed_digest(self.domain, batch)), content)

    def batches(self) -> tuple[SignedBatch, ...]:
        """Of a quorum of the home epoch."""
        return tuple(self.batch(oracle) for oracle in self.oracles(self.home)[: self.quorum])

    @cached_property
    def outcome(self) -> Outcome:
        """The verdict."""
        return Outcome(self.session, 1, 0, Verdict.OK, self.root, self.tokens, self.home, 84)

    def header(self, epoch: int, height: int = 41, others: int = OTHERS_AFTER, **roots: Any) -> Header:
        """A header of an epoch, whose results tree holds the outcome and some others."""
        mountain = self.tree(others)[0]
        fields: dict[str, Any] = {
            "results_root": mountain.root,
            "results_count": mountain.count,
            "ledger_root": keccak(b"ledger"),
            "params_digest": keccak(b"params"),
            "anchor_number": 0,
            "anchor_hash": ZERO_DIGEST,
            "deposits": 0,
            "next_committee": committee_root(self.committee(epoch + 1)),
        }
        return make_header(epoch, height, keccak(b"parent"), Roots(**{**fields, **roots}), EMPTY_BODY)

    def tree(self, others: int = OTHERS_AFTER) -> tuple[Mountain, dict[Place, bytes]]:
        """The results tree, with so many outcomes after the answer's."""
        mountain, nodes = Mountain(), dict[Place, bytes]()
        count = OTHERS_BEFORE + others
        leaves = [Digest(keccak(number.to_bytes(2, "big"))) for number in range(count)]
        leaves.insert(OTHERS_BEFORE, outcome_leaf(self.outcome))
        for leaf in leaves:
            mountain, new = mountain.append(leaf)
            nodes.update(new)
        return mountain, nodes

    def certify(self, header: Header, places: Sequence[int] = (), oracles: Sequence[Key] = ()) -> Certified:
        """A header as a quorum of its epoch finalized it; or others, at the places that are named."""
        members = oracles or self.oracles(header.epoch)
        digest = header_digest(self.domain, header)
        said = statement_digest(self.domain, StatementKind.FINALIZE, header.epoch, header.height, digest)
        signed = [MemberSignature(place, members[place].sign(said)) for place in places or range(self.quorum)]
        kind = CertificateKind.FINALIZATION
        return Certified(Certificate(kind, header.epoch, header.height, digest, tuple(signed)), header)

    def final(self) -> Finality:
        """The outcome in the tree of a final header."""
        mountain, nodes = self.tree()
        proof = prove(OTHERS_BEFORE, mountain.count, nodes.__getitem__)
        return Finality(self.outcome, proof, self.certify(self.header(self.final_epoch)))

    def settled(self) -> Settlement:
        """The same in the tree of a later header, which the contract accepted."""
        mountain, nodes = self.tree(OTHERS_AFTER + 9)
        proof = prove(OTHERS_BEFORE, mountain.count, nodes.__getitem__)
        return Settlement(proof, self.certify(self.settled_header()), self.evm_proof() if self.by_proof else None)

    def evm_proof(self) -> EvmProof:
        """The contract's word of it in an EVM block, which a later header anchors."""
        contracts, header = self.genesis.contracts, self.settled_header()
        assert contracts is not None
        digest = header_digest(self.domain, header)
        accepted = Acceptance(NOW_MS // 1_000, header.epoch, header.height, 3)
        block = make_block(contracts.checkpoints, [(digest, accepted)], 900, NOW_MS // 1_000 + 60)
        anchored = self.header(self.final_epoch, 80, anchor_number=block.number, anchor_hash=block.hash)
        return block.proof(digest, self.certify(anchored))

    def settled_header(self) -> Header:
        """The one that the contract accepted."""
        return self.header(self.final_epoch, 64, OTHERS_AFTER + 9)

    # The committees

    def hand_over(self, epoch: int) -> HandOver:
        """An epoch hands over to the next one."""
        return HandOver(self.certify(self.header(epoch, 8)), self.committee(epoch + 1))

    def skipping(self, base: int, epoch: int) -> HandOver:
        """The same, by those of an earlier epoch's committee who still are members; as a receipt has it."""
        members = self.oracles(base)
        places = [place for place, member in enumerate(members) if member in self.oracles(epoch)]
        places = places[: (self.size - 1) // 3 + 1]
        return HandOver(self.certify(self.header(epoch, 8), places, members), self.committee(epoch + 1))

    def hand_overs(self) -> tuple[HandOver, ...]:
        """From the genesis, or from the committee that the receipt names, to the last epoch that is needed."""
        first = self.carried or 1
        last = self.final_epoch if self.level >= Level.FINALIZED else self.home
        if self.level < Level.CERTIFIED or last <= first:
            return ()
        if self.skip:
            return (self.skipping(first, last - 1),)
        return tuple(self.hand_over(epoch) for epoch in range(first, last))

    def committees(self) -> tuple[EpochMembers, ...]:
        """Those that are named."""
        if not self.carried or self.level < Level.CERTIFIED:
            return ()
        return (EpochMembers(self.carried, self.committee(self.carried)),)

    # All together

    def receipt(self, *, redacted: bool = False) -> Receipt:
        """The receipt, whole or without prompt and tokens."""
        records, chain = self.written
        commit, reveal = self.opened if self.level >= Level.COMMITTED else (None, None)
        return Receipt(
            format=RECEIPT_FORMAT,
            genesis=self.genesis.to_json(),
            session=SignedSession(self.opening, CLIENT.sign(self.session)),
            order=self.order,
            order_signature=CLIENT.sign(typed_digest(self.domain, self.order)),
            prompt=None if redacted else self.prompt,
            bid_sets=(self.bid_set,),
            assignments=tuple(self.assignment(number) for number in range(1, len(records) + 1)),
            segments=records,
            tokens=None if redacted else self.shown,
            chain=chain,
            end=self.end,
            commit=commit,
            reveal=reveal,
            batches=self.batches() if self.level >= Level.CERTIFIED else (),
            final=self.final() if self.level >= Level.FINALIZED else None,
            settled=self.settled() if self.level >= Level.SETTLED else None,
            hand_overs=self.hand_overs(),
            committees=self.committees(),
        )

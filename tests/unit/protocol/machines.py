"""Machines driven by hand, and the messages that others would send them, rightly signed unless said otherwise."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from protocol.core.codec import Message, decode, encode
from protocol.core.genesis import Genesis
from protocol.core.ids import ZERO_DIGEST, Digest, Generation, ModelDigest, NodeId, SessionId
from protocol.core.machine import Channel, ChannelOpened, DeadlineReached, Received, Send
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.messages.adverts import Advert, ModelManifest, ModelOffer
from protocol.messages.embeddings import EmbedAsked, EmbedOrder, EmbedTexts
from protocol.messages.envelope import Envelope, envelope_digest, seal
from protocol.messages.sampling import SamplingParams
from protocol.messages.sessions import (
    Announcement,
    Assignment,
    Bid,
    BidReceipt,
    BidSet,
    CountersignedBid,
    SessionOpen,
    SessionReady,
    session_id,
)
from protocol.messages.tasks import (
    EndReason,
    EndRecord,
    Prompt,
    PromptMessage,
    SegmentHead,
    SegmentStart,
    StartTask,
    SubmitTask,
    TaskOrder,
)
from protocol.session.transcript import SegmentWriter, prompt_tokens_digest
from tests.unit.protocol.keys import Key, key

NOW_MS = 1_800_000_000_000
PARAMS = replace(
    Params(),
    sessions_per_miner_max=8,
    sessions_per_router_max=8,
    sessions_per_client_max=4,
    tasks_per_session_max=20,
    tasks_pending_per_session_max=3,
    queue_requests_max=4,
    queue_client_requests_max=3,
    bids_good=2,
    first_frame_timeout_ms=30_000,
).validate()
ORACLES = [key(40 + number) for number in range(4)]
GENESIS = Genesis("hand", params=PARAMS, committee=tuple(oracle.node for oracle in ORACLES))
DOMAIN = GENESIS.domain()
CLIENT, ROUTER, MALLORY = key(1), key(2), key(3)
MINERS = [key(10 + number) for number in range(6)]
MINER = MINERS[0]
MANIFEST = ModelManifest("tiny", bytes(32), 1, "llama", "Q8_0", 512)
MODEL = MANIFEST.digest()
OFFER = ModelOffer(MANIFEST, 2, 512, 7)
PROMPT = Prompt(b"\x05" * 32, (PromptMessage("user", "Where does a bear live?"),), SamplingParams())
PROMPT_TOKENS = (1, 2, 3)
GENERATION = Generation(b"\x44" * 24)

T = TypeVar("T")


class Hand:
    """A machine and the time it is told."""

    def __init__(self, machine: Any, now_ms: int = NOW_MS) -> None:
        self.machine = machine
        self.now_ms = now_ms
        self._inbound = 0

    def tell(self, event: object) -> list[object]:
        """Hand it an event."""
        effects: list[object] = self.machine.handle(event, self.now_ms)
        return effects

    def opened(self, peer: NodeId, protocol: str) -> Channel:
        """A peer opens a stream."""
        self._inbound += 1
        assert self.tell(ChannelOpened(Channel(self._inbound), peer, protocol)) == []
        return Channel(self._inbound)

    def receive(self, channel: Channel, message: Message) -> list[object]:
        """A message arrives, by way of the wire."""
        return self.tell(Received(channel, decode(encode(message))))

    def wait(self, ms: int) -> list[object]:
        """Let time pass; what falls due on the way is delivered when it does."""
        until, effects = self.now_ms + ms, []
        while (at := self.machine.next_deadline()) is not None and at <= until:
            self.now_ms = max(self.now_ms, at)
            effects += self.tell(DeadlineReached())
            following = self.machine.next_deadline()
            assert following is None or following > self.now_ms, "a deadline that was reached is still due"
        self.now_ms = until
        return effects


def of(effects: Iterable[object], kind: type[T]) -> list[T]:
    """The effects of a kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: Iterable[object], channel: Channel | None = None) -> list[Message]:
    """The messages sent, on one channel or on any."""
    return [effect.message for effect in of(effects, Send) if channel in (None, effect.channel)]


def opening_of(client: Key = CLIENT, number: int = 0, **fields: Any) -> SessionOpen:
    """A session that the client may open."""
    content: dict[str, Any] = {
        "client": client.node,
        "routers": (ROUTER.node,),
        "model": MODEL,
        "lanes": 1,
        "price_cap_wei": 1_000,
        "cap_wei": 1_000_000,
        "tasks_max": 10,
        "expires_ms": NOW_MS + 3_600_000,
        "audits": False,
        "nonce": number.to_bytes(32, "big"),
        "header": ZERO_DIGEST,
    }
    return SessionOpen(**{**content, **fields})


def id_of(opening: SessionOpen) -> SessionId:
    """The session's id."""
    return session_id(DOMAIN, opening)


def bid_of(opening: SessionOpen, signer: Key = MINER, **fields: Any) -> Envelope:
    """A miner's bid."""
    content: dict[str, Any] = {
        "session": id_of(opening),
        "miner": signer.node,
        "model": opening.model,
        "price_wei": 7,
        "slots_free": 2,
        "slots_total": 2,
        "tokens_per_second": 0,
        "first_token_ms": 0,
        "context_tokens": 512,
        "issued_ms": NOW_MS,
    }
    return seal(DOMAIN, signer.sign, Bid(**{**content, **fields}))


def bid_set_of(opening: SessionOpen, miners: Sequence[Key] = (MINER,), router: Key = ROUTER) -> Envelope:
    """A signed set of countersigned bids."""
    entries = []
    announcement = seal(DOMAIN, router.sign, announcement_of(opening, router=router.node))
    for position, miner in enumerate(miners):
        bid = bid_of(opening, miner)
        entries.append(CountersignedBid(bid, receipt_of(bid, opening, announcement, position, router)))
    return seal(DOMAIN, router.sign, BidSet(id_of(opening), announcement, tuple(entries), ()))


def receipt_of(
    bid: Envelope, opening: SessionOpen, announcement: Envelope, position: int = 0, router: Key = ROUTER
) -> Envelope:
    """A router's countersignature."""
    round_ = envelope_digest(DOMAIN, announcement, Announcement)
    return seal(DOMAIN, router.sign, BidReceipt(envelope_digest(DOMAIN, bid, Bid), id_of(opening), position, round_))


def announcement_of(opening: SessionOpen, **fields: Any) -> Announcement:
    """A router's call for bids."""
    content: dict[str, Any] = {
        "session": id_of(opening),
        "router": ROUTER.node,
        "addresses": (),
        "model": opening.model,
        "lanes": opening.lanes,
        "price_cap_wei": opening.price_cap_wei,
        "pool": 1,
        "widening": 0,
        "issued_ms": NOW_MS,
    }
    return Announcement(**{**content, **fields})


def assignment_of(opening: SessionOpen, **fields: Any) -> Assignment:
    """An assignment of the one lane to MINER."""
    content: dict[str, Any] = {
        "session": id_of(opening),
        "number": 1,
        "router": ROUTER.node,
        "miners": (MINER.node,),
        "generations": (GENERATION,),
        "bid_set": bytes(32),
    }
    return Assignment(**{**content, **fields})


def ready_of(opening: SessionOpen, router: Key = ROUTER, **fields: Any) -> SessionReady:
    """What an honest router tells its client when the miner granted a lease."""
    bid_set = bid_set_of(opening, router=router)
    assignment = assignment_of(opening, **{"bid_set": envelope_digest(DOMAIN, bid_set, BidSet), **fields})
    return SessionReady(id_of(opening), assignment, router.sign(typed_digest(DOMAIN, assignment)), bid_set)


def order_of(opening: SessionOpen, task: int = 1, **fields: Any) -> TaskOrder:
    """An order of a session."""
    content: dict[str, Any] = {
        "session": id_of(opening),
        "task": task,
        "home_epoch": 0,
        "prompt": PROMPT.commitment(),
        "sampling": PROMPT.sampling.digest(),
        "seed": b"\x06" * 32,
        "max_tokens": 400,
        "cap_wei": 1_000,
    }
    return TaskOrder(**{**content, **fields})


def submit_of(opening: SessionOpen, task: int = 1, client: Key = CLIENT, **fields: Any) -> SubmitTask:
    """An order as a client sends it."""
    order = order_of(opening, task, **fields)
    return SubmitTask(order, client.sign(typed_digest(DOMAIN, order)), PROMPT, 60_000)


def embed_of(opening: SessionOpen, number: int = 1, texts: tuple[str, ...] = ("one",)) -> EmbedAsked:
    """A request for vectors."""
    asked = EmbedTexts(bytes(32), texts)
    order = EmbedOrder(id_of(opening), number, asked.commitment())
    return EmbedAsked(order, CLIENT.sign(typed_digest(DOMAIN, order)), asked, 60_000)


def start_of(assignment: Assignment, order: TaskOrder, **fields: Any) -> StartTask:
    """An order as a router hands it over."""
    content: dict[str, Any] = {
        "assignment": assignment,
        "assignment_signature": ROUTER.sign(typed_digest(DOMAIN, assignment)),
        "order": order,
        "signature": CLIENT.sign(typed_digest(DOMAIN, order)),
        "prompt": PROMPT,
        "lane": 0,
        "timeout_ms": 60_000,
    }
    return StartTask(**{**content, **fields})


def head_of(order: TaskOrder, generation: bytes = GENERATION, **fields: Any) -> SegmentHead:
    """The head of the segment that MINER writes for an order."""
    content: dict[str, Any] = {
        "session": order.session,
        "task": order.task,
        "lane": 0,
        "generation": generation,
        "miner": MINER.node,
        "order": typed_digest(DOMAIN, order),
        "prompt": order.prompt,
        "router": ROUTER.node,
        "price_wei": 7,
        "prompt_tokens": prompt_tokens_digest(PROMPT.nonce, PROMPT_TOKENS),
        "prompt_token_count": len(PROMPT_TOKENS),
        "model": MODEL,
        "sampling": order.sampling,
        "start_index": 0,
        "previous_head": ZERO_DIGEST,
    }
    return SegmentHead(**{**content, **fields})


WORDS = (b"In ", b"the ", b"wo", b"ods", b", of", b" cour", b"se", b".")


def stream_of(
    order: TaskOrder, *, sizes: Sequence[int] = (1, 2, 2, 2, 1), miner: Key = MINER, **head: Any
) -> list[Message]:
    """An honest answer: the head, frames of so many tokens each, the last with the signed end."""
    writer = SegmentWriter(DOMAIN, miner.sign, head_of(order, **{"miner": miner.node, **head}))
    messages: list[Message] = [SegmentStart(writer.head)]
    for place, size in enumerate(sizes):
        ids = [100 + writer.index + step for step in range(size)]
        texts = [WORDS[token % len(WORDS)] for token in ids]
        total = writer.index + size
        end = EndRecord(EndReason.STOP, len(PROMPT_TOKENS), total, 0) if place == len(sizes) - 1 else None
        messages.append(writer.frame(ids, texts, end))
    return messages


def advert_of(miner: Key, issued_ms: int = NOW_MS, **fields: Any) -> tuple[Advert, Envelope]:
    """What a miner says of itself, plain and sealed."""
    advert = Advert(miner.node, issued_ms, ("miner",), (), fields.get("models", (OFFER,)), "build")
    return advert, seal(DOMAIN, miner.sign, advert)


def other_model() -> ModelDigest:
    """A model that nobody serves."""
    return ModelDigest(Digest(b"\x77" * 32))

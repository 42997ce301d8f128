"""How a scenario reads: one line for each thing that is said, shown or done, with names instead of hashes."""

from typing import Any

from protocol.core.codec import Message, decode, unpack
from protocol.core.ids import NodeId
from protocol.core.machine import Note, Persist
from protocol.light.receipt import Verified, verify_receipt
from protocol.messages.envelope import Envelope
from protocol.messages.greeting import RouterHello
from protocol.messages.sessions import (
    Announcement,
    Bid,
    BidReceipt,
    CountersignedBid,
    LeaseBusy,
    OpenSession,
    ResumeSession,
    SessionEnded,
    SessionReady,
    SessionResumed,
    session_id,
)
from protocol.messages.tasks import AckMessage, FrameMessage, SegmentStart, StartTask, SubmitTask, TaskFailed
from protocol.roles.client import (
    Deliver,
    LaneReported,
    RouterFound,
    RouterGone,
    RouterReady,
    RouterSought,
    SessionAssigned,
    SessionOver,
    TaskHead,
    TaskOver,
    TaskReceipt,
    TaskText,
)
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.session.record import BIDS_BYTES_MAX


class Trace:
    """The lines so far, and what things are called."""

    def __init__(self) -> None:
        self.names: dict[bytes, str] = {}
        self.handles: dict[int, str] = {}
        self.sessions: dict[bytes, str] = {}
        self.domain: Any = None
        self._lines: list[str] = []

    def line(self, at_ms: int, who: str, what: str) -> None:
        """Add a line."""
        for node, name in self.names.items():
            what = what.replace(node.hex(), name)
        self._lines.append(f"{at_ms:>6} {who:<8} {what}".rstrip())

    def take(self) -> str:
        """The lines since the last time."""
        lines, self._lines = self._lines, []
        return "\n".join(lines)

    def name(self, node: bytes) -> str:
        """A node's name."""
        return self.names.get(NodeId(node), node.hex()[:8])

    def session(self, session: bytes) -> str:
        """A session's name, in the order in which they are seen."""
        return self.sessions.setdefault(session, f"s{len(self.sessions) + 1}")

    def message(self, message: Message) -> str:
        """A message in a few words."""
        if isinstance(message, Envelope):
            return self.message(decode(message.payload))
        return f"{type(message).__name__} {self._details(message)}".rstrip()

    def _details(self, message: Any) -> str:
        match message:
            case Announcement():
                return f"{self.session(message.session)} pool={message.pool} widening={message.widening}"
            case Bid():
                return f"{self.session(message.session)} slots={message.slots_free}/{message.slots_total}"
            case BidReceipt():
                return f"{self.session(message.session)} position={message.position}"
            case RouterHello():
                return f"models={len(message.models)}"
            case OpenSession():
                term = f" term after={message.term.term.after}" if message.term is not None else ""
                return self.session(session_id(self.domain, message.opening)) + term
            case ResumeSession():
                return f"{self.session(message.session)} received={message.received}"
            case SessionResumed():
                return f"{self.session(message.session)} last_task={message.last_task}"
            case SessionReady():
                miner = self.name(message.assignment.miners[0])
                return f"{self.session(message.session)} assignment={message.assignment.number} miner={miner}"
            case SessionEnded() | TaskFailed():
                task = f"/{message.task}" if isinstance(message, TaskFailed) else ""
                retry = f" retry_after_ms={message.retry_after_ms}" if message.retry_after_ms else ""
                return f"{self.session(message.session)}{task} {message.code}: {message.detail}{retry}"
            case LeaseBusy():
                return f"{self.session(message.session)}: {message.detail}"
            case SubmitTask() | StartTask():
                order = message.order
                resume = getattr(message, "resume", None)
                after = f" after={len(resume.ids)}" if resume is not None else ""
                return f"{self.session(order.session)}/{order.task} max_tokens={order.max_tokens}{after}"
            case SegmentStart():
                head = message.head
                after = f" after={head.start_index}" if head.start_index else ""
                return f"{self.session(head.session)}/{head.task} miner={self.name(head.miner)}{after}"
            case FrameMessage():
                return self._frame(message)
            case AckMessage():
                ack = message.ack
                return f"{self.session(ack.session)}/{ack.task} index={ack.index}"
        if hasattr(message, "opening"):
            return self.session(session_id(self.domain, message.opening))
        task = f"/{message.task}" if hasattr(message, "task") else ""
        return f"{self.session(message.session)}{task}" if hasattr(message, "session") else ""

    def _frame(self, frame: FrameMessage) -> str:
        last = frame.first_index + len(frame.ids)
        text = f" {b''.join(frame.texts).decode()!r}" if frame.ids else ""
        end = f" end={frame.end.reason.name.lower()}" if frame.end is not None else ""
        return f"{self.session(frame.session)}/{frame.task} [{frame.first_index}:{last}]{text}{end}"

    def item(self, deliver: Deliver) -> str:
        """What a client is shown."""
        handle, item = self.handles[deliver.handle], deliver.item
        match item:
            case RouterReady():
                return f"{handle}: router of network {item.genesis.name}"
            case SessionAssigned():
                ranks = ",".join(map(str, item.auction.ranks))
                return (
                    f"{handle}: {self.session(item.session)} stands, rank {ranks} of {len(item.auction.ranking.order)}"
                )
            case LaneReported():
                head, end = item.ended.head, item.ended.end
                return f"{handle}: lane {head.lane} of order {head.task} ended, {end.reason.name.lower()}"
            case RouterSought():
                return f"{handle}: looks for a router, {item.detail}"
            case RouterFound():
                return f"{handle}: {self.name(item.router)} serves it"
            case TaskHead():
                return f"{handle}: {self.name(item.head.miner)} begins"
            case TaskText():
                return f"{handle}: {item.text.decode()!r}"
            case TaskReceipt():
                assert isinstance(verify_receipt(item.receipt), Verified)
                return f"{handle}: a receipt of {len(item.receipt.segments)} segment(s) that holds"
            case TaskOver() if item.end is not None:
                return f"{handle}: over, {item.end.reason.name.lower()} after {item.tokens} tokens"
            case TaskOver() | SessionOver() | RouterGone():
                return f"{handle}: over, {item.code}: {item.detail}"
        raise AssertionError(item)

    def record(self, persist: Persist) -> str:
        """What became durable."""
        value = persist.records[0][1]
        if persist.key.startswith(BID_RECORDS):
            signed = unpack(CountersignedBid, value or b"", limit_bytes=BIDS_BYTES_MAX)
            return f"bid on {self.session(decode(signed.bid.payload).session)}, countersigned"  # type: ignore
        session = self.session(persist.key)
        number = int.from_bytes((persist.records[0][1] or b"")[:8], "big")
        return f"assignment {number} of {session}" if persist.records[0][1] else f"{session} is forgotten"

    def fields(self, note: Note) -> str:
        """A note's fields, with names for nodes."""
        return " ".join(f"{name}={value}" for name, value in note.fields)

"""Orders as a miner runs them: taken from the router that holds a lease, streamed as the client acknowledges, ended.

Every order ends in a signed end or in one TaskFailed.
"""

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, SessionId
from protocol.core.machine import Channel, Send
from protocol.core.params import Params
from protocol.core.signing import Domain, Sign, typed_digest, verify
from protocol.messages.results import Papers, SignedSession
from protocol.messages.tasks import AckMessage, CancelTask, Delivery, RelayTask, SegmentStart, StartTask, TaskFailed
from protocol.roles.miner.bidding import BidDesk
from protocol.roles.miner.events import Generated, GenerationFailed, Produced, Rendered
from protocol.roles.miner.lane import Lane
from protocol.roles.miner.leases import Lease
from protocol.roles.miner.orders import check_order, generation_of
from protocol.roles.miner.proving import Proving
from protocol.roles.miner.receipts import Receipts, draft_of
from protocol.roles.miner.settings import MinerSettings
from protocol.roles.miner.slots import RETRY_AFTER_MS, Slots
from protocol.session.transcript import SegmentWriter, check_resume, segment_id

TASK_LANES_KEPT = 4
"""Lanes of a lease that are sent but wait for the last ack, or wind down after a cancellation; and one more for each
that runs."""
_BUSY = ("no_capacity", "queue_full")


class Tasks:
    """See the module. ``proving`` is told of each end, and asked whether a client's order may start."""

    def __init__(
        self,
        settings: MinerSettings,
        domain: Domain,
        params: Params,
        sign: Sign,
        slots: Slots,
        bids: BidDesk,
        proving: Proving,
        receipts: Receipts,
    ) -> None:
        self._settings = settings
        self._domain = domain
        self._params = params
        self._sign = sign
        self._slots = slots
        self._bids = bids
        self._proving = proving
        self._receipts = receipts
        self._deadlines = slots.deadlines

    # Orders

    def start(self, channel: Channel, start: StartTask, now_ms: int) -> list[object]:
        """Take an order. Raises RemoteProtocolError for what the client did not sign or the router not assign."""
        lease = self._slots.on(channel)
        check_order(self._domain, self._params, self._settings.node, lease, start, now_ms)
        order, resume = start.order, start.resume
        previous = check_resume(self._domain, order, start.lane, resume) if resume is not None else ZERO_DIGEST
        emitted = tuple(zip(resume.ids, resume.texts, strict=True)) if resume is not None else ()
        if not self._slots.spare(lease):
            return [Send(channel, self._failed(order.session, order.task, "queue_full", "no slot is free beside"))]
        kept = TASK_LANES_KEPT + len(lease.running())
        for key in [key for key, lane in lease.lanes.items() if lane.written or lane.cancelling][:-kept]:
            self._slots.forget(lease.lanes.pop(key))
        lease.begun.add(order.task)
        lease.last_task = max(lease.last_task, order.task)
        lease.assignment_number = start.assignment.number
        generation = (bytes(lease.session), order.task, start.lane)
        lane = Lane(self._params, order, generation, start.prompt.nonce, now_ms, len(emitted), previous, start.delivery)
        lane.tells_logprobs = start.prompt.sampling.logprobs > 0 and start.delivery is not Delivery.WITHHELD
        lane.earlier = resume.heads if resume is not None else ()
        lane.audited = lease.opening.audits and self._settings.proves
        if lane.audited or self._receipts.drafts(start):
            lane.draft = draft_of(start)
        session = SignedSession(lease.opening, lease.signature)
        lane.papers = Papers(session, order, start.signature, start.assignment, start.assignment_signature)
        if start.delivery is Delivery.DIRECT and lease.direct is None:
            # The client's stream went while its order was on the way.
            lane.delivery = Delivery.RELAYED
        lease.lanes[order.task, start.lane] = lane
        self._deadlines.clear(("idle", (lease.session, 0, 0)))
        timeout_ms = min(start.timeout_ms, self._params.task_deadline_ms_max)
        self._deadlines.set(("task", generation), now_ms + timeout_ms)
        lane.held = generation_of(start, lease.model, generation, emitted)
        return self.admit(lease, lane, now_ms)

    def admit(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        """Start an order that waits for its client's credit, if there is enough now. Spec: [MINER-CREDIT.1]"""
        if lane.held is None:
            return []
        admission = self._proving.admit(lease, lane, now_ms)
        waits = ("credit", lane.generation)
        if admission.refusal is not None:
            return self.fail(lease, lane, *admission.refusal, now_ms)
        if not admission.granted:
            if self._deadlines.at(waits) is None:
                self._deadlines.set(waits, now_ms + self._proving.patience_ms)
            return []
        self._deadlines.clear(waits)
        generate, lane.held = lane.held, None
        return [generate]

    def progress(self, event: Rendered | Produced | Generated | GenerationFailed, now_ms: int) -> list[object]:
        """The engine tells of a lane."""
        session, task, number = event.generation
        lease = self._slots.leases.get(SessionId(Digest(session)))
        lane = lease.lanes.get((task, number)) if lease is not None else None
        if lease is None or lane is None or lane.cancelling:
            return []
        match event:
            case Rendered():
                return self._begin(lease, lane, event.prompt_tokens)
            case Produced():
                lane.produced(event.ids, event.texts, now_ms, event.logprobs)
            case Generated():
                self._measure(lane, now_ms)
                lane.ended(event.reason, event.cached_tokens)
            case GenerationFailed():
                return self.fail(lease, lane, event.code, event.detail, now_ms)
        return self.pump(lease, lane, now_ms)

    def _begin(self, lease: Lease, lane: Lane, prompt_tokens: tuple[int, ...]) -> list[object]:
        head = lease.head_of(lane, self._domain, self._settings.node, prompt_tokens)
        lane.writer = SegmentWriter(self._domain, self._sign, head)
        stream = lease.stream_of(lane)
        if lane.delivery is Delivery.WITHHELD or stream is None:
            return []
        return [Send(stream, SegmentStart(head), key=lease.session)]

    # Frames

    def pump(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        """Send what is ready, as far as credit and stream allow."""
        if lane.delivery is Delivery.WITHHELD:
            return self._withhold(lease, lane, now_ms)
        stream = lease.stream_of(lane)
        frame = lane.next_frame() if lease.in_flight is None and stream is not None else None
        starving = ("ack", lane.generation)
        if not lane.starved:
            self._deadlines.clear(starving)
        elif self._deadlines.at(starving) is None:
            # Half of what the router waits for a frame, so that a client's silence is not taken for the miner's.
            self._deadlines.set(starving, now_ms + self._params.frame_gap_timeout_ms // 2)
        if frame is None or stream is None:
            return []
        lease.in_flight = stream
        lease.last_in_turn(lane)
        effects: list[object] = [Send(stream, frame, report=True, key=lease.session)]
        if lane.written and lane.delivery is Delivery.DIRECT:
            effects.append(Send(lease.channel, lane.report(), key=lease.session))
        if lane.written:
            effects += self._written(lease, lane, now_ms)
        return effects

    def _withhold(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        """Nobody is shown this lane: only its signed end leaves. Spec: [LANE-WITHHELD.1]"""
        if not lane.withhold():
            return []
        return [Send(lease.channel, lane.report(), key=lease.session), *self._written(lease, lane, now_ms)]

    def _written(self, lease: Lease, lane: Lane, now_ms: int) -> list[object]:
        self._deadlines.clear(("task", lane.generation))
        self._slots.rest(lease, now_ms)
        self._receipts.ended(lease, lane, now_ms)
        return [*self._proving.ended(lease, lane, now_ms), *lane.transcript()]

    def sent(self, channel: Channel, now_ms: int) -> list[object]:
        """A frame has left: the next one may."""
        session = self._slots.direct.sessions.get(channel) or self._slots.by_channel.get(channel)
        lease = self._slots.leases.get(session) if session is not None else None
        if lease is None or lease.in_flight != channel:
            return []
        lease.in_flight = None
        return self.pump_all(lease, now_ms)

    def pump_all(self, lease: Lease, now_ms: int) -> list[object]:
        """Send what is ready of any lane."""
        return [effect for lane in list(lease.lanes.values()) for effect in self.pump(lease, lane, now_ms)]

    def ack(self, lease: Lease, message: AckMessage, now_ms: int) -> list[object]:
        """The client has read so far. Raises RemoteProtocolError for what is no ack of this lease's session, or names
        neither this miner's segment nor one of those before. Spec: [ACK-EARLIER.1]
        """
        ack = message.ack
        lane = lease.lanes.get((ack.task, ack.lane))
        if lane is None:
            return self._proving.acked(message, now_ms)
        verify(typed_digest(self._domain, ack), message.signature, lease.opening.client, "the ack")
        if ack.session != lease.session:
            raise RemoteProtocolError("the ack is for another session")
        self._receipts.acked(message)
        if ack.generation != lease.generation:
            if not lane.take_earlier(self._domain, message):
                raise RemoteProtocolError("the ack is for no segment of this lane")
            return self._proving.acked(message, now_ms)
        if lane.writer is None or ack.segment != segment_id(self._domain, lane.writer.head):
            raise RemoteProtocolError("the ack is for another segment")
        try:
            lane.take_ack(message)
        except RemoteProtocolError as error:
            # The client signed it: its own task ends, and the router, who cannot know, keeps its lease.
            return self.fail(lease, lane, "bad_request", str(error), now_ms) if lane in lease.running() else []
        return [*self.pump(lease, lane, now_ms), *self._proving.acked(message, now_ms)]

    def relay(self, channel: Channel, message: RelayTask, now_ms: int) -> list[object]:
        """Lane 0 goes on through the router. Spec: [DIRECT-FALLBACK.1]"""
        lease = self._slots.on(channel)
        lane = lease.lanes.get((message.task, 0))
        if lane is None:
            return [Send(channel, self._failed(lease.session, message.task, "engine_failed", "not held any more"))]
        if lane.delivery is not Delivery.DIRECT:
            return []
        try:
            again = lane.relay_from(message.index, message.chain)
        except RemoteProtocolError as error:
            return self.fail(lease, lane, "bad_request", str(error), now_ms)  # it is the client that says so
        # Whatever hangs on the stream that the client has left does so in vain.
        lease.in_flight = channel if lease.in_flight == channel else None
        return [*(Send(channel, item, key=lease.session) for item in again), *self.pump(lease, lane, now_ms)]

    # Ends

    def cancel(self, channel: Channel, message: CancelTask, now_ms: int) -> list[object]:
        """The client wants no more of a task: it ends with what was sent."""
        lease = self._slots.on(channel)
        effects: list[object] = []
        for lane in lease.running():
            if lane.order.task != message.task or message.session != lease.session:
                continue
            if lane.writer is None:
                effects += self.fail(lease, lane, "cancelled", "cancelled before the first token", now_ms)
                continue
            effects += self._slots.forget(lane)
            lane.cancelling = True
            lane.cancelled()
            effects += self.pump(lease, lane, now_ms)
        self._slots.rest(lease, now_ms)
        return effects

    def fail(self, lease: Lease, lane: Lane, code: str, detail: str, now_ms: int) -> list[object]:
        """End a task without a signed end."""
        effects = self._slots.forget(lane)
        lane.cancelling = True
        del lease.lanes[lane.order.task, lane.generation[2]]
        self._proving.settle(lease, lane)
        self._slots.rest(lease, now_ms)
        failed = self._failed(lease.session, lane.order.task, code, detail)
        return [*effects, Send(lease.channel, failed, key=lease.session)]

    def overdue(self, kind: str, lease: Lease, task: int, number: int, now_ms: int) -> list[object]:
        """A clock of a lane has run out."""
        lane = lease.lanes.get((task, number))
        if lane is None or lane.written:
            return []
        if kind == "credit":
            detail = "the session's reservation is not final, and without it the credit is used up"
            return self.fail(lease, lane, "unreserved", detail, now_ms)
        code = "deadline_exceeded" if kind == "task" else "ack_timeout"
        return self.fail(lease, lane, code, "the miner stopped the task", now_ms)

    def _measure(self, lane: Lane, now_ms: int) -> None:
        if lane.first_token_ms is not None and lane.writer is not None:
            produced = lane.writer.index + lane.backlog - lane.start_index
            self._bids.speed.observe(produced, lane.first_token_ms - lane.started_ms, now_ms - lane.first_token_ms)

    @staticmethod
    def _failed(session: bytes, task: int, code: str, detail: str) -> TaskFailed:
        return TaskFailed(session, task, code, detail[:1_024], RETRY_AFTER_MS if code in _BUSY else 0)

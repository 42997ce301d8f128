"""What a session's miners say and do, and who goes on when one is lost.

Every stream to a miner belongs to one session: it was asked for a lease, holds a lane, or is a second start.
"""

from dataclasses import dataclass
from typing import Protocol

from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.machine import Channel, Close, Note
from protocol.messages.embeddings import Embedded, EmbedFailed
from protocol.messages.handover import HandOversAsked
from protocol.messages.results import CommittedNews
from protocol.messages.sessions import LeaseBusy, LeaseGrant, LeaseRelease
from protocol.messages.tasks import FrameMessage, LaneEnded, SegmentStart, TaskFailed
from protocol.roles.router.embeds import Embeds
from protocol.roles.router.following import Following
from protocol.roles.router.hedging import Hedging
from protocol.roles.router.lanes import Lanes
from protocol.roles.router.leasing import Leasing
from protocol.roles.router.relay import Relay
from protocol.roles.router.state import Session
from protocol.session.lifecycle import SessionFact


class Looking(Protocol):
    """What the machine does for a session whose leases changed."""

    def settle(self, session: Session, now_ms: int) -> list[object]:
        """Something was granted or refused."""

    def look_on(self, session: Session, now_ms: int) -> None:
        """Lane 0 has no miner."""

    def starve(self, session: Session, now_ms: int, *, soon: bool) -> list[object]:
        """Nobody is left in rank."""

    def end(self, session: Session, code: str, detail: str, now_ms: int) -> list[object]:
        """The session is over."""


@dataclass(frozen=True, slots=True)
class Miners:
    """The miners' side of sessions, over state that the machine owns."""

    leasing: Leasing
    hedging: Hedging
    relay: Relay
    lanes: Lanes
    embeds: Embeds
    following: Following
    machine: Looking

    def received(self, session: Session, channel: Channel, message: Message, now_ms: int) -> list[object]:
        """A miner says something. Raises RemoteProtocolError for what has no place here."""
        effects = self._received(session, channel, message, now_ms)
        # Orders may have waited for a second start that is over.
        return effects + self.relay.advance(session, now_ms)

    def _received(self, session: Session, channel: Channel, message: Message, now_ms: int) -> list[object]:
        if isinstance(message, HandOversAsked):
            return self.following.page(channel, message)
        if isinstance(message, LeaseBusy) and self.leasing.superseded(session, message.term):
            return self.machine.end(session, "router_lost", "another router serves the session", now_ms)
        if channel in session.asks:
            return self._answered(session, channel, message, now_ms)
        if session.hedge is not None and session.hedge.lease.channel == channel:
            return self._from_hedge(session, message, now_ms)
        lane = session.lane_on(channel)
        if lane is None:
            raise RemoteProtocolError(f"{type(message).__name__} is out of place")
        if lane > 0:
            return self._from_withheld(session, lane, message, now_ms)
        return self._from_streamed(session, message, now_ms)

    def gone(self, session: Session, channel: Channel, reason: str, now_ms: int) -> list[object]:
        """The stream to a miner is gone."""
        if channel in session.asks:
            self.relay.measured(session.asks[channel].miner).doubt(now_ms)
            refused = self.leasing.refused(session, channel, reason, now_ms)
            return refused + self.machine.settle(session, now_ms)
        if session.hedge is not None and session.hedge.lease.channel == channel:
            return self.hedging.drop(session) + self.relay.advance(session, now_ms)
        lane = session.lane_on(channel)
        if lane is not None:
            return self.lost(session, lane, f"the miner is gone: {reason}", now_ms)
        # Granted, and gone before the assignment.
        granted = next((lane for lane, lease in session.granted.items() if lease.channel == channel), None)
        if granted is None:
            return []
        del session.granted[granted]
        return self.leasing.fill(session, now_ms) + self.machine.settle(session, now_ms)

    def unanswered(self, kind: str, session: Session, channel: Channel, now_ms: int) -> list[object]:
        """A miner that was asked for a lease takes long, or too long."""
        if channel not in session.asks:
            return []
        if kind == "hurry":
            self.relay.measured(session.asks[channel].miner).doubt(now_ms)
            return self.leasing.hurry(session, channel, now_ms)
        refused = self.leasing.refused(session, channel, "no answer to the lease request", now_ms)
        return [Close(channel), *refused, *self.machine.settle(session, now_ms)]

    def overdue(self, kind: str, session: Session, number: int, now_ms: int) -> list[object]:
        """A clock of a task ran out."""
        if kind == "hedge":
            return self.hedging.late(session, number, now_ms)
        if kind == "embed":
            return self.embeds.overdue(session, number)
        if kind == "lane":
            return self.lost(session, number, "no end of the lane in time", now_ms) if number in session.leases else []
        if kind != "frame" or session.lease is None:
            return self.hedging.settled(session, number) + self.relay.overdue(session, number, now_ms)
        return self.lost(session, 0, "the miner sent nothing for too long", now_ms)

    def resume(self, session: Session, now_ms: int) -> list[object]:
        """Miners were leased: they go on with what was running, or start what waits."""
        effects = [*self.relay.advance(session, now_ms), *self.embeds.resume(session)]
        for lane in session.leases:
            effects += self.lanes.advance(session, lane, now_ms) if lane > 0 else []
        for lane in range(1, session.opening.lanes):
            if lane not in session.leases:
                self.lanes.lost(session, lane)
        return effects

    # What they say

    def _answered(self, session: Session, channel: Channel, message: Message, now_ms: int) -> list[object]:
        match message:
            case LeaseGrant():
                hedge = session.asks[channel].hedge
                lease = self.leasing.granted(session, channel, message)
                if lease is None:
                    self.leasing.forget(channel)
                    return [Close(channel)]
                briefed = self.following.brief(session, lease)
                if not hedge:
                    return briefed + self.machine.settle(session, now_ms)
                task = session.running()
                left_ms = self.relay.patience.left_ms(session, task, now_ms) if task is not None else 0
                return briefed + self.hedging.granted(session, hedge, lease, left_ms, now_ms)
            case LeaseBusy():
                refused = self.leasing.refused(session, channel, message, now_ms)
                return [Close(channel), *refused, *self.machine.settle(session, now_ms)]
        raise RemoteProtocolError(f"{type(message).__name__} is out of place")

    def _from_streamed(self, session: Session, message: Message, now_ms: int) -> list[object]:
        match message:
            case CommittedNews():
                return self.following.committed(session, message)
            case Embedded():
                return self.embeds.answered(session, message)
            case EmbedFailed():
                return self.embeds.failed(session, message)
            case LeaseRelease() if self.embeds.waits(session) or any(not t.settled for t in session.tasks.values()):
                return self.lost(session, 0, "the miner ended the lease with work left", now_ms)
            case LeaseRelease():
                return self._rest(session)
            case SegmentStart():
                return self.relay.head(session, message, now_ms)
            case FrameMessage():
                return self.relay.frame(session, message, now_ms) + self.hedging.settled(session, message.task)
            case LaneEnded():
                return self.relay.ended(session, message, now_ms)
            case TaskFailed() if self.relay.put_back(session, message):
                return []
            case TaskFailed() if self.relay.another_may_do_better(session, message):
                return self.lost(session, 0, f"the miner failed: {message.code}", now_ms)
            case TaskFailed():
                effects = self.relay.miner_failed(session, message, now_ms)
                return effects + self.hedging.settled(session, message.task)
        raise RemoteProtocolError(f"{type(message).__name__} is out of place")

    def _from_withheld(self, session: Session, lane: int, message: Message, now_ms: int) -> list[object]:
        match message:
            case CommittedNews():
                return self.following.committed(session, message)
            case LaneEnded():
                return self.lanes.ended(session, lane, message, now_ms)
            case TaskFailed():
                return self.lanes.failed(session, lane, message, now_ms)
            case LeaseRelease() if self.lanes.idle(session, lane):
                return self._rest_lane(session, lane)
            case LeaseRelease():
                return self.lost(session, lane, "the miner ended the lease with work left", now_ms)
        raise RemoteProtocolError(f"{type(message).__name__} is out of place")

    def _from_hedge(self, session: Session, message: Message, now_ms: int) -> list[object]:
        task = session.running()
        match message:
            case SegmentStart() | FrameMessage() if task is None:
                return self.hedging.drop(session)
            case SegmentStart():
                self.hedging.head(session, message)
                return []
            case FrameMessage() if self.hedging.fit(session):
                self.hedging.vet(session, message)
                return self._promote(session, now_ms) + self.relay.frame(session, message, now_ms)
        return self.hedging.drop(session)

    def _promote(self, session: Session, now_ms: int) -> list[object]:
        assert session.hedge is not None
        head = session.hedge.head
        effects = self.hedging.promote(session, now_ms)
        task = session.running()
        if head is not None and task is not None:
            effects += self.relay.begun(session, task, head, now_ms)
        if task is not None and session.lease is not None:
            self.relay.receipts.begun(task, session.lease)
            effects += self.relay.explain(session, session.lease)
        return effects + self.embeds.resume(session) + self.relay.suspend(session, now_ms)

    def _rest(self, session: Session) -> list[object]:
        """Nothing was asked for so long that the miner wants its slot back; the next order finds another.

        Spec: [LEASE-RENEWAL.1]
        """
        session.life.take(SessionFact.RESTED)
        for lane in session.leases:
            self.lanes.lost(session, lane)
        return self.leasing.release_all(session)

    def _rest_lane(self, session: Session, lane: int) -> list[object]:
        """Nothing was left to do for a lane: it is filled again with the next order. Spec: [LEASE-RENEWAL.1]"""
        lease = session.leases.pop(lane)
        self.leasing.rank_again(session, lease.miner)
        return self.leasing.drop(session, lease)

    # Failover

    def lost(self, session: Session, lane: int, why: str, now_ms: int) -> list[object]:
        """A lane's miner is lost: the next takes over, in lane 0 after the last signed token.

        Spec: [FAILOVER-NEXT.1]
        """
        lease = session.leases[lane]
        effects: list[object] = [Note("router.fail-over", (("miner", lease.miner.hex()), ("why", why)))]
        if lane > 0:
            del session.leases[lane]
            self.lanes.lost(session, lane)
            if any(ask.miner == lease.miner for ask in session.asks.values()):
                # It ends its own lane to take over lane 0, as it was asked to.
                return self.leasing.drop(session, lease)
            session.lost[lease.miner] += 1
            return effects + self.leasing.drop(session, lease) + self.leasing.fill(session, now_ms)
        task = session.running()
        if task is not None:
            self.relay.measured(lease.miner).failed(now_ms)
        if task is not None and self.hedging.fit(session):
            session.lost[lease.miner] += 1
            promoted = self._promote(session, now_ms)
            return effects + promoted + self.relay.await_first(session, task, now_ms)
        effects += self.hedging.drop(session) + self.leasing.drop(session, lease)
        del session.leases[0]
        session.lost[lease.miner] += 1
        session.life.take(SessionFact.LOST)
        self.machine.look_on(session, now_ms)
        effects += self.leasing.withdraw(session) + self.leasing.fill(session, now_ms)
        if self.leasing.barren(session):
            # Nobody was asked in vain: no reason for a long pause. A miner that only stalled hears that its slot is
            # free.
            effects += self.machine.starve(session, now_ms, soon=not session.starved)
        return effects + self.relay.suspend(session, now_ms)

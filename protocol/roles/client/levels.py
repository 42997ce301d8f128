"""What becomes of an answer after its signed end: news of the committee, checked, and told to the program.

Routers only pass them on, and it does not matter where they come from: what does not hold is dropped.
"""

from dataclasses import dataclass

from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import ZERO_DIGEST, Digest, Generation, NodeId
from protocol.core.params import Params
from protocol.core.signing import typed_digest
from protocol.light.headers import place
from protocol.light.levels import CheckedBatch, LaneLevels, Level, Result, check_batch
from protocol.light.news import check_session
from protocol.messages.results import CommittedNews, ObservedNews, OutcomeNews, SessionNews, SettledNews
from protocol.results.commitment import chain_heads, result_root
from protocol.roles.client import papers
from protocol.roles.client.events import CheckpointClaimed, Deliver, SessionReserved, TaskLevel
from protocol.roles.client.state import Checked, Held, Session, Settling, Task
from protocol.session.transcript import close_chain

SETTLING_MAX = 256
"""Answers of a session that may still rise; beyond it the oldest is let go."""

NO_HEADER = "no header known when it was asked"
"""Against an answer of an order that names no epoch, so that nobody observes it."""
FINAL_WITHIN_MS = 3_000
"""After its signed end an answer in one lane is final by then, even with a dead leader on the way; with more lanes the
windows of commits and openings are added."""

News = CommittedNews | ObservedNews | OutcomeNews | SettledNews


def final_within_ms(params: Params, lanes: int) -> int:
    """How long after its signed end an answer is overdue. Spec: [LIGHT-OMISSION.1]"""
    return FINAL_WITHIN_MS + (params.commit_window_ms + params.reveal_window_ms if lanes > 1 else 0)


@dataclass(frozen=True, slots=True)
class Levels:
    """The rules of levels, over what the machine holds."""

    held: Held

    def ended(self, task: Task, now_ms: int) -> list[object]:
        """The signed end of an answer was verified: it may rise from here on."""
        session, chain = task.session, task.session.router.followed
        if chain.trust.members and session.network_named and not task.order.home_epoch:
            return [Deliver(task.handle, TaskLevel(Level.STREAMED, (), 0, 0, 0, None, NO_HEADER, 0))]
        if not (task.heads and session.network_named and chain.trust.believes(task.order.home_epoch)):
            return []
        lane = LaneLevels(session.domain, chain.trust, self._result(task))
        settling = session.settling[task.order.task] = Settling(task.handle, now_ms, lane)
        if len(session.settling) > SETTLING_MAX:
            session.settling.popitem(last=False)
        within_ms = final_within_ms(session.router.known.params, session.opening.lanes)
        self.held.deadlines.set(("final", task.handle), now_ms + within_ms)
        papers.settles(session, settling, task)
        moved = [self._take(settling, checked) for checked in session.early]
        told = self.told(session, settling, now_ms) if any(moved) else []
        return [*told, *self._claimed(settling)]

    @staticmethod
    def _result(task: Task) -> Result:
        """What the answer came to, as its miner has to compute it too. Spec: [RESULT-ROOT.1]"""
        session, order, verifier, last = task.session, task.order, task.verifier, task.heads[-1]
        digests = [typed_digest(session.domain, head) for head in task.segments()]
        chain = close_chain(verifier.chain, verifier.finish())
        segments, model, count = chain_heads(ZERO_DIGEST, digests), session.opening.model, verifier.index
        return Result(
            session=session.id,
            task=order.task,
            lane=0,
            sole=session.opening.lanes == 1,
            home_epoch=order.home_epoch,
            generation=Generation(last.generation),
            miner=NodeId(last.miner),
            root=Digest(result_root(session.domain, order, model, segments, chain, count)),
            count=count,
        )

    def news(self, session: Session, news: News, now_ms: int) -> list[object]:
        """What a router passed on. Spec: [LEVEL-PROVED.1]"""
        try:
            checked, tasks = self._check(session, news)
        except RemoteProtocolError:
            return []
        if tasks & session.tasks.keys():
            session.early.append(checked)
        effects: list[object] = []
        for task in sorted(tasks & session.settling.keys()):
            settling = session.settling[task]
            effects += self.told(session, settling, now_ms) if self._take(settling, checked) else []
            effects += self._claimed(settling)
        return effects

    def accepted(self, digest: Digest, now_ms: int) -> list[object]:
        """The program saw on the chain that the contract accepted a header. Spec: [LEVEL-SETTLED.1]"""
        effects: list[object] = []
        for session in self.held.sessions.values():
            for settling in session.settling.values():
                effects += self.told(session, settling, now_ms) if settling.lane.accepted(digest) else []
        return effects

    @staticmethod
    def _claimed(settling: Settling) -> list[object]:
        """Headers that the program is to look for on the chain."""
        new = [claim.digest for claim in settling.lane.claims.values() if claim.digest not in settling.asked]
        settling.asked.update(new)
        return [Deliver(settling.handle, CheckpointClaimed(digest)) for digest in new]

    def reserved(self, session: Session, news: SessionNews) -> list[object]:
        """What a router passed on of the session's reservation. Spec: [LIGHT-SESSION.1]"""
        try:
            header, record = check_session(session.router.followed.trust, news)
        except RemoteProtocolError:
            return []
        if record is None or place(header) <= session.as_of:
            return []
        session.as_of = place(header)
        item = SessionReserved(record.cap_wei, record.spent_wei, header.epoch, header.height)
        return [Deliver(session.handle, item)]

    @staticmethod
    def _check(session: Session, news: News) -> tuple[Checked, set[int]]:
        match news:
            case CommittedNews():
                return news, {news.signed.commit.task}
            case OutcomeNews() | SettledNews():
                return news, {news.outcome.task}
        router = session.router
        batch = check_batch(session.domain, router.known.params, router.followed.trust, news.signed)
        return batch, {value.task for value in batch.observations if value.session == session.id}

    @staticmethod
    def _take(settling: Settling, checked: Checked) -> bool:
        try:
            match checked:
                case CommittedNews():
                    return settling.lane.committed(checked)
                case OutcomeNews() | SettledNews():
                    return settling.lane.outcome(checked)
                case CheckedBatch():
                    return settling.lane.observed(checked)
        except RemoteProtocolError:
            # Another lane's, or a lie; either way it says nothing of this answer.
            return False

    @staticmethod
    def told(session: Session, settling: Settling, now_ms: int) -> list[object]:
        """What is known of an answer now."""
        lane, overdue = settling.lane, settling.overdue > 0 and settling.lane.final is None
        after_ms = now_ms - settling.ended_ms
        known = (lane.agreeing, lane.members, lane.final, lane.against, len(lane.evidence), lane.settled)
        level = TaskLevel(lane.level, tuple(lane.proved), after_ms, *known, overdue, lane.convicting())
        return [*papers.rises(session, settling), Deliver(settling.handle, level)]

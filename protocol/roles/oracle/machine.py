"""The oracle's machine: consensus over streams to the other members, `sync` to catch up, gossip for everybody.

What consensus decides is in ``protocol.committee``; here is who is spoken to, when, and over what.
"""

from protocol.committee.effects import COMMITTEE, Closed, Convicted, Executed, Held, LogLost, Settled, ToMembers
from protocol.committee.repeats import own_word, resend
from protocol.core.codec import Message
from protocol.core.errors import RemoteProtocolError
from protocol.core.ids import NodeId
from protocol.core.machine import (
    Channel,
    ChannelClosed,
    ChannelOpened,
    Close,
    DeadlineReached,
    GossipReceived,
    Note,
    PeerConnected,
    Persist,
    PersistFailed,
    Publish,
    Received,
    Send,
    Sent,
)
from protocol.messages.committee import (
    Certificate,
    Certified,
    Offer,
    Propose,
    Recall,
    Recalled,
    SignedBatch,
    State,
    Statement,
    SyncPage,
    SyncRequest,
)
from protocol.messages.envelope import seal
from protocol.messages.evidence import CommitteeNews
from protocol.messages.results import CommitMessage, Commits, RevealMessage
from protocol.results.evidence import Evidence
from protocol.roles.oracle.events import Accuse, AnchorsSeen, ChainLost, ChainSeen, ContractSeen, Include, Report
from protocol.roles.oracle.news import evidence_in
from protocol.roles.oracle.parts import OracleParts
from protocol.roles.oracle.results import Convict
from protocol.roles.oracle.starting import recall, silence
from protocol.roles.oracle.syncing import make_page


class OracleMachine(OracleParts):
    """See the module."""

    protocols = ("member", "sync", "results")
    topics = ("committee", "results")

    def handle(self, event: object, now_ms: int) -> list[object]:
        """Take one event; total on whatever a peer sent."""
        begun, self._begun = self._begun, []
        effects = self._run(begun, now_ms)
        effects += self._turn(now_ms) if self.simplex.closed else []
        effects += self._handle(event, now_ms)
        effects += self._batch(now_ms)
        effects += self._syncing.look(self.simplex, self.me, now_ms)
        return effects if self.disk_failed is None else [each for each in effects if not isinstance(each, Persist)]

    def _handle(self, event: object, now_ms: int) -> list[object]:
        match event:
            case Received():
                return self._received(event.channel, event.message, now_ms)
            case GossipReceived(message=CommitteeNews() as news):
                return self._heard(news, now_ms)
            case GossipReceived(message=Commits() as commits):
                return self._run(self.results.gossiped(commits, self._here(), now_ms), now_ms)
            case ChannelOpened(protocol="results"):
                return self.results.opened(event.channel, event.peer)
            case ChannelOpened(protocol="member"):
                effects = self.links.accept(event.channel, event.peer)
                self.links.hurry(event.peer, now_ms)
                return [*effects, *self._open_links(now_ms)]
            case ChannelOpened():
                return self._syncing.serve(event.channel)
            case ChannelClosed():
                self._syncing.served.discard(event.channel)
                self.results.closed(event.channel)
                if not self.links.closed(event.channel, now_ms):
                    self._syncing.lost(event.channel, now_ms)
            case PeerConnected():
                self.links.hurry(event.peer, now_ms)
                return self._open_links(now_ms)
            case DeadlineReached():
                return self._time(now_ms)
            case Sent():
                return self.results.followers.sent(event.channel)
            case Include():
                return self._include(event.content, now_ms)
            case Report():
                self.results.outbox.report(event.report)
            case Accuse():
                return self._convicted(event.evidence, now_ms)
            case ChainSeen() | ChainLost() | ContractSeen() | AnchorsSeen():
                return self.chain.heard(event, self._here(), now_ms)
            case PersistFailed():
                return self._stop_signing(event.reason, now_ms)
        return []

    # What members send

    def _received(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        peer = self.links.from_member(channel)
        if self.results.serves(channel):
            return self._run(self.results.received(channel, message, self._here(), now_ms), now_ms)
        if peer is None:
            return self._received_elsewhere(channel, message, now_ms)
        self.links.heard(peer)
        try:
            return self._from_member(peer, message, now_ms)
        except RemoteProtocolError as error:
            return [*self.links.break_off(peer), _broke_rule(peer, error)]

    def _from_member(self, peer: NodeId, message: Message, now_ms: int) -> list[object]:
        simplex = self.simplex
        match message:
            case Propose():
                self._spoke(peer, message.statement, now_ms)
                return self._run(simplex.on_propose(message, now_ms), now_ms)
            case State():
                self._spoke(peer, message.statement, now_ms)
                return self._run(simplex.on_statement(message.statement, now_ms), now_ms)
            case Certified():
                self._spoke(peer, message.certificate, now_ms)
                return self._run(simplex.on_certified(message, now_ms), now_ms)
            case Offer():
                return self._run(simplex.on_offer(message.signed, now_ms), now_ms)
            case Recall():
                return [*self.links.reach(peer), *self.links.send(peer, recall(simplex, self._final(), peer))]
            case Recalled():
                return self._recalled(peer, message, now_ms)
            case CommitMessage() | RevealMessage():
                return self._run(self.results.passed_on(peer, message, self._here(), now_ms), now_ms)
        raise RemoteProtocolError(f"{type(message).__name__} does not belong on a member's stream")

    def _spoke(self, peer: NodeId, said: Statement | Certificate, now_ms: int) -> None:
        self.presence.heard(peer, said.epoch, said.height, now_ms)
        self._noticed(peer, said.epoch)

    def _noticed(self, peer: NodeId, epoch: int) -> None:
        """A member that speaks of a later epoch is ahead: there is something to catch up on."""
        if epoch > self.simplex.committee.epoch:
            self._syncing.claim(peer, (epoch, 0))

    def _recalled(self, peer: NodeId, recalled: Recalled, now_ms: int) -> list[object]:
        self._noticed(peer, recalled.epoch)
        effects: list[object] = []
        if recalled.final is not None:
            effects = self._run(self.simplex.on_certified(recalled.final, now_ms), now_ms)
        before = self._starting.lost
        enough = self._starting.answer(peer, recalled, self.simplex.committee)
        if self._starting.lost is not None and (enough or (self._starting.done and before is None)):
            effects += silence(self.signer, self.simplex.committee.epoch, self._starting.lost)
        if enough:
            self.signer.ready = self.disk_failed is None
            effects += self._run(self.simplex.on_time(now_ms), now_ms)
        return effects

    def _stop_signing(self, reason: str, now_ms: int) -> list[object]:
        """The disk failed: sign nothing any more, go on following. Spec: [SIGNER-DISK.1]"""
        if self.disk_failed is not None:
            return []
        self.disk_failed = reason
        self.signer.ready = False
        self._batches.stop()
        # What is in memory may hold signatures that never became durable: nothing of it may leave any more.
        return [*self._aim(now_ms), *self.results.stop(), Note("oracle.disk-failed", (("why", reason),))]

    # What consensus asks for

    def _run(self, effects: list[object], now_ms: int) -> list[object]:
        out: list[object] = []
        for effect in effects:
            match effect:
                case ToMembers():
                    out += self.links.send_all(effect.message) if self.member else []
                case Held(signed=signed):
                    mine = signed.batch.oracle == self.me
                    out += self._batches.held(signed)
                    # Who is no member forwards nothing, but what it still owes.
                    out += self.links.send_all(Offer(signed)) if mine and not self.member else []
                    out += self._run(self.results.heard(signed, mine, self._here(), now_ms), now_ms)
                case Executed():
                    out += self.results.executed(effect.states)
                case Settled():
                    out += self._settled(effect, now_ms)
                case Convicted() | Convict():
                    out += self._convicted(effect.evidence, now_ms)
                case LogLost(statement=said):
                    self._starting.lost = f"{said.kind.name.lower()} of {said.epoch}/{said.height} is missing in it"
                    out += silence(self.signer, self.simplex.committee.epoch, self._starting.lost)
                case Closed():
                    out += self._turn(now_ms)
                case _:
                    out.append(effect)
        return out

    def _settled(self, effect: Settled, now_ms: int) -> list[object]:
        self.history.settled(effect, self.simplex, now_ms)
        certified = Certified(effect.certificate, effect.headers[-1])
        self.news.final(certified)
        leads = self.simplex.committee.leader(effect.certificate.height) == self.simplex.me
        told = self._tell(now_ms) if leads else []
        last = effect.headers[-1]
        dropped = self._kept.settle(self.simplex.tree.base.state)
        durable = [Persist(COMMITTEE, tuple(dropped), vital=False)] if dropped else []
        note = Note("oracle.final", (("epoch", last.epoch), ("height", last.height)), COMMITTEE)
        told += self._run(self.results.settled(effect, self._here(), now_ms), now_ms)
        told += self.chain.settled(self._here(), now_ms)
        return [*durable, *self._aim(now_ms), note, *told]

    def _turn(self, now_ms: int) -> list[object]:
        """The next epoch begins. Spec: [EPOCH-HANDOVER.1]"""
        self.simplex, self._closing, durable = self._epochs.next(self.simplex, now_ms)
        epoch = self.simplex.committee.epoch
        self.signer.forget(epoch - 2)
        self.presence.keep(self.simplex.committee.members)
        effects = [*durable, *self._aim(now_ms), *self._open_links(now_ms)]
        if not self._starting.done:
            self._starting.again()
            effects += self.links.send_all(Recall(epoch))
        effects.append(Note("oracle.epoch", (("epoch", epoch),), COMMITTEE))
        effects += self._run(self.results.turned(self._here(), now_ms), now_ms)
        effects += self.chain.settled(self._here(), now_ms)
        return effects + self._run(self.simplex.on_time(now_ms), now_ms)

    def _convicted(self, conflict: Evidence, now_ms: int) -> list[object]:
        convicted = self.news.conflict(self._domain, conflict, self.simplex.tree.base.state.homes)
        if convicted is None:
            return []
        self.simplex.waiting.convicted.add(convicted)
        self._deadlines.set("news", 0)
        note = Note("oracle.evidence", (("against", convicted.hex()), ("kind", type(conflict).__name__)))
        return [note, *self.chain.convicted(convicted, conflict, self._here(), now_ms)]

    # This oracle's own batches

    def _batch(self, now_ms: int) -> list[object]:
        """Sign what waits for a batch, if it is time. Who is no member any more opens links for it first."""
        final, epoch = self.simplex.tree.base.state, self.simplex.committee.epoch
        effects = self._aim(now_ms) if self.simplex.me is None and self.results.outbox.owes else []
        made = self._batches.next(self._here().view, epoch, final, now_ms)
        return effects if made is None else [*effects, *self._offer(*made, now_ms)]

    def _include(self, content: bytes, now_ms: int) -> list[object]:
        epoch, final = self.simplex.committee.epoch, self.simplex.tree.base.state
        refused = self._batches.refusal(epoch, content, final) if self.member else self.signing
        made = self._batches.sign(epoch, content) if refused is None else None
        if made is None:
            return [Note("oracle.not-included", (("why", refused or self.signing),))]
        return self._offer(*made, now_ms)

    def _offer(self, signed: SignedBatch, durable: Persist, now_ms: int) -> list[object]:
        return [durable, *self._run(self.simplex.on_offer(signed, now_ms), now_ms)]

    # Time

    def _time(self, now_ms: int) -> list[object]:
        effects = self._run(self.simplex.on_time(now_ms), now_ms)
        effects += self._open_links(now_ms)
        effects += self._syncing.timed_out(now_ms)
        effects += self._run(self.results.on_time(self._here(), now_ms), now_ms)
        effects += self.chain.on_time(now_ms)
        for name in self._deadlines.due(now_ms):
            effects += self._resend(now_ms) if name == "resend" else self._tell(now_ms)
        return effects

    def _resend(self, now_ms: int) -> list[object]:
        self._deadlines.set("resend", now_ms + self._params.resend_interval_ms)
        effects = [effect for again in self._again() for effect in self.links.send_all(again.message)]
        effects += self.chain.again(self._here(), now_ms)
        for member, message in self.results.unheard(self._here(), now_ms - self._params.resend_interval_ms):
            effects += self.links.bring(member, message)
        certified, statements = own_word(self.simplex) if self.member and self.links.broken() else ((), ())
        return effects + self._tell(now_ms, certified, statements)

    def _again(self) -> list[ToMembers]:
        """All that a member may have missed."""
        told = [ToMembers(self._closing)] if self._closing is not None and self.simplex.tree.final is None else []
        asked = [] if self._starting.done else [ToMembers(Recall(self.simplex.committee.epoch))]
        if not self.member:
            return [*told, *asked, *(ToMembers(Offer(signed)) for signed in self._kept)]
        return [*told, *resend(self.simplex), *asked]

    def _open_links(self, now_ms: int) -> list[object]:
        """Open what is due, and tell each member at once what it may have missed."""
        effects: list[object] = []
        for peer in self.links.due(now_ms):
            effects += self.links.open(peer)
            for again in self._again():
                effects += self.links.send(peer, again.message)
        return effects

    # Gossip

    def _tell(
        self, now_ms: int, certified: tuple[Certified, ...] = (), statements: tuple[Statement, ...] = ()
    ) -> list[object]:
        message = self.news.message(now_ms, certified, statements) if self.member else None
        at_ms = self.news.next_deadline() if self.member else None
        if at_ms is not None:
            self._deadlines.set("news", max(at_ms, now_ms + 1))
        return [] if message is None else [Publish("committee", seal(self._domain, self._sign, message), COMMITTEE)]

    def _heard(self, news: CommitteeNews, now_ms: int) -> list[object]:
        author = NodeId(news.author)
        effects: list[object] = []
        try:
            for certified in news.certified:
                self._noticed(author, certified.certificate.epoch)
                checked = certified.certificate.epoch == self.simplex.committee.epoch
                effects += self._run(self.simplex.on_certified(certified, now_ms), now_ms)
                if checked:
                    self.news.heard(certified)
            for statement in news.statements:
                self._noticed(author, statement.epoch)
                effects += self._run(self.simplex.on_statement(statement, now_ms), now_ms)
        except RemoteProtocolError as error:
            effects.append(_broke_rule(author, error))
        for conflict in evidence_in(news):
            effects += self._convicted(conflict, now_ms)
        return effects

    # Sync

    def _received_elsewhere(self, channel: Channel, message: Message, now_ms: int) -> list[object]:
        if channel in self._syncing.served:
            self._syncing.served.discard(channel)
            return self._give_page(channel, message) if isinstance(message, SyncRequest) else [Close(channel)]
        request = self._syncing.answered(channel, now_ms)
        if request is not None and isinstance(message, SyncPage):
            return [Close(channel), *self._page(request, message, now_ms)]
        return [Close(channel)]

    def _give_page(self, channel: Channel, request: SyncRequest) -> list[object]:
        """In order with what is being made durable: a certificate may hold this node's latest signature."""
        if self.disk_failed is not None:
            return [Close(channel)]
        page = make_page(self._load, self.simplex, request)
        return [Send(channel, page, key=COMMITTEE), Close(channel, COMMITTEE)]

    def _page(self, request: SyncRequest, page: SyncPage, now_ms: int) -> list[object]:
        before = self._reached()
        effects: list[object] = []
        try:
            for certificate in page.nullifications:
                effects += self._run(self.simplex.on_certified(Certified(certificate, None), now_ms), now_ms)
            for block in page.blocks:
                effects += self._run(self.simplex.on_block(block, now_ms), now_ms)
        except RemoteProtocolError as error:
            effects.append(Note("oracle.bad-page", (("why", str(error)),)))
        self._syncing.judge(request, page, self._reached() > before, now_ms)
        return effects


def _broke_rule(peer: NodeId, error: RemoteProtocolError) -> Note:
    return Note("oracle.broke-rule", (("peer", peer.hex()), ("why", str(error))))

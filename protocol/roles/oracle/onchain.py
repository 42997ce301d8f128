"""The oracle and the chain that its network settles on: what it says of it, and what it is to send there.

The node reads the contracts and sends transactions, in threads of its own; here is decided what that comes to. Where
the genesis names no contracts nothing ever happens here.
"""

from protocol.committee.effects import COMMITTEE
from protocol.committee.storage import Record
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.machine import Note, Persist
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.ledger.state import State
from protocol.messages.chain import Accepted
from protocol.results.evidence import Evidence
from protocol.roles.oracle.events import AnchorsSeen, ChainLost, ChainSeen, ContractSeen
from protocol.roles.oracle.results import Here, Results
from protocol.roles.oracle.settings import OracleSettings
from protocol.settlement.docket import EVIDENCE, Docket
from protocol.settlement.settler import Settler
from protocol.settlement.sightings import Sightings
from protocol.settlement.speaking import Speaker
from protocol.settlement.words import AnchorBlock

AGAIN_RESENDS = 4
"""Times ``resend_interval_ms`` until a word that is not in the ledger is said again."""


class OnChain:
    """See the module. Spec: [CHAIN-SAY.1]"""

    def __init__(
        self, settings: OracleSettings, domain: Domain, params: Params, results: Results, here: Here, now_ms: int
    ) -> None:
        self._results = results
        state = here.view.state
        chain = None if state is None else state.chain
        self._sightings = None if chain is None else Sightings(chain, params.anchor_stride)
        self._speaker = Speaker(settings.node, AGAIN_RESENDS * params.resend_interval_ms)
        hand_over = results.hand_overs.store.get
        docket = Docket(domain, {} if chain is None else settings.load(EVIDENCE), now_ms)
        self._settler = Settler(params, domain.network_id, settings.node, settings.members, hand_over, docket)

    # What whoever reads the chain asks

    @property
    def through(self) -> int:
        """All events of the chain up to this block are here, or in the ledger: the next ones are wanted."""
        return 0 if self._sightings is None else self._sightings.through

    @property
    def cursor(self) -> AnchorBlock:
        """After which block to read where nothing was read yet: the ledger's anchor, number 0 before the first."""
        return AnchorBlock(0, ZERO_DIGEST) if self._sightings is None else self._sightings.cursor

    @property
    def full(self) -> bool:
        """Whether no more is to be read now: the ledger has to take in what is here."""
        return self._sightings is None or self._sightings.full

    def knows(self, block: Digest) -> bool:
        """Whether the header of a block at which the ledger may be anchored is here."""
        return block in self._results.hand_overs.anchors

    @property
    def evidence(self) -> int:
        """Nodes that are to be slashed."""
        return len(self._settler.docket)

    # What happens

    def begin(self, now_ms: int) -> list[object]:
        """The node has started."""
        if self._sightings is not None and self._sightings.accepted is not None:
            self._results.chain.accepted(self._sightings.accepted)
        return self._final(now_ms)

    def heard(self, event: ChainSeen | ChainLost | ContractSeen | AnchorsSeen, here: Here, now_ms: int) -> list[object]:
        """Word from the chain."""
        if self._sightings is None:
            return []
        effects: list[object] = []
        match event:
            case ChainSeen():
                if not self._sightings.see(event.after, event.through, event.events, event.blocks):
                    return [_note("does not go on from where the last one ended", event.after)]
                for _, said in event.events:
                    if isinstance(said, Accepted):
                        self._results.chain.accepted(said)
                effects = self._results.chain.tell()
                self._speak(here, now_ms)
            case ChainLost():
                self._sightings.forget()
            case AnchorsSeen():
                return self._results.hand_overs.anchored(event.headers)
            case ContractSeen():
                self._settler.contract(event.accepted, event.undrawn, now_ms)
        return effects + self.on_time(now_ms)

    def settled(self, here: Here, now_ms: int) -> list[object]:
        """Blocks are final, or an epoch has begun."""
        state = here.view.state
        if self._sightings is None or state is None or state.chain is None:
            return []
        effects: list[object] = []
        if not self._sightings.anchored(state.chain):
            effects.append(_note("says something else than f+1 oracles have", state.chain.number))
        return [*effects, *self._final(now_ms), *self.again(here, now_ms)]

    def again(self, here: Here, now_ms: int) -> list[object]:
        """What was said a while ago is said again, if the ledger does not have it."""
        if self._sightings is not None:
            self._speak(here, now_ms)
        return self.on_time(now_ms)

    def convicted(self, node: NodeId, evidence: Evidence, here: Here, now_ms: int) -> list[object]:
        """Somebody is convicted."""
        state = here.view.state
        if self._sightings is None or state is None:
            return []
        return _durable(self._settler.convicted(node, evidence, state, now_ms))

    # Time

    def next_deadline(self) -> int | None:
        """When this node may have something to send to the chain."""
        return None if self._sightings is None else self._settler.next_deadline()

    def on_time(self, now_ms: int) -> list[object]:
        """What this node is to send to the chain now."""
        return list(self._settler.due(now_ms))

    def _final(self, now_ms: int) -> list[object]:
        final = self._results.final
        if self._sightings is None or final is None:
            return []
        return _durable(self._settler.finalized(final.certified, final.state, now_ms))

    def _speak(self, here: Here, now_ms: int) -> None:
        state, sightings = here.view.state, self._sightings
        if here.place is None:
            self._speaker.forget()
        elif sightings is not None and isinstance(state, State) and state.chain is not None:
            for word in self._speaker.due(state.chain, sightings.words(), now_ms):
                self._results.outbox.word(word)


def _durable(records: list[Record]) -> list[object]:
    return [Persist(COMMITTEE, tuple(records), vital=False)] if records else []


def _note(why: str, number: int) -> Note:
    return Note("oracle.chain", (("why", f"what this node sees of the chain {why}"), ("block", number)))

"""The bounds of the tables that oracles hold, for S13, and S15 as far as it is the machines' own."""

from p2pnode.sim.checkers import Checker
from p2pnode.sim.drive import Drive
from p2pnode.sim.tables import Bound, Table, TablesAreBounded
from protocol.committee.payload import HOMES_KEPT
from protocol.committee.simplex import BODIES_AHEAD_MAX
from protocol.core.ids import NodeId
from protocol.core.machine import Note
from protocol.core.params import Params
from protocol.messages.committee import MEMBERS_MAX
from protocol.roles.oracle.history import BLOCKS_KEPT
from protocol.roles.oracle.news import EVIDENCE_MAX
from protocol.roles.oracle.syncing import SERVED_MAX

HEIGHTS_MAX = 1_024
"""Heights that a world goes on without a finalization, at most: what is not final is kept, whatever comes."""
SIGNED_MAX = 20_000
"""Statements of three epochs."""


def _members(_params: Params) -> int:
    return 2 * MEMBERS_MAX


def _heights(_params: Params) -> int:
    return HEIGHTS_MAX


def _reach(params: Params) -> int:
    return params.heights_ahead_max + max(params.heights_ahead_max, BODIES_AHEAD_MAX) + 1


def _waiting(params: Params) -> int:
    return params.batches_waiting_max


def _kept(number: int) -> Table:
    return Table(lambda _: number, lambda _: number)


def _same(bound: Bound) -> Table:
    return Table(bound, bound)


TABLES = {
    # What is not final.
    "simplex.tallies": _same(_reach),
    "simplex.tallies[]._said": _kept(4),
    "simplex.tallies[]._said[]": _same(_members),
    "simplex.tallies[]._agreed": _kept(4 * MEMBERS_MAX),
    "simplex.tallies[]._agreed[]": _same(_members),
    "simplex.tallies[]._signatures": _kept(4 * MEMBERS_MAX),
    "simplex._counted": _same(_heights),
    "tree.notarizations": _same(_heights),
    "tree.nullifications": _same(_heights),
    "tree.finalizations": _same(_heights),
    "tree.headers": _same(_heights),
    "tree.bodies": _same(_heights),
    "tree._states": _same(_heights),
    "tree._invalid": _same(_heights),
    "waiting._items": _kept(HOMES_KEPT * MEMBERS_MAX),
    "waiting._items[]": _same(_waiting),
    "waiting.convicted": _kept(16 * MEMBERS_MAX),
    "_kept._kept": _same(lambda params: HOMES_KEPT * params.batches_waiting_max),
    # What an epoch is made of.
    ".committee.places": _same(_members),
    ".committee._orders": _kept(1),
    ".homes": _kept(HOMES_KEPT),
    ".cut": _kept(HOMES_KEPT * MEMBERS_MAX),
    # What was signed in the last epochs.
    "signer._slots": _kept(SIGNED_MAX),
    "signer._batches": _kept(SIGNED_MAX),
    "signer._last": _kept(SIGNED_MAX),
    # Whom one speaks to.
    "links._out": _same(_members),
    "links._in": _kept((HOMES_KEPT + 1) * MEMBERS_MAX),
    "links._peers": _kept((HOMES_KEPT + 3) * MEMBERS_MAX),
    "links._delays_ms": _same(_members),
    "links._retries": _same(_members),
    "presence._heard": _kept((HOMES_KEPT + 1) * MEMBERS_MAX),
    "_starting._answered": _same(_members),
    "_syncing._ahead": _kept(64),
    "OracleMachine._syncing.served": _kept(SERVED_MAX),
    "OracleMachine._deadlines": _kept(4),
    "OracleMachine.streams": _kept(SERVED_MAX + (HOMES_KEPT + 3) * MEMBERS_MAX),
    "OracleMachine.effects held": _kept(1),
    # What is told and shown.
    "history.blocks": _kept(BLOCKS_KEPT),
    "news._known": _kept(EVIDENCE_MAX),
    "news._of_node": _kept(EVIDENCE_MAX),
    "news._conflicts": _kept(EVIDENCE_MAX),
}


def committee_tables() -> TablesAreBounded:
    """S13 for oracles."""
    return TablesAreBounded(lambda _: 4, TABLES)


class NobodyIsCutOff(Checker):
    """S15: no correct node ever closes a correct member's stream, or calls its news bad, for breaking a rule."""

    invariant = "S15"

    def effect(self, drive: Drive, effect: object) -> None:
        """A machine says why it closed a stream."""
        if drive.host.correct and isinstance(effect, Note) and effect.what == "oracle.broke-rule":
            said = dict(effect.fields)
            peer = self.world.by_id.get(NodeId(bytes.fromhex(str(said["peer"]))))
            if peer is not None and peer.correct:
                self.fail(f"says that {peer.name} broke a rule: {said['why']}", drive.host)

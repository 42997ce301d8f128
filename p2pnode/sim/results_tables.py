"""The bounds of the tables that the nodes of a ``results`` world hold, for S13: those of the fast path and of the
committee, and those of results.

In the end nobody waits for anything any more, so what belongs to a session or to a result is gone everywhere; what
oracles know of lanes, and what waits in their outboxes, goes with the epochs, which here may go on. Clients are left
out of that: where a router lets them down, they wait as long as they like.
"""

from p2pnode.sim import committee_tables, fast_path_tables
from p2pnode.sim.tables import Bound, Table, TablesAreBounded
from protocol.core.params import Params
from protocol.light.anchors import ANCHORS_KEPT
from protocol.light.handovers import RECENT_MAX as HAND_OVERS_RECENT_MAX
from protocol.light.headers import CHECKED_MAX, COMMITTEES_KEPT
from protocol.messages.committee import MEMBERS_MAX
from protocol.messages.sessions import LANES_MAX
from protocol.results.open_lanes import SOURCES_MAX
from protocol.roles.client import ClientMachine
from protocol.roles.client.levels import SETTLING_MAX
from protocol.roles.client.state import EARLY_MAX
from protocol.roles.miner.credit import TABS_MAX
from protocol.roles.miner.outstanding import RESULTS_MAX
from protocol.roles.oracle.checkpoints import AWAITING_MAX
from protocol.roles.oracle.earnings import ROWS_MAX
from protocol.roles.oracle.outbox import OF_PEER_MAX, REPORTS_MAX, WORDS_MAX
from protocol.roles.oracle.outcomes import RECENT_MAX
from protocol.roles.oracle.recent import RECENT_MAX as FINALS_MAX
from protocol.roles.oracle.results import LATER_MAX
from protocol.roles.oracle.watchers import ALL_MAX, OF_STREAM_MAX
from protocol.roles.peer import PROBES_MAX
from protocol.roles.router.following import HANDED_IN_MAX
from protocol.roles.router.watched import NEWS_MAX, SEEN_MAX
from protocol.settlement.docket import AT_ONCE_MAX, PIECES_MAX
from protocol.settlement.sightings import BLOCKS_MAX, EVENTS_MAX

PAGE_EVENTS_MAX = 256
"""Of a chain, that a node reads at once."""
PEERS_MAX = 64
"""Nodes of a world, each with some streams to an oracle: more than there are."""


def _general(params: Params) -> int:
    return 4 * params.sessions_per_router_max + params.sessions_per_router_max * (2 * params.lanes_max + 2)


def _lanes(params: Params) -> int:
    return params.lanes_observed_max


def _heard(params: Params) -> int:
    return MEMBERS_MAX * params.lanes_observed_max


def _kept(number: int) -> Table:
    return Table(lambda _: number, lambda _: number)


def _same(bound: Bound) -> Table:
    return Table(bound, bound)


TABLES = {
    **fast_path_tables.TABLES,
    **committee_tables.TABLES,
    # What follows headers.
    "trust._checked": _kept(CHECKED_MAX),
    "trust._known": _kept(COMMITTEES_KEPT),
    "anchors._headers": _kept(ANCHORS_KEPT),
    "trust._made": _kept(4),
    "trust._made[].places": _kept(MEMBERS_MAX),
    "store._recent": _kept(HAND_OVERS_RECENT_MAX),
    "_readers._readers": _kept(4 * PEERS_MAX),
    "_links._channels": _kept(MEMBERS_MAX),
    "_links._peers": _kept(MEMBERS_MAX),
    "_links._delays_ms": _kept(MEMBERS_MAX),
    "_links._retries": _kept(MEMBERS_MAX),
    "_pool._served": _same(lambda params: params.miners_max),
    "_pool._available": _kept(MEMBERS_MAX),
    "_pool._available[]": _same(lambda params: params.miners_max),
    # What oracles know of lanes, until their epochs are over.
    "desk.open.tasks": _same(_lanes),
    "desk.open.tasks[].lanes": _kept(LANES_MAX),
    "desk.open.tasks[].lanes[].sources": _kept(SOURCES_MAX),
    "desk.open._of_peer": _same(_lanes),
    "desk._until": _same(_lanes),
    "results._later": _kept(LATER_MAX),
    "outcomes._recent": _kept(RECENT_MAX),
    "recent._finals": _kept(FINALS_MAX),
    "earnings._rows": _kept(ROWS_MAX),
    # Who has just connected is still asking; oracles come and go to the end.
    "PeerMachine._asked": _kept(PROBES_MAX),
    "PeerMachine.streams": Table(_general, lambda _: 2 * PROBES_MAX),
    "PeerMachine._deadlines": Table(
        fast_path_tables.TABLES["PeerMachine._deadlines"].under_way, lambda _: 1 + PROBES_MAX
    ),
    # Streams on which an oracle was asked for hand-overs; one that is Byzantine never answers.
    "_asker._asked": _kept(MEMBERS_MAX),
    # What they see of a chain, and bring there.
    "_sightings._events": _kept(EVENTS_MAX + PAGE_EVENTS_MAX),
    "_sightings._blocks": _kept(BLOCKS_MAX),
    "_speaker._said": _kept(4 * BLOCKS_MAX),
    "docket._pieces": _kept(PIECES_MAX),
    "_settler._asked": _kept(AT_ONCE_MAX + 2),
    # One that never sees the chain does not know what is settled there.
    "results.chain._awaiting": _kept(AWAITING_MAX),
    # Whom they serve, and what waits to be signed.
    "results._streams": _kept(4 * PEERS_MAX),
    "results._of_peer": _kept(PEERS_MAX),
    "followers._followers": _kept(4 * PEERS_MAX),
    "followers._followers[]": _kept(4 * PEERS_MAX),
    "watchers._by": _kept(ALL_MAX),
    "watchers._by[]": _kept(4 * PEERS_MAX),
    "watchers._watched": _kept(4 * PEERS_MAX),
    "watchers._watched[]": _kept(OF_STREAM_MAX),
    "outbox._items": _kept(OF_PEER_MAX * PEERS_MAX),
    "outbox._due": _kept(OF_PEER_MAX * PEERS_MAX),
    "outbox._of_peer": _kept(PEERS_MAX),
    "outbox._reports": _kept(REPORTS_MAX),
    "outbox._words": _kept(WORDS_MAX),  # the chain goes on
    "outbox._values": _kept(3),
    "outbox._values[]": _same(_lanes),
    # What miners and routers remember of sessions that are over.
    "credit.tabs": _kept(TABS_MAX),
    "credit.tabs[].running": Table(lambda _: LANES_MAX * 8),
    "MinerMachine.streams": Table(_general, lambda _: MEMBERS_MAX),
    "outstanding.held": Table(lambda _: RESULTS_MAX),
    "_following._handed_in": Table(lambda _: HANDED_IN_MAX),
    "_watched[].news": Table(lambda _: NEWS_MAX),
    "_watched[]._seen": Table(lambda _: SEEN_MAX),
    # Clients' answers that may still rise.
    ".settling": Table(lambda _: SETTLING_MAX),
    ".early": Table(lambda _: EARLY_MAX),
    "hearsay._said": _same(_heard),
    "hearsay._said[]": _same(_lanes),
    "hearsay._said[][]": _kept(MEMBERS_MAX),
    "hearsay._by": _kept(MEMBERS_MAX),
    "hearsay._by[]": _same(_lanes),
    ".opened": _kept(3 * MEMBERS_MAX),
    "MinerMachine._settings.results": _kept(RESULTS_MAX),
}


class ResultsTables(TablesAreBounded):
    """S13 for everybody."""

    def ended(self) -> None:
        """See the module."""
        self.rests()

    def rests(self) -> None:
        """Whoever is up has come to rest."""
        for host in self.world.hosts.values():
            for drive in host.drives if host.correct else ():
                self._count(drive, at_rest=not isinstance(drive.machine, ClientMachine))


def results_tables() -> ResultsTables:
    """S13 for everybody."""
    return ResultsTables(_general, TABLES)

"""The bounds of the tables that routers, miners and clients hold, for S13."""

from p2pnode.sim.tables import Table, TablesAreBounded
from protocol.core.params import Params
from protocol.messages.adverts import MODELS_MAX
from protocol.messages.sessions import ROUTERS_MAX
from protocol.roles.client.tasks import WITHHELD_MAX
from protocol.roles.client.watching import LIARS_MAX
from protocol.roles.miner.bidding import RECEIPTS_MAX
from protocol.roles.router.state import KEPT_MESSAGES_MAX, MEASURED_MAX

NUMBERS_MAX = 4_096
"""Sessions whose assignment numbers a router remembers: until they expire, so what bounds them is their lifetime and
how fast a router can open sessions, no parameter. This is more than a world can open."""


def _general(params: Params) -> int:
    """Streams to clients, bidders and, for each session, miners: no table of the fast path holds more."""
    return 4 * params.sessions_per_router_max + params.sessions_per_router_max * (2 * params.lanes_max + 2)


def _clients(params: Params) -> int:
    return 2 * params.sessions_per_router_max


def _adverts(params: Params) -> int:
    return params.adverts_max


def _tokens(params: Params) -> int:
    return params.tokens_per_task_max


TABLES = {
    # What a node knows of others stays known.
    "_book._known": Table(_adverts, _adverts),
    "_book._sorted": Table(_adverts, _adverts),
    "_book._deadlines": Table(_adverts, _adverts),
    "_book._trial": Table(lambda params: 64 + 5 * params.adverts_max, lambda params: 64 + 5 * params.adverts_max),
    "_book._by_model": Table(lambda params: MODELS_MAX * params.adverts_max, lambda params: MODELS_MAX),
    "_book._by_model[]": Table(_adverts, _adverts),
    "_book._known[].offers": Table(lambda _: MODELS_MAX, lambda _: MODELS_MAX),
    "RouterMachine._measured": Table(lambda _: MEASURED_MAX, lambda _: MEASURED_MAX),
    "PeerMachine._connected": Table(_adverts, _adverts),
    "PeerMachine._again": Table(_adverts, _adverts),
    "PeerMachine._deadlines": Table(_adverts, lambda _: 1),
    # What would be unsafe to forget.
    ".numbers": Table(lambda _: NUMBERS_MAX, lambda _: NUMBERS_MAX),
    "_leasing.expiring": Table(lambda _: NUMBERS_MAX, lambda _: NUMBERS_MAX),
    "MinerMachine._bids.kept": Table(lambda _: RECEIPTS_MAX, lambda _: RECEIPTS_MAX),
    "MinerMachine._settings.kept": Table(lambda _: RECEIPTS_MAX, lambda _: RECEIPTS_MAX),
    "MinerMachine._bids.bids": Table(lambda _: RECEIPTS_MAX, lambda _: RECEIPTS_MAX),
    "MinerMachine._settings.offers": Table(lambda _: MODELS_MAX, lambda _: MODELS_MAX),
    # Clients stay connected.
    "RouterMachine._peers": Table(_general, _clients),
    "RouterMachine._clients.channels": Table(_clients, _clients),
    "RouterMachine.streams": Table(_general, _clients),
    "ClientMachine._held.routers": Table(lambda _: ROUTERS_MAX, lambda _: ROUTERS_MAX),
    "ClientMachine._held.by_channel": Table(lambda _: 4 * ROUTERS_MAX, lambda _: 2 * ROUTERS_MAX),
    "ClientMachine._watching._liars": Table(lambda _: LIARS_MAX, lambda _: LIARS_MAX),
    "ClientMachine.streams": Table(_general, lambda _: 2 * ROUTERS_MAX),
    # Tokens and messages that wait for somebody, of one order or one session.
    ".ids": Table(_tokens),
    ".texts": Table(_tokens),
    "._ready": Table(_tokens),
    "._unacked": Table(_tokens),
    "._boundaries": Table(_tokens),
    "._sessions[].kept": Table(lambda _: KEPT_MESSAGES_MAX),
    "._sessions[].direct": Table(lambda params: params.tasks_per_session_max),
    ".withheld": Table(lambda _: WITHHELD_MAX),
}


def fast_path_tables() -> TablesAreBounded:
    """S13 for routers, miners, clients and what runs beside them."""
    return TablesAreBounded(_general, TABLES)

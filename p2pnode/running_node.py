"""A node that runs, as its operator and its own parts see it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from p2pnode.accusing import EVIDENCE, Accusing
from p2pnode.address import RouterAddress, parse_router_address
from p2pnode.checkpoint_book import QUESTION as CHECKPOINT
from p2pnode.clock import Clock
from p2pnode.config import NodeConfig
from p2pnode.ending import Ending
from p2pnode.engine.api import Engine
from p2pnode.hand_over_answers import QUESTION as HAND_OVERS
from p2pnode.hand_over_answers import shown_hand_overs
from p2pnode.handed_in import QUESTION as HAND_IN
from p2pnode.handed_in import handed_in
from p2pnode.http_role import HttpRole
from p2pnode.inbox_role import InboxRole
from p2pnode.ledger_answers import QUESTION as LEDGER
from p2pnode.oracle import INCLUDE, Oracle
from p2pnode.telemetry.instruments import Instruments
from p2pnode.transport.seam import Transport
from protocol.core.errors import P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import ModelDigest
from protocol.light.handovers import HandOverStore
from protocol.messages.results import Submit
from protocol.roles.miner import MinerMachine
from protocol.roles.router import RouterMachine
from protocol.session.adverts import AdvertBook


@dataclass(slots=True)
class Node:
    """A running node. Made by :func:`open_node`."""

    config: NodeConfig
    genesis: Genesis
    transport: Transport
    book: AdvertBook
    router: RouterMachine | None
    miner: MinerMachine | None
    oracle: Oracle | None
    started_ms: int
    clock: Clock
    hand_overs: HandOverStore
    """How the committees came about, as far as this node knows."""
    instruments: Instruments
    """What is counted and traced here."""
    inbox: InboxRole | None = None
    hand_in: Callable[[Submit], None] | None = None
    """Hands the committee what somebody signed for the ledger."""
    accusing: Accusing | None = None
    http: HttpRole | None = None
    """What is served over HTTP, if anything is."""
    ending: Ending = field(default_factory=Ending)
    engines: Mapping[ModelDigest, Engine] = field(default_factory=dict)
    """Of a miner."""

    @property
    def addresses(self) -> tuple[RouterAddress, ...]:
        """Where others reach this node; the network is part of each."""
        network = self.genesis.network_id()
        return tuple(replace(parse_router_address(text), network=network) for text in self.transport.addresses)

    def answer(self, what: str) -> Mapping[str, Any]:
        """Answer the control socket. Raises P2PNodeError for an unknown question."""
        if what == "status":
            return self.status()
        if what == "peers":
            return {"peers": self.peers()}
        if what == "genesis":
            return {"genesis": self.genesis.to_json(), "urls": list(self.config.chain.urls)}
        if what.startswith(HAND_IN):
            return handed_in(self.hand_in if self.genesis.committee else None, what)
        if what.startswith(EVIDENCE) and self.accusing is not None:
            return self.accusing.answer(what)
        if what.startswith(HAND_OVERS):
            return shown_hand_overs(self.hand_overs, what)
        if what in ("committee", "blocks", "pool") or what.startswith((INCLUDE, LEDGER, CHECKPOINT)):
            return self._oracle_answer(what)
        raise P2PNodeError(
            f"unknown question {what[:64]!r}",
            code="control/unknown",
            hint="ask for status, peers, committee, blocks, pool or ledger",
        )

    def _oracle_answer(self, what: str) -> Mapping[str, Any]:
        if self.oracle is None:
            raise P2PNodeError(
                "this node is no oracle", code="control/no-oracle", hint="ask a node that runs with --role oracle"
            )
        if what == "committee":
            return self.oracle.committee()
        if what.startswith(LEDGER):
            return self.oracle.ledger(what)
        if what.startswith(CHECKPOINT):
            return self.oracle.checkpoint(what)
        if what == "pool":
            return {"miners": self.oracle.pool()}
        return {"blocks": self.oracle.blocks()} if what == "blocks" else self.oracle.include(what.removeprefix(INCLUDE))

    def status(self) -> dict[str, Any]:
        """What the node is and does now, in plain values."""
        status: dict[str, Any] = {
            "node": "0x" + self.transport.me.hex(),
            "name": self.config.node.name,
            "roles": list(self.config.node.roles),
            "network": self.genesis.name,
            "network_id": self.genesis.network_id().hex(),
            "addresses": [str(address) for address in self.addresses],
            "uptime_s": (self.clock() - self.started_ms) // 1_000,
            "peers": len(self.transport.peers()),
            "adverts": len(self.book),
            "level_cap": level_cap(self.genesis),
        }
        if self.router is not None:
            status["router"] = self.router.load()
        if self.miner is not None:
            free, total = self.miner.slots()
            status["miner"] = {"slots_free": free, "slots": total}
        if self.http is not None:
            status["http"] = self.http.status()
        if self.inbox is not None:
            status["inbox"] = self.inbox.status()
        if self.oracle is not None:
            status["oracle"] = self.oracle.status()
        status["models"] = [
            {"name": offer.manifest.name, "digest": offer.manifest.digest().hex(), "slots": offer.slots}
            for offer in self.book.models()
        ]
        return status

    def peers(self) -> list[dict[str, Any]]:
        """Whom the node is connected to and what they advertise."""
        rows = []
        for peer in sorted(self.transport.peers()):
            advert = self.book.get(peer)
            rows.append(
                {
                    "node": "0x" + peer.hex(),
                    "roles": list(advert.roles) if advert else [],
                    "models": [offer.manifest.name for offer in advert.models] if advert else [],
                    "addresses": list(advert.addresses) if advert else [],
                }
            )
        return rows


def level_cap(genesis: Genesis) -> str:
    """The most that an answer can come to in a network."""
    if genesis.contracts is not None:
        return "settled"
    return "finalized" if genesis.committee else "streamed"

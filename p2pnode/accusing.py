"""Evidence that somebody hands a running node: an oracle tells everybody and reports it to the contract when its turn
comes; any other node of a network with oracles gossips it to them."""

import logging
from collections.abc import Mapping
from typing import Any

import trio

from p2pnode.clock import Clock
from p2pnode.identity import NodeKey
from p2pnode.oracle import Oracle
from p2pnode.transport.seam import Transport, TransportError
from protocol.core.codec import encode
from protocol.core.errors import DecodeError, EvidenceError, P2PNodeError
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.messages.envelope import seal
from protocol.messages.evidence import PIECE_BYTES_MAX
from protocol.results.convictions import unpack_piece
from protocol.results.evidence import Evidence, convict
from protocol.roles.oracle.news import fits_news, news_of

log = logging.getLogger(__name__)

EVIDENCE = "evidence:"
"""The question that hands in evidence: this, and a piece with its kind in hexadecimal digits."""


class Accusing:
    """Takes evidence at a node's control socket. What convicts nobody goes nowhere.

    Spec: [EVIDENCE-HAND-IN.1]
    """

    def __init__(
        self,
        genesis: Genesis,
        key: NodeKey,
        transport: Transport,
        clock: Clock,
        nursery: trio.Nursery,
        oracle: Oracle | None,
    ) -> None:
        self._genesis = genesis
        self._domain = genesis.domain()
        self._key = key
        self._transport = transport
        self._clock = clock
        self._nursery = nursery
        self._oracle = oracle

    def answer(self, question: str) -> Mapping[str, Any]:
        """Take a piece, and say what becomes of it. Raises P2PNodeError."""
        if not self._genesis.committee:
            hint = "ask a node of a network with oracles"
            raise P2PNodeError("nobody judges evidence in this network", code="control/no-ledger", hint=hint)
        evidence, convicted = self._judged(question.removeprefix(EVIDENCE))
        shown = {"convicted": f"0x{convicted.hex()}"}
        if self._oracle is not None:
            return {**shown, **self._oracle.accuse(convicted, evidence)}
        if not fits_news(evidence):
            hint = "hand it to an oracle, or send it yourself: --rpc URL --key FILE"
            raise P2PNodeError("these batches are too large for gossip", code="control/too-large", hint=hint)
        self._nursery.start_soon(self._publish, evidence)
        return {**shown, "gossiped": True}

    def _judged(self, digits: str) -> tuple[Evidence, NodeId]:
        try:
            evidence = unpack_piece(bytes.fromhex(digits), limit_bytes=PIECE_BYTES_MAX)
            return evidence, convict(self._domain, evidence)
        except EvidenceError as error:
            hint = "`p2pnode evidence verify FILE` shows each signature; it may be of another network"
            raise P2PNodeError(f"this convicts nobody here: {error}", code=error.code, hint=hint) from error
        except (ValueError, DecodeError) as error:
            raise P2PNodeError(f"this is no evidence: {error}", code="control/malformed") from error

    async def _publish(self, evidence: Evidence) -> None:
        news = news_of(self._key.node_id, self._clock(), (evidence,))
        message = encode(seal(self._domain, self._key.sign, news))
        try:
            await self._transport.publish(self._genesis.topic("committee"), message)
        except TransportError as error:
            log.warning("could not publish evidence: %s", error)

"""Puts together a router's inbox: a client of its own in the same process, what oracles say, and the chain."""

from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import trio

from chain.api import Chain
from chain.sealing import SealingKey
from p2pnode.address import RouterAddress
from p2pnode.client import LightClient, connect_here
from p2pnode.driver import Tap
from p2pnode.identity import NodeKey
from p2pnode.inbox import Inbox, InboxTerms
from p2pnode.inbox_answer import answer_question
from p2pnode.sections import RouterSection
from p2pnode.settled_watch import SettledWatch
from p2pnode.store import NodeStore
from p2pnode.transport.seam import Transport
from protocol.core.ids import NodeId
from protocol.core.signing import Domain
from protocol.light.headers import HeaderTrust

EPOCHS_ASKED = 3
"""Committees whose members are asked what is settled, the latest among them."""


class InboxRole:
    """See the module. The router's address in the inbox is the account that pays for its transactions; what is asked is
    sealed to a key that follows from its node key. Spec: [INBOX-ROUTER.1]"""

    def __init__(
        self,
        section: RouterSection,
        domain: Domain,
        key: NodeKey,
        transport: Transport,
        store: NodeStore,
        trust: HeaderTrust,
        chain: Chain,
        tap: Callable[[], Tap],
    ) -> None:
        self._terms = InboxTerms(SealingKey.of_node(key.secret), section.inbox_fee, section.inbox_token_fee)
        self._domain = domain
        self._key = key
        self._transport = transport
        self._store = store
        self._trust = trust
        self._chain = chain
        self._tap = tap
        self._inbox: Inbox | None = None

    def status(self) -> dict[str, Any]:
        """For the operator."""
        sender = self._chain.sender()
        router = "" if sender is None else "0x" + sender.hex()
        held = {} if self._inbox is None else self._inbox.status()
        return {"router": router, "key": self._terms.key.public.hex(), **held}

    async def run(self, address: RouterAddress) -> None:
        """Answer until cancelled; ``address`` is this router's own, with its network."""
        watch = SettledWatch(self._transport, self._oracles)

        def connect() -> AbstractAsyncContextManager[LightClient]:
            return connect_here(self._transport, address, self._key, tap=self._tap())

        answer = partial(answer_question, connect)
        self._inbox = Inbox(self._chain, self._terms, self._domain, self._store, answer, watch)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            nursery.start_soon(self._inbox.run)

    def _oracles(self) -> Iterable[NodeId]:
        latest = self._trust.epoch
        epochs = range(max(1, latest - EPOCHS_ASKED + 1), latest + 1)
        return {member for epoch in epochs for member in self._trust.members_of(epoch)}

"""A state while a block is executed on it: what the rules read and change, written into trees once at the end."""

from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from protocol.committee.cut import Home
from protocol.core.ids import Digest, NodeId
from protocol.core.params import Params
from protocol.core.signing import Domain
from protocol.ledger.accounts import Account
from protocol.ledger.lanes import Lane
from protocol.ledger.miners import Miner
from protocol.ledger.names import Name
from protocol.ledger.nodes import Node
from protocol.ledger.records import R, Record, Section
from protocol.ledger.sessions import Session
from protocol.ledger.state import Earned, State
from protocol.messages.results import Outcome
from protocol.results.mountain import Place, outcome_leaf


class Working:
    """See the module. Costs what is touched, whatever the size of the state."""

    def __init__(self, domain: Domain, params: Params, before: State) -> None:
        self.domain = domain
        self.params = params
        self.before = before
        self.epoch = before.epoch
        self.opened = dict(before.opened)
        self.mountain = before.mountain
        self.chain = before.chain
        self.decided: list[Outcome] = list(before.decided) if before.turned else []
        self.earned: list[Earned] = list(before.earned) if before.turned else []
        self.nodes: list[tuple[Place, Digest]] = list(before.nodes) if before.turned else []
        self._trees = list(before.trees)
        self._changed: dict[Section, dict[bytes, Record | None]] = {}
        self._sizes = [len(tree) for tree in before.trees]

    @property
    def randomness(self) -> Digest:
        """What nobody knew before the block that this state stands for: its ledger root."""
        return Digest(self.before.roots.ledger_root)

    @property
    def homes(self) -> Mapping[int, tuple[NodeId, ...]]:
        """The committees by home epoch."""
        return self.before.homes

    # Records

    def read(self, section: Section, key: bytes, cls: type[R]) -> R | None:
        """A key's record as it is now."""
        changed = self._changed.get(section)
        if changed is not None and key in changed:
            return cast(R | None, changed[key])
        data = self._trees[section].get(key)
        return None if data is None else cls.read(data)

    def write(self, section: Section, key: bytes, record: Record | None) -> None:
        """Give a key another record, or none."""
        changed = self._changed.setdefault(section, {})
        held = changed[key] is not None if key in changed else self._trees[section].get(key) is not None
        self._sizes[section] += (record is not None) - held
        changed[key] = record

    def size(self, section: Section) -> int:
        """How many records a section has now."""
        return self._sizes[section]

    def clear(self, section: Section) -> None:
        """Forget all of a section."""
        self._trees[section] = type(self._trees[section])()
        self._changed.pop(section, None)
        self._sizes[section] = 0

    def account(self, address: bytes) -> Account:
        """What an address has now."""
        return self.read(Section.ACCOUNTS, address, Account) or Account()

    def set_account(self, address: bytes, account: Account) -> None:
        """An address has this now. One that never had anything takes no place."""
        self.write(Section.ACCOUNTS, address, None if account == Account() else account)

    def session(self, session: bytes) -> Session | None:
        """A session's reservation as it is now."""
        return self.read(Section.SESSIONS, session, Session)

    def miner(self, node: bytes) -> Miner | None:
        """A miner's place in the pool as it is now."""
        return self.read(Section.MINERS, node, Miner)

    def registered(self, node: bytes) -> Node | None:
        """A node's record in the registry as it is now."""
        return self.read(Section.NODES, node, Node)

    def name(self, name: str) -> Name | None:
        """The head of a name's log as it is now."""
        return self.read(Section.NAMES, name.encode(), Name)

    def lane(self, section: Section, key: bytes) -> Lane | None:
        """A lane as it is now."""
        return self.read(section, key, Lane)

    # Outcomes

    def append(self, outcome: Outcome) -> int:
        """An outcome is a leaf of the results tree from now on: which one."""
        self.mountain, nodes = self.mountain.append(outcome_leaf(outcome))
        self.nodes += nodes
        self.decided.append(outcome)
        return self.mountain.count - 1

    # The end

    def after(
        self,
        cut: Mapping[Home, tuple[int, Digest]],
        homes: dict[int, tuple[NodeId, ...]],
        next_members: tuple[NodeId, ...],
    ) -> State:
        """The state that all this leads to."""
        trees = list(self._trees)
        for section, changed in self._changed.items():
            packed = ((key, None if record is None else record.packed()) for key, record in changed.items())
            trees[section] = trees[section].updated(packed)
        return replace(
            self.before,
            epoch=self.epoch,
            homes=homes,
            next_members=next_members,
            cut=cut,
            opened={home: count for home, count in self.opened.items() if count},
            mountain=self.mountain,
            trees=tuple(trees),
            decided=tuple(self.decided),
            nodes=tuple(self.nodes),
            turned=False,
            chain=self.chain,
            earned=tuple(self.earned),
        )

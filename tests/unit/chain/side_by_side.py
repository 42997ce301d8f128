"""The model of the contracts beside the contracts: each call is made of both, and they have to agree.

What is compared: whether it was refused and with which word, what was said in events, and where all the coin is.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from chain.artifacts import load_artifact
from chain.model.calls import Call, Revert
from chain.model.deployed import ModelContracts
from chain.model.terms import Terms
from chain.signed import created_by
from protocol.core.genesis import CONTRACTS, Contracts
from protocol.core.ids import Digest, NodeId
from tests.unit.chain.as_called import as_called, as_told
from tests.unit.chain.contracts_at_hand import DEPLOYER, DOMAIN, GUARDIAN
from tests.unit.chain.evm import CHAIN_ID, Contract, Done, Evm, Refused
from tests.unit.protocol.keys import key

RICH = 10**24
ARTIFACTS = dict(
    zip(CONTRACTS, ("NodeRegistry", "Evidence", "Checkpoints", "Escrow", "SessionInbox", "ModelRegistry"), strict=True)
)
SIGNATURES = frozenset({"signature", "signers", "signer", "high s"})
"""Words for signatures that do not hold; the model has one."""


def terms(**changes: Any) -> Terms:
    """Short times, so that a test runs into them."""
    addresses = Contracts(0, *(created_by(DEPLOYER, nonce) for nonce in range(len(CONTRACTS))))
    plain: dict[str, Any] = {
        "guardian": NodeId(GUARDIAN),
        "committee": tuple(key(number).node for number in range(4)),
        "unit": 3,
        "deposit_min": 5,
        "window_s": 600,
        "dead_s": 5_000,
        "terms_max": 3,
        "pause_max_s": 300,
        "stake_min": 100,
        "stake_cap": 1_000,
        "unbonding_s": 10_000,
        "proving_s": 2_000,
    }
    return Terms(DOMAIN, addresses, **{**plain, **changes})


def deploy(evm: Evm, given: Terms) -> dict[str, Contract]:
    """All contracts, where the terms say that they are."""
    at, named = given.addresses, given.domain.network_id
    arguments: dict[str, tuple[Any, ...]] = {
        "registry": (
            *(at.evidence, at.checkpoints, bytes(20), given.unit, given.committee, given.size_max),
            *(given.stake_min, given.stake_cap, given.unbonding_s, given.slash_bp, given.reward_bp),
        ),
        "evidence": (at.registry,),
        "checkpoints": (at.registry, given.guardian, given.terms_max, given.window_s, given.dead_s, given.pause_max_s),
        "escrow": (at.checkpoints, bytes(20), given.unit, given.deposit_min),
        "inbox": (at.checkpoints, given.proving_s),
        "models": (at.checkpoints,),
    }
    deployed = {
        name: evm.deploy(load_artifact(ARTIFACTS[name]), named, CHAIN_ID, *more, sender=DEPLOYER)
        for name, more in arguments.items()
    }
    assert all(deployed[name].address == getattr(at, name) for name in CONTRACTS)
    return deployed


@dataclass
class Pair:
    """Both sides. They begin at the same time, in blocks of the same hashes."""

    terms: Terms = field(default_factory=terms)
    evm: Evm = field(default_factory=Evm)

    def __post_init__(self) -> None:
        self.contracts = deploy(self.evm, self.terms)
        self.model = ModelContracts.deploy(self.terms, self.evm.time_s)
        self.coins: dict[NodeId, int] = {}
        self._names = {contract.address: name for name, contract in self.contracts.items()}

    def do(self, contract: str, function: str, *arguments: Any, sender: bytes, value: int = 0) -> str | None:
        """Call both. Returns the word with which both refuse; None if both do it."""
        refused, said = self._model_does(contract, function, arguments, NodeId(sender), value)
        name, encoded = as_called(contract, function, arguments)
        try:
            done = self.contracts[contract].send(name, *encoded, sender=sender, value=value)
        except Refused as error:
            word = "signature" if contract == "evidence" and error.reason in SIGNATURES else error.reason
            assert word == refused, f"{contract}.{function}: EVM {error.reason!r}, model {refused!r}"
            return refused
        assert refused is None, f"{contract}.{function}: the EVM does it, the model says {refused!r}"
        told = self._told(done)
        assert told == said, f"{contract}.{function}: the EVM says {told}, the model {said}"
        self.check_coin()
        return None

    def _told(self, done: Done) -> list[tuple[Any, ...]]:
        """The contracts' events, in the order in which they were said."""
        queues = {address: iter(self.contracts[name].events(done)) for address, name in self._names.items()}
        told = [next(queues[log.address]) for log in done.logs]
        # Who answers a question stands in the event as well; the model's answer does not repeat it.
        return [(event[0], event[1], *event[3:]) if event[0] == "Answered" else event for event in told]

    def _model_does(
        self, contract: str, function: str, arguments: tuple[Any, ...], sender: NodeId, value: int
    ) -> tuple[str | None, list[tuple[Any, ...]]]:
        before, coins = self.model.copy(), {**self.coins, sender: RICH}
        rich = sum(coins.values())
        call = self._call(sender, value, coins)
        try:
            self.model.call(contract, function, arguments, call)
        except Revert as revert:
            self.model = before
            return revert.reason, []
        assert sum(coins.values()) == rich, "coin was made or lost"
        self.coins = {address: amount for address, amount in coins.items() if address in self._names}
        return None, [as_told(log) for log in call.logs]

    def _call(self, sender: NodeId, value: int, coins: dict[NodeId, int]) -> Call:
        evm = self.evm

        def hash_of(number: int) -> Digest:
            return Digest(evm.block_hash(number) if evm.number - 256 <= number < evm.number else bytes(32))

        return Call(sender, value, evm.number, evm.time_s, hash_of, coins)

    def view(self) -> Call:
        """Who only looks at the model."""
        return self._call(NodeId(bytes(20)), 0, {})

    def check_coin(self) -> None:
        """Each contract has as much on both sides."""
        for address, name in self._names.items():
            assert self.evm.balance(address) == self.coins.get(NodeId(address), 0), f"the coin of {name}"

    def check_heads(self) -> None:
        """What changes most is the same on both sides."""
        model, ask = self.model, {name: contract.call for name, contract in self.contracts.items()}
        view, checkpoints = self.view(), model.checkpoints
        assert ask["checkpoints"]("latest") == checkpoints.latest
        assert ask["checkpoints"]("dead") == checkpoints.dead(view)
        assert ask["checkpoints"]("usable", checkpoints.latest) == checkpoints.usable(view, checkpoints.latest)
        assert ask["registry"]("candidate_count") == len(model.registry.weights)
        assert ask["escrow"]("deposited") == model.escrow.deposited
        assert ask["escrow"]("paid_out") == model.escrow.paid_out
        in_escrow = (model.escrow.deposited - model.escrow.paid_out) * self.terms.unit
        assert self.coins.get(self.terms.addresses.escrow, 0) == in_escrow

    def check_all(self, nodes: Sequence[NodeId], accounts: Sequence[NodeId], digests: Sequence[Digest]) -> None:
        """So is all the rest, of some nodes, accounts and headers."""
        self._check_registry(nodes)
        self._check_checkpoints(digests)
        model, ask = self.model, self.contracts["escrow"].call
        for account in accounts:
            assert ask("paid", account) == model.escrow.paid.get(account, 0)
            assert ask("exited", account) == (account in model.escrow.exited)
            assert self.contracts["registry"].call("rewards", account) == model.registry.rewards.get(account, 0)
        for number in range(len(model.escrow.deposits) + 2):
            assert _plain(ask("deposits", number)) == model.escrow.deposit_of(number)
        for name, head in model.models.heads.items():
            told = self.contracts["models"].call("head", name)
            assert _plain(told) == (head.owner, head.number, head.head, head.model)
        for number, asked in enumerate(model.inbox.questions, 1):
            told = self.contracts["inbox"].call("questions", number)
            assert told[2] == 1 << (asked.state - 1)

    def _check_registry(self, nodes: Sequence[NodeId]) -> None:
        registry, ask, view = self.model.registry, self.contracts["registry"].call, self.view()
        assert ask("frozen") == (registry.frozen.epoch, registry.frozen.seed_block, len(registry.frozen_weights))
        for node in nodes:
            bond, key = registry.bonds.get(node), registry.keys.get(node)
            expected: tuple[Any, ...] = (bytes(20), bytes(20), 0, 0, False, 0, 0)
            if bond is not None:
                times = (bond.unbonding_from_s, bond.free_after)
                expected = (bond.node, bond.owner, bond.roles, bond.stake, bond.jailed, *times)
            assert _plain(ask("bonds", node)) == expected
            assert _plain(ask("keys", node)) == ((bytes(20), 0) if key is None else (key.bond, key.until_s))
            assert ask("weight", node) == registry.weights.get(node, 0)
            assert ask("liable", node) == registry.is_liable(view, node)
            assert ask("drawn", node) == registry.drawn_for.get(node, 0)
        frozen = ask("frozen_candidates", 0, ask("oracle_count"))
        assert sorted(_plain(frozen)) == sorted(registry.frozen_weights)
        for epoch in range(registry.frozen.epoch + 2):
            assert ask("drawn_root", epoch) == registry.drawn_root(epoch)
            assert ask("served", epoch) == registry.served.get(epoch, 0)

    def _check_checkpoints(self, digests: Sequence[Digest]) -> None:
        checkpoints, ask, view = self.model.checkpoints, self.contracts["checkpoints"].call, self.view()
        assert ask("frozen_at") == checkpoints.frozen_at_s
        assert ask("dead_at") == checkpoints.dead_at_s
        assert ask("paused") == checkpoints.paused(view)
        for digest, following in pairwise((*digests, Digest(bytes(32)))):
            kept = checkpoints.accepted(digest)
            assert ask("accepted", digest) == (kept.time_s, kept.epoch, kept.height, kept.sequence)
            assert ask("usable", digest) == checkpoints.usable(view, digest)
            assert ask("last_usable", digest, following) == checkpoints.last_usable(view, digest, following)
        for epoch, known in checkpoints.epochs.items():
            assert ask("epochs", epoch) == (known.root, known.opened_s, known.terms)


def _plain(told: Sequence[Any]) -> tuple[Any, ...]:
    """With addresses as bytes."""
    return tuple(bytes.fromhex(each[2:]) if isinstance(each, str) else each for each in told)

"""The nodes of a ``results`` world: those of the fast path, told of a committee, and oracles over the real ledger."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random

from p2pnode.records import stored_bids, stored_numbers, stored_results
from p2pnode.sim.byzantine import ByzantineMachine, Grip, Notes, Trick
from p2pnode.sim.byzantine_tricks import TRICKS
from p2pnode.sim.committee_node import LOG_MADE, load
from p2pnode.sim.crypto import Key
from p2pnode.sim.fast_path import MANIFEST, MODEL, NodeProgram
from p2pnode.sim.host import Boot, Dispatch, Host, Part, Perform
from p2pnode.sim.onchain_lies import WORD_LIES
from p2pnode.sim.results_bad_oracles import DESK_TRICKS, LIES, LyingSigner
from p2pnode.sim.results_byzantine import Den
from p2pnode.sim.toy_engine import Pace, ToyEngine
from protocol.committee.payload import NextCommittee, same_members
from protocol.committee.signer import PREFIXES, SILENCE, Signer
from protocol.core.genesis import Genesis
from protocol.ledger import Ledger
from protocol.light.handovers import HandOverBook
from protocol.messages.adverts import ModelOffer
from protocol.roles.miner import MinerMachine, MinerSettings
from protocol.roles.miner.bidding import BID_RECORDS
from protocol.roles.miner.result import RESULT_RECORDS
from protocol.roles.oracle import OracleMachine, OracleSettings
from protocol.roles.router import ASSIGNMENT_RECORDS, RouterMachine, RouterSettings


def make_ledger(genesis: Genesis, follow: NextCommittee = same_members) -> Ledger:
    """The ledger as every oracle has it."""
    return Ledger(genesis.domain(), genesis.params, genesis, follow)


@dataclass(slots=True)
class LedgerOracle:
    """A correct oracle. ``host`` is set as soon as there is one."""

    key: Key
    genesis: Genesis
    follow: NextCommittee = same_members
    host: Host | None = field(default=None)

    def start(self, boot: Boot) -> Sequence[Part]:
        """See p2pnode.sim.host.Program."""
        assert self.host is not None
        records = self.host.disk.records
        log = signer_log(records)
        signer = Signer(self.genesis.domain(), self.key.node_id, self.key.sign, log)
        return [Part(make_oracle(self.key, self.genesis, signer, records, boot, self.follow))]


@dataclass(slots=True)
class BadOracle:
    """A Byzantine oracle, by the names of its lies and tricks. It begins from nothing in every life."""

    key: Key
    genesis: Genesis
    ruses: tuple[str, ...]
    rng: Random
    notes: Notes
    den: Den
    follow: NextCommittee = same_members
    host: Host | None = field(default=None)

    def start(self, boot: Boot) -> Sequence[Part]:
        """See p2pnode.sim.host.Program."""
        records: dict[bytes, bytes] = {LOG_MADE: b""}
        signer = LyingSigner(self.genesis.domain(), self.key.node_id, self.key.sign)
        lies = {**LIES, **WORD_LIES}
        signer.lies = tuple(lies[name] for name in self.ruses if name in lies)
        signer.rng, signer.genesis, signer.den = self.rng, self.genesis, self.den
        inner = make_oracle(self.key, self.genesis, signer, records, boot, self.follow)
        grip = Grip(inner, self.key, self.genesis, self.rng, self.notes)
        return [Part(ByzantineMachine(inner, grip, self._tricks(grip), records))]

    def _tricks(self, grip: Grip) -> list[Trick]:
        known: dict[str, Callable[[Grip], Trick]] = {**TRICKS, **DESK_TRICKS}
        return [known[name](grip) for name in self.ruses if name in known]


def signer_log(records: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Of a node's records those that are its signer log."""
    return {name: value for name, value in records.items() if name.startswith(PREFIXES)}


def make_oracle(
    key: Key,
    genesis: Genesis,
    signer: Signer,
    records: Mapping[bytes, bytes],
    boot: Boot,
    follow: NextCommittee = same_members,
) -> OracleMachine:
    """The machine as the production node makes it, over records that are read whenever it asks."""
    whole = LOG_MADE in records or any(name.startswith(SILENCE) for name in records)
    settings = OracleSettings(
        key.node_id,
        genesis.committee,
        make_ledger(genesis, follow),
        signer,
        None if whole else "missing",
        partial(load, records),
    )
    return OracleMachine(settings, genesis.domain(), genesis.params, key.sign, boot.now_ms)


@dataclass(frozen=True, slots=True)
class FollowingRouter(NodeProgram):
    """A router that follows the committee."""

    rounds_max: int = 4

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        numbers, _ = stored_numbers(_of(boot, ASSIGNMENT_RECORDS), boot.now_ms)
        settings = RouterSettings(
            self.key.node_id,
            (self.address,),
            self.genesis.to_json(),
            numbers,
            followed=HandOverBook(self.genesis, partial(load, boot.records)),
            rounds_max=self.rounds_max,
        )
        domain, params, book = self.genesis.domain(), self.genesis.params, self.book(boot)
        return [Part(RouterMachine(settings, domain, params, self.key.sign, book)), self.peer(book)]


@dataclass(frozen=True, slots=True)
class ProvingMiner(NodeProgram):
    """A miner with its toy engine, that proves its results."""

    pace: Pace = field(default_factory=lambda: Pace(1, 0, 0))
    price_wei: int = 0

    def start(self, boot: Boot) -> Sequence[Part]:
        """See Program."""
        results, _ = stored_results(_of(boot, RESULT_RECORDS))
        kept, _ = stored_bids(_of(boot, BID_RECORDS))
        offer = ModelOffer(MANIFEST, self.pace.slots, self.pace.context_tokens, self.price_wei)
        settings = MinerSettings(
            self.key.node_id,
            {MODEL: offer},
            boot.random.randbytes(16),
            kept,
            genesis=self.genesis,
            hand_overs=HandOverBook(self.genesis, partial(load, boot.records)),
            salt_key=boot.random.randbytes(32),
            results=results,
        )
        machine = MinerMachine(settings, self.genesis.domain(), self.genesis.params, self.key.sign)

        def performers(dispatch: Dispatch) -> Mapping[type, Perform]:
            return ToyEngine(self.pace, boot, dispatch).performers()

        return [Part(machine, performers), self.peer(self.book(boot), (offer,))]


def _of(boot: Boot, prefix: bytes) -> dict[bytes, bytes]:
    return {name: value for name, value in boot.records.items() if name.startswith(prefix)}

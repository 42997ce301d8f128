"""Somebody who wants the contracts' money, or their end: he sends them whatever they should refuse, without asking
first whether they would.

He has no key but his own, and all that was ever said to anybody.
"""

from random import Random

from msgspec.structs import replace

from chain.model.blocks import MadeBlock, Transaction
from chain.model.calls import Revert
from p2pnode.sim.checkers import Checker
from p2pnode.sim.crypto import Key
from p2pnode.sim.host import Host
from p2pnode.sim.onchain_chain import RICH, Onchain
from p2pnode.sim.onchain_purse import Purse
from p2pnode.sim.results_replay import OneLedger
from protocol.core.codec import Message
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import typed_digest
from protocol.ledger.accounts import Account
from protocol.ledger.records import Section
from protocol.messages.chain import Consent
from protocol.messages.committee import (
    Certificate,
    CertificateKind,
    Certified,
    Finalize,
    Header,
    MemberSignature,
    header_digest,
)
from protocol.messages.evidence import ConflictingCommits
from protocol.messages.handover import HandOvers
from protocol.messages.results import Commit, LedgerNews, LedgerProof, SignedCommit

KEPT_MAX = 64


class Raider(Checker):
    """See the module. A checker only in that it hears everything. ``ledger`` is set as soon as there is one."""

    def __init__(self, onchain: Onchain, keys: tuple[Key, ...], rng: Random, purses: tuple[Purse, ...]) -> None:
        self.ledger: OneLedger | None = None
        self._onchain = onchain
        self._keys = keys
        self._rng = rng
        self._purses = purses
        self._heard: list[Certified] = []
        onchain.chain.fund(keys[0].node_id, RICH)
        onchain.world.after(1_000_000, self._again)
        onchain.hooks.append(self._block)

    def wire(self, sender: Host, receiver: Host, protocol: str, message: Message) -> None:
        """Everything certified is of use."""
        if isinstance(message, LedgerNews):
            self._keep(message.certified)
        elif isinstance(message, HandOvers):
            for hand_over in message.hand_overs:
                self._keep(hand_over.certified)

    def _keep(self, certified: Certified) -> None:
        if certified.header is not None and certified not in self._heard[-8:]:
            self._heard.append(certified)
            if len(self._heard) > KEPT_MAX:
                del self._heard[self._rng.randrange(KEPT_MAX)]

    def _again(self) -> None:
        attacks = (self._repeats, self._forges, self._accuses, self._withdraws, self._ends, self._meddles)
        self._rng.choice(attacks)()
        self._onchain.world.after(self._rng.randint(100_000, 1_500_000), self._again)

    def send(self, contract: str, function: str, *args: object) -> None:
        """Whether or not it can be done."""
        chain, me = self._onchain.chain, self._keys[0].node_id
        nonce = chain.nonce(me) + sum(waiting.sender == me for waiting in chain.waiting)
        try:
            chain.send(Transaction(me, nonce, contract, function, args))
        except Revert:
            return

    # Checkpoints

    def _repeats(self) -> None:
        """A header of the past."""
        checkpoints = self._onchain.contracts.checkpoints
        last = checkpoints.accepted(checkpoints.latest)
        past = [known for known in self._heard if _slot(known) <= (last.epoch, last.height)]
        if past and self.ledger is not None:
            certified = self._rng.choice(past)
            committee = self.ledger.reading.committees[certified.certificate.epoch]
            self.send("checkpoints", "submit", certified, committee.members)

    def _forges(self) -> None:
        """A header that nobody finalized: by a committee of his own, or with another header's signatures."""
        if not self._heard or self.ledger is None:
            return
        certified, rng = max(self._heard, key=_slot), self._rng
        assert certified.header is not None
        height = certified.header.height + rng.randint(1, 100)
        forged = replace(certified.header, height=height, ledger_root=rng.randbytes(32))
        committee = self.ledger.reading.committees[forged.epoch]
        if rng.random() < 0.5:
            signed = replace(certified.certificate, height=height, header=self._digest(forged))
            self.send("checkpoints", "submit", Certified(signed, forged), committee.members)
        else:
            self.send("checkpoints", "submit", self._signed(forged), tuple(key.node_id for key in self._keys))

    def _digest(self, header: Header) -> Digest:
        return header_digest(self._onchain.terms.domain, header)

    def _signed(self, header: Header) -> Certified:
        digest = self._digest(header)
        to_sign = typed_digest(self._onchain.terms.domain, Finalize(header.epoch, header.height, digest))
        signatures = tuple(MemberSignature(place, key.sign(to_sign)) for place, key in enumerate(self._keys[:3]))
        certificate = Certificate(CertificateKind.FINALIZATION, header.epoch, header.height, digest, signatures)
        return Certified(certificate, header)

    # Evidence

    def _accuses(self) -> None:
        """An innocent, of what he says himself."""
        world, rng = self._onchain.world, self._rng
        host = rng.choice([host for host in world.hosts.values() if host.name.startswith(("miner", "oracle"))])
        commits = [Commit(bytes(32), 1, 0, bytes(24), host.node, rng.randbytes(32)) for _ in range(2)]
        domain = self._onchain.terms.domain
        signed = [SignedCommit(commit, self._keys[0].sign(typed_digest(domain, commit))) for commit in commits]
        self.send("evidence", "judge", ConflictingCommits(signed[0], signed[1]), self._keys[0].node_id)

    # Money

    def _withdraws(self) -> None:
        """What was shown before, again; or more, by the same proof; or by a header that was never accepted."""
        purse = self._rng.choice(self._purses)
        paid = self._onchain.contracts.escrow.paid.get(purse.account, 0)
        # He does nobody a favour: what was not paid yet he leaves alone.
        shown = [known for known in purse.shown if _withdrawable(known[1]) <= paid]
        if not shown or self.ledger is None:
            return
        digest, proof = self._rng.choice(shown)
        kept = self._onchain.contracts.checkpoints.accepted(digest)
        header = self.ledger.headers.get((kept.epoch, kept.height))
        if header is None:
            return
        match self._rng.randrange(3):
            case 0:
                self.send("escrow", "withdraw", header, proof)
            case 1:
                self.send("escrow", "withdraw", header, self._more(proof))
            case _:
                self._hurries(purse)

    def _hurries(self, purse: Purse) -> None:
        """By the header that was accepted last, while it can still be challenged."""
        checkpoints, onchain = self._onchain.contracts.checkpoints, self._onchain
        last = checkpoints.accepted(checkpoints.latest)
        state = None if self.ledger is None else self.ledger.states.get((last.epoch, last.height))
        early = onchain.chain.head.time_s + 3 < last.time_s + onchain.terms.window_s
        if early and state is not None and self.ledger is not None:
            proof = state.prove(Section.ACCOUNTS, purse.account)
            self.send("escrow", "withdraw", self.ledger.headers[last.epoch, last.height], proof)

    def _more(self, proof: LedgerProof) -> LedgerProof:
        assert proof.value is not None
        account = Account.read(proof.value)
        richer = replace(account, withdrawable_wei=account.withdrawable_wei + 1_000)
        return replace(proof, value=richer.packed())

    def _ends(self) -> None:
        """As if the committee were dead."""
        self.send("checkpoints", "declare_dead")
        self.send("escrow", "refund", self._rng.randint(1, 20), None, ZERO_DIGEST)

    def grabs(self, header: Header) -> None:
        """The exit is open: every deposit is to come back, and whatever purses have, twice."""
        escrow = self._onchain.contracts.escrow
        for number in range(1, len(escrow.deposits) + 2):
            self.send("escrow", "refund", number, header, ZERO_DIGEST)
        assert self.ledger is not None
        state = self.ledger.states[header.epoch, header.height]
        for purse in (*self._purses, *self._purses):
            self.send("escrow", "exit", header, ZERO_DIGEST, state.prove(Section.ACCOUNTS, purse.account))

    # The registry

    def _meddles(self) -> None:
        """With other people's nodes, and with the draw."""
        registry, rng, me = self._onchain.contracts.registry, self._rng, self._keys[0]
        node = rng.choice(sorted(registry.bonds))
        match rng.randrange(4):
            case 0:
                self.send("registry", "begin_unbonding", node)
            case 1:
                self.send("registry", "finish_unbonding", node)
            case 2:
                consent = me.sign(typed_digest(self._onchain.terms.domain, Consent(me.node_id, me.node_id)))
                self.send("registry", "rotate", node, me.node_id, consent)
            case _:
                self.send("registry", "slash", node, Digest(rng.randbytes(32)), me.node_id)

    def _block(self, block: MadeBlock) -> None:
        """As soon as a committee can be drawn, he is the first to try, from whom he likes."""
        registry = self._onchain.contracts.registry
        frozen, candidates = registry.frozen, tuple(sorted(registry.frozen_weights))
        if frozen.epoch and block.number == frozen.seed_block and self._rng.random() < 0.5:
            other = (*candidates[:-1], NodeId(b"\xff" * 20))
            self.send("registry", "draw", frozen.epoch, self._rng.choice((candidates[1:], other)))


def _slot(certified: Certified) -> tuple[int, int]:
    return (certified.certificate.epoch, certified.certificate.height)


def _withdrawable(proof: LedgerProof) -> int:
    return 0 if proof.value is None else Account.read(proof.value).withdrawable_wei

"""What the contract accepted, proved by what a real node answers, and what a node that has forgotten it answers."""

from collections.abc import Iterator
from typing import Any

import pytest

from chain.api import EvmBlock
from chain.client import EvmChain
from chain.errors import StateGone
from chain.localchain import Kind
from protocol.committee.election import committee_root
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import Domain, keccak
from protocol.light.evm import check_settled, read_block
from protocol.messages.committee import (
    Certificate,
    CertificateKind,
    Certified,
    Header,
    MemberSignature,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.receipts import EvmProof
from tests.runtime.local_chain import KEYS, Network, needs_anvil, open_network

KINDS = [pytest.param("anvil", marks=needs_anvil), "embedded"]
WAIT_S = 30.0
MEMBERS = [key.node_id for key in KEYS]


@pytest.fixture(scope="module", params=KINDS)
def network(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    kind: Kind = request.param
    with open_network(tmp_path_factory.mktemp(kind), kind) as network:
        yield network


def finalized(domain: Domain, height: int, anchor: EvmBlock | None = None) -> Certified:
    """A header of the first epoch that three of four finalized."""
    number, name = (0, ZERO_DIGEST) if anchor is None else (anchor.number, anchor.hash)
    roots: tuple[Any, ...] = (keccak(b"results"), 1, keccak(b"ledger"), keccak(b"params"))
    header = Header(1, height, ZERO_DIGEST, *roots, number, name, 0, committee_root(MEMBERS), keccak(b"body"))
    digest = header_digest(domain, header)
    said = statement_digest(domain, StatementKind.FINALIZE, 1, height, digest)
    signed = tuple(MemberSignature(place, KEYS[place].sign(said)) for place in range(3))
    return Certified(Certificate(CertificateKind.FINALIZATION, 1, height, digest, signed), header)


def proved(network: Network, chain: EvmChain, certified: Certified, anchor: EvmBlock) -> EvmProof | None:
    """The proof by a block that a later header anchors, verified as whoever has no chain does it."""
    domain, contracts = network.genesis.domain(), network.genesis.contracts
    assert certified.header is not None
    assert contracts is not None
    proof = chain.settled_proof(domain, certified.header, finalized(domain, 99, anchor))
    if proof is not None:
        assert proof.anchored.header is not None
        found = check_settled(domain, contracts.checkpoints, certified.header, proof.anchored.header, proof)
        accepted = chain.accepted(header_digest(domain, certified.header))
        assert accepted is not None
        assert (found.time_s, found.sequence) == (accepted.time_s, accepted.sequence)
    return proof


@pytest.mark.spec("CHAIN-PROOF.1", "CHAIN-HEADER.1", "EVM-SETTLED.1")
def test_a_checkpoint_is_proved_and_an_old_block_may_be_past_proving(network: Network) -> None:
    certified = finalized(network.genesis.domain(), 1)
    with network.chain() as chain:
        before = chain.finalized()
        chain.wait(chain.submit_checkpoint(certified, MEMBERS), WAIT_S, final=True)
        after = chain.finalized()
        assert read_block(chain.block_header(after.hash)).time_s == after.time_s
        assert proved(network, chain, certified, before) is None
        first = proved(network, chain, certified, after)
        assert first is not None
        network.stop()
        network.start()
    with network.chain() as chain:
        assert keccak(chain.block_header(after.hash)) == after.hash
        if network.local.kind == "anvil":  # it keeps the states of its own run, and the last one before it
            with pytest.raises(StateGone, match=f"of block {after.number}") as refused:
                proved(network, chain, certified, after)
            assert "take a newer header" in str(refused.value.hint)
        else:
            assert proved(network, chain, certified, after) == first
        chain.wait(chain.submit_checkpoint(finalized(network.genesis.domain(), 2), MEMBERS), WAIT_S, final=True)
        assert proved(network, chain, certified, chain.finalized()) is not None

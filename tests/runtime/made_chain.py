"""A chain of many heights on oracles' disks, as they would have left it: made here in a second, not lived through."""

from collections.abc import Sequence
from pathlib import Path

import trio

from p2pnode.identity import NodeKey
from p2pnode.oracle_records import OracleRecords, claim_store
from p2pnode.signer_log import open_signer_log
from p2pnode.store import open_store
from p2pnode.testnet import KEYSTORE, make_key
from protocol.committee import storage
from protocol.committee.members import make_committee
from protocol.committee.payload import make_header, opening_header
from protocol.committee.signer import Signer
from protocol.committee.tree import Base
from protocol.core.codec import pack
from protocol.core.genesis import Genesis
from protocol.core.ids import Signature
from protocol.core.signing import keccak
from protocol.ledger import Ledger
from protocol.messages.committee import (
    Block,
    Certificate,
    CertificateKind,
    MemberSignature,
    StatementKind,
    header_digest,
)

Records = dict[bytes, bytes]

BATCH_EVERY = 5


def make_chain(genesis: Genesis, folders: Sequence[Path], heights: int) -> None:
    """Write a chain of epoch 1 that a quorum of these oracles, given by their folders, has finalized."""
    keys = [make_key(folder) for folder in folders]
    chain, logs = _chain(genesis, keys, heights)
    trio.run(_write, genesis, folders, keys, chain, logs)


def _chain(genesis: Genesis, keys: Sequence[NodeKey], heights: int) -> tuple[Records, list[Records]]:
    domain, ledger = genesis.domain(), Ledger(genesis.domain(), genesis.params, genesis)
    committee = make_committee(genesis.network_id(), 1, genesis.committee)
    quorum = sorted(keys, key=lambda key: committee.places[key.node_id])[: committee.quorum]
    signers = [Signer(domain, key.node_id, key.sign) for key in quorum]
    logs: dict[bytes, Records] = {key.node_id: {} for key in keys}
    for signer in signers:
        signer.ready = True
    state = ledger.genesis(committee)
    header = opening_header(1, state.roots)
    chain: Records = {}
    for height in range(1, heights + 1):
        body = b""
        if height % BATCH_EVERY == 0:
            signer = signers[height // BATCH_EVERY % len(signers)]
            made = signer.sign_batch(1, height.to_bytes(8, "big"))
            assert made is not None
            logs[signer.me].update(made[1])
            body = ledger.propose(state, [made[0]])
            state = ledger.execute(state, body)
        header = make_header(1, height, header_digest(domain, header), state.roots, keccak(body))
        digest = header_digest(domain, header)
        signatures = []
        for signer in signers:
            signed = signer.sign(StatementKind.FINALIZE, 1, height, digest)
            assert signed is not None
            logs[signer.me].update(signed.records)
            signatures.append(MemberSignature(committee.places[signer.me], Signature(signed.statement.signature)))
        certificate = Certificate(CertificateKind.FINALIZATION, 1, height, digest, tuple(signatures))
        chain[storage.chain_key(1, height)] = pack(Block(header, body, certificate))
    end = Base(header, header_digest(domain, header), state)
    for name, value in storage.state_records(committee, end, certificate, None):
        assert value is not None
        chain[name] = value
    return chain, [logs[key.node_id] for key in keys]


async def _write(
    genesis: Genesis, folders: Sequence[Path], keys: Sequence[NodeKey], chain: Records, logs: list[Records]
) -> None:
    for folder, key, signed in zip(folders, keys, logs, strict=True):
        with (
            open_store(folder) as store,
            open_signer_log(folder / KEYSTORE, key.node_id, genesis.network_id()) as log,
        ):
            await claim_store(store, genesis)
            await OracleRecords(store, log).persist([*chain.items(), *signed.items()])

"""Where an oracle's records go, in which order, and what an oracle starts from."""

from pathlib import Path

import pytest

from p2pnode.clock import open_clock
from p2pnode.oracle import make_machine
from p2pnode.oracle_records import OracleRecords, OtherNetwork, claim_store, stored_genesis
from p2pnode.signer_file import SignerLogFull
from p2pnode.signer_log import SignerConflict, SignerLog, open_signer_log
from p2pnode.store import NodeStore, StoreFull, open_store
from protocol.committee.signer import Signer
from protocol.core.genesis import Genesis
from protocol.core.machine import Persist, Send
from protocol.messages.committee import StatementKind
from protocol.roles.oracle import Include
from tests.unit.p2pnode.signer_key import NETWORK, NODE, record, silent
from tests.unit.protocol.keys import key

KEYS = [key(number) for number in range(4)]
GENESIS = Genesis("records", committee=tuple(member.node for member in KEYS))


async def test_a_block_is_durable_before_the_signature(
    tmp_path: Path, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    persist, append = NodeStore.persist, SignerLog.append

    async def stored(self: NodeStore, records: list[tuple[bytes, bytes | None]]) -> None:
        await persist(self, records)
        done.append("store")

    async def signed(self: SignerLog, records: list[tuple[bytes, bytes]]) -> None:
        assert done == ["store"]
        await append(self, records)
        done.append("log")

    monkeypatch.setattr(NodeStore, "persist", stored)
    monkeypatch.setattr(SignerLog, "append", signed)
    with open_store(tmp_path / "node") as store, open_signer_log(keystore, NODE, NETWORK) as log:
        records = OracleRecords(store, log)
        await records.persist([(b"open/block/1", b"block"), (b"open/block/0", None), record(1, 1), silent(1)])
        assert done == ["store", "log"]
        assert store.load(b"") == {b"open/block/1": b"block"}
        assert await log.load() == dict([record(1, 1), silent(1)])
        done.clear()
        await records.persist([(b"state", b"s")])
        assert done == ["store"]


async def test_what_cannot_be_stored_is_not_signed(
    tmp_path: Path, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise StoreFull("no space left")

    with open_store(tmp_path / "node") as store, open_signer_log(keystore, NODE, NETWORK) as log:
        records = OracleRecords(store, log)
        with monkeypatch.context() as patched:
            patched.setattr(NodeStore, "persist", full)
            with pytest.raises(StoreFull):
                await records.persist([(b"open/block/1", b"block"), record(1, 1)])
        assert await log.load() == {}
        await records.persist([record(1, 1, b"one")])
        with pytest.raises(SignerConflict):
            await records.persist([record(1, 1, b"another")])


@pytest.mark.spec("SIGNER-ONCE.1")
async def test_a_certificate_is_not_stored_before_the_signatures_that_it_may_hold(
    tmp_path: Path, keystore: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def cut_off(*_: object) -> None:
        raise SignerLogFull("the power fails here")

    with open_store(tmp_path / "node") as store, open_signer_log(keystore, NODE, NETWORK) as log:
        monkeypatch.setattr(SignerLog, "append", cut_off)
        with pytest.raises(SignerLogFull):
            await OracleRecords(store, log).persist(
                [(b"open/block/1", b"block"), record(1, 1), (b"open/certificate/1", b"with that signature")]
            )
        assert store.load(b"") == {b"open/block/1": b"block"}


async def test_a_store_holds_the_chain_of_one_network(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        await claim_store(store, GENESIS)
        await claim_store(store, GENESIS)
        with pytest.raises(OtherNetwork, match="the chain of another network") as caught:
            await claim_store(store, Genesis("another", committee=GENESIS.committee))
        assert caught.value.hint
    assert stored_genesis(tmp_path) == GENESIS


async def test_the_machine_starts_from_store_and_log(tmp_path: Path) -> None:
    me = KEYS[0]
    keystore = tmp_path / "node-key.json"
    with open_store(tmp_path) as store, open_signer_log(keystore, me.node, GENESIS.network_id()) as log:
        machine = await make_machine(me.node, me.sign, GENESIS, store, log, open_clock(0))
        assert machine.member
        assert machine.signing.startswith("waits for 2f others")
        assert log.lost is not None
        assert not any(isinstance(effect, Persist | Send) for effect in machine.handle(Include(b"x"), 1))
        await log.silence(2)
        signer = Signer(GENESIS.domain(), me.node, me.sign)
        signer.ready = True
        signed = signer.sign(StatementKind.VOTE, 2, 1, bytes(32))
        assert signed is not None
        await log.append(signed.records)
        again = await make_machine(me.node, me.sign, GENESIS, store, log, open_clock(0))
        assert again.signer.silent_before_epoch == 2
        assert again.signer.signed(StatementKind.VOTE, 2, 1) == signed.statement
        follower = await make_machine(key(9).node, key(9).sign, GENESIS, store, log, open_clock(0))
        assert not follower.member

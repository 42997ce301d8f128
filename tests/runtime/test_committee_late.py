"""Oracles that join late or lost what they had: they catch up by certificates and bodies, and believe no forgery."""

import time
from functools import partial
from pathlib import Path

import pytest
import trio

from p2pnode.stored_chain import stored_blocks
from p2pnode.testnet import make_key
from p2pnode.transport.libp2p import Libp2pConfig, open_libp2p
from p2pnode.transport.seam import Stream
from protocol.committee.certificates import statement_signer
from protocol.core.codec import decode, encode
from protocol.core.signing import keccak
from protocol.messages.committee import (
    Block,
    Certificate,
    CertificateKind,
    Certified,
    MemberSignature,
    Statement,
    StatementKind,
    SyncPage,
    SyncRequest,
    header_digest,
    statement_digest,
)
from tests.runtime.committee_net import Net, Oracle, bound_s, open_net, quicker, until
from tests.runtime.listening_oracle import HEARD, heard
from tests.runtime.load import stretched
from tests.runtime.made_chain import make_chain
from tests.runtime.transports import until_up

HEIGHTS = 2_100
MADE = 600
PAGE = 20
CAUGHT_UP_S = 40.0


def test_an_oracle_that_joins_after_thousands_of_heights_catches_up(tmp_path: Path) -> None:
    with open_net(tmp_path, quicker(epoch_blocks=10_000)) as net:
        *old, newcomer = net.oracles
        make_chain(net.genesis, [oracle.folder for oracle in old], HEIGHTS)
        net.start(*old)
        net.await_signing()
        net.include()
        net.await_heights((1, HEIGHTS), within_s=bound_s(net.params, 4, 2))
        started = time.monotonic()
        net.start(newcomer)
        net.await_heights(net.highest, newcomer, within_s=CAUGHT_UP_S)
        print(f"caught up {newcomer.final[1]} heights in {time.monotonic() - started:.1f} s with its start")
        net.await_signing(newcomer)
        assert newcomer.batches >= HEIGHTS // 5
        with net.load():
            net.await_leading(newcomer, (1, HEIGHTS))
        for oracle in net.oracles:
            oracle.stop()
        chains = [stored_blocks(oracle.folder)[:HEIGHTS] for oracle in net.oracles]
        assert all([block.header for block in chain] == [block.header for block in chains[0]] for chain in chains)
        assert [block.body for block in chains[-1]] == [block.body for block in chains[0]]


@pytest.mark.long
def test_an_oracle_returns_after_thousands_of_heights_that_were_lived_through(tmp_path: Path) -> None:
    params = quicker(
        delta_ms=100, resend_interval_ms=300, block_interval_ms_min=1, heartbeat_ms=100, epoch_blocks=10_000
    )
    with open_net(tmp_path, params) as net:
        net.start()
        net.await_signing()
        absent = net.oracles[3]
        absent.kill()
        with net.load(0.01):
            net.await_heights((1, 2_000), within_s=600)
            net.start(absent)
            net.await_heights(net.highest, absent, within_s=CAUGHT_UP_S)
            net.await_signing(absent)


def forgeries(net: Net, block: Block) -> list[Block]:
    """What a liar with a member's key can make of a block."""
    domain = net.genesis.domain()
    key = make_key(net.oracles[0].folder)
    other = replace_header(block, results_count=block.header.results_count + 1)
    digest = header_digest(domain, other.header)
    assert block.certificate is not None
    own = key.sign(statement_digest(domain, StatementKind.FINALIZE, block.header.epoch, block.header.height, digest))
    signatures = tuple(MemberSignature(place, own) for place in range(3))
    certificate = block.certificate
    forged = Certificate(CertificateKind.FINALIZATION, certificate.epoch, certificate.height, digest, signatures)
    resigned = Certificate(certificate.kind, certificate.epoch, certificate.height, certificate.header, signatures)
    return [
        Block(other.header, block.body, forged),
        Block(other.header, block.body, certificate),
        Block(other.header, block.body, None),
        Block(block.header, block.body + b"x", certificate),
        Block(block.header, block.body, resigned),
        replace_header(block, height=block.header.height + 1),
        replace_header(block, parent=keccak(b"")),
    ]


def replace_header(block: Block, **changes: object) -> Block:
    fields = {name: getattr(block.header, name) for name in block.header.__struct_fields__}
    return Block(type(block.header)(**(fields | changes)), block.body, block.certificate)


def test_forged_pages_are_refused_and_another_peer_is_asked(tmp_path: Path) -> None:
    """At first a newcomer knows only a member who lies, in a new way with each page; then it meets the others."""
    with open_net(tmp_path, quicker(epoch_blocks=10_000)) as net:
        make_chain(net.genesis, [oracle.folder for oracle in net.oracles[:3]], MADE)
        trio.run(_lie, net)
        for oracle in net.running:
            oracle.stop()
        told = [stored_blocks(oracle.folder)[:MADE] for oracle in net.oracles[1:]]
        assert [block.header for block in told[2]] == [block.header for block in told[0]]
        assert [block.body for block in told[2]] == [block.body for block in told[0]]
        assert net.oracles[3].log.read_text().count("oracle.bad-page") >= 4


async def _lie(net: Net) -> None:
    liar, honest, other, newcomer = net.oracles
    net.liars.append(liar.node)
    blocks = stored_blocks(liar.folder)
    ways = list(zip(*(forgeries(net, block) for block in blocks[:PAGE]), strict=True))
    told = 0
    all_told = trio.Event()

    async def serve(stream: Stream) -> None:
        nonlocal told
        assert isinstance(decode(await stream.receive()), SyncRequest)
        await stream.send(encode(SyncPage(1, ways[told % len(ways)], (), 1, MADE)))
        told += 1
        if told == len(ways):
            all_told.set()

    config = Libp2pConfig(listen=("/ip4/127.0.0.1/tcp/0",))
    async with open_libp2p(make_key(liar.folder), config) as transport:
        transport.handle("sync", serve)
        await _start(net, newcomer, transport.addresses[0])
        await until_up(transport, newcomer.node)
        stream = await transport.open_stream(newcomer.node, "member")
        # The truth, to make it ask for what is below.
        assert blocks[-1].certificate is not None
        await stream.send(encode(Certified(blocks[-1].certificate, blocks[-1].header)))
        with trio.fail_after(stretched(CAUGHT_UP_S)):
            await all_told.wait()
            assert newcomer.final == (1, 0)
            address = newcomer.ask("status")["addresses"][0]
            for oracle in (honest, other):
                await _start(net, oracle, address)
        await trio.to_thread.run_sync(partial(net.await_heights, (1, MADE - 1), newcomer, within_s=CAUGHT_UP_S))


async def _start(net: Net, oracle: Oracle, bootstrap: str) -> None:
    await trio.to_thread.run_sync(partial(net.start, oracle, P2PNODE_NETWORK_BOOTSTRAP=bootstrap))


def test_a_lost_signer_log_is_silent_in_this_epoch_and_the_next(tmp_path: Path) -> None:
    with open_net(tmp_path, quicker(epoch_blocks=20)) as net:
        net.start()
        net.await_signing()
        forgetful, *others = net.oracles
        with net.load():
            net.await_heights((1, 5), within_s=10)
        forgetful.kill()
        forgetful.signer_log.unlink()
        net.include(others[0])
        net.await_heights(net.highest, within_s=bound_s(net.params, 4, 2))  # nothing of it is on the way any more
        before = heard_of(net, forgetful)
        assert before
        net.start(forgetful)
        until(lambda: forgetful.signing.startswith("silent before epoch 3"), 20, "it knows that its log is lost")
        net.include(others[0])
        net.await_heights(net.highest, within_s=bound_s(net.params, 4, 2))
        assert forgetful.final[0] == 1
        with net.load():
            net.await_heights((3, 0), within_s=60)
            net.await_signing(forgetful, within_s=10)
            net.await_leading(forgetful, (3, 0))
        assert heard_of(net, forgetful) == before, "it has signed nothing more of these epochs"


def heard_of(net: Net, member: Oracle) -> set[bytes]:
    """The signatures of a member before epoch 3 that the others have heard."""
    domain = net.genesis.domain()
    return {
        one.signature
        for oracle in net.oracles
        if oracle is not member
        for one in heard(oracle.folder / HEARD)
        if isinstance(one, Statement) and one.epoch < 3 and statement_signer(domain, one) == member.node
    }


def test_an_oracle_whose_disk_takes_no_more_stops_signing_and_goes_on_following(tmp_path: Path) -> None:
    with open_net(tmp_path) as net:
        net.start(*net.oracles[:3])
        full = net.oracles[3]
        net.start(full, limit="-f 250")
        net.await_signing()
        with net.load():
            until(lambda: full.signing.startswith("stopped: "), 30, "its disk takes no more")
            for _ in range(3):
                net.await_heights(net.highest, within_s=bound_s(net.params, 4, 2))
        full.kill()
        net.start(full)
        net.await_signing(full)
        with net.load():
            net.await_heights(net.highest, within_s=bound_s(net.params, 4, 2) + 5)

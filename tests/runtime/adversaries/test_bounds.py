"""The transport's bounds one by one, where the floods found none: seen from inside of the node that is attacked."""

import struct
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
import trio
from libp2p.crypto.secp256k1 import create_new_key_pair
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2pnode.transport.libp2p import listener, open_libp2p, pubsub
from p2pnode.transport.seam import Stream, StreamClosed
from tests.runtime.transports import eventually
from tests.runtime.traps.attack import MESHSUB, TOPIC, Attack, attack_on, config, drained, key

MIB = 1 << 20


def _place(attack: Attack) -> tuple[str, int]:
    parts = attack.victim.addresses[0].split("/")
    return parts[2], int(parts[4])


async def _begun(attack: Attack, size: int) -> Any:
    """A stream with a frame of a megabyte of which ``size`` bytes are sent."""
    stream = await attack.raw_stream("/p2pnode/echo/1")
    with suppress(MuxedStreamError):
        await stream.write(struct.pack("!I", MIB) + bytes(size))
    return stream


async def test_frames_that_are_never_finished_are_bounded_for_each_peer() -> None:
    """A frame's bytes give the window back as they are read: the muxer's own bounds do not count them."""
    async with attack_on(unfinished_bytes_per_peer=4 * MIB) as attack:
        for _ in range(12):
            await _begun(attack, MIB - 1)
            assert attack.victim.unfinished.total <= 4 * MIB
        await eventually(lambda: attack.victim.unfinished.dropped >= 8)
        await attack.still_serves()


async def test_when_all_hold_too_much_the_modest_are_spared() -> None:
    async with attack_on(unfinished_bytes=4 * MIB, unfinished_bytes_per_peer=4 * MIB) as attack:
        answers: list[bytes] = []
        frame = bytes(MIB)
        witness = attack.witness.links.best(attack.victim.me)
        assert witness is not None
        honest: Stream = await attack.witness.open_stream(attack.victim.me, "echo")
        await honest.send(b"first")
        assert await honest.receive() == b"first"
        for _ in range(12):
            await _begun(attack, MIB - 1)
        await honest.send(frame)
        answers.append(await honest.receive())
        assert answers == [frame]
        assert attack.victim.unfinished.dropped >= 8


@pytest.mark.parametrize("how", ["reset", "close", "lost"])
async def test_a_stream_that_ends_gives_back_what_it_held(how: str) -> None:
    async with attack_on() as attack:
        stream = await _begun(attack, 200_000)
        await eventually(lambda: attack.victim.unfinished.total >= 200_000)
        if how == "reset":
            stream.abort()
        elif how == "close":
            stream.end_writing()
        else:
            await attack.attacker.disconnect(attack.victim.me)
        await eventually(lambda: attack.victim.unfinished.total == 0)


async def test_a_frame_that_gets_whole_gives_back_what_it_held(attack: Attack) -> None:
    stream = await attack.attacker.open_stream(attack.victim.me, "echo")
    for _ in range(40):
        await stream.send(bytes(MIB - 1))
        assert len(await stream.receive()) == MIB - 1
    assert attack.victim.unfinished.total == attack.attacker.unfinished.total == 0
    assert attack.victim.unfinished.dropped == 0


async def test_a_crowd_at_the_door_keeps_nobody_out() -> None:
    """More silent sockets than there is room for, for longer than anybody waits: who has waited longest goes."""
    async with attack_on(handshakes=16, handshake_s=60.0) as attack, AsyncExitStack() as sockets:
        for _ in range(64):
            sockets.push_async_callback((await trio.open_tcp_stream(*_place(attack))).aclose)
        await eventually(lambda: attack.victim.listener.refused >= 48)
        async with open_libp2p(key(50), config(listen=())) as newcomer:
            await newcomer.connect(attack.victim.addresses[0])
            stream = await newcomer.open_stream(attack.victim.me, "echo")
            await stream.send(b"let in")
            with suppress(StreamClosed):
                assert await stream.receive() == b"let in"
        assert attack.victim.listener.handshakes <= 16


async def test_a_crowd_from_one_address_fills_no_more_than_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listener, "_is_local", lambda ip: False)
    async with attack_on(handshakes=16, handshake_s=60.0) as attack, AsyncExitStack() as sockets:
        for _ in range(40):
            sockets.push_async_callback((await trio.open_tcp_stream(*_place(attack))).aclose)
        await eventually(lambda: attack.victim.listener.refused >= 36)
        assert attack.victim.listener.handshakes == 4
        await attack.still_serves()


async def test_gossip_of_long_ago_is_not_taken_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is still signed, and would be paid for by the share of its author, who has long said it."""
    monkeypatch.setattr(pubsub, "_SEEN_S", 0.2)
    async with attack_on() as attack:
        author = create_new_key_pair(key(70).secret)

        def rpc(seqno: int, data: bytes) -> bytes:
            message = rpc_pb2.Message(
                data=data,
                topicIDs=[TOPIC],
                from_id=ID.from_pubkey(author.public_key).to_bytes(),
                seqno=seqno.to_bytes(8, "big"),
            )
            message.signature = author.private_key.sign(b"libp2p-pubsub:" + message.SerializeToString())
            body = rpc_pb2.RPC(publish=[message]).SerializeToString()
            assert len(body) >= 128
            return bytes([len(body) & 0x7F | 0x80, len(body) >> 7]) + body

        stream = await attack.raw_stream(MESHSUB)
        recorded = [rpc(1_000 + n, b"said %d" % n) for n in range(5)]
        await stream.write(b"".join(recorded))
        assert len(await drained(attack.at_victim, 0.5)) == 5
        await stream.write(rpc(2_000, b"pushes the others out"))
        await stream.write(b"".join(recorded))
        await stream.write(rpc(2_001, b"new"))
        heard = [gossip.data for gossip in await drained(attack.at_victim, 0.5)]
        assert heard == [b"pushes the others out", b"new"]
        await attack.still_serves()

"""What an untrusted peer may do on a pubsub stream of py-libp2p 0.8.1, and what it does to a stock node."""

import time
from typing import Any

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair as create_ed25519
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from p2pnode.identity import NodeKey
from p2pnode.transport.libp2p import open_libp2p
from p2pnode.transport.seam import GOSSIP_BYTES_MAX, Verdict
from tests.runtime.traps.attack import MESHSUB, TOPIC, Attack, accept, attack_on, config, drained, heard_of, key

SIGNING_PREFIX = b"libp2p-pubsub:"


def _length(size: int) -> bytes:
    out = bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes([size])


def _encode(rpc: rpc_pb2.RPC) -> bytes:
    body = rpc.SerializeToString()
    return _length(len(body)) + body


def _message(author: NodeKey, data: bytes, *, seqno: int | None = None, **fields: Any) -> rpc_pb2.Message:
    from libp2p.crypto.secp256k1 import create_new_key_pair

    pair = create_new_key_pair(author.secret)
    message = rpc_pb2.Message(
        **{
            "data": data,
            "topicIDs": [TOPIC],
            "from_id": ID.from_pubkey(pair.public_key).to_bytes(),
            "seqno": (seqno if seqno is not None else time.time_ns()).to_bytes(8, "big"),
            **fields,
        }
    )
    message.signature = pair.private_key.sign(SIGNING_PREFIX + message.SerializeToString())
    return message


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x05\xff\xff\xff\xff\xff",  # kills a stock node: DecodeError leaves its read loop
        b"\xff" * 64,  # an endless length
        b"\x00" * 64,  # empty RPCs
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
        b"\xff\xff\x7f",  # two megabytes announced
        b"\x03\x12\x01\x00",
        b"\x20" + bytes(range(32)),
    ],
    ids=lambda garbage: garbage[:6].hex(),
)
async def test_bytes_that_are_no_rpc(attack: Attack, garbage: bytes) -> None:
    stream = await attack.raw_stream(MESHSUB)
    await stream.write(garbage)
    await attack.still_serves()


async def test_a_message_with_a_bad_key(attack: Attack) -> None:
    """A stock node dies of ``deserialize_public_key`` when the author's id holds no key."""
    stream = await attack.raw_stream(MESHSUB)
    hashed_id = bytes.fromhex("1220") + bytes(32)
    good = _message(key(3), b"x")
    for from_id, claimed in [
        (hashed_id, b"\xff\xff\xff"),
        (hashed_id, b""),
        (b"", b""),
        (bytes(39), b"\x01"),
        (b"\0", b""),
    ]:
        bad = rpc_pb2.Message(
            data=b"x", topicIDs=[TOPIC], from_id=from_id, seqno=bytes(8), key=claimed, signature=good.signature
        )
        await stream.write(_encode(rpc_pb2.RPC(publish=[bad])))
    await attack.still_serves()


async def test_forged_and_malformed_messages_are_not_delivered(attack: Attack) -> None:
    stream = await attack.raw_stream(MESHSUB)
    author = key(3)
    forged = _message(author, b"forged")
    forged.data = b"forged otherwise"
    unsigned = _message(author, b"unsigned")
    unsigned.ClearField("signature")
    garbled = _message(author, b"garbled")
    garbled.signature = b"\x30\x06\x02\x01\x00\x02\x01\x00"
    in_our_name = _message(key(1), b"in the victim's own name")
    edwards = create_ed25519(bytes(range(32)))
    other_key = _message(author, b"no node", from_id=ID.from_pubkey(edwards.public_key).to_bytes())
    for bad in [
        forged,
        unsigned,
        garbled,
        in_our_name,
        other_key,
        _message(author, b"two topics", topicIDs=[TOPIC, TOPIC]),
        _message(author, b"no topic", topicIDs=[]),
        _message(author, b"unknown topic", topicIDs=["made up"]),
        _message(author, bytes(GOSSIP_BYTES_MAX + 1)),
        _message(author, b"short seqno", seqno=1) if False else _short_seqno(author),
    ]:
        await stream.write(_encode(rpc_pb2.RPC(publish=[bad])))
    await stream.write(_encode(rpc_pb2.RPC(publish=[_message(author, b"good")])))
    heard = await drained(attack.at_victim, 0.5)
    assert [gossip.data for gossip in heard] == [b"good"]
    assert heard[0].origin == author.node_id == heard[0].forwarder
    await attack.still_serves()


def _short_seqno(author: NodeKey) -> rpc_pb2.Message:
    message = _message(author, b"short seqno")
    message.seqno = b"\x01"
    return message


async def test_a_check_that_raises(caplog: pytest.LogCaptureFixture) -> None:
    """A stock node dies of any exception in a synchronous validator."""

    def check(forwarder: bytes, origin: bytes, data: bytes) -> Verdict:
        if data == b"bug":
            raise ZeroDivisionError
        return Verdict.ACCEPT

    async with open_libp2p(key(1), config()) as a, open_libp2p(key(2), config()) as b:
        at_a = await a.subscribe(TOPIC, check)
        await b.subscribe(TOPIC, accept)
        await b.connect(a.addresses[0])
        await heard_of(b, at_a, b"hello")
        for _ in range(3):
            await b.publish(TOPIC, b"bug")
        await heard_of(b, at_a, b"alive")
        assert a.topics.counts(TOPIC).check_bugs == 3
        assert "ZeroDivisionError" in caplog.text


async def test_a_burst_of_500_arrives_whole(attack: Attack) -> None:
    """A stock node delivers 16: its queues hold 32 and overflow silently."""
    with trio.fail_after(20):
        for n in range(500):
            await attack.victim.publish(TOPIC, b"burst %d" % n)
        heard: set[bytes] = set()
        while len(heard) < 500:
            data = (await attack.at_witness.receive()).data
            if data.startswith(b"burst"):
                heard.add(data)


async def test_a_fast_restart_with_the_same_key_loses_nothing() -> None:
    """A stock node repeats sequence numbers after a restart: its peers drop 198 of the next 200 as seen."""
    async with open_libp2p(key(2), config()) as stays:
        reader = await stays.subscribe(TOPIC, accept)
        for life in range(2):
            async with open_libp2p(key(1), config()) as restarts:
                await restarts.subscribe(TOPIC, accept)
                await restarts.connect(stays.addresses[0])
                await heard_of(restarts, reader, b"life %d" % life)
                await drained(reader)
                for n in range(200):
                    await restarts.publish(TOPIC, b"%d" % n)
                with trio.fail_after(10):
                    heard = {(await reader.receive()).data for _ in range(200)}
                assert heard == {b"%d" % n for n in range(200)}


async def test_one_iwant_for_a_message_many_times_over(attack: Attack) -> None:
    """A stock node builds an answer with a copy for each repetition: one RPC makes it allocate gigabytes."""
    await attack.victim.publish(TOPIC, bytes(GOSSIP_BYTES_MAX))
    message_id = next(reversed(attack.victim.router.mcache.msgs))
    stream = await attack.raw_stream(MESHSUB)
    iwant = rpc_pb2.ControlIWant(messageIDs=[message_id] * 10_000)
    await stream.write(_encode(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(iwant=[iwant]))))
    await attack.still_serves()
    queue = attack.victim.pubsub.peer_queues.get(ID.from_base58(attack.attacker._key.peer_id))
    assert queue is None or queue._bytes <= 4 << 20


async def test_control_messages_for_made_up_topics_leave_nothing(attack: Attack) -> None:
    """A stock node keeps a back-off for ever for every topic name that it is sent."""
    stream = await attack.raw_stream(MESHSUB)
    for batch in range(20):
        names = [f"made up {batch} {n}" for n in range(500)]
        control = rpc_pb2.ControlMessage(
            prune=[rpc_pb2.ControlPrune(topicID=name, backoff=2**64 - 1) for name in names],
            graft=[rpc_pb2.ControlGraft(topicID=name) for name in names],
            ihave=[rpc_pb2.ControlIHave(topicID=name, messageIDs=[b"\xff" * 47]) for name in names[:50]],
        )
        await stream.write(_encode(rpc_pb2.RPC(control=control)))
    subscriptions = [rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"sub {n}") for n in range(150)]
    await stream.write(_encode(rpc_pb2.RPC(subscriptions=subscriptions)))
    await attack.still_serves()
    router, pubsub = attack.victim.router, attack.victim.pubsub
    assert set(router.back_off) <= {TOPIC}
    assert len(router.ihave_message_limits[ID.from_base58(attack.attacker._key.peer_id)]) <= 1
    assert len(pubsub.peer_topics) <= 102


async def test_a_prune_for_ever_lasts_an_hour(attack: Attack) -> None:
    stream = await attack.raw_stream(MESHSUB)
    prune = rpc_pb2.ControlPrune(topicID=TOPIC, backoff=2**64 - 1)
    await stream.write(_encode(rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=[prune]))))
    await attack.still_serves()
    until = attack.victim.router.back_off[TOPIC].values()
    assert all(at <= time.time() + 3601 for at in until)


async def test_a_heartbeat_that_raises_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stock node's heartbeat is a daemon task: any exception in it ends the node."""
    async with open_libp2p(key(1), config()) as node:
        beats: list[int] = []
        beaten = trio.Event()

        def raising() -> None:
            beats.append(1)
            if len(beats) == 2:
                beaten.set()
            raise RuntimeError("a bug of the library's")

        monkeypatch.setattr(node.router, "mesh_heartbeat", raising)
        with trio.fail_after(10):
            await beaten.wait()


async def test_a_flood_is_paid_for_by_its_origin() -> None:
    """Ten times its share from one origin: bounded, and the witness's own messages still arrive."""
    async with attack_on(topic_rate_default=100.0) as attack:
        before = attack.victim.topics.counts(TOPIC).accepted
        stream = await attack.raw_stream(MESHSUB)
        author = key(3)
        start = trio.current_time()
        for n in range(3000):
            await stream.write(_encode(rpc_pb2.RPC(publish=[_message(author, b"flood %d" % n)])))
        await attack.still_serves()
        spent = trio.current_time() - start
        counts = attack.victim.topics.counts(TOPIC)
        assert counts.accepted - before <= 400 + 50 * spent + 60
        assert counts.origin_over + counts.forwarder_over > 2000


async def test_a_subscriber_who_never_reads_costs_bounded_memory(attack: Attack) -> None:
    """The attacker joins the mesh and stops reading; the victim's queue for it stays bounded."""
    await attack.attacker.subscribe(TOPIC, accept)
    await heard_of(attack.victim, attack.at_witness, b"meshed")
    muxer = attack.attacker.links.best(attack.victim.me)

    async def read_nothing() -> bytes:
        await trio.sleep_forever()
        raise AssertionError

    muxer.records.read = read_nothing
    for n in range(600):
        await attack.victim.publish(TOPIC, bytes(15_000) + b"%d" % n)
    victim_side = attack.victim.links.best(attack.attacker.me)
    if victim_side is not None:
        assert victim_side.unsent <= 2 << 20
        queue = attack.victim.pubsub.peer_queues.get(victim_side.peer_id)
        assert queue is None or queue._bytes <= 4 << 20
    await attack.still_serves()

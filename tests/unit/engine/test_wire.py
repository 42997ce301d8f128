"""The format between node and worker, and the worker's end of the channel."""

import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import p2pnode.engine.wire as wire
from p2pnode.engine.api import (
    ChatMessage,
    EngineBusy,
    EngineConfig,
    EngineError,
    EngineUnavailable,
    Finished,
    FinishReason,
    GenerateRequest,
    ModelLoadError,
    PromptTooLong,
    SchemaRefused,
    Token,
    ToolsRefused,
)
from p2pnode.engine.channel import BACKLOG_BYTES_MAX, Channel, NodeGoneError
from protocol.messages.sampling import SamplingParams

REQUEST = GenerateRequest([1, 2], SamplingParams(stop=(b"\xff",)), bytes(32), 7, [Token(4, b"\xfe")], 3)
ERRORS = [EngineError, ModelLoadError, PromptTooLong, SchemaRefused, ToolsRefused, EngineBusy, EngineUnavailable]
TO_WORKER: list[wire.ToWorker] = [
    wire.Load(EngineConfig(Path("/a/model.gguf"), slots=3)),
    wire.Generate(1, REQUEST),
    wire.Cancel(1),
    wire.Score(2, REQUEST, (1, 2)),
    wire.Render(3, (ChatMessage("user", "ä", "[{}]", "id"),), "[]"),
    wire.Tokenize(4, "text", True),
    wire.Detokenize(5, (1,)),
    wire.Embed(6, ("text", "ä")),
    wire.Stats(7),
]


@given(st.lists(st.sampled_from(TO_WORKER), max_size=5), st.lists(st.integers(1, 90), max_size=40))
def test_messages_arrive_however_the_stream_is_cut(messages: list[wire.ToWorker], cuts: list[int]) -> None:
    data = b"".join(map(wire.encode, messages))
    frames, bodies, at = wire.FrameBuffer(), [], 0
    for cut in [*cuts, len(data)]:
        bodies += frames.push(data[at : at + cut])
        at += cut
    assert [wire.decode_to_worker(body) for body in bodies] == messages


def test_a_length_beyond_the_limit_is_refused_before_it_is_waited_for() -> None:
    with pytest.raises(EngineError, match="other end is not ours"):
        wire.FrameBuffer().push((wire.FRAME_BYTES_MAX + 1).to_bytes(4, "big"))


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_keep_their_type_and_message(kind: type[EngineError]) -> None:
    body = wire.encode(wire.failure(5, kind("why")))[wire.LENGTH_BYTES :]
    failed = wire.decode_from_worker(body)
    assert isinstance(failed, wire.Failed)
    error = wire.error_of(failed)
    assert (type(error), str(error)) == (kind, "why")


def is_congested(channel: Channel) -> bool:
    return channel.congested


def test_the_worker_never_blocks_on_a_node_that_does_not_read() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        channel = Channel(theirs)
        message = wire.Progress(((1, 2, b"x" * 100_000, None),))
        sent = 0
        while not is_congested(channel):
            channel.send(message)
            sent += 1
        assert sent * 100_000 > BACKLOG_BYTES_MAX
        frames, arrived = wire.FrameBuffer(), 0
        while arrived < sent:
            arrived += len(frames.push(ours.recv(1_000_000)))
            assert channel.receive(wait=False) == []
        assert not is_congested(channel)
        ours.sendall(wire.encode(wire.Cancel(1)))
        assert channel.receive(wait=True) == [wire.Cancel(1)]


def test_the_worker_notices_that_its_node_is_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        channel = Channel(theirs)
        ours.close()
        with pytest.raises(NodeGoneError):
            channel.receive(wait=True)
        with pytest.raises(NodeGoneError):
            channel.send(wire.Done(1, Finished(FinishReason.STOP, 1, 1, 0)))

"""Mistakes in routers, miners, clients and peers: what each would do, and the promise that it breaks."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from p2pnode.sim.mutation import Made, Mutation, around, replaced
from protocol.core.ids import Digest
from protocol.core.machine import Publish
from protocol.messages.sessions import ResumeSession
from protocol.messages.tasks import FrameMessage
from protocol.roles.client.seeking import Seeking
from protocol.roles.client.tasks import Tasks
from protocol.roles.miner import tasks as miner
from protocol.roles.miner.orders import generation_of
from protocol.roles.peer import PeerMachine
from protocol.roles.router.clients import Clients
from protocol.roles.router.leasing import Leasing
from protocol.session.transcript import LaneVerifier, advance


def _nothing(_inner: Callable[..., Any], _self: Any, *_args: Any, **_kwargs: Any) -> None:
    """In place of a method that matters."""


def _ask_without_clock(inner: Callable[..., Any], tasks: Any, event: Any, now_ms: int) -> Any:
    effects = inner(event, now_ms)
    tasks.held.deadlines.clear(("task", event.handle))
    return effects


def _fill_once(inner: Callable[..., Any], _leasing: Any, session: Any, now_ms: int) -> Any:
    return [] if session.was_ready else inner(session, now_ms)


def _learn_aloud(inner: Callable[..., Any], _peer: Any, advert: Any, envelope: Any, now_ms: int) -> Any:
    effects = inner(advert, envelope, now_ms)
    return [*effects, Publish("nodes", envelope)] if effects else effects


def _take_as_it_comes(_inner: Callable[..., Any], verifier: Any, message: FrameMessage) -> None:
    for token, text in zip(message.ids, message.texts, strict=True):
        verifier.index += 1
        verifier.chain = Digest(advance(verifier.chain, verifier.index, token, text))
    verifier.end = message.end


def _resume_before(inner: Callable[..., Any], _seeking: Any, session: Any, router: Any, now_ms: int) -> Any:
    return [
        replace(effect, message=ResumeSession(effect.message.session, max(0, effect.message.received - 3)))
        if isinstance(getattr(effect, "message", None), ResumeSession)
        else effect
        for effect in inner(session, router, now_ms)
    ]


@contextmanager
def _replays_unread() -> Iterator[None]:
    with around(LaneVerifier, "take", _take_as_it_comes)(), around(Seeking, "reopen", _resume_before)():
        yield


@contextmanager
def _takeover_from_the_start() -> Iterator[None]:
    def forgetful(start: Any, model: Any, generation: Any, _emitted: Any) -> Any:
        return generation_of(start, model, generation, ())

    with replaced(miner, "generation_of", forgetful):
        yield


def _mutation(what: str, breaks: str, within: int, made: Made) -> Mutation:
    return Mutation(what, "fast-path", tuple(breaks.split()), within, made)


FAST_PATH_MUTATIONS: Mapping[str, Mutation] = {
    "replays-unread": _mutation(
        "a client asks for messages again that it has, and nobody checks where a frame belongs",
        "S11",
        40,
        _replays_unread,
    ),
    "takeover-from-the-start": _mutation(
        "a miner that takes an order over begins with its first token", "S11", 5, _takeover_from_the_start
    ),
    "order-without-clock": _mutation(
        "a client sets no deadline for its orders", "L9", 20, around(Tasks, "ask", _ask_without_clock)
    ),
    "gossip-learned": _mutation(
        "a peer passes an advert that it learned on as if it were its own",
        "S15",
        2,
        around(PeerMachine, "_learned", _learn_aloud),
    ),
    "streams-not-forgotten": _mutation(
        "a router forgets no stream to a miner", "S13", 2, around(Leasing, "forget", _nothing)
    ),
    "absent-kept": _mutation(
        "a router keeps the sessions of clients that never come back", "S13", 20, around(Clients, "wait", _nothing)
    ),
    "no-standby": _mutation(
        "a router asks nobody to take over from a miner that is lost", "L6", 5, around(Leasing, "fill", _fill_once)
    ),
}

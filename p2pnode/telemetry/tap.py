"""Hears what goes into a machine and what comes out of it, and never says a word.

A role's machine keeps no clock and no figures of its own work. But all that it does passes through its driver, typed
and with the session and the task in it, so whoever listens there can count it and see how long it took.
"""

import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from protocol.core.codec import Message
from protocol.core.machine import ChannelOpened, GossipReceived, Note, Open, Publish, Received, Send, SendAll

log = logging.getLogger(__name__)

Take = Callable[[Any], None]
_Takes = Mapping[type, tuple[Take, ...]]


class Work(Protocol):
    """What one role does, pieced together from what its driver sees. By type: whatever it wants to hear of."""

    @property
    def events(self) -> Mapping[type, Take]: ...

    @property
    def effects(self) -> Mapping[type, Take]: ...

    @property
    def received(self) -> Mapping[type, Take]:
        """Messages, however they came; not yet known to hold (untrusted)."""

    @property
    def sent(self) -> Mapping[type, Take]:
        """Messages, wherever they go."""


@dataclass(slots=True)
class Counts:
    """Plain numbers that only rise."""

    messages: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By role, ``received``, ``sent`` or ``published``, and kind; what is published by its topic."""
    streams: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By role, ``opened`` or ``accepted``, and protocol."""
    notes: Counter[str] = field(default_factory=Counter)
    """What operators may want to see, by its stable name."""
    bugs: int = 0
    """Of the listening itself."""

    def bug(self) -> None:
        """One more, in the handling of an exception: the first is logged."""
        self.bugs += 1
        if self.bugs == 1:
            log.exception("bug: what happened could not be told; the node goes on")


class Tap:
    """On one machine's driver. Whatever goes wrong in here, the machine does not notice."""

    def __init__(self, role: str, counts: Counts, works: Sequence[Work] = ()) -> None:
        self._role = role
        self._counts = counts
        self._events = _merged([work.events for work in works])
        self._effects = _merged([work.effects for work in works])
        self._received = _merged([work.received for work in works])
        self._sent = _merged([work.sent for work in works])

    def event(self, event: object) -> None:
        """The machine is about to take this."""
        if isinstance(event, Received | GossipReceived):
            self._message("received", event.message, self._received)
        else:
            if isinstance(event, ChannelOpened):
                self._counts.streams[self._role, "accepted", event.protocol] += 1
            self._tell(self._events, event)

    def effect(self, effect: object) -> None:
        """The machine asked for this."""
        match effect:
            case Send() | SendAll():
                self._message("sent", effect.message, self._sent)
            case Publish():
                self._counts.messages[self._role, "published", effect.topic] += 1
            case Open():
                self._counts.streams[self._role, "opened", effect.protocol] += 1
            case Note():
                self._counts.notes[effect.what] += 1
                self._tell(self._effects, effect)
            case _:
                self._tell(self._effects, effect)

    def _message(self, way: str, message: Message, takes: _Takes) -> None:
        self._counts.messages[self._role, way, type(message).__name__] += 1
        self._tell(takes, message)

    def _tell(self, takes: _Takes, what: object) -> None:
        for take in takes.get(type(what), ()):
            try:
                take(what)
            except Exception:
                self._counts.bug()


def _merged(wanted: Sequence[Mapping[type, Take]]) -> _Takes:
    takes: dict[type, tuple[Take, ...]] = {}
    for mapping in wanted:
        for kind, take in mapping.items():
            takes[kind] = (*takes.get(kind, ()), take)
    return takes

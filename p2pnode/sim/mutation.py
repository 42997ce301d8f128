"""Deliberate mistakes in production's code, to prove that the checkers find them: a simulator that has never caught
anything proves nothing. Each is made for the length of one run and taken back.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

Made = Callable[[], AbstractContextManager[None]]
"""Makes a mistake for as long as the block lasts."""


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake: what it is, where it shows, and which promise it breaks."""

    what: str
    scenario: str
    breaks: tuple[str, ...]
    """Invariants, one of which is found broken."""
    within: int
    """So many seeds, from 0 on, at most until then."""
    made: Made


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """An attribute of a class or module is another one inside."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


def around(owner: type, name: str, outer: Callable[..., Any]) -> Made:
    """A method that is called through ``outer``, which is given the method itself first."""

    def bound() -> AbstractContextManager[None]:
        inner = vars(owner)[name]

        def method(self: Any, *args: Any, **kwargs: Any) -> Any:
            return outer(partial(inner, self), self, *args, **kwargs)

        return replaced(owner, name, method)

    return bound


def together(*parts: Made) -> Made:
    """Several mistakes at once."""

    @contextmanager
    def made() -> Iterator[None]:
        with ExitStack() as stack:
            for part in parts:
                stack.enter_context(part())
            yield

    return made

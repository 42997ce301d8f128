"""Deliberate mistakes in production's code, to prove that the checkers find them: a simulator that has never caught
anything proves nothing. Each is made for the length of one run and taken back.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Mutation:
    """One mistake: what it is, where it shows, and which promise it breaks."""

    what: str
    scenario: str
    breaks: tuple[str, ...]
    """Invariants, one of which is found broken."""
    within: int
    """So many seeds, from 0 on, at most until then."""
    made: Callable[[], AbstractContextManager[None]]


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """An attribute of a class or module is another one inside."""
    before = vars(owner)[name]
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)

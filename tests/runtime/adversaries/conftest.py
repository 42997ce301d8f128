"""A node under attack for every trap, and a look at what each test leaves behind."""

import gc
import threading
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.runtime.traps.attack import Attack, attack_on


@pytest.fixture
async def attack() -> AsyncIterator[Attack]:
    async with attack_on() as attack:
        yield attack


@pytest.fixture(autouse=True)
def nothing_left_behind() -> Iterator[None]:
    """Every test ends without a thread of its own, and, as warnings are errors, without an unclosed socket."""
    before = set(threading.enumerate())
    yield
    gc.collect()
    left = [thread for thread in set(threading.enumerate()) - before if not thread.name.startswith("Trio thread")]
    assert not left, left

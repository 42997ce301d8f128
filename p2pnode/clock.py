"""The time machines are told: Unix milliseconds that never go back."""

import time
from collections.abc import Callable

import trio

Clock = Callable[[], int]
"""Unix time in milliseconds; never goes back."""


def open_clock(wall_ms: int | None = None) -> Clock:
    """A clock that starts at the wall's time (or ``wall_ms``) and moves on with trio's, virtual ones included.

    Call it inside ``trio.run``. A jump of the wall clock while the node runs moves no deadline.
    """
    origin_ms = wall_ms if wall_ms is not None else time.time_ns() // 1_000_000
    started = trio.current_time()

    def now_ms() -> int:
        return origin_ms + int((trio.current_time() - started) * 1_000)

    return now_ms

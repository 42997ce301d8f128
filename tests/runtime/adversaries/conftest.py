"""A node under attack, and a look at what each test leaves behind, as for the traps."""

from tests.runtime.traps.conftest import attack, nothing_left_behind

__all__ = ["attack", "nothing_left_behind"]

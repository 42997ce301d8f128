"""Stop sequences: what of an answer may be shown already.

A token is released the moment it is drawn; only its text waits while it may be the beginning of a stop sequence,
and then goes out with a later token. So the index of a token never depends on stop sequences, and the waiting text
follows from the tokens alone: a takeover finds it as what the tokens say less what was shown.
"""

from collections.abc import Sequence


class StopScanner:
    """Watches one answer for its stop sequences. ``held``: text of earlier tokens that was not shown yet."""

    def __init__(self, stops: Sequence[bytes], held: bytes = b"") -> None:
        self._stops = tuple(stops)
        self.held = held

    def push(self, piece: bytes, *, last: bool = False) -> tuple[bytes, bool]:
        """Add a token's text; ``last`` if none follows. Returns what may be shown now, and whether a stop sequence
        ended the answer."""
        if not self._stops:
            return piece, False
        text = self.held + piece
        # The one that is complete first counts, so that it does not matter how the text is cut into tokens.
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.held = b""
            return text[: min(found)[1]], True
        keep = 0 if last else self._undecided(text)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], False

    def _undecided(self, text: bytes) -> int:
        """How many of the last bytes may begin a stop sequence."""
        longest = min(len(text), max(len(stop) for stop in self._stops) - 1)
        return next(
            (size for size in range(longest, 0, -1) if any(stop.startswith(text[-size:]) for stop in self._stops)), 0
        )

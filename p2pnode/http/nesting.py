"""How deep what a client sends may be nested, told before it is parsed and walked through."""

import re

import numpy as np

NESTING_MAX = 128
"""Of a JSON body: a schema of a tool's arguments in a list of tools stays far below."""

_STRINGS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""One that is not closed goes on to the end: so no text takes more than one look at each byte."""
_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def too_deep(text: bytes | bytearray) -> bool:
    """Whether a JSON text is nested more than NESTING_MAX deep. Megabytes take milliseconds."""
    if text.count(b"[") + text.count(b"{") <= NESTING_MAX:
        return False
    steps = _STRINGS.sub(b"", text).translate(_STEPS, _NO_BRACKETS)
    return int(np.frombuffer(steps, np.int8).cumsum(dtype=np.int32).max(initial=0)) > NESTING_MAX

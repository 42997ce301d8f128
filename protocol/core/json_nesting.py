"""How deep a JSON text is nested, told without parsing it.

A parser that calls itself for every bracket is stopped by Python's bound on nested calls, or, where a library has
raised that beyond what the stack holds, not at all. So texts of others are looked at first.
"""

import re

_STRINGS = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"?', re.DOTALL)
"""One that is not closed goes on to the end: so no text takes more than one look at each character."""
_BRACKETS = re.compile(r"[^\[\]{}]++")


def json_nesting(text: str) -> int:
    """The most brackets that are open at once, outside of strings; of a text that is no JSON, something."""
    depth = deepest = 0
    for bracket in _BRACKETS.sub("", _STRINGS.sub("", text)):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    return deepest

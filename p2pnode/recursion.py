"""How deep Python may nest calls. A library behind the keystore raises that to a hundred times what the stack holds,
and then a text that is nested deeply enough ends the process."""

import sys

RECURSION_MAX = 1_000
"""Python's own default."""


def bound_recursion() -> None:
    """Take back what a library has raised; called after such a library was imported, and before requests are read."""
    sys.setrecursionlimit(min(sys.getrecursionlimit(), RECURSION_MAX))

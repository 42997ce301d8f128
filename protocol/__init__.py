"""The rules of a p2pnode network: pure, deterministic, without I/O.

Nothing in this package reads a clock, opens a socket, starts a thread or draws a random number. Time,
entropy and keys come in as values; decisions go out as effects. ``SPEC.md`` beside this file is the
normative text, and every tagged rule in it names the code and the test that hold it.
"""

"""A matcher for the grammars that schemas are turned into: which texts they permit, by trying everything."""

from collections.abc import Iterator

from p2pnode.engine.toy_grammar import Choice, Letter, Named, Part, Repeat, Row, Text, read_grammar, shortest


class Grammar:
    """A grammar that tells of whole texts. The other matcher is llama.cpp's; this one knows nothing of tokens."""

    def __init__(self, grammar: str) -> None:
        self._rules = read_grammar(grammar)

    def permits(self, text: str) -> bool:
        """Whether the grammar permits exactly this text."""
        known: dict[tuple[str, int], frozenset[int]] = {}
        return len(text) in self._ends(Named("root"), text, 0, known)

    def shortest(self) -> str | None:
        """The shortest text, if there is any."""
        return shortest(self._rules)

    def _ends(self, part: Part, text: str, at: int, known: dict[tuple[str, int], frozenset[int]]) -> frozenset[int]:
        return frozenset(self._each_end(part, text, at, known))

    def _each_end(self, part: Part, text: str, at: int, known: dict[tuple[str, int], frozenset[int]]) -> Iterator[int]:
        match part:
            case Text(letters):
                if text.startswith(letters, at):
                    yield at + len(letters)
            case Letter():
                if at < len(text) and part.holds(text[at]):
                    yield at + 1
            case Named(name):
                if (name, at) not in known:
                    known[name, at] = self._ends(self._rules[name], text, at, known)
                yield from known[name, at]
            case Choice(parts):
                for each in parts:
                    yield from self._each_end(each, text, at, known)
            case Row(parts):
                ends = frozenset([at])
                for each in parts:
                    ends = frozenset(end for start in ends for end in self._ends(each, text, start, known))
                yield from ends
            case Repeat(each, least, most):
                ends, seen, times = frozenset([at]), frozenset[int](), 0
                while ends and (most is None or times <= most):
                    if times >= least:
                        yield from ends
                        ends -= seen
                        seen |= ends
                    ends = frozenset(end for start in ends for end in self._ends(each, text, start, known))
                    times += 1

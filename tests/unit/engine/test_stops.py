"""Stop sequences, over every way of cutting an answer into tokens."""

from hypothesis import given
from hypothesis import strategies as st

from p2pnode.engine.stops import StopScanner


def visible(text: bytes, stops: list[bytes]) -> bytes:
    """Byte by byte: the first stop sequence that is complete ends the text where it began."""
    for end in range(len(text) + 1):
        begun = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if begun:
            return text[: min(begun)]
    return text


def cut(text: bytes, lengths: list[int]) -> list[bytes]:
    pieces, at = [], 0
    for length in lengths:
        pieces.append(text[at : at + length])
        at += length
    return [*pieces, text[at:]]


letters = st.text("ab", max_size=20).map(str.encode)
stop_lists = st.lists(st.text("ab", min_size=1, max_size=4).map(str.encode), max_size=3)


@given(letters, stop_lists, st.lists(st.integers(0, 4), max_size=8))
def test_shows_what_comes_before_the_stop_that_is_complete_first(
    text: bytes, stops: list[bytes], lengths: list[int]
) -> None:
    scanner, shown, ended = StopScanner(stops), b"", False
    pieces = cut(text, lengths)
    for index, piece in enumerate(pieces):
        released, ended = scanner.push(piece, last=index == len(pieces) - 1)
        shown += released
        assert visible(text, stops).startswith(shown)
        if ended:
            break
    assert shown == visible(text, stops)
    assert ended == any(stop in text for stop in stops)


@given(letters, stop_lists, st.lists(st.integers(0, 4), max_size=8), st.integers(0, 8))
def test_a_takeover_holds_back_the_same_text(
    text: bytes, stops: list[bytes], lengths: list[int], taken_over_after: int
) -> None:
    pieces = cut(text, lengths)
    first, shown, said = StopScanner(stops), b"", b""
    for piece in pieces[:taken_over_after]:
        released, ended = first.push(piece)
        if ended:
            return
        shown, said = shown + released, said + piece
    assert first.held == said[len(shown) :]
    second = StopScanner(stops, said[len(shown) :])
    for piece in pieces[taken_over_after:]:
        assert first.push(piece) == second.push(piece)


def test_an_unfinished_stop_sequence_is_shown_at_the_end() -> None:
    scanner = StopScanner([b"STOP"])
    assert scanner.push(b"now ST") == (b"now ", False)
    assert scanner.push(b"", last=True) == (b"ST", False)

"""What commands print: for terminals, for files, for machines."""

import io
import json

import pytest

from p2pnode.cli.output import (
    ProgressLine,
    bytes_shown,
    paint,
    print_error,
    print_json,
    print_mapping,
    print_table,
    shown,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colours_are_for_terminals_that_like_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert paint("x", "red", Terminal()) == "\x1b[31mx\x1b[0m"
    assert paint("x", "red", io.StringIO()) == "x"
    monkeypatch.setenv("NO_COLOR", "1")
    assert paint("x", "red", Terminal()) == "x"
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert paint("x", "red", Terminal()) == "x"


def test_an_error_is_two_lines_and_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("bad \x1b[2J\nname", "try\tagain")
    assert capsys.readouterr() == ("", "error: bad �[2J�name\nnext:  try�again\n")
    print_error("alone")
    assert capsys.readouterr().err == "error: alone\n"


def test_tables_and_mappings(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["name", "size"], [["a", "1 B"], ["long name", "2 B"]])
    assert capsys.readouterr().out == "NAME       SIZE\na          1 B\nlong name  2 B\n"
    print_mapping({"up": True, "peers": [{"node": "a"}, {"node": "b", "role": "miner"}], "models": [], "x": None})
    assert capsys.readouterr().out == "up:     yes\npeers:\nNODE  ROLE\na     -\nb     miner\nmodels: -\nx:      -\n"
    print_json({"a": [1]})
    assert json.loads(capsys.readouterr().out) == {"a": [1]}


def test_sizes_and_values() -> None:
    sizes = [0, 1023, 1024, 3_297_216, 5 << 30, 3 << 40]
    assert [bytes_shown(size) for size in sizes] == ["0 B", "1023 B", "1.0 KiB", "3.1 MiB", "5.0 GiB", "3.0 TiB"]
    assert [shown(value) for value in (False, 0, "", ["a", 1], {"a": 1, "b": []})] == [
        "no",
        "0",
        "-",
        "a, 1",
        "a 1, b -",
    ]


def test_progress_shows_after_half_a_second_and_leaves_nothing() -> None:
    now, stream = [0.0], Terminal()
    with ProgressLine("hashing", stream=stream, clock=lambda: now[0]) as progress:
        progress(1, 100)
        assert stream.getvalue() == ""
        now[0] = 1.0
        progress(50, 100)
        assert stream.getvalue() == "\r\x1b[Khashing  50 %  50 B of 100 B"
        progress(51, 100)  # too soon to draw again
        now[0] = 2.0
        progress(0, 0)
        assert stream.getvalue().endswith("100 %  0 B of 0 B")
    assert stream.getvalue().endswith("\r\x1b[K")


def test_progress_is_silent_in_a_file() -> None:
    now, stream = [0.0], io.StringIO()
    with ProgressLine("hashing", stream=stream, clock=lambda: now[0]) as progress:
        now[0] = 5.0
        progress(1, 2)
    assert stream.getvalue() == ""

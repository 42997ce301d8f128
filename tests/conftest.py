"""What all tests share: the options ``--long`` and ``--share``, and hypothesis' profile."""

import hashlib
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No deadline: a machine that is busy elsewhere is no failing property.
settings.register_profile("p2pnode", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("p2pnode")


# A shell starts what it runs in the background with Ctrl-C ignored, and every process that a test starts would inherit
# that: those that test Ctrl-C must not depend on how the tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long`` also runs the tests that take minutes; ``--share`` has other processes take some of the work."""
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")
    parser.addoption("--share", metavar="FOLDER", help="leave out the files that another process with FOLDER has taken")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out unless they were asked for."""
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtestloop(session: pytest.Session) -> bool | None:
    """Where the work is shared: take a file, run its tests, take the next, until all are taken."""
    folder = session.config.getoption("--share")
    if folder is None or session.testsfailed or session.config.option.collectonly:
        return None
    items = _taken(session.items, Path(folder))
    item = next(items, None)
    while item is not None:
        # Another file is taken only now that the last test of this one is about to run: by it, fixtures are ended.
        following = next(items, None)
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if session.shouldfail:
            raise session.Failed(session.shouldfail)
        if session.shouldstop:
            raise session.Interrupted(session.shouldstop)
        item = following
    return True


def _taken(items: Sequence[pytest.Item], folder: Path) -> Iterator[pytest.Item]:
    mine: dict[Path, bool] = {}
    for item in items:
        if item.path not in mine:
            mine[item.path] = _take(folder / hashlib.sha256(bytes(item.path)).hexdigest())
        if mine[item.path]:
            yield item


def _take(place: Path) -> bool:
    try:
        place.mkdir()
    except FileExistsError:
        return False
    return True


def pytest_unconfigure() -> None:
    """Close what llama.cpp's binding opens at its import and leaves open: Python's end would complain of it."""
    binding = sys.modules.get("llama_cpp._utils")
    if binding is not None:
        binding.outnull_file.close()
        binding.errnull_file.close()

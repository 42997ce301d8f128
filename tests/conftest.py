"""What all tests share: the ``--long`` option and hypothesis' profile."""

import signal
import sys

import pytest
from hypothesis import HealthCheck, settings

from p2pnode.recursion import bound_recursion

# No deadline: a machine that is busy elsewhere is no failing property. And some messages are large.
_UNCHECKED = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("p2pnode", deadline=None, suppress_health_check=_UNCHECKED)
settings.load_profile("p2pnode")


# A shell starts what it runs in the background with Ctrl-C ignored, and every process that a test starts would inherit
# that: those that test Ctrl-C must not depend on how the tests were started.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--long`` also runs the tests that take minutes."""
    parser.addoption("--long", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave the long tests out unless they were asked for."""
    if config.getoption("--long"):
        return
    long = [item for item in items if item.get_closest_marker("long")]
    if long:
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if not item.get_closest_marker("long")]


def pytest_runtest_setup() -> None:
    """Nested calls are bounded as in a node: libraries that other tests import raise the bound for all."""
    bound_recursion()


def pytest_unconfigure() -> None:
    """Close what llama.cpp's binding opens at its import and leaves open: Python's end would complain of it."""
    binding = sys.modules.get("llama_cpp._utils")
    if binding is not None:
        binding.outnull_file.close()
        binding.errnull_file.close()

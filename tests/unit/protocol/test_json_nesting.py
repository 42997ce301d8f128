"""How deep a JSON text is nested, without parsing it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.core.json_nesting import json_nesting

LEAVES = st.none() | st.booleans() | st.integers() | st.text(alphabet='a"\\[]{}')
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='"[{\\'), inner))


def depth_of(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    inner = value.values() if isinstance(value, dict) else value
    return 1 + max(map(depth_of, inner), default=0)


@given(VALUES)
def test_it_is_as_deep_as_what_is_parsed_of_it(value: Any) -> None:
    assert json_nesting(json.dumps(value)) == depth_of(value)


@given(st.text(alphabet='a"\\[]{}:,', max_size=50))
def test_no_text_is_deeper_than_is_told(text: str) -> None:
    try:
        value = json.loads(text)
    except ValueError:
        return
    assert json_nesting(text) == depth_of(value)


@pytest.mark.parametrize("text", ["[" * 1_000_000, '{"a":' * 200_000, "[" * 500_000 + '"' * 500_001])
def test_a_text_of_brackets_alone_is_told_at_once(text: str) -> None:
    assert json_nesting(text) >= 200_000

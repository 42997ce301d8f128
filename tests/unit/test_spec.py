"""SPEC.md says what the code does, and every rule of it has a test."""

import re

from tests import spec


def test_spec_code_and_tests_are_in_step() -> None:
    assert spec.complaints() == []


def test_every_generated_block_has_a_generator_and_a_place() -> None:
    names = re.findall(r"<!-- generated:(\w+) -->", spec.SPEC.read_text())
    assert sorted(names) == sorted(spec.BLOCKS)


def test_a_rule_is_stated_once() -> None:
    rules = spec.RULE.findall(spec.SPEC.read_text())
    assert len(rules) == len(set(rules))

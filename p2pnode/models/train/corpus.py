"""The corpus: an endless, seeded stream of short conversations made from tables and templates.

A conversation is a list of turns. It is built from segments: one to three exchanges that belong together. Longer
conversations put unrelated segments one after the other, which is what a real chat with a small model looks like.
"""

from __future__ import annotations

import random
from bisect import bisect
from collections.abc import Callable, Iterator
from itertools import accumulate

from p2pnode.models.train.families import FAMILIES, Family, capital
from p2pnode.models.train.segments import (
    ask_for_instructions,
    count,
    describe_animal,
    give_name,
    name_members,
    say,
    say_feeling,
    small_talk,
    story,
    tell_joke,
    unknown,
)
from p2pnode.models.train.talk import PERSON_NAMES, SYSTEM_LINES
from p2pnode.models.vocabulary import Turn

__all__ = ["conversations"]

Segment = list[tuple[str, str]]
"""Pairs of what the user says and what the model answers."""

_ANIMAL_FAMILIES = tuple(family for family in FAMILIES if family.about_it)
_FAMILY_WEIGHTS = tuple(accumulate(family.weight for family in FAMILIES))

# share in per cent | segment | whether the user's words may be roughened (they may not where they are copied)
_KINDS: tuple[tuple[float, Callable[[random.Random], Segment], bool], ...] = (
    (9, small_talk, True),
    (2, say_feeling, True),
    (2, tell_joke, True),
    (6, name_members, True),
    (3, count, True),
    (9, say, False),
    (7, story, True),
    (4, describe_animal, True),
    (4, ask_for_instructions, True),
    (3, give_name, False),
    (4, unknown, True),
)
_KIND_ENDS = tuple(accumulate(share for share, _, _ in _KINDS))
_FACTS_SHARE = 100 - _KIND_ENDS[-1]


def _facts(rng: random.Random) -> Segment:
    """One fact, often followed by the same question about something else, or another about the same animal."""
    family = rng.choices(FAMILIES, cum_weights=_FAMILY_WEIGHTS)[0]
    question, row = family.draw(rng)
    found = [(question, family.reply(row))]
    if family.again and rng.random() < 0.2:
        for _ in range(rng.randint(1, 2)):
            row = rng.randrange(len(family.rows))
            found.append((family.again.format(**family.rows[row]), family.reply(row)))
    if family.about_it and rng.random() < 0.3:
        animal = family.rows[row]["a"]
        for other in rng.sample(_ANIMAL_FAMILIES, rng.randint(1, 2)):
            if other is not family:
                found += _about_it(rng, other, animal)
    return found


def _about_it(rng: random.Random, family: Family, animal: str) -> Segment:
    """A question about `it`, where the family knows the animal."""
    rows = [at for at, values in enumerate(family.rows) if values["a"] == animal]
    return [(rng.choice(family.about_it), family.reply(rows[0]))] if rows else []


def _roughen(rng: random.Random, text: str) -> str:
    """Return the text as a hurried person might type it."""
    chance = rng.random()
    if chance < 0.08:
        return text.lower()
    if chance < 0.16:
        return text.rstrip("?.!")
    if chance < 0.19:
        return text.lower().rstrip("?.!")
    if chance < 0.22 and text.endswith("?"):
        return f"{rng.choice(('Hey', 'Hello', 'Okay', 'So'))}, {text[:1].lower()}{text[1:]}"
    if chance < 0.24 and text.endswith("?"):
        return text[:-1] + ", please?"
    return text


def _segment(rng: random.Random) -> Segment:
    chance = rng.uniform(0, 100)
    if chance < _FACTS_SHARE:
        return [(_roughen(rng, question), answer) for question, answer in _facts(rng)]
    _, make, rough = _KINDS[bisect(_KIND_ENDS, chance - _FACTS_SHARE)]
    return [(_roughen(rng, question) if rough else question, answer) for question, answer in make(rng)]


def _opening(rng: random.Random) -> tuple[list[Turn], Segment]:
    """A system message now and then; one in four of them gives the model another name."""
    if rng.random() > 0.15:
        return [], []
    if rng.random() > 0.3:
        return [Turn("system", rng.choice(SYSTEM_LINES))], []
    name = rng.choice(PERSON_NAMES)
    line = rng.choice(("You are {}.", "Your name is {}.", "You are called {}.", "You are {}, a helpful assistant."))
    ask = rng.choice(("What is your name?", "Who are you?", "Tell me your name.", "What should I call you?"))
    return [Turn("system", line.format(name))], [(_roughen(rng, ask), f"My name is {name}.")]


def _how_many(rng: random.Random) -> int:
    chance = rng.random()
    if chance < 0.66:
        return 1
    return 2 if chance < 0.86 else rng.randint(3, 5) if chance < 0.97 else rng.randint(6, 12)


def conversations(seed: int) -> Iterator[list[Turn]]:
    """Yield conversations for ever; the same seed yields the same ones."""
    rng = random.Random(seed)
    while True:
        turns, exchanges = _opening(rng)
        for _ in range(_how_many(rng) - bool(exchanges)):
            exchanges = exchanges + _segment(rng)
        for question, answer in exchanges:
            turns += [Turn("user", question), Turn("assistant", capital(answer))]
        yield turns

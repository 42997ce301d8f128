"""Families of facts: many ways to ask, one way to answer, a table of rows.

A question is named by (topic, wording, row). One question in `HELD_OUT_EVERY` is kept out of training by a hash of
that name, so that evaluation can ask for known facts in wordings never seen together with them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from hashlib import sha256

from p2pnode.models.train import household
from p2pnode.models.train.facts import ANIMALS, COLOURS_OF, OPPOSITES, SIZES
from p2pnode.models.train.stories import article

__all__ = ["FAMILIES", "HELD_OUT_EVERY", "Family", "capital"]

HELD_OUT_EVERY = 25

Row = dict[str, str]


@dataclass(frozen=True, slots=True)
class Family:
    """One kind of question. `again` asks it of another row; `about_it` asks it of the animal just spoken of."""

    topic: str
    asks: tuple[str, ...]
    answer: str
    rows: tuple[Row, ...]
    weight: float
    again: str = ""
    about_it: tuple[str, ...] = ()

    def is_held_out(self, wording: int, row: int) -> bool:
        """Return whether this question is kept for evaluation."""
        name = f"{self.topic}/{wording}/{row}".encode()
        return int.from_bytes(sha256(name).digest()[:4], "big") % HELD_OUT_EVERY == 0

    def draw(self, rng: random.Random) -> tuple[str, int]:
        """Return a training question and the index of its row."""
        while True:
            wording, row = rng.randrange(len(self.asks)), rng.randrange(len(self.rows))
            if not self.is_held_out(wording, row):
                return self.asks[wording].format(**self.rows[row]), row

    def reply(self, row: int) -> str:
        """Return the answer for a row."""
        return self.answer.format(**self.rows[row])

    def held_out(self) -> Iterator[tuple[str, str]]:
        """Yield every (question, answer) that training never shows, under this row or its twin."""
        named = [
            (ask.format(**values), row, self.is_held_out(wording, row))
            for wording, ask in enumerate(self.asks)
            for row, values in enumerate(self.rows)
        ]
        trained = {question for question, _, kept in named if not kept}
        yield from ((question, self.reply(row)) for question, row, kept in named if kept and question not in trained)


def capital(text: str) -> str:
    """Return the text with its first letter in upper case; our own name is always written small."""
    return text if text.startswith("p2pnode") else text[:1].upper() + text[1:]


def _both(**values: str) -> Row:
    """Return the values, and each again under its capitalised name with a capital letter."""
    return values | {capital(key): capital(value) for key, value in values.items()}


def _pairs(table: tuple[tuple[str, ...], ...]) -> tuple[Row, ...]:
    return tuple(_both(x=row[0], y=row[1]) for row in table)


def _animal_rows(field: str) -> tuple[Row, ...]:
    found = ((animal.name, asdict(animal)[field]) for animal in ANIMALS)
    return tuple(_both(a=article(name), n=name, y=value) for name, value in found if value != "-")


def _follow(circle: tuple[str, ...]) -> tuple[Row, ...]:
    return tuple({"x": item, "y": circle[(at + 1) % len(circle)]} for at, item in enumerate(circle))


def _guesses(table: tuple[Row, ...], seed: int) -> tuple[Row, ...]:
    """Return each row asked with its own value and with two wrong ones.

    The answer just states the fact: a model this small says "yes" or "no" by chance.
    """
    rng = random.Random(seed)
    values = sorted({row["y"] for row in table})
    found = []
    for row in table:
        wrong = rng.sample([value for value in values if value not in row["y"] and row["y"] not in value], 2)
        found += [row | {"z": value} for value in (row["y"], *wrong)]
    return tuple(found)


def _size_rows() -> tuple[Row, ...]:
    found = []
    for low, small in enumerate(SIZES):
        for big in SIZES[low + 2 :]:
            for first, second in ((small, big), (big, small)):
                found.append(_both(a=article(first), b=article(second), big=article(big), small=article(small)))
    return tuple(found)


def _sums() -> tuple[Row, ...]:
    return tuple({"x": str(x), "y": str(y), "z": str(x + y)} for x in range(11) for y in range(11))


def _differences() -> tuple[Row, ...]:
    return tuple({"x": str(x + y), "y": str(y), "z": str(x)} for x in range(11) for y in range(11))


def _word_sums() -> tuple[Row, ...]:
    words = household.NUMBER_WORDS
    return tuple(
        {"x": words[x], "y": words[y], "v": str(x), "w": str(y), "z": str(x + y)} for x in range(11) for y in range(11)
    )


_COLOURS = tuple(_both(a=row[0], y=row[1]) for row in COLOURS_OF) + _animal_rows("colour")
_FLIPPED = tuple((second, first) for first, second in OPPOSITES)
_WORD_SUM_ASKS = ("What is {x} plus {y}?", "How much is {x} and {y}?", "Add {x} and {y}.")

FAMILIES: tuple[Family, ...] = (
    Family(
        "home",
        ("Where does {a} live?", "Where can I find {a}?", "Where do you find {a}?", "Tell me where {a} lives.",
         "Do you know where {a} lives?", "What is the home of {a}?", "Where is the home of {a}?",
         "In which place does {a} live?", "Can you tell me where {a} lives?", "Where would you look for {a}?"),
        "{A} lives {y}.", _animal_rows("home"), 6, "And {a}?", ("Where does it live?", "Where can I find it?"),
    ),
    Family(
        "colour",
        ("What colour is {a}?", "What color is {a}?", "Which colour is {a}?", "Tell me the colour of {a}.",
         "What is the colour of {a}?", "Which colour does {a} have?", "Do you know the colour of {a}?",
         "What is the color of {a}?", "What colour does {a} have?"),
        "{A} is {y}.", _COLOURS, 7, "And {a}?", ("What colour is it?",),
    ),
    Family(
        "food",
        ("What does {a} eat?", "What do you feed {a}?", "What is the food of {a}?", "Tell me what {a} eats.",
         "What does {a} like to eat?", "Do you know what {a} eats?", "Which food does {a} eat?"),
        "{A} eats {y}.", _animal_rows("food"), 5, "And {a}?", ("What does it eat?", "What does it like to eat?"),
    ),
    Family(
        "sound",
        ("What sound does {a} make?", "What does {a} say?", "Which sound does {a} make?", "How does {a} sound?",
         "Tell me the sound of {a}.", "What noise does {a} make?"),
        '{A} says "{y}".', _animal_rows("sound"), 3, "And {a}?", ("What sound does it make?",),
    ),
    Family(
        "baby",
        ("What is a baby {n} called?", "What do you call a baby {n}?", "How do you call a young {n}?",
         "What is the name for a baby {n}?", "What is the baby of {a} called?"),
        "A baby {n} is called a {y}.", tuple(row for row in _animal_rows("baby") if row["y"] != "owlet"), 3,
        "And a baby {n}?", ("What is its baby called?",),
    ),
    Family(
        "legs",
        ("How many legs does {a} have?", "How many legs has {a}?", "Tell me how many legs {a} has.",
         "What number of legs does {a} have?"),
        "{A} has {y} legs.", _animal_rows("legs"), 3, "And {a}?", ("How many legs does it have?",),
    ),
    Family(
        "trait",
        ("What is special about {a}?", "What can you say about {a}?", "Tell me something about {a}.",
         "Tell me a fact about {a}.", "What do you know about {a}?"),
        "{A} {y}.", _animal_rows("trait"), 4, "And {a}?", ("What is special about it?",),
    ),
    Family(
        "bigger",
        ("Which is bigger, {a} or {b}?", "What is bigger, {a} or {b}?", "Which one is bigger: {a} or {b}?",
         "Which is larger, {a} or {b}?", "Who is bigger, {a} or {b}?"),
        "{Big} is bigger than {small}.", _size_rows(), 3,
    ),
    Family(
        "smaller",
        ("Which is smaller, {a} or {b}?", "What is smaller, {a} or {b}?", "Which one is smaller: {a} or {b}?"),
        "{Small} is smaller than {big}.", _size_rows(), 2,
    ),
    Family(
        "is bigger", ("Is {a} bigger than {b}?", "Is {a} larger than {b}?"),
        "{Big} is bigger than {small}.", _size_rows(), 3,
    ),
    Family("is colour", ("Is {a} {z}?",), "{A} is {y}.", _guesses(_COLOURS, 1), 2),
    Family("lives there", ("Does {a} live {z}?",), "{A} lives {y}.", _guesses(_animal_rows("home"), 2), 2),
    Family(
        "opposite",
        ("What is the opposite of {x}?", "Tell me the opposite of {x}.", "What is the opposite of the word {x}?",
         "Give me the opposite of {x}.", "Which word is the opposite of {x}?", "Name the opposite of {x}.",
         "Do you know the opposite of {x}?"),
        "The opposite of {x} is {y}.", _pairs(OPPOSITES + _FLIPPED), 6, "And of {x}?",
    ),
    Family(
        "explain",
        ("What is {x}?", "Explain {x} in one sentence.", "Can you explain what {x} is?", "Tell me what {x} is.",
         "Define {x}.", "Please explain {x}.", "Explain {x}.", "Explain {x} in a sentence.", "Do you know what {x} is?",
         "Explain to me what {x} is.", "Could you tell me what {x} is?", "I want to know what {x} is.",
         "Help me understand {x}.", "Describe {x} in one sentence."),
        "{X} is {y}.", _pairs(household.EXPLANATIONS), 8, "And what is {x}?",
    ),
    Family(
        "tool",
        ("What do you use {x} for?", "What can I do with {x}?", "What do people use {x} for?",
         "What do I need {x} for?", "Tell me what you use {x} for.", "Why do people need {x}?",
         "How do people use {x}?", "When do people use {x}?"),
        "You use {x} to {y}.", _pairs(household.TOOLS), 3, "And {x}?",
    ),
    Family(
        "job",
        ("What does {x} do?", "What is the work of {x}?", "Tell me what {x} does.", "What is the job of {x}?",
         "Explain what {x} does.", "Do you know what {x} does?"),
        "{X} {y}.", _pairs(household.JOBS), 3, "And {x}?",
    ),
    Family(
        "place",
        ("What do people do in {x}?", "What can I do in {x}?", "Why do people go to {x}?", "What happens in {x}?",
         "What is {x} for?"),
        "In {x} people {y}.", _pairs(household.PLACES), 2, "And in {x}?",
    ),
    Family(
        "source", ("Where does {x} come from?", "What does {x} come from?", "Tell me where {x} comes from."),
        "{X} comes from {y}.", _pairs(household.SOURCES), 2, "And {x}?",
    ),
    Family(
        "body",
        ("What do we use our {x} for?", "Why do we have {x}?", "What can we do with our {x}?",
         "What do you do with your {x}?"),
        "We use our {x} to {y}.", _pairs(household.BODY_PARTS), 2, "And our {x}?",
    ),
    Family(
        "next day",
        ("Which day comes after {x}?", "What day comes after {x}?", "What is the day after {x}?",
         "If today is {x}, what day is tomorrow?", "Which day follows {x}?"),
        "The day after {x} is {y}.", _follow(household.DAYS), 1.5, "And after {x}?",
    ),
    Family(
        "day before",
        ("Which day comes before {x}?", "What day comes before {x}?", "What is the day before {x}?",
         "If today is {x}, what day was yesterday?"),
        "The day before {x} is {y}.", _follow(household.DAYS[::-1]), 1.5, "And before {x}?",
    ),
    Family(
        "next month",
        ("Which month comes after {x}?", "What month comes after {x}?", "What is the month after {x}?",
         "Which month follows {x}?"),
        "The month after {x} is {y}.", _follow(household.MONTHS), 1.5, "And after {x}?",
    ),
    Family(
        "month before",
        ("Which month comes before {x}?", "What month comes before {x}?", "What is the month before {x}?"),
        "The month before {x} is {y}.", _follow(household.MONTHS[::-1]), 1.5, "And before {x}?",
    ),
    Family(
        "next season",
        ("Which season comes after {x}?", "What season comes after {x}?", "What comes after {x}?",
         "Which season follows {x}?"),
        "The season after {x} is {y}.", _follow(household.SEASONS), 1, "And after {x}?",
    ),
    Family(
        "next number", ("What number comes after {x}?", "Which number comes after {x}?", "What comes after {x}?"),
        "The number after {x} is {y}.", tuple({"x": str(n), "y": str(n + 1)} for n in range(20)), 1.5, "And after {x}?",
    ),
    Family(
        "sum",
        ("What is {x} + {y}?", "What is {x} plus {y}?", "{x} + {y}", "Add {x} and {y}.", "How much is {x} + {y}?",
         "Calculate {x} + {y}.", "{x} + {y} = ?", "How much is {x} plus {y}?", "What is the sum of {x} and {y}?",
         "What do you get when you add {x} and {y}?", "What is {x}+{y}?", "{x} plus {y}"),
        "{x} + {y} = {z}.", _sums(), 8, "And {x} + {y}?",
    ),
    Family(
        "difference",
        ("What is {x} - {y}?", "What is {x} minus {y}?", "{x} - {y}", "How much is {x} - {y}?", "Calculate {x} - {y}.",
         "{x} - {y} = ?", "How much is {x} minus {y}?", "What is {x}-{y}?", "{x} minus {y}"),
        "{x} - {y} = {z}.", _differences(), 7, "And {x} - {y}?",
    ),
    Family("word sum", _WORD_SUM_ASKS, "{v} + {w} = {z}.", _word_sums(), 2.5),
)  # fmt: skip

"""The corpus repeats itself from its seed, and its English keeps its own rules."""

from __future__ import annotations

import random
import re
from itertools import islice

from p2pnode.models.train.corpus import conversations
from p2pnode.models.train.evaluate import story_slips
from p2pnode.models.train.families import FAMILIES
from p2pnode.models.train.stories import make_cast, tell

SAMPLE = 2_000


def test_same_seed_same_conversations() -> None:
    assert list(islice(conversations(3), 200)) == list(islice(conversations(3), 200))
    assert list(islice(conversations(3), 20)) != list(islice(conversations(4), 20))


def test_turns_alternate_and_end_with_the_model() -> None:
    for turns in islice(conversations(5), SAMPLE):
        roles = [turn.role for turn in turns]
        talk = roles[1:] if roles[0] == "system" else roles
        assert talk == ["user", "assistant"] * (len(talk) // 2)
        assert talk


def test_answers_are_sentences_without_slots_left_open() -> None:
    for turns in islice(conversations(6), SAMPLE):
        for turn in turns:
            assert not re.search(r"[{}|]", turn.text)
            if turn.role == "assistant":
                assert re.match(r"[A-Z0-9\"p]", turn.text), turn.text
                assert turn.text[-1] in '.!?"', turn.text
                assert not re.search(r"\b[Aa] [aeiou]\w+", turn.text.replace("a unicorn", "")), turn.text


def test_held_out_questions_stay_out_of_training() -> None:
    rng = random.Random(1)
    for family in FAMILIES:
        kept = {question for question, _ in family.held_out()}
        assert not kept & {family.draw(rng)[0] for _ in range(200)}


def test_stories_keep_hero_pronoun_and_articles() -> None:
    rng = random.Random(2)
    for _ in range(500):
        cast = make_cast(rng)
        assert story_slips(tell(rng, cast), cast.kind) == []

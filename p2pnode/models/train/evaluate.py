"""Measure a model file: `python -m p2pnode.models.train.evaluate FILE`.

Everything is asked through llama-cpp-python at temperature 0, the way a user's question arrives. Scores:

- held out: questions about known facts in a combination of wording and subject that training never showed; exact.
- paraphrases: wordings written by hand that no template contains; the answer must hold given words.
- said again, not known, stories: repeating new sentences, refusing unknown subjects, and slips inside stories.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from p2pnode.models.train.families import FAMILIES
from p2pnode.models.train.segments import say, unknown
from p2pnode.models.train.stories import FRIENDS, HEROES, KINDS, article
from p2pnode.models.train.talk import UNKNOWN_ANSWERS

__all__ = ["PARAPHRASES", "SHOWN", "main", "story_slips"]

Ask = Callable[[list[dict[str, str]]], tuple[str, int]]
"""Messages in; the answer and its number of tokens out."""

PARAPHRASES: tuple[tuple[str, str], ...] = (
    ("I wonder where a fox lives.", "forest"),
    ("In what place would one find a camel?", "desert"),
    ("Where is a whale at home?", "sea"),
    ("Which place is home to a bee?", "hive"),
    ("Could you say where a penguin lives?", "ice"),
    ("Where do I have to go to see a crocodile?", "river"),
    ("I want to know what colour a lemon is.", "yellow"),
    ("What is the color of snow like?", "white"),
    ("Can you tell me which colour grass has?", "green"),
    ("A tomato has which colour?", "red"),
    ("What would a rabbit want to eat?", "grass"),
    ("Which things does a lion eat?", "meat"),
    ("What should I feed a horse?", "grass"),
    ("Which noise would a cow make?", "moo"),
    ("How does a dog go?", "woof"),
    ("Say the opposite of hot.", "cold"),
    ("What word means the opposite of big?", "small"),
    ("I need the opposite of happy.", "sad"),
    ("Please give the opposite of day.", "night"),
    ("Could you explain rain to me?", "water"),
    ("What exactly is a library?", "read"),
    ("Please tell me what a bridge is.", "cross"),
    ("What is meant by a rainbow?", "colours"),
    ("What is a hammer good for?", "nails"),
    ("When do I use an umbrella?", "rain"),
    ("What is the job a baker has?", "bread"),
    ("What would a pilot do?", "planes"),
    ("What are our eyes good for?", "see"),
    ("Tomorrow is which day, if today is Friday?", "Saturday"),
    ("Which day comes right after Sunday?", "Monday"),
    ("Tell me the month after March.", "April"),
    ("Which one is bigger, a mouse or an elephant?", "elephant is bigger"),
    ("Is an ant bigger than a cow, or not?", "cow is bigger"),
    ("Please calculate 2 + 3.", "5"),
    ("Tell me what 4 plus 4 is.", "8"),
    ("What does 10 minus 5 give?", "5"),
    ("Could you name three birds?", "three birds"),
    ("I would like you to count to 6.", "1, 2, 3, 4, 5, 6"),
    ("Good afternoon!", "help"),
    ("So who are you then?", "language model"),
    ("Thank you so much!", "welcome"),
    ("How do I prepare tea?", "water"),
)

SHOWN: tuple[tuple[str, ...], ...] = (
    ("Hello!",), ("Who are you?",), ("What can you do?",),
    ("Where does a bear live?", "And a bee?", "What does it eat?"),
    ("What colour is the sky?",), ("Tell me about the fox.",), ("What is the opposite of early?",), ("What is 7 + 5?",),
    ("What is 13 - 6?",), ("Name three animals.", "Name three more."), ("Name five colours.",), ("What is a river?",),
    ("Explain the moon in one sentence.",), ("How do I make tea?",), ("What does a carpenter do?",), ("Count to 10.",),
    ("Say the brave lion sings near the old mill.",), ("Repeat after me: hello network.",),
    ("My name is Alice.", "What is my name?"),
    ("Tell me a joke.", "Another one, please."), ("I am bored.",), ("Which is bigger, a horse or a mouse?",),
    ("Is snow black?",), ("Which month comes after June?",), ("What is the capital of Peru?",), ("What is a zorvex?",),
    ("Tell me a story about a rabbit.", "Thank you!"),
    ("Tell me a story about an owl named Nora.", "Where did Nora live?"),
    ("Write a short story.", "Another one, please."), ("Tell me a story about a dragon.",), ("Good night!",),
)  # fmt: skip


def story_slips(text: str, kind: str) -> list[str]:
    """Return what is wrong with a story about an animal of this kind: names, articles, sentences said twice."""
    slips = [f"article: {slip}" for slip in re.findall(r"\ba [aeiou]\w+|\ban [^aeiou\W]\w+", text)]
    heroes = sorted({name for name in HEROES if re.search(rf"\b{name}\b", text)})
    if len(heroes) != 1:
        slips.append(f"heroes: {heroes}")
    else:
        wrong = {"she": r"\b(he|his|him)\b", "he": r"\b(she|her)\b"}[HEROES[heroes[0]][0]]
        slips += [f"pronoun: {slip}" for slip in re.findall(wrong, text, re.IGNORECASE)]
    friends = sorted({name for name in FRIENDS if re.search(rf"\b{name}\b", text)})
    if len(friends) != 1:
        slips.append(f"friends: {friends}")
    if kind not in text:
        slips.append(f"no {kind}")
    sentences = re.split(r"(?<=[.!?]) ", text)
    slips += [f"twice: {first}" for first, second in pairwise(sorted(sentences)) if first == second]
    return slips


def _asker(path: str, system: str | None) -> Ask:
    """Load the file on one thread (llama.cpp's threads spin, and a busy machine makes more of them slower)."""
    import llama_cpp

    model: Any = llama_cpp.Llama(path, n_ctx=512, n_threads=1, n_threads_batch=1, verbose=False)
    before = [{"role": "system", "content": system}] if system else []

    def ask(messages: list[dict[str, str]]) -> tuple[str, int]:
        answer = model.create_chat_completion(before + messages, temperature=0.0, max_tokens=250, repeat_penalty=1.0)
        return str(answer["choices"][0]["message"]["content"]), int(answer["usage"]["completion_tokens"])

    return ask


def _one(ask: Ask, question: str) -> str:
    return ask([{"role": "user", "content": question}])[0]


def _held_out(ask: Ask, rng: random.Random, each: int) -> None:
    """Print the share of exact answers per topic."""
    right = total = 0
    for family in FAMILIES:
        questions = list(family.held_out())
        chosen = rng.sample(questions, min(each, len(questions)))
        wrong = [(question, expected) for question, expected in chosen if _one(ask, question) != expected]
        right, total = right + len(chosen) - len(wrong), total + len(chosen)
        example = f"  e.g. {wrong[0][0]} -> {_one(ask, wrong[0][0])}" if wrong else ""
        print(f"  {family.topic:14} {len(chosen) - len(wrong):3}/{len(chosen)}{example}")
    print(f"held out, exact: {right}/{total}")


def _stories(ask: Ask) -> None:
    """Print how many stories, one per animal that stories know, have no slip."""
    clean, lengths, began = 0, [], time.monotonic()
    for kind in KINDS:
        text, tokens = ask([{"role": "user", "content": f"Tell me a story about {article(kind)}."}])
        lengths.append(tokens)
        slips = story_slips(text, kind)
        clean += not slips
        if slips:
            print(f"  {kind}: {'; '.join(slips)}")
    speed = sum(lengths) / (time.monotonic() - began)
    print(
        f"stories without a slip: {clean}/{len(KINDS)}; {min(lengths)} to {max(lengths)} tokens, {speed:.0f} tokens/s"
    )


def _show(ask: Ask) -> None:
    for questions in SHOWN:
        messages: list[dict[str, str]] = []
        for question in questions:
            messages.append({"role": "user", "content": question})
            answer, _ = ask(messages)
            messages.append({"role": "assistant", "content": answer})
            print(f"> {question}\n  {answer}")


def main() -> None:
    """Ask everything and print the scores, then a page of answers to read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--each", type=int, default=20, help="held-out questions per topic")
    parser.add_argument("--system", help="a system message before every question")
    options = parser.parse_args()
    ask, rng = _asker(options.file, options.system), random.Random(12_345)
    _held_out(ask, rng, options.each)
    answers = [(question, words, _one(ask, question)) for question, words in PARAPHRASES]
    missed = [(question, answer) for question, words, answer in answers if words not in answer]
    for question, answer in missed:
        print(f"  missed: {question} -> {answer}")
    print(f"paraphrases by hand, loose: {len(PARAPHRASES) - len(missed)}/{len(PARAPHRASES)}")
    copies = [say(rng)[0] for _ in range(50)]
    print(f"said again, exact: {sum(_one(ask, question) == expected for question, expected in copies)}/50")
    strange = [unknown(rng)[0][0] for _ in range(50)]
    print(f"not known, says so: {sum(_one(ask, question) in UNKNOWN_ANSWERS for question in strange)}/50")
    _stories(ask)
    _show(ask)


if __name__ == "__main__":
    main()

"""What a node test can see: ``python -m tests.bench audit [--challenges N] [--json]``.

Each generator answers N challenges, and N sessions' worth of stories at the default temperature; the shipped Q8_0 model
then scores every token. *Differ* are tokens that it would not have drawn, *bad* those whose margin is above the
tolerance, *excess* is the mean margin per token in thousandths of a logit, each token's at most a logit. *Failed* are
challenges by which the generator fails, and *tokens* how many it takes until 95 of 100 draws of answers fail it
(answers are drawn from those measured, so figures beyond them are not to be had). The first three generators are
honest: one is checked in batches of another size, one stores the same values as F16, which stands for another build.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import trio

from p2pnode.engine.api import MICROBATCH_TOKENS, ChatMessage, Engine, EngineConfig, GenerateRequest, Tokens
from p2pnode.engine.supervisor import open_engine
from p2pnode.models.store import SHIPPED
from p2pnode.tester import answer
from protocol.core.ids import ModelDigest
from protocol.core.params import Params
from protocol.messages.sampling import SamplingParams
from protocol.messages.tasks import PromptMessage
from protocol.results.audit import Finding, Marks, judge, marks_of
from protocol.results.challenge import Question, is_complete, question
from protocol.roles.tester import Score, Scored
from protocol.session.sampling import lane_seed
from tests.requantised import requantised

PARAMS = Params()
DRAWS = 400
LARGE_BATCH = 512
ANIMALS = ("rabbit", "bear", "fox", "owl", "cat", "dog", "frog", "horse")


@dataclass(frozen=True)
class Generator:
    """Whoever answers."""

    name: str
    path: Path
    honest: bool
    same_build: bool = True
    """Whether the checker takes it for its own build."""
    checked_in: int = MICROBATCH_TOKENS
    """The checker's micro-batch."""


@dataclass(frozen=True)
class Row:
    """What the checker sees of one generator."""

    name: str
    asked: str
    honest: bool
    same_build: bool
    answers: tuple[Marks, ...]
    tests: tuple[Finding, ...]

    @property
    def total(self) -> Marks:
        return sum(self.answers, Marks())

    def tokens_needed(self) -> int | None:
        """After how many tokens 95 of 100 draws of answers say that it failed; None: not after as many as there are."""
        random = Random(1)
        draws = [random.choices(self.answers, k=len(self.answers)) for _ in range(DRAWS)]
        running = [Marks()] * DRAWS
        for place in range(len(self.answers)):
            running = [before + draw[place] for before, draw in zip(running, draws, strict=True)]
            failed = sum(judge(marks, same_build=self.same_build) is Finding.FAILED for marks in running)
            if failed * 100 >= 95 * DRAWS:
                return sum(marks.tokens for marks in running) // DRAWS
        return None

    def shown(self) -> dict[str, Any]:
        """For a table or JSON."""
        total = self.total
        return {
            "generator": self.name,
            "asked": self.asked,
            "honest": self.honest,
            "tokens": total.tokens,
            "differ_percent": round(100 * total.different / total.tokens, 2),
            "bad_percent": round(100 * total.bad / total.tokens, 2),
            "excess_milli": round(total.excess_milli / total.tokens, 2),
            "doubtful": sum(finding is Finding.DOUBTFUL for finding in self.tests),
            "failed": sum(finding is Finding.FAILED for finding in self.tests),
            "tests": len(self.tests),
            "tokens_needed": self.tokens_needed(),
        }


def challenge(number: int) -> list[Question]:
    """Questions of a challenge, as many as could be asked."""
    return [question(b"bench %d" % number, index) for index in range(16)]


def stories(number: int) -> list[Question]:
    """What a session may ask."""
    asked = []
    for index in range(16):
        seed = lane_seed(bytes([number, index]) * 16, 0, 0)
        text = f"Tell me a story about a {ANIMALS[(16 * number + index) % len(ANIMALS)]}."
        asked.append(Question((PromptMessage("user", text),), SamplingParams(), seed, 64))
    return asked


async def measure(generator: Generator, checker: Path, tests: int) -> list[Row]:
    """One generator's rows."""
    mine = EngineConfig(generator.path, slots=1, threads=1)
    checking = EngineConfig(checker, slots=1, threads=1, microbatch_tokens=generator.checked_in)
    rows = []
    async with open_engine(mine) as engine, open_engine(checking) as check:
        for asked, questions in (("challenge", challenge), ("stories", stories)):
            answers: list[Marks] = []
            findings = []
            for number in range(tests):
                first = len(answers)
                tokens = 0
                for place, each in enumerate(questions(number)):
                    if is_complete(PARAMS.test_tokens, place, tokens):
                        break
                    answers.append(await _marks(engine, check, each))
                    tokens += answers[-1].tokens
                whole = sum(answers[first:], Marks())
                findings.append(judge(whole, same_build=generator.same_build))
            row = (generator.name, asked, generator.honest, generator.same_build)
            rows.append(Row(*row, tuple(answers), tuple(findings)))
    return rows


async def _marks(engine: Engine, check: Engine, asked: Question) -> Marks:
    """One answer, scored."""
    prompt = await engine.render([ChatMessage(turn.role, turn.content) for turn in asked.messages])
    ids: list[int] = []
    texts: list[bytes] = []
    async for event in engine.generate(GenerateRequest(prompt, asked.sampling, asked.lane_seed, asked.max_tokens)):
        if isinstance(event, Tokens):
            ids += [token.id for token in event.tokens]
            texts += [token.text for token in event.tokens]
    asking = (1, ModelDigest(bytes(32)), asked.messages, asked.sampling, asked.lane_seed)
    scored = await answer(check, Score(*asking, tuple(ids), tuple(texts), 0, len(ids)))
    assert isinstance(scored, Scored), scored
    return marks_of(PARAMS, scored.margins_milli)


def generators(folder: Path) -> list[Generator]:
    """The honest ones first."""
    tiny = SHIPPED / "tiny-q8_0.gguf"
    return [
        Generator("tiny Q8_0, the checker's build", tiny, honest=True),
        Generator("tiny Q8_0, checked in one batch", tiny, honest=True, same_build=False, checked_in=LARGE_BATCH),
        Generator("tiny as F16", requantised(tiny, folder / "f16.gguf", "f16"), honest=True, same_build=False),
        Generator("tiny Q4_0, embedding Q8_0", SHIPPED / "tiny-q4_0.gguf", honest=False),
        Generator("tiny Q4_0 throughout", requantised(tiny, folder / "q4_0.gguf", "q4_0"), honest=False),
        Generator("small Q8_0, another model", SHIPPED / "small-q8_0.gguf", honest=False),
    ]


def show(rows: Sequence[Row]) -> None:
    """A table."""
    head = ("tokens", "differ %", "bad %", "excess", "failed", "to 95 %")
    print(f"{'generator':<34}{'asked':<11}" + "{:>7}{:>10}{:>8}{:>8}{:>9}{:>9}".format(*head))
    for row in rows:
        each = row.shown()
        needed = "-" if row.honest else each["tokens_needed"] or f"> {each['tokens']}"
        print(
            f"{row.name:<34}{row.asked:<11}{each['tokens']:>7}{each['differ_percent']:>10.2f}"
            f"{each['bad_percent']:>8.2f}{each['excess_milli']:>8.2f}{each['failed']:>5}/{each['tests']:<3}{needed:>9}"
        )


def missed_targets(rows: Sequence[Row]) -> list[str]:
    """Who was judged wrongly by a challenge."""
    wrong = []
    for row in rows:
        failed = sum(finding is Finding.FAILED for finding in row.tests)
        if row.honest and failed:
            wrong.append(f"{row.name}: an honest miner failed {failed} of {len(row.tests)} by {row.asked}")
        if not row.honest and row.asked == "challenge" and failed < len(row.tests):
            wrong.append(f"{row.name}: passed {len(row.tests) - failed} of {len(row.tests)} challenges")
    return wrong


async def _measure(tests: int, folder: Path) -> list[Row]:
    rows: list[Row] = []
    for generator in generators(folder):
        rows += await measure(generator, SHIPPED / "tiny-q8_0.gguf", tests)
    return rows


def main(arguments: list[str]) -> int:
    """Measure and print; 1 if anybody was judged wrongly by a challenge."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench audit", description=__doc__)
    parser.add_argument("--challenges", type=int, default=8)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        rows = trio.run(_measure, args.challenges, Path(folder))
    if args.json:
        print(json.dumps([row.shown() for row in rows], indent=1))
    else:
        show(rows)
    missed = missed_targets(rows)
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed else 0

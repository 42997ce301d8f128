"""An oracle's tests of miners: its engines, and what passes between them, the tester and the oracle's own machine.

An engine is loaded when a test needs it, and closed when none did for a while.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

import trio

from p2pnode.config import NodeConfig
from p2pnode.engine.api import (
    Engine,
    EngineConfig,
    EngineError,
    EngineUnavailable,
    Finished,
    FinishReason,
    GenerateRequest,
    Token,
    Tokens,
)
from p2pnode.generation import chat
from p2pnode.models.store import ModelStore
from p2pnode.telemetry.log_record import fields
from protocol.core.ids import ModelDigest, NodeId
from protocol.results.audit import margin_milli, similarity_bp
from protocol.roles.oracle import OracleMachine, Report
from protocol.roles.tester import Compare, Compared, Score, Scored, ScoringFailed, Tested
from protocol.roles.tester.calling import CallBook
from protocol.session.adverts import AdvertBook

log = logging.getLogger(__name__)

IDLE_S = 60.0
LOOK_S = 0.25
"""How often the ledger is looked at for new calls."""

OpenEngine = Callable[[EngineConfig], AbstractAsyncContextManager[Engine]]
Question = Score | Compare
Said = Scored | Compared | ScoringFailed


def models_held(config: NodeConfig) -> dict[ModelDigest, EngineConfig]:
    """What an oracle tests with. Raises ModelStoreError, CorruptModel; files outside of the store are hashed first."""
    store, oracle = ModelStore(config.node.models_dir), config.oracle
    held = {}
    for name in oracle.models:
        stored = store.resolve(name)
        held[stored.manifest.digest()] = EngineConfig(
            stored.path, slots=1, threads=oracle.threads, gpu_layers=oracle.gpu_layers
        )
    return held


def offered(book: AdvertBook, miner: NodeId) -> Iterable[ModelDigest]:
    """What a miner's advert says that it serves."""
    advert = book.get(miner)
    return [] if advert is None else [offer.manifest.digest() for offer in advert.models]


def testing(
    models: Mapping[ModelDigest, EngineConfig],
    open_: OpenEngine,
    nursery: trio.Nursery,
    report: Callable[[object], None],
    dispatch: Callable[[object], None],
) -> Mapping[type, Callable[[object], None]]:
    """What performs the tester's own effects. ``report`` hands the oracle's machine an event."""
    engines = CheckEngines(models, open_, nursery, dispatch)

    def tell(effect: object) -> None:
        assert isinstance(effect, Tested)
        word = "passed" if effect.report.passed else "failed"
        told: dict[str, str | int] = {"miner": effect.report.miner.hex(), "test": effect.report.test, "why": effect.why}
        log.info("tester.%s", word, extra=fields(told))
        report(Report(effect.report))

    return {Score: engines.ask, Compare: engines.ask, Tested: tell}


async def watch_calls(oracle: OracleMachine, calls: CallBook, dispatch: Callable[[object], None]) -> None:
    """Tell the tester what the ledger calls for, after each block that became final."""
    seen: object = None
    while True:
        state = oracle.simplex.tree.base.state
        if state is not seen:
            seen = state
            dispatch(calls.read(state))
        await trio.sleep(LOOK_S)


class CheckEngines:
    """Answers the tester's questions, those about one model one after the other."""

    def __init__(
        self,
        models: Mapping[ModelDigest, EngineConfig],
        open_: OpenEngine,
        nursery: trio.Nursery,
        dispatch: Callable[[object], None],
        idle_s: float = IDLE_S,
    ) -> None:
        self._models = models
        self._open = open_
        self._nursery = nursery
        self._dispatch = dispatch
        self._idle_s = idle_s
        self._waiting: dict[ModelDigest, deque[Question]] = {}
        """Of the models whose engine is loaded or being loaded."""
        self._wake: dict[ModelDigest, trio.Event] = {}

    @property
    def loaded(self) -> tuple[ModelDigest, ...]:
        """The models whose engine runs now."""
        return tuple(self._waiting)

    def ask(self, effect: object) -> None:
        """Perform a Score or a Compare."""
        assert isinstance(effect, Question)
        if effect.model not in self._waiting:
            self._waiting[effect.model] = deque()
            self._wake[effect.model] = trio.Event()
            self._nursery.start_soon(self._serve, effect.model)
        self._waiting[effect.model].append(effect)
        self._wake[effect.model].set()

    async def _serve(self, model: ModelDigest) -> None:
        waiting = self._waiting[model]
        try:
            async with self._open(self._models[model]) as engine:
                while await self._has_question(model):
                    self._dispatch(await answer(engine, waiting[0]))
                    waiting.popleft()
        except EngineError as error:
            log.warning("cannot test miners of model %s: %s", model.hex(), error)
            failed = list(waiting)
            waiting.clear()
            for question in failed:
                self._dispatch(ScoringFailed(question.number, False, str(error)))
        del self._waiting[model], self._wake[model]
        for question in waiting:
            # It came while the engine was being closed.
            self.ask(question)

    async def _has_question(self, model: ModelDigest) -> bool:
        """Wait for a question; False if none came for long."""
        if not self._waiting[model]:
            self._wake[model] = trio.Event()
            with trio.move_on_after(self._idle_s):
                await self._wake[model].wait()
        return bool(self._waiting[model])


async def answer(engine: Engine, question: Question) -> Said:
    """What an engine says to a question. Raises EngineUnavailable."""
    try:
        return await (_score(engine, question) if isinstance(question, Score) else _compare(engine, question))
    except EngineUnavailable:
        raise
    except EngineError as error:
        return ScoringFailed(question.number, False, str(error))


async def _score(engine: Engine, asked: Score) -> Said:
    if not all(0 <= token < engine.model.vocab_size for token in asked.ids):
        return ScoringFailed(asked.number, True, "the model has no such tokens")
    said = await engine.detokenize(asked.ids)
    if not said.startswith(b"".join(asked.texts)):
        return ScoringFailed(asked.number, True, "the text is not what the tokens say")
    prompt = await engine.render(chat(asked.messages), asked.tools)
    tokens = [Token(*each) for each in zip(asked.ids, asked.texts, strict=True)]
    whole = GenerateRequest(prompt, asked.sampling, asked.lane_seed, len(tokens), tokens)
    scored = await engine.score(replace(whole, emitted=tokens[: asked.start]), asked.ids[asked.start : asked.stop])
    margins = tuple(margin_milli(token.margin) for token in scored)
    build = engine.model.build[:128]
    return Scored(asked.number, build, margins, said, await _ends(engine, whole), tuple(prompt))


async def _ends(engine: Engine, whole: GenerateRequest) -> bool:
    """Whether an engine that is handed all tokens says that the answer is over, and not only as long as it may be."""
    async with aclosing(engine.generate(whole)) as events:
        async for event in events:
            return isinstance(event, Finished) and event.reason is FinishReason.STOP
    return False


async def _compare(engine: Engine, asked: Compare) -> Said:
    prompt = await engine.render(chat(asked.messages))
    own = b""
    async for event in engine.generate(GenerateRequest(prompt, asked.sampling, asked.lane_seed, asked.max_tokens)):
        if isinstance(event, Tokens):
            own += b"".join(token.text for token in event.tokens)
    texts = (own.decode(errors="replace"), asked.text)
    if not all(texts):
        return Compared(asked.number, 10_000 if texts[0] == texts[1] else 0)
    first, second = (await engine.embed(texts)).floats()
    return Compared(asked.number, similarity_bp(first, second))

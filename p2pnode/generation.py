"""The miner's own effects: runs generations on the engine and reports what they produce."""

from collections.abc import Callable, Mapping, Sequence

import trio

from p2pnode.engine.api import (
    ChatMessage,
    Engine,
    EngineBusy,
    EngineError,
    Finished,
    FinishReason,
    GenerateRequest,
    LogProb,
    PromptTooLong,
    SchemaRefused,
    Token,
    Tokens,
    ToolsRefused,
)
from protocol.core.ids import ModelDigest
from protocol.messages.logprobs import LIKELY_TEXT_BYTES_MAX, MINUS_LOG_BP_MAX, Likely, TokenLogProbs
from protocol.messages.tasks import EndReason, PromptMessage
from protocol.roles.miner import (
    CancelGeneration,
    Embed,
    EmbeddingFailed,
    Generate,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
    Rendered,
    TextsEmbedded,
)

_REASONS: Mapping[FinishReason, EndReason] = {
    FinishReason.STOP: EndReason.STOP,
    FinishReason.LENGTH: EndReason.LENGTH,
    FinishReason.CANCELLED: EndReason.CANCELLED,
}
_CODES: Mapping[type[EngineError], str] = {
    PromptTooLong: "prompt_too_long",
    SchemaRefused: "schema_refused",
    ToolsRefused: "tools_refused",
    EngineBusy: "no_capacity",
}
BP = 10_000


def chat(messages: Sequence[PromptMessage]) -> list[ChatMessage]:
    """The turns of a prompt as an engine takes them."""
    return [ChatMessage(turn.role, turn.content, turn.calls, turn.call_id) for turn in messages]


def code_of(error: EngineError) -> str:
    """The terminal code of what an engine could not do."""
    return _CODES.get(type(error), "engine_failed")


class Generations:
    """The generations that run, one task each; and requests for vectors beside them."""

    def __init__(
        self,
        engines: Mapping[ModelDigest, Engine],
        nursery: trio.Nursery,
        dispatch: Callable[[object], None],
    ) -> None:
        self._engines = engines
        self._nursery = nursery
        self._dispatch = dispatch
        self._running: dict[GenerationKey, trio.CancelScope] = {}

    def performers(self) -> Mapping[type, Callable[[object], None]]:
        """What it executes."""
        return {Generate: self.start, CancelGeneration: self.cancel, Embed: self.embed}

    def start(self, effect: object) -> None:
        """Perform a Generate."""
        assert isinstance(effect, Generate)
        scope = self._running[effect.generation] = trio.CancelScope()
        self._nursery.start_soon(self._run, effect, scope)

    def cancel(self, effect: object) -> None:
        """Perform a CancelGeneration; one that is over is fine."""
        assert isinstance(effect, CancelGeneration)
        scope = self._running.pop(effect.generation, None)
        if scope is not None:
            scope.cancel()

    def embed(self, effect: object) -> None:
        """Perform an Embed."""
        assert isinstance(effect, Embed)
        self._nursery.start_soon(self._embed, effect)

    async def _embed(self, effect: Embed) -> None:
        try:
            said = await self._engines[effect.model].embed(effect.texts)
        except EngineError as error:
            self._dispatch(EmbeddingFailed(effect.name, code_of(error), str(error)))
        else:
            self._dispatch(TextsEmbedded(effect.name, said.vectors, said.tokens))

    async def _run(self, effect: Generate, scope: trio.CancelScope) -> None:
        key = effect.generation
        try:
            with scope:
                await self._generate(effect)
        except EngineError as error:
            self._dispatch(GenerationFailed(key, code_of(error), str(error)))
        finally:
            if self._running.get(key) is scope:
                del self._running[key]

    async def _generate(self, effect: Generate) -> None:
        key, engine = effect.generation, self._engines[effect.model]
        prompt = await engine.render(chat(effect.messages), effect.tools)
        emitted = [Token(id_, text) for id_, text in effect.emitted]
        request = GenerateRequest(prompt, effect.sampling, effect.lane_seed, effect.max_tokens, emitted)
        rendered = False
        async for event in engine.generate(request):
            if not rendered:
                # Not before the engine took the prompt: one that is too long has no segment.
                rendered = True
                self._dispatch(Rendered(key, tuple(prompt)))
            match event:
                case Tokens():
                    logprobs = effect.sampling.logprobs > 0
                    self._dispatch(_produced(key, event.tokens, logprobs=logprobs))
                case Finished():
                    self._dispatch(Generated(key, _REASONS[event.reason], event.cached_tokens))
                    return
        raise EngineError("the engine stopped without an end")


def _produced(key: GenerationKey, tokens: Sequence[Token], *, logprobs: bool) -> Produced:
    """Raises EngineError if log probabilities were asked for and did not come."""
    ids, texts = tuple(token.id for token in tokens), tuple(token.text for token in tokens)
    return Produced(key, ids, texts, tuple(map(_told, tokens)) if logprobs else ())


def _told(token: Token) -> TokenLogProbs:
    said = token.logprobs
    if said is None:
        raise EngineError("the engine tells no log probabilities")
    return TokenLogProbs(_likely(said.own), tuple(map(_likely, said.top)))


def _likely(said: LogProb) -> Likely:
    minus_log_bp = min(max(round(-said.logprob * BP), 0), MINUS_LOG_BP_MAX)
    return Likely(said.id, said.piece[:LIKELY_TEXT_BYTES_MAX], minus_log_bp)

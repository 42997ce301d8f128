"""The miner's own effects: runs generations on the engine and reports what they produce."""

from collections.abc import Callable, Mapping

import trio

from p2pnode.engine.api import (
    ChatMessage,
    Engine,
    EngineBusy,
    EngineError,
    Finished,
    FinishReason,
    GenerateRequest,
    PromptTooLong,
    Token,
    Tokens,
)
from protocol.core.ids import ModelDigest
from protocol.messages.tasks import EndReason
from protocol.roles.miner import (
    CancelGeneration,
    Generate,
    Generated,
    GenerationFailed,
    GenerationKey,
    Produced,
    Rendered,
)

_REASONS: Mapping[FinishReason, EndReason] = {
    FinishReason.STOP: EndReason.STOP,
    FinishReason.LENGTH: EndReason.LENGTH,
    FinishReason.CANCELLED: EndReason.CANCELLED,
}


class Generations:
    """The generations that run, one task each."""

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

    async def _run(self, effect: Generate, scope: trio.CancelScope) -> None:
        key = effect.generation
        try:
            with scope:
                await self._generate(effect)
        except PromptTooLong as error:
            self._dispatch(GenerationFailed(key, "prompt_too_long", str(error)))
        except EngineBusy as error:
            self._dispatch(GenerationFailed(key, "no_capacity", str(error)))
        except EngineError as error:
            self._dispatch(GenerationFailed(key, "engine_failed", str(error)))
        finally:
            if self._running.get(key) is scope:
                del self._running[key]

    async def _generate(self, effect: Generate) -> None:
        key, engine = effect.generation, self._engines[effect.model]
        prompt = await engine.render([ChatMessage(turn.role, turn.content) for turn in effect.messages])
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
                    ids = tuple(token.id for token in event.tokens)
                    self._dispatch(Produced(key, ids, tuple(token.text for token in event.tokens)))
                case Finished():
                    self._dispatch(Generated(key, _REASONS[event.reason], event.cached_tokens))
                    return
        raise EngineError("the engine stopped without an end")

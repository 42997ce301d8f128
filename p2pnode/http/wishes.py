"""From OpenAI's request to what the network is asked: prompts, sampling, and what of it is refused."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from msgspec import structs

from p2pnode.http.asking import Wish
from p2pnode.http.errors import ApiError, invalid, unsupported
from p2pnode.http.requests import ChatRequest, NamedTool, Part, Sampled, ToolCall, Turn
from p2pnode.http.service import Service
from p2pnode.http.toolcalls import ForcedReader, FreeReader, Reader, WordsReader, forced_schema
from protocol.messages.adverts import ModelOffer
from protocol.messages.sampling import SCHEMA_CHARACTERS_MAX, STOP_BYTES_MAX, SamplingParams
from protocol.messages.tasks import TOOLS_CHARACTERS_MAX, PromptMessage

ANY_OBJECT = '{"type":"object"}'
"""What JSON mode asks for."""


@dataclass(frozen=True, slots=True)
class ChatWish:
    """A chat request as the network is asked."""

    offer: ModelOffer
    wishes: tuple[Wish, ...]
    """One for each of n."""
    reader: Callable[[], Reader] = WordsReader
    """What reads each answer."""


async def chat_wishes(service: Service, body: ChatRequest, label: str) -> ChatWish:
    """What a chat request asks for. Raises ApiError, RequestFailed."""
    _refuse_unsupported(body)
    offer = await service.find(body.model)
    asked = body.max_completion_tokens or body.max_tokens
    choice = _tool_choice(body)
    sampling = structs.replace(
        sampling_of(body),
        schema=choice.schema or _schema(body),
        logprobs=1 + (body.top_logprobs or 0) if body.logprobs else 0,
    )
    messages = tuple(_message(number, turn) for number, turn in enumerate(body.messages))
    if not any(message.content or message.calls for message in messages):
        raise invalid("messages: there is nothing to answer", "messages")
    wishes = spread(service, offer, messages, sampling, asked, body, label, choice.tools)
    return ChatWish(offer, wishes, choice.reader)


def spread(
    service: Service,
    offer: ModelOffer,
    messages: tuple[PromptMessage, ...],
    sampling: SamplingParams,
    asked: int | None,
    body: Sampled,
    label: str,
    tools: str = "",
) -> tuple[Wish, ...]:
    """One wish for each of n. Raises ApiError."""
    most = service.net.genesis.params.tokens_per_task_max
    if asked is not None and asked > most:
        raise invalid(f"max_tokens: this network answers with at most {most} tokens", "max_tokens")
    room = max(1, offer.context_tokens // 2)
    first = Wish(
        model=offer.manifest.digest().hex(),
        model_name=offer.manifest.name,
        price_wei=offer.price_wei,
        messages=messages,
        sampling=sampling,
        max_tokens=asked or min(service.terms.max_tokens, room, most),
        seed=seed_of(body.seed),
        tools=tools,
        label=label,
        yields=asked is None,
    )
    choices = (structs.replace(sampling, choice=choice) for choice in range(body.n or 1))
    return tuple(replace(first, sampling=each) for each in choices)


def seed_of(seed: int | None) -> bytes | None:
    """The 32 bytes that OpenAI's seed stands for: the same for the same number, everywhere."""
    if seed is None:
        return None
    return hashlib.sha256(b"p2pnode/openai-seed/1" + seed.to_bytes(8, "big", signed=True)).digest()


def sampling_of(body: Sampled) -> SamplingParams:
    """How tokens are drawn. Raises ApiError."""
    given: dict[str, Any] = {}
    for name, value, least in (
        ("temperature_bp", body.temperature, 0),
        ("top_p_bp", body.top_p, 1),
        ("min_p_bp", body.min_p, 0),
        ("repetition_penalty_bp", body.repetition_penalty, 5_000),
        ("presence_penalty_bp", body.presence_penalty, -20_000),
        ("frequency_penalty_bp", body.frequency_penalty, -20_000),
    ):
        if value is not None:
            given[name] = max(least, round(value * 10_000))
    if body.top_k is not None:
        given["top_k"] = body.top_k
    return SamplingParams(stop=_stop(body.stop), **given)


def _stop(stop: str | Sequence[str] | None) -> tuple[bytes, ...]:
    texts = [stop] if isinstance(stop, str) else list(stop or ())
    for text in texts:
        if not text or len(_utf8(text, "stop")) > STOP_BYTES_MAX:
            raise invalid(f"stop: each has from 1 to {STOP_BYTES_MAX} bytes", "stop")
    return tuple(_utf8(text, "stop") for text in texts)


def _utf8(text: str, param: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise invalid(f"{param}: half a character cannot be sent", param) from error


def _refuse_unsupported(body: ChatRequest) -> None:
    refuse_unsent(body)
    if any(modality != "text" for modality in body.modalities or ()):
        raise unsupported("modalities", "anything but text")
    for param, given in (
        ("audio", body.audio),
        ("web_search_options", body.web_search_options),
        ("functions", body.functions),
        ("function_call", body.function_call),
    ):
        if given:
            what = "the old form of tools; use tools and tool_choice: it" if "function" in param else param
            raise unsupported(param, what)
    if body.top_logprobs and not body.logprobs:
        raise invalid("top_logprobs: only with logprobs: true", "top_logprobs")


def refuse_unsent(body: Sampled) -> None:
    """What no order has a place for. Raises ApiError."""
    if any((body.logit_bias or {}).values()):
        raise unsupported("logit_bias", "logit_bias")
    if body.stream_options is not None and not body.stream:
        raise invalid("stream_options: only with stream: true", "stream_options")


def _schema(body: ChatRequest) -> str:
    form = body.response_format
    if form is None or form.type == "text":
        return ""
    if form.type == "json_object":
        return ANY_OBJECT
    if form.json_schema is None or form.json_schema.schema_ is None:
        raise invalid("response_format: json_schema needs a schema", "response_format.json_schema")
    return schema_text(form.json_schema.schema_, "response_format.json_schema.schema")


def schema_text(schema: Any, param: str) -> str:
    """As the order carries it. Raises ApiError."""
    text = _json(schema, param)
    if len(text) > SCHEMA_CHARACTERS_MAX:
        raise invalid(f"{param}: at most {SCHEMA_CHARACTERS_MAX} characters, these are {len(text)}", param)
    return text


def _json(value: Any, param: str) -> str:
    """Raises ApiError for what is nested too deeply."""
    try:
        return json.dumps(value, separators=(",", ":"))
    except (RecursionError, ValueError) as error:
        raise invalid(f"{param}: nested too deeply", param) from error


@dataclass(frozen=True, slots=True)
class _ToolChoice:
    tools: str = ""
    """As the model is shown them."""
    schema: str = ""
    """What an answer that has to be a call holds to."""
    reader: Callable[[], Reader] = WordsReader


def _tool_choice(body: ChatRequest) -> _ToolChoice:
    wanted = body.tool_choice
    if not body.tools:
        if wanted not in (None, "none", "auto"):
            raise invalid("tool_choice: there are no tools to choose from", "tool_choice")
        return _ToolChoice()
    functions = [tool.function.model_dump(exclude_none=True) for tool in body.tools]
    names = [function["name"] for function in functions]
    if len(set(names)) < len(names):
        raise invalid("tools: two have the same name", "tools")
    if wanted == "none":
        return _ToolChoice()
    text = _json([{"type": "function", "function": each} for each in functions], "tools")
    if len(text) > TOOLS_CHARACTERS_MAX:
        raise invalid(f"tools: at most {TOOLS_CHARACTERS_MAX} characters, these are {len(text)}", "tools")
    if wanted is None or wanted == "auto":
        return _ToolChoice(text, "", partial(FreeReader, names, several=body.parallel_tool_calls is not False))
    if _schema(body):
        raise invalid("response_format: a tool that has to be called leaves no room for it", "response_format")
    if isinstance(wanted, NamedTool):
        functions = [each for each in functions if each["name"] == wanted.function.name]
        if not functions:
            raise invalid(f"tool_choice: there is no tool {wanted.function.name[:64]!r}", "tool_choice")
    return _ToolChoice(text, schema_text(forced_schema(functions), "tools"), ForcedReader)


def _message(number: int, turn: Turn) -> PromptMessage:
    param = f"messages.{number}"
    content = _content(turn.content, param)
    if turn.role == "tool":
        if not turn.tool_call_id:
            raise invalid(f"{param}: a tool's answer names its tool_call_id", f"{param}.tool_call_id")
        return PromptMessage("tool", content, call_id=turn.tool_call_id)
    if turn.role == "assistant":
        return PromptMessage("assistant", content, calls=_calls(turn.tool_calls or (), param))
    if turn.content is None:
        raise invalid(f"{param}: a message of role {turn.role} has content", f"{param}.content")
    return PromptMessage("system" if turn.role == "developer" else turn.role, content)


def _content(content: str | Sequence[Part] | None, param: str) -> str:
    if isinstance(content, str):
        _utf8(content, f"{param}.content")
        return content
    texts = []
    for place, part in enumerate(content or ()):
        if part.type not in ("text", "refusal") or part.text is None:
            raise unsupported(f"{param}.content.{place}", f"content of type {part.type!r}")
        _utf8(part.text, f"{param}.content.{place}")
        texts.append(part.text)
    return "".join(texts)


def _calls(calls: Sequence[ToolCall], param: str) -> str:
    if not calls:
        return ""
    listed = []
    for call in calls:
        function = {"name": call.function.name, "arguments": call.function.arguments}
        listed.append({"id": call.id, "type": "function", "function": function})
    text = _json(listed, f"{param}.tool_calls")
    if len(text) > TOOLS_CHARACTERS_MAX:
        raise ApiError(400, f"{param}.tool_calls: at most {TOOLS_CHARACTERS_MAX} characters", param=param)
    return text

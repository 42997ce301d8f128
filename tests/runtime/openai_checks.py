"""What OpenAI's own Python client, as it is published, gets from p2pnode; ``tests/openai_js`` asks the same.

Each check raises AssertionError, or what the client raises, where something is not as it should be.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import openai
import pytest
from pydantic import BaseModel, ConfigDict, Field

VARIED = 1.8
"""A temperature at which the shipped model, which knows its few answers by heart, says something else each time."""
MESSAGES: Sequence[Any] = [{"role": "user", "content": "Where does a bear live?"}]


class Animal(BaseModel):
    """What an answer is held to."""

    model_config = ConfigDict(extra="forbid")
    animal: str = Field(max_length=12)
    age: int = Field(ge=0, le=9)


TOOL: Any = {
    "type": "function",
    "function": {"name": "place_of", "description": "Where it lives", "parameters": Animal.model_json_schema()},
}


class Asked:
    """One server, asked by the client."""

    def __init__(self, base_url: str) -> None:
        self.client = openai.OpenAI(base_url=base_url, api_key="none", max_retries=0, timeout=60)
        self.model = self.client.models.list().data[0].id

    def chat(self, **more: Any) -> Any:
        given: dict[str, Any] = {"model": self.model, "messages": MESSAGES, "max_tokens": 16, "seed": 1, **more}
        return self.client.chat.completions.create(**given)

    def said(self, **more: Any) -> str:
        return str(self.chat(**more).choices[0].message.content)

    def refused(self, kind: type[openai.APIStatusError], code: str, **more: Any) -> openai.APIStatusError:
        with pytest.raises(kind) as refused:
            self.chat(**more)
        assert refused.value.code == code
        return refused.value


def models(at: Asked) -> None:
    assert at.client.models.retrieve(at.model).id == at.model


def chat(at: Asked) -> None:
    answer = at.chat()
    assert answer.object == "chat.completion"
    assert answer.choices[0].message.content
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    session, _, task = answer.p2pnode["receipt"].partition("-")
    assert (len(session), task.isdigit()) == (64, True)


def chat_streamed(at: Asked) -> None:
    chunks = list(at.chat(stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == at.said()
    assert chunks[-1].choices[0].finish_reason in ("stop", "length")
    raw = at.client.chat.completions.with_raw_response.create(
        model=at.model, messages=MESSAGES, max_tokens=4, stream=True
    )
    assert raw.headers["content-type"].startswith("text/event-stream")
    assert raw.headers["x-receipt"].startswith(raw.headers["x-session-id"])
    assert float(raw.headers["x-overhead-ms"]) >= 0
    assert raw.http_response.read().decode().endswith("data: [DONE]\n\n")


def usage_of_stream(at: Asked) -> None:
    *chunks, last = at.chat(stream=True, stream_options={"include_usage": True})
    assert last.choices == []
    assert last.usage.completion_tokens == at.chat().usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks)


def n(at: Asked) -> None:
    choices = at.chat(n=2, max_tokens=24, temperature=VARIED).choices
    assert [choice.index for choice in choices] == [0, 1]
    assert choices[0].message.content != choices[1].message.content
    assert choices[0].message.content == at.said(max_tokens=24, temperature=VARIED)


def seed(at: Asked) -> None:
    assert at.said(seed=7, temperature=VARIED) == at.said(seed=7, temperature=VARIED)
    assert len({at.said(seed=number, temperature=VARIED) for number in range(5)}) > 1


def stop(at: Asked) -> None:
    whole = at.said(max_tokens=24)
    mark = whole[4:7]
    choice = at.chat(max_tokens=24, stop=[mark]).choices[0]
    assert choice.message.content == whole[: whole.index(mark)]
    assert choice.finish_reason == "stop"


def limits(at: Asked) -> None:
    assert at.chat(max_tokens=3).usage.completion_tokens == 3
    other = at.chat(max_tokens=openai.omit, max_completion_tokens=4)
    assert other.usage.completion_tokens == 4
    assert other.choices[0].finish_reason == "length"


def logprobs(at: Asked) -> None:
    answer = at.chat(logprobs=True, top_logprobs=2, max_tokens=3)
    told = answer.choices[0].logprobs.content
    assert len(told) == 3
    assert all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in told)
    assert b"".join(bytes(token.bytes) for token in told).decode() == answer.choices[0].message.content
    chunks = list(at.chat(logprobs=True, top_logprobs=2, max_tokens=3, stream=True))
    streamed = [token for chunk in chunks if (of := chunk.choices[0].logprobs) for token in of.content]
    assert streamed == told


def json_schema(at: Asked) -> None:
    parsed = at.client.chat.completions.parse(
        model=at.model, messages=MESSAGES, response_format=Animal, seed=1, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, Animal)


def json_mode(at: Asked) -> None:
    choice = at.chat(response_format={"type": "json_object"}, max_tokens=60).choices[0]
    assert choice.message.content.lstrip().startswith("{")
    assert choice.finish_reason == "length" or isinstance(json.loads(choice.message.content), dict)


def tools(at: Asked) -> None:
    wanted = {"type": "function", "function": {"name": "place_of"}}
    choice = at.chat(tools=[TOOL], tool_choice=wanted, max_tokens=200).choices[0]
    assert choice.finish_reason == "tool_calls"
    (call,) = choice.message.tool_calls
    Animal.model_validate_json(call.function.arguments)
    answer = {"role": "tool", "tool_call_id": call.id, "content": "in a wood"}
    turns = [*MESSAGES, choice.message.model_dump(exclude_none=True), answer]
    assert at.chat(messages=turns, tools=[TOOL]).object == "chat.completion"
    chunks = at.chat(tools=[TOOL], tool_choice="required", max_tokens=200, stream=True)
    parts = [part for chunk in chunks for part in chunk.choices[0].delta.tool_calls or ()]
    assert parts[0].function.name == "place_of"
    assert "".join(part.function.arguments for part in parts) == call.function.arguments


def completions(at: Asked) -> None:
    asked: dict[str, Any] = {"model": at.model, "prompt": ["Once upon", "A bear"], "max_tokens": 4, "seed": 3}
    choices = at.client.completions.create(**asked, n=2).choices
    assert [choice.index for choice in choices] == [0, 1, 2, 3]
    stream = at.client.completions.create(**{**asked, "prompt": "Once upon"}, stream=True, echo=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Once upon" + choices[0].text
    told = at.client.completions.create(**{**asked, "prompt": "Once upon"}, logprobs=1).choices[0].logprobs
    assert told is not None
    assert "".join(told.tokens or ()) == choices[0].text


def embeddings(at: Asked) -> None:
    packed = at.client.embeddings.create(model=at.model, input=["a bear", "a fox"])
    plain = at.client.embeddings.create(model=at.model, input="a bear", encoding_format="float")
    assert [each.index for each in packed.data] == [0, 1]
    assert packed.data[0].embedding == pytest.approx(plain.data[0].embedding, abs=1e-6)
    assert packed.data[0].embedding != packed.data[1].embedding
    assert packed.usage.prompt_tokens > plain.usage.prompt_tokens


def unknown_model(at: Asked) -> None:
    refused = at.refused(openai.NotFoundError, "model_not_found", model="nope")
    assert refused.param == "model"


def too_long(at: Asked) -> None:
    at.refused(openai.BadRequestError, "context_length_exceeded", max_tokens=30_000)
    at.refused(openai.BadRequestError, "context_length_exceeded", max_tokens=30_000, stream=True)


def out_of_range(at: Asked) -> None:
    refused = at.refused(openai.BadRequestError, "invalid_value", temperature=3)
    assert refused.param == "temperature"
    schema = {"name": "far", "schema": {"$ref": "http://example.com/schema"}}
    response_format = {"type": "json_schema", "json_schema": schema}
    at.refused(openai.BadRequestError, "invalid_json_schema", response_format=response_format)


def not_supported(at: Asked) -> None:
    refused = at.refused(openai.BadRequestError, "unsupported_value", logit_bias={"5": 1})
    assert refused.param == "logit_bias"


def broken_off(at: Asked) -> None:
    stream = at.chat(stream=True, max_tokens=200)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    assert at.said()


CHECKS: Mapping[str, Callable[[Asked], None]] = {
    "models": models,
    "chat": chat,
    "chat, streamed": chat_streamed,
    "usage at a stream's end": usage_of_stream,
    "n": n,
    "seed": seed,
    "stop": stop,
    "max_tokens and max_completion_tokens": limits,
    "logprobs": logprobs,
    "JSON schema": json_schema,
    "JSON mode": json_mode,
    "tools that have to be called": tools,
    "completions": completions,
    "embeddings": embeddings,
    "unknown model: 404": unknown_model,
    "prompt too long: 400": too_long,
    "value out of range: 400": out_of_range,
    "not supported: 400": not_supported,
    "a stream is broken off": broken_off,
}
"""By name, as the table in the README has them."""

"""What comes over HTTP: OpenAI's request bodies. What they do not name is ignored, as OpenAI does it."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from protocol.messages.sampling import STOP_SEQUENCES_MAX, TOP_LOGPROBS_MAX

CHOICES_MAX = 16
TOKENS_MAX = 1_000_000
MESSAGES_MAX = 4_096
TOOLS_MAX = 128
SEED_MIN, SEED_MAX = -(2**63), 2**63 - 1

Stop = str | Annotated[list[str], Field(max_length=STOP_SEQUENCES_MAX)] | None
Text = Annotated[str, Field(max_length=524_288)]


class Body(BaseModel):
    """Of a request: a number is no text, and the other way round."""

    model_config = ConfigDict(strict=True, extra="ignore")

    @field_validator("*", mode="before")
    @classmethod
    def whole(cls, value: Any) -> Any:
        """To JSON 16.0 is 16."""
        return int(value) if isinstance(value, float) and value.is_integer() else value


class Part(Body):
    """A piece of a message's content; only text can be taken."""

    type: str
    text: Text | None = None


class CalledFunction(Body):
    """What the assistant called."""

    name: str
    arguments: Text = ""
    """JSON text."""


class ToolCall(Body):
    """One call of the assistant's."""

    id: str = Field(max_length=64)
    type: Literal["function"] = "function"
    function: CalledFunction


class Turn(Body):
    """One message of the conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text | list[Part] | None = None
    tool_calls: list[ToolCall] | None = Field(None, max_length=TOOLS_MAX)
    tool_call_id: str | None = Field(None, max_length=64)


class Function(Body):
    """What the assistant may call."""

    name: str = Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema."""
    strict: bool | None = None


class Tool(Body):
    """One tool."""

    type: Literal["function"]
    function: Function


class NamedFunction(Body):
    """Of a tool_choice."""

    name: str


class NamedTool(Body):
    """The one tool that has to be called."""

    type: Literal["function"]
    function: NamedFunction


class JsonSchema(Body):
    """What the answer has to hold to."""

    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None


class ResponseFormat(Body):
    """Whether the answer is any text, a JSON object, or JSON that holds to a schema."""

    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None


class StreamOptions(Body):
    """How a stream ends."""

    include_usage: bool | None = None


class Sampled(Body):
    """What requests for answers have in common."""

    model: str = Field(max_length=256)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=CHOICES_MAX)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, ge=0, le=1)
    top_k: int | None = Field(None, ge=0, le=1_024)
    min_p: float | None = Field(None, ge=0, le=1)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    repetition_penalty: float | None = Field(None, ge=0.5, le=2)
    seed: int | None = Field(None, ge=SEED_MIN, le=SEED_MAX)
    stop: Stop = None
    max_tokens: int | None = Field(None, ge=1, le=TOKENS_MAX)
    logit_bias: dict[str, float] | None = None
    user: str | None = None


class ChatRequest(Sampled):
    """``POST /v1/chat/completions``."""

    messages: list[Turn] = Field(min_length=1, max_length=MESSAGES_MAX)
    max_completion_tokens: int | None = Field(None, ge=1, le=TOKENS_MAX)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS_MAX)
    response_format: ResponseFormat | None = None
    tools: list[Tool] | None = Field(None, max_length=TOOLS_MAX)
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None
    audio: dict[str, Any] | None = None
    web_search_options: dict[str, Any] | None = None
    functions: list[dict[str, Any]] | None = None
    function_call: str | dict[str, Any] | None = None


class CompletionRequest(Sampled):
    """``POST /v1/completions``."""

    prompt: Text | list[Text] | list[int] | list[list[int]]
    logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS_MAX)
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = Field(None, ge=1, le=20)


class EmbeddingRequest(Body):
    """``POST /v1/embeddings``."""

    model: str = Field(max_length=256)
    input: Text | list[Text] | list[int] | list[list[int]]
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = Field(None, ge=1)
    user: str | None = None

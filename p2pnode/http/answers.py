"""OpenAI's response bodies, made of verified answers."""

from collections.abc import Sequence
from typing import Any

from p2pnode.answer import LikelyToken, TokenLogprob
from p2pnode.http.asking import Over, Wish
from p2pnode.http.service import Request
from p2pnode.http.toolcalls import CallArguments, CallBegun, Told, Words

FINISH = {"stop": "stop", "length": "length", "cancelled": "stop"}


def usage(overs: Sequence[Over], n: int = 1) -> dict[str, Any]:
    """What the miners signed that it took; a prompt counts once, however many answers it has."""
    prompt, cached = dict[int, int](), dict[int, int]()
    for over in overs:
        place = over.choice // n
        prompt[place] = max(prompt.get(place, 0), over.prompt_tokens)
        cached[place] = max(cached.get(place, 0), over.cached_tokens)
    completion = sum(over.completion_tokens for over in overs)
    return {
        "prompt_tokens": sum(prompt.values()),
        "completion_tokens": completion,
        "total_tokens": sum(prompt.values()) + completion,
        "prompt_tokens_details": {"cached_tokens": sum(cached.values())},
    }


def provenance(over: Over) -> dict[str, Any]:
    """What a verifying client wants to know of an answer."""
    return {
        "session": over.session.hex(),
        "task": over.task,
        "receipt": over.receipt,
        "level": over.answer.level,
        "miner": f"0x{over.miner.hex()}",
        "router": f"0x{over.router.hex()}",
        "segments": len(over.answer.heads),
    }


def headers(request: Request) -> dict[str, str]:
    """Of a response that has begun."""
    told = {"x-overhead-ms": f"{request.overhead_ms:.1f}", "x-attempts": str(request.attempts)}
    if request.tasks:
        session, task, miner = request.tasks[0]
        told["x-session-id"] = session.hex()
        told["x-miner-peer"] = f"0x{miner.hex()}"
        told["x-receipt"] = f"{session.hex()}-{task}"
    return told


def fingerprint(wish: Wish) -> str:
    """Changes with the weights."""
    return f"p2pnode-{wish.model[:16]}"


def delta(told: Told) -> dict[str, Any]:
    """What one chunk of a chat adds."""
    match told:
        case Words():
            return {"content": told.text}
        case CallBegun():
            function = {"name": told.name, "arguments": ""}
            return {"tool_calls": [{"index": told.index, "id": told.id, "type": "function", "function": function}]}
        case CallArguments():
            return {"tool_calls": [{"index": told.index, "function": {"arguments": told.text}}]}


def message(told: Sequence[Told]) -> dict[str, Any]:
    """A chat's whole answer."""
    calls: list[dict[str, Any]] = []
    words = ""
    for each in told:
        match each:
            case Words():
                words += each.text
            case CallBegun():
                function = {"name": each.name, "arguments": ""}
                calls.append({"id": each.id, "type": "function", "function": function})
            case CallArguments():
                calls[each.index]["function"]["arguments"] += each.text
    made: dict[str, Any] = {"role": "assistant", "content": words if words or not calls else None, "refusal": None}
    return {**made, "tool_calls": calls} if calls else made


def chat_logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    """As chats have them."""
    listed = [{**_likely(token), "top_logprobs": [_likely(top) for top in token.top]} for token in tokens]
    return {"content": listed, "refusal": None}


def completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """As completions have them; ``offset`` is where the text of the first stands in the answer."""
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(_text(token.text))
    return {
        "tokens": [_text(token.text) for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [{_text(top.text): top.logprob for top in token.top} for token in tokens],
        "text_offset": offsets,
    }


def _likely(token: TokenLogprob | LikelyToken) -> dict[str, Any]:
    return {"token": _text(token.text), "logprob": token.logprob, "bytes": list(token.text)}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")

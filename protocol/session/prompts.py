"""What a prompt may be, whoever looks: the client before it orders, the router and the miner before they run it."""

from protocol.core.params import Params
from protocol.messages.tasks import Prompt


def prompt_bytes(prompt: Prompt) -> int:
    """What there is to read of a prompt: texts, calls and tools."""
    turns = sum(len((turn.content + turn.calls + turn.call_id).encode()) for turn in prompt.messages)
    return turns + len(prompt.tools.encode()) + len(prompt.sampling.schema.encode())


def find_prompt_fault(params: Params, prompt: Prompt) -> str | None:
    """Why nobody in the network runs it, or None. Spec: [ORDER-PLAIN.1]"""
    if not any(turn.content for turn in prompt.messages):
        return "the prompt is empty"
    if len(prompt.messages) > params.messages_per_prompt_max:
        return f"a prompt has at most {params.messages_per_prompt_max} messages"
    if prompt_bytes(prompt) > params.prompt_bytes_max:
        return f"a prompt has at most {params.prompt_bytes_max} bytes"
    if not any(turn.role == "plain" for turn in prompt.messages):
        return None
    if len(prompt.messages) > 1 or prompt.tools:
        return "a plain prompt stands alone: no other message, and no tools, go with it"
    return "a plain prompt calls no tools" if prompt.messages[0].calls or prompt.messages[0].call_id else None

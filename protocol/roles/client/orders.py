"""From a wish to a signed order's content, and what no router would take is refused before it leaves."""

from protocol.core.codec import pack, unpack
from protocol.core.errors import DecodeError
from protocol.core.params import Params
from protocol.messages.tasks import Prompt, TaskOrder
from protocol.roles.client.events import AskTask
from protocol.roles.client.state import Session
from protocol.session.prompts import find_prompt_fault

U32_MAX = 2**32 - 1
WEI_MAX = 2**63 - 1
PROMPT_PACKED_BYTES_MAX = 1 << 20


def prompt_of(ask: AskTask) -> Prompt:
    """What the order commits to."""
    return Prompt(ask.nonce, ask.messages, ask.sampling, ask.tools)


def find_fault(params: Params, ask: AskTask) -> str | None:
    """Why every router of the network would refuse the order, or None."""
    if not 0 < ask.max_tokens <= params.tokens_per_task_max:
        return f"max_tokens must be from 1 to {params.tokens_per_task_max}"
    if not 0 < ask.timeout_ms <= U32_MAX:
        return "the time given must be positive"
    prompt = prompt_of(ask)
    try:
        if ask.messages:
            unpack(Prompt, pack(prompt), limit_bytes=PROMPT_PACKED_BYTES_MAX)
        return find_prompt_fault(params, prompt)
    except (DecodeError, ValueError, OverflowError) as error:
        # A role or a sampling value that does not exist, or half a character: the wire has no place for it.
        return f"the prompt cannot be sent: {error}"


def order_of(session: Session, number: int, ask: AskTask, prompt: Prompt) -> TaskOrder:
    """The order as it is signed."""
    return TaskOrder(
        session=session.id,
        task=number,
        home_epoch=session.router.followed.epoch,
        prompt=prompt.commitment(),
        sampling=ask.sampling.digest(),
        seed=ask.seed,
        max_tokens=ask.max_tokens,
        cap_wei=min(session.opening.price_cap_wei * ask.max_tokens, WEI_MAX),
    )

"""``p2pnode`` itself, whose engine is the fake at a pace of its own: ``python -m tests.runtime.patient_miner run …``.

So an answer takes as long as it takes, and a signal that is sent at its first token arrives in its middle.
"""

import sys
from contextlib import AbstractAsyncContextManager
from functools import partial

from p2pnode import node
from p2pnode.cli.entry import main
from p2pnode.engine.api import Engine, EngineConfig
from p2pnode.engine.fake import FakeConfig, open_fake_engine

TOKEN_S = 0.01


def patient(config: EngineConfig) -> AbstractAsyncContextManager[Engine]:
    """Answers of any length, a token each ten milliseconds at most."""
    return open_fake_engine(FakeConfig(slots=config.slots, token_s=TOKEN_S, answer_tokens=1 << 30))


if __name__ == "__main__":
    node.open_node = partial(node.open_node, engine=patient)
    sys.exit(main())

"""An oracle of a network whose committee moves on with every epoch: ``python -m tests.runtime.turning_oracle run …``.

It takes the place of ``p2pnode``. Who follows whom is no chain's word here: the oracles of the testnet, in the order of
their names, take turns. All else is the product's own.
"""

import json
import sys
from functools import partial
from os import environ
from pathlib import Path

from p2pnode import oracle
from p2pnode.cli import entry
from p2pnode.testnet import KEYSTORE
from protocol.committee.members import Committee
from protocol.core.ids import NodeId
from protocol.ledger import Ledger
from tests.runtime import listening_oracle


def everybody(folder: Path) -> tuple[NodeId, ...]:
    """The oracles of a testnet."""
    keys = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(f"oracle-*/{KEYSTORE}")))
    return tuple(NodeId(bytes.fromhex(str(key["address"]).removeprefix("0x"))) for key in keys)


def follow(oracles: tuple[NodeId, ...], committee: Committee) -> tuple[NodeId, ...]:
    """The next committee: each epoch one comes and one goes."""
    size = len(committee.members)
    return tuple(oracles[(committee.epoch + place) % len(oracles)] for place in range(size))


if __name__ == "__main__":
    state_dir = Path(environ["P2PNODE_NODE_STATE_DIR"])
    turning = partial(Ledger, follow=partial(follow, everybody(state_dir.parent)))
    oracle.Ledger = turning  # type: ignore[attr-defined, assignment]
    listening_oracle.listen(state_dir / listening_oracle.HEARD)
    sys.exit(entry.main())

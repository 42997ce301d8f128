"""Whether a network's epochs are long enough for a chain: measured, and refused with what would do."""

from dataclasses import replace
from typing import Any, cast

import pytest

from chain.endpoint import Refused
from chain.pace import EpochsTooShort, check_pace, measured_pace_ms
from chain.replies import Block, Failure
from chain.rpc import Rpc
from protocol.core.genesis import Genesis
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.settlement.pace import least_epoch_ms, shortest_epoch_ms

COMMITTEE = tuple(NodeId(bytes([place]) * 20) for place in range(1, 5))


class Chain:
    """As much of an Rpc as is asked: blocks of a steady chain."""

    def __init__(self, head: int, block_s: int, final_lag: int | None) -> None:
        self._head, self._block_s, self._final_lag = head, block_s, final_lag

    def call(self, _method: str, params: list[Any], _kind: Any) -> Block:
        at = params[0]
        if at == "finalized" and self._final_lag is None:
            raise Refused("x", "eth_getBlockByNumber", Failure(-32602, "unknown block"))
        named = {"latest": self._head, "finalized": self._head - (self._final_lag or 0)}
        number = named[at] if at in named else int(at, 16)
        return Block(hex(number), "0x", "0x", hex(1_000_000 + number * self._block_s), "0x")


def rpc(head: int = 1_000, block_s: int = 12, final_lag: int | None = 64) -> Rpc:
    return cast(Rpc, Chain(head, block_s, final_lag))


@pytest.mark.spec("SETTLE-PACE.1")
def test_a_chain_is_measured_by_its_last_blocks() -> None:
    assert measured_pace_ms(rpc()) == (12_000, 768_000)
    assert measured_pace_ms(rpc(final_lag=None)) == (12_000, 0)
    assert measured_pace_ms(rpc(head=5)) == (0, 0)


@pytest.mark.spec("SETTLE-PACE.1")
def test_what_an_epoch_waits_for() -> None:
    params = Params(turn_ms=10_000, anchor_stride=8, resend_interval_ms=2_000)
    # Two transactions wait for one silent member each; 1 + 8 + 1 + 8 blocks; the last of them becomes final.
    assert least_epoch_ms(params, 1_000, 5_000, 4) == 20_000 + 18_000 + 5_000 + 4_000
    assert least_epoch_ms(params, 1_000, 5_000, 7) == 40_000 + 18_000 + 5_000 + 4_000
    assert shortest_epoch_ms(Params(epoch_blocks=50, block_interval_ms_min=300)) == 15_000


@pytest.mark.spec("SETTLE-PACE.1")
def test_a_network_that_is_too_fast_for_its_chain_is_told_what_would_do() -> None:
    genesis = Genesis("pace", committee=COMMITTEE)
    check_pace(rpc(block_s=1, final_lag=2), genesis)
    with pytest.raises(EpochsTooShort) as caught:
        check_pace(rpc(), genesis)
    assert caught.value.hint is not None
    blocks = int(caught.value.hint.split("epoch_blocks of ")[1].split()[0])
    check_pace(rpc(), replace(genesis, params=replace(genesis.params, epoch_blocks=blocks)))
    with pytest.raises(EpochsTooShort):
        check_pace(rpc(), replace(genesis, params=replace(genesis.params, epoch_blocks=blocks - 1)))

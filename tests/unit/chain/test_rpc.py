"""Several endpoints as one: who is asked, who is believed, and who is left out."""

import pytest

from chain.endpoint import Refused
from chain.errors import ChainError, ChainUnreachable, HistoryChanged, RpcNonsense, WrongChain
from chain.finality import Finality
from chain.rpc import CHECK_EVERY_S, OUTVOTED_S, RETRY_MAX_S, STALE_S, Rpc
from protocol.core.errors import ParameterError
from tests.unit.chain.scripted import SECONDS, Clock, ScriptedChain, ScriptedEndpoint, rpc_of


def chain_of(blocks: int, depth: int = 0) -> ScriptedChain:
    chain = ScriptedChain(depth)
    chain.mine(count=blocks)
    return chain


def head_of(rpc: Rpc) -> int:
    return rpc.number("eth_blockNumber", [])


def test_the_first_that_answers_is_asked() -> None:
    chain = chain_of(3)
    first, second = ScriptedEndpoint(chain), ScriptedEndpoint(chain)
    rpc = rpc_of(first, second)
    assert head_of(rpc) == 3
    assert "eth_blockNumber" not in second.asked
    first.down = True
    assert head_of(rpc) == 3
    assert "eth_blockNumber" in second.asked


def test_nobody_answers_and_then_somebody_does() -> None:
    endpoint, clock = ScriptedEndpoint(chain_of(3), down=True), Clock()
    rpc = rpc_of(endpoint, clock=clock)
    for _ in range(6):
        with pytest.raises(ChainUnreachable, match="http://0: connection refused"):
            head_of(rpc)
        clock.now += RETRY_MAX_S
    assert not rpc.health()[0].usable
    endpoint.down = False
    clock.now += RETRY_MAX_S
    assert head_of(rpc) == 3
    assert rpc.health()[0].usable


def test_an_outage_does_not_cost_a_call_each_time() -> None:
    endpoint, clock = ScriptedEndpoint(chain_of(3)), Clock()
    rpc = rpc_of(endpoint, clock=clock)
    assert head_of(rpc) == 3
    endpoint.down = True
    for _ in range(2):
        with pytest.raises(ChainUnreachable):
            head_of(rpc)
    endpoint.down = False
    with pytest.raises(ChainUnreachable):  # it is left alone for a moment
        head_of(rpc)


@pytest.mark.spec("CHAIN-ENDPOINT.1")
def test_an_endpoint_of_another_chain_is_not_used() -> None:
    chain = chain_of(3)
    other = ScriptedEndpoint(chain_of(9), chain_id=1)
    assert head_of(rpc_of(other, ScriptedEndpoint(chain))) == 3
    with pytest.raises(WrongChain, match="is of the chain 1, the genesis names 5") as caught:
        head_of(rpc_of(other))
    assert caught.value.hint is not None


def test_an_endpoint_that_becomes_one_of_another_chain_is_noticed() -> None:
    endpoint, clock = ScriptedEndpoint(chain_of(3)), Clock()
    rpc = rpc_of(endpoint, clock=clock)
    assert head_of(rpc) == 3
    endpoint.chain_id = 1
    clock.now += CHECK_EVERY_S
    with pytest.raises(WrongChain):
        head_of(rpc)


@pytest.mark.spec("CHAIN-ENDPOINT.1")
def test_an_endpoint_that_stands_still_is_not_used_while_another_moves() -> None:
    chain = chain_of(STALE_S // SECONDS + 5)
    still = ScriptedEndpoint(chain, stopped_at=2)
    rpc = rpc_of(still, ScriptedEndpoint(chain))
    assert head_of(rpc) == chain.head.number
    assert [health.usable for health in rpc.health()] == [False, True]
    assert "stands still at block 2" in rpc.health()[0].trouble
    assert head_of(rpc_of(still)) == 2  # alone, it may be the chain that stands still


@pytest.mark.parametrize(
    "answer", [7, "7", "0x", "0xzz", "-0x1", "0x" + "f" * 65, None, {"number": "0x1"}, [[[[[]]]]]], ids=repr
)
def test_what_is_no_answer_is_none(answer: object) -> None:
    endpoint = ScriptedEndpoint(chain_of(3), false={"eth_chainId": answer})
    with pytest.raises(ChainUnreachable, match="http://0"):
        head_of(rpc_of(endpoint))


def test_what_reverts_is_asked_of_one_alone() -> None:
    chain = chain_of(3)
    first = ScriptedEndpoint(chain, refuse=lambda method: "execution reverted: old" if method == "eth_call" else None)
    second = ScriptedEndpoint(chain)
    with pytest.raises(Refused, match="old"):
        rpc_of(first, second).call("eth_call", [{"data": "0x"}, "latest"], str)
    assert "eth_call" not in second.asked


def test_what_one_cannot_say_another_is_asked() -> None:
    chain = chain_of(3)
    behind = ScriptedEndpoint(chain, refuse=lambda method: "header not found" if method == "eth_call" else None)
    assert rpc_of(behind, ScriptedEndpoint(chain)).call("eth_call", [{"data": "0x"}, "latest"], str) == "0x"


def test_urls_are_bounded() -> None:
    with pytest.raises(ParameterError):
        rpc_of()
    with pytest.raises(ParameterError):
        rpc_of(*[ScriptedEndpoint(chain_of(1)) for _ in range(9)])


# What is final


@pytest.mark.spec("CHAIN-FINAL.1")
def test_the_chains_own_mark_is_believed() -> None:
    chain = chain_of(10, depth=4)
    block = Finality(rpc_of(ScriptedEndpoint(chain))).finalized()
    assert (block.number, block.hash) == (6, chain.blocks[6].hash)


@pytest.mark.spec("CHAIN-FINAL.1")
def test_where_there_is_no_mark_so_many_blocks_must_follow() -> None:
    chain = chain_of(10)
    endpoint = ScriptedEndpoint(chain)
    assert Finality(rpc_of(endpoint), confirmations=3).finalized().number == 7
    assert Finality(rpc_of(endpoint), confirmations=30).finalized().number == 0


def test_it_is_never_guessed_that_there_is_no_mark() -> None:
    chain = chain_of(10)

    class Unmarked(ScriptedEndpoint):
        def _number(self, at: str) -> int:
            if at == "finalized":
                raise LookupError("invalid block tag")
            return super()._number(at)

    with pytest.raises(ChainError, match="invalid block tag") as caught:
        Finality(rpc_of(Unmarked(chain))).finalized()
    assert "confirmations" in str(caught.value.hint)


def test_of_three_one_that_claims_more_is_outvoted() -> None:
    chain = chain_of(10, depth=4)
    ahead = ScriptedChain(depth=0)
    ahead.mine(count=9)
    endpoints = ScriptedEndpoint(ahead), ScriptedEndpoint(chain), ScriptedEndpoint(chain)
    block = Finality(rpc_of(*endpoints)).finalized()
    assert (block.number, block.hash) == (6, chain.blocks[6].hash)


def test_of_three_one_with_another_hash_is_left_out_for_a_while() -> None:
    chain, clock = chain_of(10, depth=4), Clock()
    liar = ScriptedEndpoint(chain, forged={6: b"\x66" * 32})
    rpc = rpc_of(liar, ScriptedEndpoint(chain), ScriptedEndpoint(chain), clock=clock)
    assert Finality(rpc).finalized().hash == chain.blocks[6].hash
    assert [health.usable for health in rpc.health()] == [False, True, True]
    assert "contradicts the others" in rpc.health()[0].trouble
    clock.now += OUTVOTED_S
    assert rpc.health()[0].usable


@pytest.mark.spec("CHAIN-FINAL.1")
def test_of_two_that_contradict_each_other_neither_is_believed() -> None:
    chain = chain_of(10, depth=4)
    endpoints = ScriptedEndpoint(chain, forged={6: b"\x66" * 32}), ScriptedEndpoint(chain)
    with pytest.raises(RpcNonsense, match="contradict each other"):
        Finality(rpc_of(*endpoints)).finalized()


@pytest.mark.spec("CHAIN-FINAL.1")
def test_what_is_final_never_sinks_and_never_changes() -> None:
    chain = chain_of(10, depth=4)
    endpoint, clock = ScriptedEndpoint(chain), Clock()
    finality = Finality(rpc_of(endpoint, clock=clock))
    assert finality.finalized().number == 6
    endpoint.stopped_at = 7  # it forgot some blocks
    assert finality.finalized().number == 6
    endpoint.stopped_at = 5
    with pytest.raises(ChainUnreachable, match="behind, or the chain was started anew"):
        finality.finalized()
    endpoint.stopped_at = None
    chain.reorganise(6)
    with pytest.raises(HistoryChanged, match="block 6 was final with another hash"):
        chain.depth = 5
        finality.finalized()


def test_a_block_that_is_not_final_is_not_told() -> None:
    chain = chain_of(10, depth=4)
    finality = Finality(rpc_of(ScriptedEndpoint(chain)))
    assert finality.block_at(2).hash == chain.blocks[2].hash
    with pytest.raises(ChainUnreachable, match="not final yet"):
        finality.block_at(7)

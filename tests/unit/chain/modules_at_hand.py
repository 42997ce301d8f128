"""The modules that contracts share, called by themselves; and tokens of all manners for the contracts to take."""

from functools import cache

import vyper
from vyper.compiler.input_bundle import FilesystemInputBundle
from vyper.compiler.settings import Settings

from chain.artifacts import COMPILER, EVM_VERSION, SOURCES, Artifact

MODULES = """
# pragma version 0.4.3
import election
import trees

@external
@view
def elect(seed: bytes32, weights: DynArray[uint256, 128], size_max: uint256) -> DynArray[uint256, 31]:
    return election._elect(seed, weights, size_max)

@external
@view
def places(candidates: uint256, size_max: uint256) -> uint256:
    return election._places(candidates, size_max)

@external
@view
def draw_seed(network_id: bytes32, epoch: uint256, block_hash: bytes32) -> bytes32:
    return election._seed(network_id, epoch, block_hash)

@external
@view
def results_hold(root: bytes32, count: uint64, outcome: trees.Outcome, proof: trees.ResultProof) -> bool:
    return trees._results_hold(root, count, outcome, proof)

@external
@view
def sparse_root(key_hash: bytes32, value_hash: bytes32, siblings: DynArray[bytes32, 96]) -> bytes32:
    return trees._sparse_root(key_hash, value_hash, siblings)
"""

TOKEN = """
# pragma version 0.4.3
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])

@external
def mint(to: address, amount: uint256):
    self.balanceOf[to] += amount

@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowance[msg.sender][spender] = amount
    return True

@external
def transfer(to: address, amount: uint256){returns}:
    self.balanceOf[msg.sender] -= amount
    self.balanceOf[to] += amount{kept}
    {answer}

@external
def transferFrom(giver: address, to: address, amount: uint256){returns}:
    self.allowance[giver][msg.sender] -= amount
    self.balanceOf[giver] -= amount
    self.balanceOf[to] += amount{kept}
    {answer}
"""

TOKENS = {
    "plain": {"returns": " -> bool", "answer": "return True", "kept": ""},
    "says nothing": {"returns": "", "answer": "pass", "kept": ""},
    "says no": {"returns": " -> bool", "answer": "return False", "kept": ""},
    "takes a fee": {"returns": " -> bool", "answer": "return True", "kept": " - amount // 100"},
}
"""Tokens by what is odd about them."""


@cache
def compiled(source: str) -> Artifact:
    """A contract of a test."""
    out = vyper.compiler.compile_code(
        source,
        output_formats=["abi", "bytecode", "bytecode_runtime"],
        input_bundle=FilesystemInputBundle([SOURCES]),
        settings=Settings(evm_version=EVM_VERSION),
    )
    code, runtime = (bytes.fromhex(out[name][2:]) for name in ("bytecode", "bytecode_runtime"))
    return Artifact("", out["abi"], code, runtime, "", COMPILER)


def modules() -> Artifact:
    """The functions of the modules, each callable."""
    return compiled(MODULES)


def token(manner: str) -> Artifact:
    """A token of one of the :data:`TOKENS`' manners."""
    return compiled(TOKEN.format(**TOKENS[manner]))

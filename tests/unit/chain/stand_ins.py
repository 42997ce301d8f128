"""Small contracts that stand beside those under test: a registry that notes, tokens that misbehave, payees that call
back. They are compiled from here, as nothing of them is ever deployed."""

from functools import cache

from chain.artifacts import EVM_VERSION, Artifact

_TOKEN = """
balanceOf: public(HashMap[address, uint256])
allowance: public(HashMap[address, HashMap[address, uint256]])
told: address
data: Bytes[4096]
failed: public(bool)
asked: public(uint256)

@external
def mint(to: address, amount: uint256):
    self.balanceOf[to] += amount

@external
def approve(spender: address, amount: uint256) -> bool:
    self.allowance[msg.sender][spender] = amount
    return True

@external
def tell(told: address, data: Bytes[4096]):
    self.told = told
    self.data = data

@internal
def _move(giver: address, to: address, amount: uint256, kept: uint256):
    self.balanceOf[giver] -= amount
    self.balanceOf[to] += amount - kept
    if self.told != empty(address):
        self.asked += 1
        self.failed = not raw_call(self.told, self.data, revert_on_failure=False)
"""
"""``tell``: whom a transfer calls meanwhile, as tokens with hooks do."""

_HONEST = """
@external
def transfer(to: address, amount: uint256) -> bool:
    self._move(msg.sender, to, amount, 0)
    return True

@external
def transferFrom(giver: address, to: address, amount: uint256) -> bool:
    self.allowance[giver][msg.sender] -= amount
    self._move(giver, to, amount, 0)
    return True
"""

SOURCES = {
    "registry": """
event Told:
    node: address
    evidence: bytes32
    reporter: address

@external
def slash(node: address, evidence: bytes32, reporter: address):
    log Told(node=node, evidence=evidence, reporter=reporter)
""",
    "token": _TOKEN + _HONEST,
    "silent token": _TOKEN + _HONEST.replace(" -> bool", "").replace("    return True\n", ""),
    "false token": _TOKEN + _HONEST.replace("    return True\n", "    return False\n"),
    "fee token": _TOKEN + _HONEST.replace("amount, 0)", "amount, amount // 100)"),
    "payee": """
told: address
data: Bytes[4096]
refuses: bool
burns: bool
failed: public(bool)
asked: public(uint256)

@external
def be(told: address, data: Bytes[4096], refuses: bool, burns: bool):
    self.told = told
    self.data = data
    self.refuses = refuses
    self.burns = burns

@external
@payable
def ask(told: address, data: Bytes[4096]):
    raw_call(told, data, value=msg.value)

@external
@payable
def __default__():
    assert not self.refuses
    assert not self.burns, UNREACHABLE
    if self.told != empty(address):
        self.asked += 1
        self.failed = not raw_call(self.told, self.data, revert_on_failure=False)
""",
}


@cache
def stand_in(name: str) -> Artifact:
    """A stand-in, compiled."""
    import vyper
    from vyper.compiler.settings import Settings

    settings = Settings(evm_version=EVM_VERSION)
    made = vyper.compile_code(SOURCES[name], output_formats=["abi", "bytecode"], settings=settings)
    return Artifact(name, made["abi"], bytes.fromhex(made["bytecode"][2:]), b"", "", "")

# pragma version 0.4.3
"""
@title Money
@license Apache-2.0
@notice The coin or the one ERC-20 token that a network settles in, counted in the ledger's units.
@dev Tokens that return nothing are taken as well; one that delivers less than it was told to is refused.
     Spec: [CONTRACT-MONEY.1]
"""

from ethereum.ercs import IERC20

UNITS_MAX: constant(uint256) = 2**62

TOKEN: immutable(address)
UNIT: immutable(uint256)


@deploy
def __init__(token: address, unit: uint256):
    """
    @param token Zero for the chain's own coin.
    @param unit What one unit is in the smallest parts of coin or token.
    """
    assert unit > 0 and unit <= 2**128, "unit"
    assert token == empty(address) or token.is_contract, "token"
    TOKEN = token
    UNIT = unit


@internal
@payable
def _take(units: uint256):
    """
    @notice Take so much from the sender: of the coin exactly what is sent along, of a token what it approved.
    """
    assert units > 0 and units <= UNITS_MAX, "amount"
    amount: uint256 = units * UNIT
    if TOKEN == empty(address):
        assert msg.value == amount, "value"
        return
    assert msg.value == 0, "value"
    before: uint256 = staticcall IERC20(TOKEN).balanceOf(self)
    assert extcall IERC20(TOKEN).transferFrom(msg.sender, self, amount, default_return_value=True), "transfer"
    assert staticcall IERC20(TOKEN).balanceOf(self) - before == amount, "transfer fee"


@internal
def _pay(to: address, units: uint256):
    """
    @notice Pay so much to an address. The last thing that a function does.
    """
    amount: uint256 = units * UNIT
    if TOKEN == empty(address):
        assert raw_call(to, b"", value=amount, revert_on_failure=False), "payee"
    else:
        assert extcall IERC20(TOKEN).transfer(to, amount, default_return_value=True), "transfer"

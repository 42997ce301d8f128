# pragma version 0.4.3
"""
@title Escrow
@license Apache-2.0
@notice The money of a network's ledger: paid in by numbered deposits, paid out by what a usable header's ledger says.
@dev What an account can be paid in all never falls, and what it was paid is kept, so an old proof pays nothing. Once
     the committee is dead, the first exit or refund fixes one header for ever: all others go by the same one, so
     nothing is given back twice. All amounts are in the ledger's units.
"""

import headers
import money
import signing
import trees

initializes: signing
initializes: money


interface Checkpoints:
    def usable(digest: bytes32) -> bool: view
    def last_usable(digest: bytes32, next: bytes32) -> bool: view
    def paused() -> bool: view
    def dead() -> bool: view
    def declare_dead(): nonpayable


event Deposited:
    number: indexed(uint256)
    account: indexed(address)
    amount: uint256


event Paid:
    account: indexed(address)
    amount: uint256
    total: uint256


event Refunded:
    number: indexed(uint256)
    account: indexed(address)
    amount: uint256


event Closed:
    digest: indexed(bytes32)
    deposits: uint256


struct Account:
    balance: uint256
    reserved: uint256
    withdrawable: uint256
    nonce_from: uint256


struct Closing:
    closed: bool
    digest: bytes32
    ledger_root: bytes32
    deposits: uint256


ACCOUNTS: constant(uint256) = 0  # The section of the ledger that holds accounts.

CHECKPOINTS: public(immutable(address))
DEPOSIT_MIN: public(immutable(uint256))

deposit_count: public(uint256)
deposited: public(uint256)
paid_out: public(uint256)
paid: public(HashMap[address, uint256])
exited: public(HashMap[address, bool])
closing: public(Closing)

_deposits: HashMap[uint256, uint256]  # amount, account: 96 and 160 bits


@deploy
def __init__(
    network_id: bytes32,
    chain_id: uint256,
    checkpoints: address,
    token: address,
    unit: uint256,
    deposit_min: uint256,
):
    """
    @param token Zero for the chain's own coin.
    @param unit What one unit of the ledger is in the smallest parts of coin or token.
    @param deposit_min In units: what makes it dear to fill the ledger's blocks with deposits.
    """
    signing.__init__(network_id, chain_id)
    money.__init__(token, unit)
    assert checkpoints != empty(address), "checkpoints"
    CHECKPOINTS = checkpoints
    DEPOSIT_MIN = deposit_min


@external
@payable
@nonreentrant
def deposit(account: address, amount: uint256) -> uint256:
    """
    @notice Pay in for an account of the ledger, which has it once the ledger has taken the deposit in.
    @dev Spec: [ESCROW-DEPOSIT.1] [ESCROW-DEPOSIT.2]
    @return The deposit's number, from 1.
    """
    assert account != empty(address), "account"
    assert amount > 0 and amount >= DEPOSIT_MIN, "too little"
    # Of all deposits ever, so that no sum of the ledger is more than it can sign.
    assert amount <= money.UNITS_MAX - self.deposited, "too much"
    assert not staticcall Checkpoints(CHECKPOINTS).dead(), "dead"
    number: uint256 = self.deposit_count + 1
    self.deposit_count = number
    self.deposited += amount
    self._deposits[number] = (amount << 160) | convert(account, uint256)
    log Deposited(number=number, account=account, amount=amount)
    money._take(amount)
    return number


@external
@nonreentrant
def withdraw(
    header: headers.Header,
    account: address,
    words: Account,
    siblings: DynArray[bytes32, trees.SIBLINGS_MAX],
    sections: DynArray[bytes32, trees.SECTIONS_MAX],
):
    """
    @notice Pay an account what is withdrawable by a usable header's ledger and was not paid yet. Anybody may ask.
    @dev Spec: [ESCROW-WITHDRAW.1] [ESCROW-WITHDRAW.2]
    @param words The account as that ledger has it.
    """
    assert not staticcall Checkpoints(CHECKPOINTS).paused(), "paused"
    assert not self.exited[account], "exited"
    assert staticcall Checkpoints(CHECKPOINTS).usable(signing._digest(headers._hash(header))), "not usable"
    self._check(header.ledger_root, account, words, siblings, sections)
    self._pay_up_to(account, words.withdrawable)


# Once the committee is dead


@external
@nonreentrant
def exit(
    header: headers.Header,
    next: bytes32,
    account: address,
    words: Account,
    siblings: DynArray[bytes32, trees.SIBLINGS_MAX],
    sections: DynArray[bytes32, trees.SECTIONS_MAX],
):
    """
    @notice Pay an account all that it has by the ledger of the last usable header, once. Anybody may ask.
    @dev Spec: [ESCROW-EXIT.1] [ESCROW-EXIT.2]
    @param next The digest of the header that was accepted after it, zero if none was.
    """
    self._close(header, next)
    assert not self.exited[account], "exited"
    self._check(self.closing.ledger_root, account, words, siblings, sections)
    self.exited[account] = True
    assert max(max(words.balance, words.reserved), words.withdrawable) <= money.UNITS_MAX, "words"
    self._pay_up_to(account, words.balance + words.reserved + words.withdrawable)


@external
@nonreentrant
def refund(number: uint256, header: headers.Header, next: bytes32):
    """
    @notice Give a deposit back to its account, if the ledger of the last usable header has not taken it in.
    @dev Spec: [ESCROW-REFUND.1] [ESCROW-REFUND.2]
    @param header All zero if none was ever usable: then all deposits go back.
    @param next As in `exit`.
    """
    self._close(header, next)
    assert number > self.closing.deposits, "taken in"
    account: address = empty(address)
    amount: uint256 = 0
    account, amount = self._deposit(number)
    assert amount > 0, "no deposit"
    self._deposits[number] = 0
    self.paid_out += amount
    assert self.paid_out <= self.deposited, "more than there is"
    log Refunded(number=number, account=account, amount=amount)
    money._pay(account, amount)


@internal
def _close(header: headers.Header, next: bytes32):
    """
    @notice Fix the header by which all is given back: the last usable one.
    @dev The checkpoints die for ever with it, so no later header comes, and what left here is not spent there.
         Spec: [ESCROW-EXIT.2] [ESCROW-EXIT.3]
    """
    digest: bytes32 = empty(bytes32)
    if header.epoch > 0:
        digest = signing._digest(headers._hash(header))
    if self.closing.closed:
        assert digest == self.closing.digest, "not the last"
        return
    extcall Checkpoints(CHECKPOINTS).declare_dead()
    assert staticcall Checkpoints(CHECKPOINTS).last_usable(digest, next), "not the last"
    deposits: uint256 = 0
    root: bytes32 = empty(bytes32)
    if digest != empty(bytes32):
        deposits = convert(header.deposits, uint256)
        root = header.ledger_root
    self.closing = Closing(closed=True, digest=digest, ledger_root=root, deposits=deposits)
    log Closed(digest=digest, deposits=deposits)


# Inside


@internal
@pure
def _check(
    root: bytes32,
    account: address,
    words: Account,
    siblings: DynArray[bytes32, trees.SIBLINGS_MAX],
    sections: DynArray[bytes32, trees.SECTIONS_MAX],
):
    """
    @notice Reverts unless the ledger of a root has an account like this.
    """
    key: Bytes[20] = slice(convert(account, bytes32), 12, 20)
    holds: bool = trees._ledger_holds(
        root, ACCOUNTS, keccak256(key), keccak256(abi_encode(words)), siblings, sections
    )
    assert holds, "proof"


@internal
def _pay_up_to(account: address, total: uint256):
    """
    @notice Pay an account what it lacks of a total. Never more to all than all have paid in.
    @dev Spec: [ESCROW-BOUND.1]
    """
    before: uint256 = self.paid[account]
    assert total > before, "nothing to pay"
    amount: uint256 = total - before
    # So far nobody paid in more than 2^62, and no sum can overflow.
    assert amount <= self.deposited - self.paid_out, "more than there is"
    self.paid[account] = total
    self.paid_out += amount
    log Paid(account=account, amount=amount, total=total)
    money._pay(account, amount)


@internal
@view
def _deposit(number: uint256) -> (address, uint256):
    packed: uint256 = self._deposits[number]
    return convert(packed & convert(max_value(uint160), uint256), address), packed >> 160


# Views


@external
@view
def deposits(number: uint256) -> (address, uint256):
    """
    @notice Account and amount of a deposit; zeros if there is none of this number, or none any more.
    """
    return self._deposit(number)


@external
@view
def token() -> address:
    """
    @notice The ERC-20 token that deposits are made in; zero for the chain's own coin.
    """
    return money.TOKEN


@external
@view
def unit() -> uint256:
    """
    @notice What one unit of the ledger is in the smallest parts of coin or token.
    """
    return money.UNIT

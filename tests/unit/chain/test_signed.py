"""Signed transactions are what other people's code makes of the same words."""

from eth_account import Account
from eth_utils import to_checksum_address
from hypothesis import given, settings
from hypothesis import strategies as st
from web3.utils.address import get_create_address

from chain.signed import SecretKey, Transaction, created_by, hash_of

KEY = SecretKey(b"\x2a" * 32)
ACCOUNT = Account.from_key(b"\x2a" * 32)

transactions = st.builds(
    Transaction,
    chain_id=st.integers(1, 2**63 - 1),
    nonce=st.integers(0, 2**64 - 2),
    to=st.one_of(st.just(b""), st.binary(min_size=20, max_size=20)),
    data=st.binary(max_size=300),
    value=st.integers(0, 2**256 - 1),
    gas=st.integers(21_000, 2**63),
    max_fee=st.integers(0, 2**128),
    tip=st.one_of(st.none(), st.integers(0, 2**64)),
)


@settings(max_examples=60)
@given(transactions)
def test_it_is_what_eth_account_makes(transaction: Transaction) -> None:
    fields = {
        "chainId": transaction.chain_id,
        "nonce": transaction.nonce,
        "to": to_checksum_address(transaction.to) if transaction.to else b"",
        "data": transaction.data,
        "value": transaction.value,
        "gas": transaction.gas,
    }
    if transaction.tip is None:
        fields["gasPrice"] = transaction.max_fee
    else:
        fields |= {"maxFeePerGas": transaction.max_fee, "maxPriorityFeePerGas": transaction.tip, "type": 2}
    expected = ACCOUNT.sign_transaction(fields)
    assert transaction.signed(KEY) == bytes(expected.raw_transaction)
    assert hash_of(transaction.signed(KEY)) == bytes(expected.hash)


def test_the_sender_is_the_keys() -> None:
    raw = Transaction(5, 0, b"\x01" * 20, b"", 1, 21_000, 10, 1).signed(KEY)
    assert bytes.fromhex(Account.recover_transaction(raw)[2:]) == KEY.node_id
    assert repr(KEY) == f"SecretKey(0x{KEY.node_id.hex()})"


def test_the_example_of_eip_155() -> None:
    """Source: EIP-155, Example."""
    raw = Transaction(1, 9, b"\x35" * 20, b"", 10**18, 21_000, 20 * 10**9, None).signed(SecretKey(b"\x46" * 32))
    assert raw.hex() == (
        "f86c098504a817c800825208943535353535353535353535353535353535353535880de0b6b3a76400008025a028ef61340bd939bc2195"
        "fe537567866003e1a15d3c71ff63e1590620aa636276a067cbe9d8997f761aecb703304b3800ccf555c9f3dc64214b297fb1966a3b6d83"
    )


@given(st.binary(min_size=20, max_size=20), st.integers(0, 2**64 - 1))
def test_where_a_contract_comes_to_be(sender: bytes, nonce: int) -> None:
    expected = get_create_address(f"0x{sender.hex()}", nonce)  # type: ignore[arg-type]
    assert created_by(sender, nonce) == bytes.fromhex(expected[2:])


def test_a_contract_that_came_to_be() -> None:
    """Source: the address of a contract that geth's own tests make (crypto, TestNewContractAddress)."""
    sender = bytes.fromhex("970e8128ab834e8eac17ab8e3812f010678cf791")
    made = [created_by(sender, nonce).hex() for nonce in (0, 1, 2)]
    assert made == [
        "333c3310824b7c685133f2bedb2ca4b8b4df633d",
        "8bda78331c916a08481428e4b07c96d3e916d165",
        "c9ddedf451bc62ce88bf9292afb13df35b670699",
    ]

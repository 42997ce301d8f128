"""What an endpoint answers, as far as it is read: typed, bounded, and taken for hostile until it has been.

Every reader raises RpcNonsense and nothing else, whatever the bytes.
"""

import re
from typing import Any

import msgspec

from chain.errors import RpcNonsense

QUANTITY_END = 1 << 256
NESTING_MAX = 32

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NO_BRACKET = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Block(msgspec.Struct, frozen=True, rename="camel"):
    """A block without its transactions."""

    number: str
    hash: str
    parent_hash: str
    timestamp: str
    logs_bloom: str
    base_fee_per_gas: str | None = None


class RawHeader(msgspec.Struct, frozen=True, rename="camel"):
    """All fields of a block's header, in their order: those of Ethereum's first days, and those of later forks."""

    parent_hash: str
    sha3_uncles: str
    miner: str
    state_root: str
    transactions_root: str
    receipts_root: str
    logs_bloom: str
    difficulty: str
    number: str
    gas_limit: str
    gas_used: str
    timestamp: str
    extra_data: str
    mix_hash: str
    nonce: str
    base_fee_per_gas: str | None = None
    withdrawals_root: str | None = None
    blob_gas_used: str | None = None
    excess_blob_gas: str | None = None
    parent_beacon_block_root: str | None = None
    requests_hash: str | None = None
    block_access_list_hash: str | None = None
    slot_number: str | None = None


class StorageProof(msgspec.Struct, frozen=True, rename="camel"):
    """The way to a word of a contract's storage."""

    proof: list[str]


class Proof(msgspec.Struct, frozen=True, rename="camel"):
    """What ``eth_getProof`` says, as far as it is not to be computed from the proof itself."""

    account_proof: list[str]
    storage_proof: list[StorageProof]


class Log(msgspec.Struct, frozen=True, rename="camel"):
    """One event of a contract, undecoded."""

    address: str
    topics: list[str]
    data: str
    block_number: str
    block_hash: str
    log_index: str
    transaction_hash: str
    removed: bool = False


class Receipt(msgspec.Struct, frozen=True, rename="camel"):
    """What became of a mined transaction."""

    transaction_hash: str
    block_number: str
    block_hash: str
    gas_used: str
    status: str = "0x1"
    contract_address: str | None = None


class Failure(msgspec.Struct, frozen=True):
    """JSON-RPC's error."""

    code: int = 0
    message: str = ""
    data: msgspec.Raw = msgspec.Raw(b"null")


class Reply(msgspec.Struct, frozen=True):
    """JSON-RPC's answer to one call."""

    id: int | str | None = None
    result: msgspec.Raw = msgspec.Raw(b"")
    error: Failure | None = None


def decode(data: bytes | msgspec.Raw, kind: Any) -> Any:
    """JSON of a known type; what it has beyond it is not looked at."""
    try:
        check_nesting(bytes(data))
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise RpcNonsense(f"answered what is none: {error}") from error


def check_nesting(data: bytes) -> None:
    """Refuse JSON that is nested deeper than any answer. Raises RpcNonsense.

    Every decoder recurses, and where something has raised the recursion limit (py-evm does) deep nesting would end the
    process.
    """
    brackets = _STRING.sub(b"", data).translate(None, _NO_BRACKET)
    for _ in range(NESTING_MAX):
        if not brackets:
            return
        brackets = brackets.replace(b"[]", b"").replace(b"{}", b"")
    if brackets:
        raise RpcNonsense("answered what is none: its brackets do not close, or are nested too deep")


def quantity(text: str) -> int:
    """A number as JSON-RPC writes it."""
    try:
        value = int(text, 16) if text.startswith("0x") and len(text) <= 66 else -1
    except ValueError:
        value = -1
    if not 0 <= value < QUANTITY_END:
        raise RpcNonsense(f"answered {text[:70]!r} where a number is due")
    return value


def octets(text: str, length: int | None = None) -> bytes:
    """Bytes as JSON-RPC writes them; of a length, if it is known."""
    try:
        value = bytes.fromhex(text[2:]) if text.startswith("0x") else None
    except ValueError:
        value = None
    if value is None or (length is not None and len(value) != length):
        due = "bytes are due" if length is None else f"{length} bytes are due"
        raise RpcNonsense(f"answered {text[:70]!r} where {due}")
    return value

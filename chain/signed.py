"""Signed transactions, serialised by eth_account and signed with the node's own signing function: EIP-1559 where the
chain has a base fee, else legacy with EIP-155.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import coincurve

from protocol.core.ids import Digest, NodeId, Signature
from protocol.core.signing import keccak, node_id_of_public_key


class Payer(Protocol):
    """A key that signs and pays for transactions; the node key is one."""

    @property
    def node_id(self) -> NodeId:
        """Its address."""

    def sign(self, digest: bytes) -> Signature:
        """A 65-byte signature of 32 bytes that are already a digest."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """What a transaction says."""

    chain_id: int
    nonce: int
    to: bytes
    """Empty: it makes a contract."""
    data: bytes
    value: int
    gas: int
    max_fee: int
    """Per gas, in the coin's smallest unit."""
    tip: int | None
    """Of that for who makes the block; None for a legacy transaction, which has one price."""

    def signed(self, payer: Payer) -> bytes:
        """Its bytes as they are sent."""
        return self._legacy(payer) if self.tip is None else self._dynamic(payer)

    def _dynamic(self, payer: Payer) -> bytes:
        # As web3, it takes a second or two to import, and is only needed by who sends something.
        from eth_account.typed_transactions.typed_transaction import TypedTransaction

        fields = {
            "type": 2,
            "chainId": self.chain_id,
            "nonce": self.nonce,
            "maxPriorityFeePerGas": self.tip,
            "maxFeePerGas": self.max_fee,
            "gas": self.gas,
            "to": self.to,
            "value": self.value,
            "data": self.data,
        }
        signature = payer.sign(TypedTransaction.from_dict(fields).hash())
        r, s = _numbers(signature)
        return TypedTransaction.from_dict({**fields, "v": signature[64] - 27, "r": r, "s": s}).encode()

    def _legacy(self, payer: Payer) -> bytes:
        # eth_account makes these for its own keys only.
        fields = [self.nonce, self.max_fee, self.gas, self.to, self.value, self.data]
        signature = payer.sign(keccak(_encoded([*fields, self.chain_id, 0, 0])))
        return _encoded([*fields, signature[64] + 8 + 2 * self.chain_id, *_numbers(signature)])

    def at(self, max_fee: int, tip: int | None) -> "Transaction":
        """The same for another fee."""
        return replace(self, max_fee=max_fee, tip=tip)


def hash_of(raw: bytes) -> Digest:
    """The hash of a signed transaction."""
    return Digest(keccak(raw))


def created_by(sender: bytes, nonce: int) -> NodeId:
    """Where a sender's transaction without a receiver puts its contract."""
    return NodeId(keccak(_encoded([sender, nonce]))[12:])


def _numbers(signature: bytes) -> tuple[int, int]:
    return int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:64], "big")


def _encoded(items: list[Any]) -> bytes:
    import rlp

    encoded: bytes = rlp.encode(items)
    return encoded


class SecretKey:
    """A payer whose secret is in this process."""

    def __init__(self, secret: bytes) -> None:
        self._key = coincurve.PrivateKey(secret)
        self.node_id = node_id_of_public_key(self._key.public_key.format(compressed=False)[1:])

    def __repr__(self) -> str:
        return f"SecretKey(0x{self.node_id.hex()})"

    def sign(self, digest: bytes) -> Signature:
        """See Payer."""
        signature = self._key.sign_recoverable(digest, hasher=None)
        return Signature(signature[:64] + bytes([signature[64] + 27]))

"""Accounts: what an address has, what of it is reserved for sessions, and what of it may leave the ledger."""

from typing import Self

from protocol.core.errors import DecodeError
from protocol.ledger.records import Record

_WORD_BYTES = 32
_NONCES_END = 1 << 256


class Account(Record, frozen=True):
    """An address's money: what is free, what is bound to sessions, and what is signed away for ever."""

    balance_wei: int = 0
    reserved_wei: int = 0
    withdrawable_wei: int = 0
    nonce_from: int = 0
    """Sessions with a lower nonce, as a number, are refused: one that was released cannot be reserved again."""

    def packed(self) -> bytes:
        """Four words, as a contract reads them. Spec: [LEDGER-ACCOUNT.1]"""
        words = (self.balance_wei, self.reserved_wei, self.withdrawable_wei, self.nonce_from)
        return b"".join([word.to_bytes(_WORD_BYTES, "big") for word in words])

    @classmethod
    def read(cls, data: bytes) -> Self:
        """See Record."""
        if len(data) != 4 * _WORD_BYTES:
            raise DecodeError("an account is four words")
        words = [data[at : at + _WORD_BYTES] for at in range(0, len(data), _WORD_BYTES)]
        return cls(*(int.from_bytes(word, "big") for word in words))

"""The redacted form of a receipt: all that proves the answer, and neither the prompt nor a word of the answer."""

import msgspec

from protocol.messages.receipts import Receipt


def redact(receipt: Receipt) -> Receipt:
    """The same without prompt and tokens. The chain values, which the miners signed, stand for them; whoever has the
    tokens can still show that they are the ones. Spec: [RECEIPT-REDACTED.1]"""
    return msgspec.structs.replace(receipt, prompt=None, tokens=None)


def is_redacted(receipt: Receipt) -> bool:
    """Whether prompt and tokens are left out."""
    return receipt.tokens is None

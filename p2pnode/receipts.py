"""Receipts as files: read with a bound, and replaced at once, so that nobody ever sees half of one."""

import os
import secrets
from pathlib import Path

from p2pnode.receipt_reading import read_file
from protocol.core.codec import pack
from protocol.core.errors import P2PNodeError
from protocol.light.receipt import read_receipt
from protocol.light.receipt.verdict import LinkBroken
from protocol.messages.receipts import RECEIPT_BYTES_MAX, Receipt


class ReceiptFileError(P2PNodeError):
    """A file that is no receipt, or cannot be written."""

    code = "receipt/file"


class ReceiptTooLong(P2PNodeError):
    """An answer whose receipt does not fit into a file of its form."""

    code = "receipt/too-long"
    hint = "ask for fewer tokens at a time, or keep the redacted form"


def save_receipt(path: Path, receipt: Receipt) -> None:
    """Write a receipt, in place of what the file held. Raises ReceiptFileError, ReceiptTooLong."""
    data = pack(receipt)
    if len(data) > RECEIPT_BYTES_MAX:
        raise ReceiptTooLong(f"the receipt would have {len(data)} bytes, at most {RECEIPT_BYTES_MAX} are allowed")
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.draft")
    try:
        try:
            with draft.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        finally:
            draft.unlink(missing_ok=True)
    except OSError as error:
        hint = "check the folder, the disk and the permissions"
        raise ReceiptFileError(f"{path} cannot be written: {error.strerror or error}", hint=hint) from error


def load_receipt(path: Path) -> Receipt:
    """A receipt as a file holds it; none of its links is checked. Raises ReceiptUnreadable, ReceiptFileError."""
    try:
        return read_receipt(read_file(path))
    except LinkBroken as error:
        hint = "receipts are written by `p2pnode chat --receipt FILE`, and hold MessagePack"
        raise ReceiptFileError(f"{path} is no receipt: {error}", hint=hint) from error

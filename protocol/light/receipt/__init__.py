"""What one file proves of one answer: its links checked one after the other, and the verdict as a value."""

from protocol.light.receipt.verdict import Invalid as Invalid
from protocol.light.receipt.verdict import Link as Link
from protocol.light.receipt.verdict import NotEnoughTrust as NotEnoughTrust
from protocol.light.receipt.verdict import Verdict as Verdict
from protocol.light.receipt.verdict import Verified as Verified
from protocol.light.receipt.verify import read_receipt as read_receipt
from protocol.light.receipt.verify import verify_receipt as verify_receipt

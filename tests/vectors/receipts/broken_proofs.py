"""Receipts of results that nobody stood for: commit, reveal, observations, headers, outcome and checkpoint."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from msgspec import structs

from protocol.core.codec import pack
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import keccak, typed_digest
from protocol.light.evm import Acceptance
from protocol.light.levels import Level
from protocol.light.receipt import Link
from protocol.messages.committee import Batch, CertificateKind, Certified, SignedBatch, header_digest
from protocol.messages.handover import HandOver
from protocol.messages.receipts import EpochMembers
from protocol.messages.results import Content, SignedCommit, SignedReveal, Verdict
from protocol.results.commitment import commit_of
from tests.evm_made import make_block
from tests.receipts_made import MINERS, NOW_MS, ORACLES, Maker
from tests.unit.protocol.keys import Key
from tests.vectors.receipts.broken import RECEIPT, STRANGER, Broken, Named, other, with_
from tests.vectors.receipts.whole import EVERYTHING, FAR, SKIPPING, knowing, shown, without_batches

_DOMAIN = EVERYTHING.domain
_COMMIT, _REVEAL = EVERYTHING.opened
_QUORUM = EVERYTHING.quorum
assert RECEIPT.final is not None and RECEIPT.settled is not None and RECEIPT.settled.evm is not None
_EVM, _FINAL_PROOF, _SETTLED_PROOF = RECEIPT.settled.evm, RECEIPT.final.proof, RECEIPT.settled.proof


# The miner's word


def _committed(signer: Key = MINERS[1], **changed: Any) -> bytes:
    commit = structs.replace(_COMMIT.commit, **changed)
    return with_("commit", SignedCommit(commit, signer.sign(typed_digest(_DOMAIN, commit))))


def broken_commits() -> Named:
    """The last miner did not commit to this lane."""
    yield "signed by the first miner", _committed(MINERS[0])
    yield "of the first miner", _committed(MINERS[0], miner=MINERS[0].node)
    yield "of another lane", _committed(lane=1)
    yield "of another task", _committed(task=2)
    yield "of the first lease", _committed(generation=EVERYTHING.generation(1))


def _revealed(signer: Key = MINERS[1], opens: bool = False, **changed: Any) -> bytes:
    """Another reveal; where it opens its commit, the commit is of it."""
    reveal = structs.replace(_REVEAL.reveal, **changed)
    receipt = other(RECEIPT, "reveal", SignedReveal(reveal, signer.sign(typed_digest(_DOMAIN, reveal))))
    if opens:
        commit = commit_of(_DOMAIN, reveal)
        receipt = other(receipt, "commit", SignedCommit(commit, signer.sign(typed_digest(_DOMAIN, commit))))
    return pack(receipt)


def broken_reveals() -> Named:
    """The miner did not commit to this result."""
    yield "signed by the first miner", _revealed(MINERS[0])
    yield "with another salt", _revealed(salt=b"\x55" * 32)
    yield "of another task", _revealed(task=2)
    yield "of another result than it committed to", _revealed(root=b"\x55" * 32)
    yield "of another result, committed to", _revealed(opens=True, root=b"\x55" * 32)
    yield "of another count, committed to", _revealed(opens=True, count=11)
    yield "left out where there is one lane", with_("reveal", None)
    yield "without a commit", with_("commit", None)


# Committees


def _handed(place: int, certified: Certified, **changed: Any) -> bytes:
    hand_over: HandOver = structs.replace(RECEIPT.hand_overs[place], certified=certified, **changed)
    return with_(f"hand_overs.{place}", hand_over)


def broken_hand_overs() -> Named:
    """Nobody who is known named these committees."""
    maker, header = EVERYTHING, EVERYTHING.header(1, 8)
    first, second = RECEIPT.hand_overs
    strangers = ORACLES[40:44]
    members = maker.committee(2)
    yield "of other members", with_("hand_overs.0.members", maker.committee(9))
    yield "of members in another order", with_("hand_overs.0.members", members[::-1])
    yield "of five members", with_("hand_overs.0.members", (*members, STRANGER.node))
    yield "signed by strangers", _handed(0, maker.certify(header, (), strangers))
    yield "signed by the committee that it names", _handed(0, maker.certify(header, (), maker.oracles(2)))
    yield "signed by too few", _handed(0, maker.certify(header, range(_QUORUM - 1)))
    yield "signed by all, which is too many", _handed(0, maker.certify(header, range(4)))
    yield "signed by one twice", _handed(0, maker.certify(header, (0, 0, 1)))
    yield "with signatures in another order", _handed(0, maker.certify(header, (1, 0, 2)))
    yield "with a place that nobody has", _handed(0, maker.certify(header, (0, 1, 4), (*maker.oracles(1), STRANGER)))
    yield "without its header", with_("hand_overs.0.certified.header", None)
    yield "with the header of another height", with_("hand_overs.0.certified.header", maker.header(1, 9))
    yield "that is notarized only", with_("hand_overs.0.certified.certificate.kind", CertificateKind.NOTARIZATION)
    yield "from the later epoch to the earlier", with_("hand_overs", (second, first))
    yield "of one epoch twice", with_("hand_overs", (first, first, second))
    yield "that nothing needs", with_("hand_overs", (first, second, maker.hand_over(3)))
    yield "with a block that it does not anchor", with_("hand_overs.0.anchor", _EVM.block)
    yield "with a committee that nothing needs", with_("committees", (EpochMembers(9, maker.committee(9)),))
    yield "with a committee that is handed over as well", with_("committees", (EpochMembers(2, members),))
    yield "with a committee of epoch 0", with_("committees", (EpochMembers(0, members),))


def _batched(place: int, signer: Key, **changed: Any) -> bytes:
    """An oracle's batch says something else, or nothing of the lane, and is signed."""
    batch: SignedBatch = RECEIPT.batches[place]
    content = changed.pop("content", batch.content)
    named: Batch = structs.replace(batch.batch, **{"content": keccak(content), **changed})
    return with_(f"batches.{place}", SignedBatch(named, signer.sign(typed_digest(_DOMAIN, named)), content))


def broken_observations() -> Named:
    """The oracles did not say so."""
    maker, batches = EVERYTHING, RECEIPT.batches
    oracles = maker.oracles(maker.home)
    yield "one says late", with_("batches.1", maker.batch(oracles[1], verdict=Verdict.LATE, root=ZERO_DIGEST, count=0))
    yield "one says another result", with_("batches.1", maker.batch(oracles[1], root=b"\x55" * 32))
    yield "one says another count", with_("batches.1", maker.batch(oracles[1], count=11))
    yield "one says nothing of the lane", _batched(1, oracles[1], content=pack(Content()))
    yield "one says what cannot be read", _batched(1, oracles[1], content=b"\xc1")
    behind_another_form = b"\x99\xdc\x00\x02" + batches[1].content[2:]
    yield "one says it in a list of another form", _batched(1, oracles[1], content=behind_another_form)
    yield "one says it of another epoch", _batched(1, oracles[1], home_epoch=3)
    yield "one says it in a batch of number 0", _batched(1, oracles[1], number=0)
    yield "one is signed by another oracle", _batched(1, oracles[2])
    yield "one is of who is no member", _batched(1, STRANGER, oracle=STRANGER.node)
    yield "one is of the committee before", _batched(0, maker.oracles(1)[0], oracle=maker.oracles(1)[0].node)
    yield "one has other content than was signed", with_("batches.1.content", pack(Content()))
    yield "two are of one oracle", with_("batches", (batches[0], batches[0], batches[2]))
    yield "they are in another order", with_("batches", (batches[1], batches[0], batches[2]))
    yield "too few", with_("batches", batches[:2])
    yield "more than are needed", with_("batches", tuple(maker.batch(oracle) for oracle in oracles))


def broken_certificates() -> Named:
    """The committee did not finalize these headers."""
    maker, epoch = EVERYTHING, EVERYTHING.final_epoch
    header, settled = maker.header(epoch), maker.settled_header()
    path = "final.certified"
    yield "signed by the committee of another epoch", with_(path, maker.certify(header, (), maker.oracles(1)))
    yield "signed by strangers", with_(path, maker.certify(header, (), ORACLES[40:44]))
    yield "signed by too few", with_(path, maker.certify(header, range(_QUORUM - 1)))
    yield "signed by one twice", with_(path, maker.certify(header, (0, 1, 1)))
    yield "without its header", with_(f"{path}.header", None)
    yield "with another header", with_(f"{path}.header", maker.header(epoch, others=4))
    yield "of another height than its header", with_(f"{path}.certificate.height", 42)
    yield "that is notarized only", with_(f"{path}.certificate.kind", CertificateKind.NOTARIZATION)
    yield "that is nullified", with_(f"{path}.certificate", _nullified(maker, header))
    yield "of the settled header, signed by strangers", _settled(maker.certify(settled, (), ORACLES[40:44]))
    yield "of the settled header, without it", with_("settled.certified.header", None)


def _nullified(maker: Maker, header: Any) -> Any:
    certificate = maker.certify(header).certificate
    return structs.replace(certificate, kind=CertificateKind.NULLIFICATION, header=bytes(32))


def _settled(certified: Certified) -> bytes:
    return with_("settled.certified", certified)


def _outcome(**changed: Any) -> bytes:
    """The outcome is another one, and in the tree."""
    receipt = RECEIPT
    maker = replace(EVERYTHING)
    maker.__dict__["outcome"] = structs.replace(EVERYTHING.outcome, **changed)
    return pack(structs.replace(receipt, final=maker.final(), settled=maker.settled()))


def broken_outcomes() -> Named:
    """This was not decided of the lane."""
    another = _FINAL_PROOF
    yield "late", _outcome(verdict=Verdict.LATE)
    yield "undecided", _outcome(verdict=Verdict.UNDECIDED, root=ZERO_DIGEST, count=0)
    yield "of another result", _outcome(root=b"\x55" * 32)
    yield "of another count", _outcome(count=11)
    yield "of another lane", _outcome(lane=1)
    yield "of another task", _outcome(task=2)
    yield "of another session", _outcome(session=b"\x55" * 32)
    yield "of another home epoch", _outcome(home_epoch=1)
    yield "paid otherwise than the tree has it", with_("final.outcome.paid_wei", 85)
    yield "at another leaf's place", with_("final.proof.index", another.index + 1)
    yield "behind the last leaf", with_("final.proof.index", another.count)
    yield "in a tree of another count", with_("final.proof.count", another.count + 1)
    yield (
        "in a tree without it",
        with_("final.certified", EVERYTHING.certify(EVERYTHING.header(3, 41, results_root=bytes(32)))),
    )
    yield "by a path that is too short", with_("final.proof.path", another.path[:-1])
    yield "by a path of another leaf", with_("final.proof.path", (b"\x55" * 32, *another.path[1:]))
    yield "by the proof of the settled header", with_("final.proof", _SETTLED_PROOF)
    yield "by the proof of the final header", with_("settled.proof", another)


# The contract


def _checkpoint(accepted: Acceptance | None = None, **block: Any) -> bytes:
    """What the contract holds is another word, or it is another contract."""
    header, contracts = EVERYTHING.settled_header(), EVERYTHING.genesis.contracts
    assert contracts is not None
    named = block.get("digest", header_digest(_DOMAIN, header))
    kept = accepted or Acceptance(NOW_MS // 1_000, header.epoch, header.height, 3)
    at = make_block(contracts.checkpoints, [(named, kept)], 900, NOW_MS // 1_000 + 60)
    anchor = {"anchor_number": block.get("number", 900), "anchor_hash": at.hash}
    certified = EVERYTHING.certify(EVERYTHING.header(3, 80, **anchor), (), block.get("signers", ()))
    return with_("settled.evm", at.proof(named, certified))


def broken_checkpoints() -> Named:
    """The contract did not accept the header, as far as can be seen."""
    header, evm = EVERYTHING.settled_header(), _EVM
    time_s, epoch, height = NOW_MS // 1_000, header.epoch, header.height
    yield "of another height", _checkpoint(Acceptance(time_s, epoch, height + 1, 3))
    yield "of another epoch", _checkpoint(Acceptance(time_s, epoch + 1, height, 3))
    yield "without a sequence number", _checkpoint(Acceptance(time_s, epoch, height, 0))
    yield "of another header", _checkpoint(digest=b"\x55" * 32)
    yield "in a block of another number than is anchored", _checkpoint(number=901)
    yield "in a block that strangers anchor", _checkpoint(signers=ORACLES[40:44])
    anchors_nothing = EVERYTHING.certify(EVERYTHING.header(3, 80))
    yield "in a block that is not anchored", with_("settled.evm.anchored", anchors_nothing)
    yield "in a block that is none", _anchored(b"\xc3\x01\x02\x03")
    yield "in a block with something behind it", _anchored(evm.block + b"\0")
    yield "without the account's last node", with_("settled.evm.account", evm.account[:-1])
    yield "without the word's last node", with_("settled.evm.storage", evm.storage[:-1])
    yield "without any node", with_("settled.evm.storage", ())
    yield "with a node too many", with_("settled.evm.storage", (*evm.storage, evm.storage[-1]))
    yield "with the account's nodes for the word's", with_("settled.evm.storage", evm.account)


def _anchored(block: bytes) -> bytes:
    """A final header anchors these bytes."""
    header = EVERYTHING.header(3, 80, anchor_number=900, anchor_hash=keccak(block))
    evm = structs.replace(_EVM, block=block, anchored=EVERYTHING.certify(header))
    return with_("settled.evm", evm)


# Other networks, other readers


def broken_elsewhere() -> Iterator[Broken]:
    """What needs another network, or a reader who knows better."""
    without = Maker(level=Level.SETTLED)
    yield Broken(Link.CHECKPOINT, "of a network without contracts", pack(without.receipt()), knowing(without), without)
    maker = SKIPPING
    receipt = without_batches(maker.receipt())
    header, old, new = maker.header(3, 8), maker.oracles(1), maker.oracles(3)
    for name, certified in (
        ("skipped by a committee that is not known", maker.certify(header)),
        ("skipped by those known and one more", maker.certify(header, (2, 3, 4), (*old, new[-1]))),
        (
            "skipped by one of the known, and another in a name of theirs",
            maker.certify(header, (2, 3), (*old[:3], new[-1])),
        ),
        ("skipped by all that are known, where two do", maker.certify(header, (0, 2, 3), old)),
        ("skipped by one of the known twice", maker.certify(header, (3, 3), old)),
    ):
        data = pack(structs.replace(receipt, hand_overs=(HandOver(certified, maker.committee(4)),)))
        yield Broken(Link.HANDOVER, name, data, knowing(maker), maker)
    liar = replace(maker, shift=2)
    forged = pack(without_batches(liar.receipt()))
    yield Broken(Link.HANDOVER, "of a committee whose place another one has", forged, knowing(maker), maker)
    told_otherwise = shown(FAR, 9, of=20)
    yield Broken(Link.HANDOVER, "of others than a trust string names", pack(FAR.receipt()), told_otherwise, FAR)

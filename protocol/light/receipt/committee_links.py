"""The links that rest on committees: what they signed of the answer, and why they are to be believed."""

from protocol.committee.certificates import CommitteeError, check_certified, verify_batch, verify_certificate
from protocol.committee.members import Committee
from protocol.core.errors import SignatureError
from protocol.core.ids import NodeId
from protocol.core.signing import typed_digest
from protocol.light.evm import anchored_block, check_settled
from protocol.light.evm_trie import EvmError
from protocol.light.levels import Level
from protocol.light.receipt.reader import root_of
from protocol.light.receipt.reading import Reading
from protocol.light.receipt.verdict import LinkBroken, LinkSkipped, LinkUntrusted, expect, shown
from protocol.messages.committee import (
    CertificateKind,
    Certified,
    Header,
    SignedBatch,
    StatementKind,
    header_digest,
    statement_digest,
)
from protocol.messages.handover import HandOver
from protocol.messages.receipts import EvmProof
from protocol.messages.results import Observation, Verdict
from protocol.results.commitment import commit_of
from protocol.results.evidence import observations_at_start
from protocol.results.mountain import outcome_leaf, verify_proof


def check_commit(at: Reading) -> str:
    """The miner of the last segment committed to this lane and lease. Spec: [RECEIPT-COMMIT.1]"""
    signed, head = at.receipt.commit, at.receipt.segments[-1].head
    if signed is None:
        raise LinkSkipped("the receipt has no commit")
    commit = signed.commit
    for name, expected in (
        ("session", head.session),
        ("task", head.task),
        ("lane", 0),
        ("generation", head.generation),
        ("miner", head.miner),
    ):
        expect(f"the commit is of another {name}", expected, getattr(commit, name))
    at.signed(typed_digest(at.domain, commit), signed.signature, commit.miner, "the commit")
    if not at.sole:
        at.reached[Level.COMMITTED] = None
    return "the miner bound itself to its result"


def check_reveal(at: Reading) -> str:
    """The reveal opens the commit to the result that the tokens lead to. Spec: [RECEIPT-REVEAL.1]"""
    signed, commit = at.receipt.reveal, at.receipt.commit
    if signed is None:
        if commit is not None and at.sole:
            raise LinkBroken("the commit of an only lane comes with its opening", "a reveal", "none")
        raise LinkSkipped("the receipt has no reveal")
    reveal = signed.reveal
    if commit is None:
        raise LinkBroken("a reveal opens a commit", "a commit", "none")
    at.signed(typed_digest(at.domain, reveal), signed.signature, commit.commit.miner, "the reveal")
    expect("the reveal does not open the commit", commit.commit, commit_of(at.domain, reveal))
    expect("the miner opened to another result", at.root, reveal.root)
    expect("the miner opened to another count of tokens", at.count, reveal.count)
    at.reached[Level.COMMITTED] = None
    return f"result root {shown(at.root[:4])}…"


def check_hand_overs(at: Reading) -> str:
    """Each committee that is named follows from one before it, and something rests on it. Spec: [RECEIPT-HANDOVER.1]"""
    receipt, claimed = at.receipt, at.claimed
    try:
        for carried in receipt.committees:
            claimed.add(carried.epoch, carried.members)
            at.reader.learn(carried)
    except CommitteeError as error:
        raise LinkBroken(str(error)) from error
    _check_rising([carried.epoch for carried in receipt.committees], "carried committees")
    _check_rising([hand_over.epoch for hand_over in receipt.hand_overs], "hand-overs")
    for hand_over in receipt.hand_overs:
        _check_hand_over(at, hand_over)
        at.reader.take(hand_over)
    claimed.used |= _needed(at)
    for epoch in (*(c.epoch for c in receipt.committees), *(h.epoch + 1 for h in receipt.hand_overs)):
        if epoch not in claimed.used:
            raise LinkBroken("a committee that nothing rests on", "only what is needed", f"the one of epoch {epoch}")
        members, known = claimed.members(epoch), at.reader.members(epoch)
        if known is not None and members is not None:
            expect(f"another committee of epoch {epoch} is known here", root_of(known), root_of(members))
    if not receipt.hand_overs and not receipt.committees:
        raise LinkSkipped("the receipt has none, nor needs any" if claimed.used <= {1} else "the receipt has none")
    return f"{len(receipt.hand_overs)} hand-overs, {len(receipt.committees)} committees by their root"


def _check_rising(epochs: list[int], what: str) -> None:
    """Raises LinkBroken unless epochs rise."""
    if epochs != sorted(set(epochs)):
        raise LinkBroken(f"{what} by rising epochs", "each epoch once", " ".join(map(str, epochs)))


def _needed(at: Reading) -> set[int]:
    """The epochs whose committees signed something of the answer."""
    receipt = at.receipt
    needed = {receipt.order.home_epoch} if receipt.batches else set()
    certified = [part.certified for part in (receipt.final, receipt.settled) if part is not None]
    if receipt.settled is not None and receipt.settled.evm is not None:
        certified.append(receipt.settled.evm.anchored)
    return needed | {each.certificate.epoch for each in certified}


def _check_hand_over(at: Reading, hand_over: HandOver) -> None:
    epoch, what = hand_over.epoch, f"the hand-over of epoch {hand_over.epoch}"
    own, base = at.claimed.committee(epoch), at.claimed.before(epoch)
    if own is not None:
        header = _final_header(at, hand_over.certified, what, own)
        at.claimed.used.add(epoch)
    elif base is not None:
        header = _skipped_header(at, hand_over.certified, what, base)
        at.claimed.used.add(base.epoch)
    else:
        raise LinkBroken(f"{what} follows from nothing", "a committee before it", "none")
    expect(f"epoch {epoch} named another committee after it", header.next_committee, root_of(hand_over.members))
    _check_anchor(header, hand_over.anchor)
    try:
        at.claimed.add(epoch + 1, hand_over.members)
    except CommitteeError as error:
        raise LinkBroken(str(error)) from error


def _check_anchor(header: Header, anchor: bytes) -> None:
    if anchor:
        try:
            anchored_block(header, anchor)
        except EvmError as error:
            raise _broken(error) from error


def _broken(error: EvmError) -> LinkBroken:
    """What is wrong with an EVM chain's proof."""
    return LinkBroken(f"{error.part}: {error.why}", error.expected, error.actual)


def _named(at: Reading, epoch: int) -> Committee | None:
    """The committee of an epoch, by the receipt or else by the reader."""
    claimed, known = at.claimed.committee(epoch), at.reader.members(epoch)
    if claimed is None and known is not None:
        at.claimed.add(epoch, known)
    return claimed or at.claimed.committee(epoch)


def _named_header(at: Reading, certified: Certified, what: str) -> Header:
    """The header that a finalize certificate names, whoever signed."""
    header = certified.header
    if header is None or certified.certificate.kind is not CertificateKind.FINALIZATION:
        raise LinkBroken(f"{what} is not a header with its finalize certificate")
    try:
        check_certified(at.domain, certified)
    except CommitteeError as error:
        raise LinkBroken(f"{what}: {error}") from error
    return header


def _final_header(at: Reading, certified: Certified, what: str, committee: Committee) -> Header:
    """The header, final by 2f+1 members of its epoch's committee."""
    header = _named_header(at, certified, what)
    try:
        verify_certificate(at.domain, committee, certified.certificate)
    except (CommitteeError, SignatureError) as error:
        raise LinkBroken(f"{what}: {error}") from error
    return header


def _skipped_header(at: Reading, certified: Certified, what: str, base: Committee) -> Header:
    """The header, final by what f+1 members of an earlier committee signed, so one of them is correct.

    In a receipt such a certificate has f+1 of their signatures and no others, by their places in that committee: what
    nobody can check has no place in it. Spec: [RECEIPT-SKIP.1]
    """
    header, certificate = _named_header(at, certified, what), certified.certificate
    digest = statement_digest(
        at.domain, StatementKind.FINALIZE, certificate.epoch, certificate.height, certificate.header
    )
    places = [signed.index for signed in certificate.signatures]
    if places != sorted(set(places)) or len(places) != base.faulty_max + 1 or places[-1] >= len(base.members):
        wanted = f"{base.faulty_max + 1} of the {len(base.members)} of epoch {base.epoch}, by rising places"
        raise LinkBroken(f"{what} is not signed by f+1 whom the receipt names", wanted, " ".join(map(str, places)))
    for signed in certificate.signatures:
        at.signed(digest, signed.signature, base.members[signed.index], what)
    return header


def check_observations(at: Reading) -> str:
    """2f+1 members of the home epoch's committee signed this result. Spec: [RECEIPT-OBSERVATIONS.1]"""
    batches, home = at.receipt.batches, at.receipt.order.home_epoch
    if not batches:
        raise LinkSkipped("the receipt has no oracle's batch")
    committee = _committee(at, home, Level.CERTIFIED)
    expect("as many batches as a quorum has members", committee.quorum, len(batches))
    places = [committee.places.get(NodeId(signed.batch.oracle), -1) for signed in batches]
    if places != sorted(set(places)) or places[0] < 0:
        told = " ".join(shown(signed.batch.oracle) for signed in batches)
        raise LinkBroken("one batch each of members, by their places", "different members", told)
    for signed in batches:
        _check_batch(at, signed, home)
    at.believe(home, Level.CERTIFIED)
    at.reached[Level.CERTIFIED] = None
    return f"{len(batches)} of {len(committee.members)} oracles of epoch {home}"


def _check_batch(at: Reading, signed: SignedBatch, home: int) -> None:
    expect("a batch of another home epoch", home, signed.batch.home_epoch)
    try:
        verify_batch(at.domain, signed)
    except (CommitteeError, SignatureError) as error:
        raise LinkBroken(f"a batch of {shown(signed.batch.oracle)}: {error}") from error
    order = at.receipt.order
    value = Observation(order.session, order.task, 0, Verdict.OK, at.root, at.count)
    observations = list(observations_at_start(signed.content))
    if value not in observations:
        said = [each for each in observations if (each.session, each.task, each.lane) == _place(value)]
        told = f"{said[0].verdict.name.lower()} {shown(said[0].root)}, {said[0].count} tokens" if said else "nothing"
        raise LinkBroken(
            f"oracle {shown(signed.batch.oracle)} says otherwise of the lane",
            f"ok {shown(at.root)}, {at.count} tokens",
            told,
        )


def _place(value: Observation) -> tuple[bytes, int, int]:
    return value.session, value.task, value.lane


def _committee(at: Reading, epoch: int, level: Level) -> Committee:
    """The committee of an epoch, by the receipt or else by the reader."""
    committee = _named(at, epoch)
    if committee is None:
        raise LinkUntrusted(at.reader.doubt(epoch), level)
    return committee


def check_certificate(at: Reading) -> str:
    """2f+1 members of its epoch's committee finalized each header. Spec: [RECEIPT-CERTIFICATE.1]"""
    final, settled = at.receipt.final, at.receipt.settled
    if final is None:
        raise LinkSkipped("the receipt has no final header")
    parts = [(Level.FINALIZED, final.certified)]
    if settled is not None:
        parts.append((Level.SETTLED, settled.certified))
    for _, certified in parts:
        _named_header(at, certified, "the certificate")
    for level, certified in parts:
        committee = _committee(at, certified.certificate.epoch, level)
        _final_header(at, certified, "the certificate", committee)
    doubts = []
    for level, certified in parts:
        try:
            at.believe(certified.certificate.epoch, level)
            at.believed.add(level)
        except LinkUntrusted as doubt:
            doubts.append(doubt)
    if doubts:
        raise doubts[0]
    header = final.certified.certificate
    return f"epoch {header.epoch}, height {header.height}, {len(header.signatures)} signatures"


def check_outcome(at: Reading) -> str:
    """The outcome is this lane's and result's, and in the results tree of each header. Spec: [RECEIPT-OUTCOME.1]"""
    final, settled, order = at.receipt.final, at.receipt.settled, at.receipt.order
    if final is None:
        raise LinkSkipped("the receipt has no outcome")
    outcome = final.outcome
    for name, expected in (
        ("session", order.session),
        ("task", order.task),
        ("lane", 0),
        ("verdict", Verdict.OK),
        ("root", at.root),
        ("count", at.count),
        ("home_epoch", order.home_epoch),
    ):
        expect(f"the outcome has another {name}", expected, getattr(outcome, name))
    leaf = outcome_leaf(outcome)
    for part in (final, settled):
        header = part.certified.header if part is not None else None
        if part is None or header is None:
            continue
        expect("the proof is of a tree of another size", header.results_count, part.proof.count)
        if not verify_proof(header.results_root, leaf, part.proof):
            raise LinkBroken("the proof does not lead to the results root", header.results_root, leaf)
    if Level.FINALIZED in at.believed:
        at.reached[Level.FINALIZED] = None
    return f"outcome {final.proof.index + 1} of {final.proof.count}"


def check_checkpoint(at: Reading) -> str:
    """The contract accepted the header of the settlement. The contract has checked its certificate then, so nothing
    else need be believed of that header's committee. Spec: [RECEIPT-CHECKPOINT.1]"""
    settled, contracts = at.receipt.settled, at.genesis.contracts
    if settled is None:
        raise LinkSkipped("the receipt has no checkpoint")
    header = settled.certified.header
    assert header is not None
    if contracts is None:
        raise LinkBroken("the network has no contracts to settle with")
    asks = at.accepted is not None and at.reader.means_network
    try:
        told = _accepted_by_proof(at, contracts.checkpoints, header, settled.evm)
    except LinkUntrusted:
        if not asks:
            raise
        told = _accepted_by_chain(at, header)
    at.reached[Level.SETTLED] = None
    return told


def _accepted_by_chain(at: Reading, header: Header) -> str:
    assert at.accepted is not None
    if not at.accepted(header_digest(at.domain, header)):
        raise LinkUntrusted("the contract has not accepted the header, as far as its chain is final", Level.SETTLED)
    return "the contract accepted the header, as the chain says"


def _accepted_by_proof(at: Reading, checkpoints: NodeId, header: Header, evm: EvmProof | None) -> str:
    """What the contract keeps of a header, by an EVM block that a final header anchors."""
    if evm is None:
        raise LinkUntrusted("only the chain can tell whether the contract accepted the header: --rpc", Level.SETTLED)
    what, epoch = "the header that anchors the block", evm.anchored.certificate.epoch
    _named_header(at, evm.anchored, what)
    anchored = _final_header(at, evm.anchored, what, _committee(at, epoch, Level.SETTLED))
    try:
        found = check_settled(at.domain, checkpoints, header, anchored, evm)
    except EvmError as error:
        raise _broken(error) from error
    at.believe(epoch, Level.SETTLED)
    return f"the contract accepted the header as number {found.sequence}, by the chain's state"

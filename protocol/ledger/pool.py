"""The node pool: who may bid for sessions. Miners enlist, are called to tests, and stay as long as they pass them."""

import msgspec

from protocol.committee.members import faulty_max
from protocol.core.errors import SignatureError
from protocol.core.ids import ZERO_DIGEST, Digest, NodeId
from protocol.core.signing import keccak, typed_digest, verify
from protocol.ledger.miners import Call, Miner, PoolState, TestKind, Vote
from protocol.ledger.records import Section
from protocol.ledger.statistics import MILLI, Statistics
from protocol.ledger.working import Working
from protocol.messages.results import Enlist, SignedEnlist, TestReport

JAIL_EPOCHS = 2
CALL_EPOCHS = 2
"""A test that is not decided by then is called again; a miner that never passed one is forgotten."""
RETEST_ONE_IN = 16
"""Lanes that came to OK, for one that has its miner tested again."""

LanePlace = tuple[bytes, int, int]
"""Session, task and lane."""


def genesis_miner(node: bytes) -> Miner:
    """A miner that the genesis lists: as if tested, whatever it serves. Spec: [POOL-GENESIS.1]"""
    return Miner(
        owner=node,
        model=ZERO_DIGEST,
        slots=0,
        claimed_tokens_per_second=0,
        enlisted=0,
        state=PoolState.AVAILABLE,
        since_epoch=1,
        tested_epoch=1,
        test=0,
        call=None,
        tokens_per_second=0,
        first_token_ms=0,
        statistics=Statistics(1),
    )


# Enlisting


def take_enlistment(work: Working, signed: SignedEnlist) -> None:
    """A miner asks for a place, or says something else of itself than before. Spec: [POOL-ENLIST.1]"""
    enlist = signed.enlist
    known = work.miner(enlist.miner)
    if known is None and work.size(Section.MINERS) >= work.params.miners_max:
        return
    if work.chain is not None and not _may_mine(work, enlist.miner):
        return
    if known is not None and (enlist.number <= known.enlisted or known.state is PoolState.JAILED):
        return
    if not enlist.slots or not enlist.number or enlist.model == ZERO_DIGEST:
        return
    try:
        verify(typed_digest(work.domain, enlist), signed.signature, enlist.miner, "the enlistment")
    except SignatureError:
        return
    _write(work, enlist.miner, _enlisted(work, known, enlist))


def _may_mine(work: Working, node: bytes) -> bool:
    """Where there is a registry, it says who may. Spec: [CHAIN-ENLIST.1]"""
    registered = work.registered(node)
    return registered is not None and registered.may_mine


def _enlisted(work: Working, known: Miner | None, enlist: Enlist) -> Miner:
    base = known or msgspec.structs.replace(
        genesis_miner(enlist.miner), state=PoolState.PENDING, tested_epoch=0, statistics=Statistics(work.epoch)
    )
    claims = (enlist.model, enlist.tokens_per_second)
    vouched = known is not None and not known.enlisted  # by the genesis, whatever it serves
    same = vouched or (known is not None and claims == (known.model, known.claimed_tokens_per_second))
    miner = msgspec.structs.replace(
        base,
        owner=enlist.owner,
        model=enlist.model,
        slots=enlist.slots,
        claimed_tokens_per_second=enlist.tokens_per_second,
        enlisted=enlist.number,
    )
    if same and miner.state is not PoolState.PENDING:
        return miner  # a test that is called stands: nobody gets out of one by enlisting again
    return _called(work, _stands(work, miner, PoolState.TESTING), enlist.miner)


# Tests


def _called(work: Working, miner: Miner, node: bytes, lane: LanePlace | None = None) -> Miner:
    """The miner with a test to pass, which nobody could know of before. Spec: [POOL-TEST.1]"""
    number = miner.test + 1
    seed = Digest(keccak(work.randomness + node + number.to_bytes(8, "big")))
    kind = TestKind.CHALLENGE if lane is None else TestKind.LANE
    call = Call(kind, seed, work.epoch, *(lane or (ZERO_DIGEST, 0, 0)))
    return msgspec.structs.replace(miner, test=number, call=call)


def take_report(work: Working, oracle: NodeId, report: TestReport) -> None:
    """An oracle's word on a test: f+1 of the present committee with the same decide it. Spec: [POOL-REPORT.1]"""
    miner = work.miner(report.miner)
    present = work.homes[work.epoch]
    if miner is None or miner.call is None or miner.test != report.test or oracle not in present:
        return
    votes = [vote for vote in miner.call.votes if vote.oracle in present]
    if any(vote.oracle == oracle for vote in votes):
        return
    votes.append(Vote(oracle, report.passed, report.tokens_per_second, report.first_token_ms))
    agreeing = [vote for vote in votes if vote.passed == report.passed]
    if len(agreeing) > faulty_max(len(present)):
        _write(work, report.miner, _decided(work, miner, report.passed, agreeing))
    else:
        call = msgspec.structs.replace(miner.call, votes=tuple(votes))
        _write(work, report.miner, msgspec.structs.replace(miner, call=call))


def _decided(work: Working, miner: Miner, passed: bool, votes: list[Vote]) -> Miner:
    miner = msgspec.structs.replace(miner, call=None)
    if not passed:
        return _stands(work, miner, PoolState.JAILED)
    miner = msgspec.structs.replace(_stands(work, miner, PoolState.AVAILABLE), tested_epoch=work.epoch)
    # Who scored a lane instead of giving a challenge has measured no speed.
    measured = [vote for vote in votes if vote.tokens_per_second]
    if not measured:
        return miner
    # Of two in the middle the worse one: f of them may be of faulty oracles.
    speeds = sorted(vote.tokens_per_second for vote in measured)
    waits = sorted(vote.first_token_ms for vote in measured)
    return msgspec.structs.replace(
        miner, tokens_per_second=speeds[(len(speeds) - 1) // 2], first_token_ms=waits[len(waits) // 2]
    )


# Tasks


def task_succeeded(work: Working, key: bytes, worked: list[tuple[bytes, int]], lane: LanePlace | None) -> None:
    """A lane came to OK: its miners' tokens count, and its last miner's task. By hash, that one is tested again, by
    this very lane if one may look at it. Spec: [POOL-STATISTICS.1] [POOL-RETEST.1]
    """
    for place, (node, tokens) in enumerate(worked):
        _count(work, node, tokens=tokens, ok=place == len(worked) - 1)
    last = worked[-1][0]
    miner = work.miner(last)
    drawn = keccak(work.randomness + key)[0] < 256 // RETEST_ONE_IN
    if drawn and miner is not None and miner.state is PoolState.AVAILABLE and miner.call is None:
        _write(work, last, _called(work, miner, last, lane))


def task_failed(work: Working, node: bytes) -> None:
    """A lane came to nothing by this miner's fault. Spec: [POOL-STATISTICS.1]"""
    _count(work, node, failed=True)


def _count(work: Working, node: bytes, tokens: int = 0, ok: bool = False, failed: bool = False) -> None:
    miner = work.miner(node)
    if miner is None:
        return
    before = miner.statistics.at(work.epoch, work.params.decay_bp)
    after = msgspec.structs.replace(
        before,
        tokens=before.tokens + tokens,
        ok_milli=before.ok_milli + ok * MILLI,
        failed_milli=before.failed_milli + failed * MILLI,
    )
    _write(work, node, msgspec.structs.replace(miner, statistics=after))


# Time


def turn_pool(work: Working) -> None:
    """An epoch begins. Spec: [POOL-AGE.1]"""
    for node, data in work.before.tree(Section.MINERS).items():
        before = Miner.read(data)
        after = _turned(work, node, before)
        if after != before:
            _write(work, node, after)


def _turned(work: Working, node: bytes, miner: Miner) -> Miner | None:
    """A miner as it enters an epoch; None if it is forgotten."""
    keep = 2 * work.params.test_age_epochs if miner.tested_epoch else CALL_EPOCHS
    stood = work.epoch - miner.since_epoch
    match miner.state:
        case PoolState.JAILED:
            return _stands(work, miner, PoolState.PENDING) if stood >= JAIL_EPOCHS else miner
        case PoolState.PENDING | PoolState.TESTING:
            if stood >= keep:
                return None
        case PoolState.AVAILABLE:
            if work.epoch - miner.tested_epoch > 2 * work.params.test_age_epochs:
                miner = _stands(work, miner, PoolState.TESTING)
    return _called(work, miner, node) if _is_due(work, miner) else miner


def _is_due(work: Working, miner: Miner) -> bool:
    """Whether a test is to be called: the last one is too long ago, or was never decided."""
    if miner.call is not None:
        return work.epoch - miner.call.epoch >= CALL_EPOCHS
    old = work.epoch - miner.tested_epoch > work.params.test_age_epochs
    return miner.state is PoolState.TESTING or (miner.state is PoolState.AVAILABLE and old)


def _stands(work: Working, miner: Miner, state: PoolState) -> Miner:
    if miner.state is state:
        return miner
    return msgspec.structs.replace(miner, state=state, since_epoch=work.epoch)


def _write(work: Working, node: bytes, miner: Miner | None) -> None:
    work.write(Section.MINERS, node, miner)

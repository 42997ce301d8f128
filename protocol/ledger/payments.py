"""How money moves: nothing is made or lost, and nobody pays more than it signed for. Spec: [LEDGER-CONSERVED.1]"""

import msgspec

from protocol.core.errors import SignatureError
from protocol.core.ids import NodeId
from protocol.core.params import Params
from protocol.core.signing import typed_digest, verify
from protocol.ledger.lanes import Claim, Claimed, Lane
from protocol.ledger.records import Section, lane_key, lanes_of
from protocol.ledger.sessions import Session
from protocol.ledger.state import Earned, Share
from protocol.ledger.working import Working
from protocol.messages.results import SignedWithdraw

BP = 10_000


def reserve(work: Working, client: bytes, amount_wei: int) -> None:
    """Bind some of what a client has."""
    account = work.account(client)
    balance, reserved = account.balance_wei - amount_wei, account.reserved_wei + amount_wei
    work.set_account(client, msgspec.structs.replace(account, balance_wei=balance, reserved_wei=reserved))


def release(work: Working, session: Session) -> None:
    """What is left of a reservation is free again, and the session cannot come back."""
    account = work.account(session.client)
    left = session.cap_wei - session.spent_wei
    nonce = int.from_bytes(session.nonce, "big") + 1
    work.set_account(
        session.client,
        msgspec.structs.replace(
            account,
            balance_wei=account.balance_wei + left,
            reserved_wei=account.reserved_wei - left,
            nonce_from=max(nonce, account.nonce_from),
        ),
    )


def take_withdrawal(work: Working, signed: SignedWithdraw) -> None:
    """An account's word on what may leave. Its total only rises, so saying it twice changes nothing.

    Spec: [LEDGER-WITHDRAW.1]
    """
    word = signed.withdraw
    account = work.account(word.account)
    more = word.total - account.withdrawable_wei
    if not 0 < more <= account.balance_wei:
        return
    try:
        verify(typed_digest(work.domain, word), signed.signature, word.account, "the withdrawal")
    except SignatureError:
        return
    balance = account.balance_wei - more
    work.set_account(word.account, msgspec.structs.replace(account, balance_wei=balance, withdrawable_wei=word.total))


def pay(work: Working, session: bytes, task: int, number: int, lane: Lane) -> Lane:
    """Pay for a lane that came to OK what its claim shows and was not paid before. Spec: [LEDGER-PAY.1]"""
    reservation, (claim,) = work.session(session), lane.claims
    if reservation is None:
        return lane
    limit_wei = _limit_wei(work, session, task, number, reservation, lane)
    paid_wei, segments = 0, list(claim.segments)
    for place, due_wei in _due(work.params, number, reservation, claim, lane):
        amount_wei = min(due_wei, limit_wei - paid_wei)
        _distribute(work, reservation, segments[place], lane, amount_wei)
        paid_wei += amount_wei
        segments[place] = msgspec.structs.replace(segments[place], paid=segments[place].acked)
    spent_wei = reservation.spent_wei + paid_wei
    work.write(Section.SESSIONS, session, msgspec.structs.replace(reservation, spent_wei=spent_wei))
    claim = msgspec.structs.replace(claim, segments=tuple(segments))
    return msgspec.structs.replace(lane, claims=(claim,), paid_wei=lane.paid_wei + paid_wei, settled=True)


def _due(params: Params, number: int, session: Session, claim: Claim, lane: Lane) -> list[tuple[int, int]]:
    """Which segments are to be paid, and what. Lane 0 to the last token that the client accepted, each token at its
    segment's price; the others a share of what their tokens cost, once. Spec: [LEDGER-PAY.2]"""
    fair = [
        (place, segment) for place, segment in enumerate(claim.segments) if segment.price_wei <= session.price_cap_wei
    ]
    if number == 0:
        return [
            (at, (segment.acked - segment.paid) * segment.price_wei)
            for at, segment in fair
            if segment.acked > segment.paid
        ]
    last = len(claim.segments) - 1
    return [
        (at, claim.count * segment.price_wei * params.lane_fee_bp // BP)
        for at, segment in fair
        if at == last and not lane.settled
    ]


def _limit_wei(work: Working, session: bytes, task: int, number: int, reservation: Session, lane: Lane) -> int:
    """What the order's cap and the session's cap leave. Spec: [LEDGER-CAP.1]"""
    section, paid_wei = lanes_of(lane.home_epoch), lane.paid_wei
    for other in range(reservation.lanes):
        beside = None if other == number else work.lane(section, lane_key(session, task, other))
        paid_wei += 0 if beside is None else beside.paid_wei
    return max(0, min(lane.claims[0].cap_wei - paid_wei, reservation.cap_wei - reservation.spent_wei))


def _distribute(work: Working, session: Session, segment: Claimed, lane: Lane, amount_wei: int) -> None:
    """From what the client reserved, to router, oracles and the miner's owner; remainders are the miner's.

    Spec: [LEDGER-SHARES.1]
    """
    assert lane.outcome is not None, "a lane that is paid is decided"
    client = work.account(session.client)
    work.set_account(session.client, msgspec.structs.replace(client, reserved_wei=client.reserved_wei - amount_wei))
    left_wei = amount_wei
    if segment.router in session.routers:
        left_wei -= _credit(
            work, Share.ROUTER, _payee(work, segment.router), amount_wei * work.params.router_share_bp // BP
        )
    members = work.homes[lane.home_epoch]
    right = (lane.outcome.verdict, lane.outcome.root, lane.outcome.count)
    oracles = [members[said.place] for said in lane.said if (said.verdict, said.root, said.count) == right]
    each_wei = amount_wei * work.params.oracle_share_bp // BP // len(oracles)
    for oracle in oracles:
        left_wei -= _credit(work, Share.ORACLE, _payee(work, oracle), each_wei)
    miner = work.miner(segment.miner)
    owner = _payee(work, segment.miner, segment.miner if miner is None else miner.owner)
    _credit(work, Share.MINER, owner, left_wei)


def _payee(work: Working, node: bytes, otherwise: bytes | None = None) -> bytes:
    """Whose is what a node earns: its owner's, where the registry knows one, as the node's own key moves no money."""
    registered = work.registered(node)
    return registered.owner if registered is not None else otherwise or node


def _credit(work: Working, share: Share, address: bytes, amount_wei: int) -> int:
    account = work.account(address)
    if amount_wei:
        work.earned.append(Earned(NodeId(address), share, amount_wei))
    work.set_account(address, msgspec.structs.replace(account, balance_wei=account.balance_wei + amount_wei))
    return amount_wei

"""Mistakes in what makes results certain and paid: what each would do, and the promise that it breaks.

Most show only in a world that asks for them: somebody who would gain by the mistake has to be there to try.
"""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec.structs import replace

from p2pnode.sim.mutation import Made, Mutation, around, replaced
from protocol.committee import cut
from protocol.committee.tree import Tree
from protocol.core.signing import keccak
from protocol.ledger import claims, payments, reservations, verdicts
from protocol.light.headers import HeaderTrust
from protocol.messages.committee import Certificate
from protocol.results import commitment
from protocol.results.hearsay import Hearsay
from protocol.results.observing import Desk
from protocol.results.outcome import decide
from protocol.roles.miner import orders
from protocol.roles.miner.credit import Admission, Credit
from protocol.roles.oracle.batches import Batches
from protocol.roles.oracle.outbox import Outbox
from protocol.session.sampling import lane_seed


def _commitment(*, of_author: bool, salted: bool) -> Made:
    """A commitment that leaves something out."""

    def made(
        domain: Any, session: bytes, task: int, lane: int, generation: bytes, miner: bytes, root: bytes, salt: bytes
    ) -> bytes:
        place = session + task.to_bytes(4, "big") + bytes([lane]) + generation + (miner if of_author else b"")
        return keccak(domain.separator() + place + root + (salt if salted else b""))

    return lambda: replaced(commitment, "commitment", made)


def _acked_in_full(inner: Callable[..., Any]) -> Callable[..., Any]:
    def claim(root: bytes, opening: Any) -> Any:
        made = inner(root, opening)
        ends = [*(segment.start_index for segment in made.segments[1:]), made.count]
        segments = (replace(each, acked=end) for each, end in zip(made.segments, ends, strict=True))
        return replace(made, segments=tuple(segments))

    return claim


def _count_early(inner: Callable[..., Any], desk: Any, message: Any, source: Any, now_ms: int) -> Any:
    task = desk.open.tasks.get((message.signed.reveal.session, message.signed.reveal.task))
    if task is None or task.closed:
        return inner(message, source, now_ms)
    task.closed = True
    try:
        return inner(message, source, now_ms)
    finally:
        task.closed = False


def _close_on_notarization(inner: Callable[..., Any], tree: Tree) -> Certificate | None:
    for height in sorted(tree.notarizations, reverse=True):
        certificate: Certificate = tree.notarizations[height]
        if tree._executes(certificate.header) and tree._follows_base(certificate.header):
            return certificate
    found: Certificate | None = inner()
    return found


def _speak_now(inner: Callable[..., Any], outbox: Any, view: Any, epoch: int, *args: Any) -> Any:
    lanes = {lane: None for values in outbox._values.values() for lane in values}
    outbox._values = {epoch: lanes} if lanes else {}
    return inner(view, epoch, *args)


def _of_any_epoch(inner: Callable[..., Any], _hearsay: Any, lane: Any, _home_epoch: Any = None) -> Any:
    return inner(lane)


def _of_members_only(inner: Callable[..., Any], batches: Any, home_epoch: int, content: bytes, final: Any) -> Any:
    if home_epoch == max(final.homes):
        return inner(home_epoch, content, final)
    return "it is over"


def _believe(_inner: Callable[..., Any], _trust: Any, certified: Any) -> Any:
    return certified.header


RESULTS_MUTATIONS: Mapping[str, Mutation] = {
    "salt-dropped": Mutation(
        "a commitment can be tried against results, as nothing secret is in it",
        "results",
        ("S9",),
        3,
        _commitment(of_author=True, salted=False),
    ),
    "author-dropped": Mutation(
        "a commitment says nothing of who made it", "results", ("S9",), 3, _commitment(of_author=False, salted=True)
    ),
    "lane-dropped": Mutation(
        "all lanes of a task have the same noise, so a copied answer looks like one's own",
        "results-lanes",
        ("S9",),
        5,
        lambda: replaced(orders, "lane_seed", lambda seed, choice, _lane: lane_seed(seed, choice, 0)),
    ),
    "f-decide": Mutation(
        "f oracles that say the same of a lane decide it",
        "results-liars",
        ("S5", "S6"),
        10,
        lambda: replaced(verdicts, "decide", lambda values, f: decide(values, f - 1)),
    ),
    "cut-per-task": Mutation(
        "a leader takes in what it likes of an oracle's batches",
        "results-pickers",
        ("S6",),
        10,
        lambda: replaced(cut, "_check_chains", lambda *_: None),
    ),
    "reservation-ignored": Mutation(
        "a session is reserved without anything being set aside",
        "results",
        ("S7",),
        5,
        lambda: replaced(reservations, "reserve", lambda *_: True),
    ),
    "credit-unbounded": Mutation(
        "a miner serves whoever has reserved nothing as long as it likes",
        "results-poor-clients",
        ("S8",),
        5,
        around(Credit, "admit", lambda *_: Admission(granted=True)),
    ),
    "ack-ignored": Mutation(
        "lane 0 is paid to its end, whatever its client acknowledged",
        "results-silent-clients",
        ("S8",),
        10,
        lambda: replaced(claims, "_claim_of", _acked_in_full(claims._claim_of)),
    ),
    "early-opening-counted": Mutation(
        "an opening counts though commits are still taken",
        "results-early",
        ("S5",),
        10,
        around(Desk, "revealed", _count_early),
    ),
    "home-epoch-ignored": Mutation(
        "an oracle speaks of a lane in the epoch it is in, not in the lane's own",
        "results-short-epochs",
        ("S6",),
        10,
        around(Outbox, "draft", _speak_now),
    ),
    "withdrawal-without-finality": Mutation(
        "a member takes what is notarized for final, so a withdrawal counts in a block that may yet be gone",
        "results",
        ("S1", "S17"),
        5,
        around(Tree, "settleable", _close_on_notarization),
    ),
    "withdrawal-unsigned": Mutation(
        "money leaves an account at anybody's word",
        "results-thieves",
        ("S7",),
        5,
        lambda: replaced(payments, "verify", lambda *_: None),
    ),
    "told-in-any-epoch": Mutation(
        "an oracle takes a lane for its own of which others speak in whatever epoch",
        "results-turns-liars",
        ("S6",),
        10,
        around(Hearsay, "oracles", _of_any_epoch),
    ),
    "silent-after-its-term": Mutation(
        "an oracle that is no member any more does not say what it owes",
        "results-turns",
        ("L10", "S13"),
        5,
        around(Batches, "refusal", _of_members_only),
    ),
    "header-believed": Mutation(
        "whoever follows the committee believes any header",
        "results-forgers",
        ("S10",),
        10,
        around(HeaderTrust, "check", _believe),
    ),
}
"""By name."""

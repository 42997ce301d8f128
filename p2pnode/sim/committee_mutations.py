"""Mistakes in the committee's code: what each would do, and the promise that it breaks.

Some show only in a world that asks for them, so they name a profile of the scenario; without the mistake every profile
is as free of violations as the scenario itself.
"""

from collections.abc import Callable, Mapping
from typing import Any

from p2pnode.sim.mutation import Mutation, around, replaced, together
from protocol.committee import members, proposals, signer, simplex
from protocol.committee.effects import ToMembers
from protocol.committee.signer import Signer
from protocol.committee.simplex import Simplex
from protocol.committee.tally import Tally
from protocol.committee.timing import timeout_ms
from protocol.committee.tree import Tree
from protocol.core import genesis
from protocol.core.machine import Persist
from protocol.core.params import COMMITTEE_SIZES
from protocol.messages.committee import Certificate, Certified, StatementKind
from protocol.roles.oracle import machine
from protocol.roles.oracle.starting import Starting


def _send_first(inner: Callable[..., Any], _simplex: Any, *args: Any) -> Any:
    effects = inner(*args)
    return sorted(effects, key=lambda effect: isinstance(effect, Persist))


def _five_members() -> Any:
    sizes = (*COMMITTEE_SIZES, 5)
    return together(
        lambda: replaced(members, "COMMITTEE_SIZES", sizes),
        lambda: replaced(genesis, "COMMITTEE_SIZES", sizes),
        lambda: replaced(members, "quorum_of", lambda size: (size - 1) // 2 + 1),
    )()


def _vote_twice(inner: Callable[..., Any], signing: Any, kind: Any, epoch: int, height: int, *header: Any) -> Any:
    known = signing.signed(kind, epoch, height)
    if kind is StatementKind.VOTE and known is not None and (known.header,) != header:
        del signing._slots[epoch, height, kind]
    return inner(kind, epoch, height, *header)


def _take_the_last(inner: Callable[..., Any], consensus: Any, message: Any, now_ms: int) -> Any:
    height = message.header.height
    tally: Tally | None = consensus.tallies.get(height)
    if tally is not None and tally.proposal is not None and tally.proposal.header != message.header:
        del tally._said[StatementKind.PROPOSAL][consensus.committee.leader(height)]
        tally.proposal = None
    return inner(message, now_ms)


def _may_vote_again(inner: Callable[..., Any], consensus: Any, kind: StatementKind) -> Any:
    return (kind is StatementKind.VOTE and consensus.me is not None) or inner(kind)


def _vote_once_a_block(inner: Callable[..., Any], consensus: Any, now_ms: int) -> Any:
    tally = consensus.tallies.get(consensus.height)
    known = consensus.signer.signed(StatementKind.VOTE, consensus.committee.epoch, consensus.height)
    proposed = None if tally is None else tally.proposal
    if known is not None and (proposed is None or proposed.statement.header == known.header):
        return []
    return inner(now_ms)


def _leave_silently(inner: Callable[..., Any], _simplex: Any, *args: Any) -> Any:
    return [
        effect
        for effect in inner(*args)
        if not (isinstance(effect, ToMembers) and isinstance(effect.message, Certified))
    ]


def _forget_nullifies(inner: Callable[..., Any], signing: Any, name: bytes, value: bytes) -> None:
    if not (name.startswith(signer.STATEMENT) and name[-1] == StatementKind.NULLIFY):
        inner(name, value)


def _vote_without_block(
    inner: Callable[..., Any], _simplex: Any, kind: StatementKind, header: bytes, height: int, *records: Any
) -> Any:
    return inner(kind, header, height) if kind is StatementKind.VOTE else inner(kind, header, height, *records)


def _count_nullified(_inner: Callable[..., Any], consensus: Any) -> int:
    tree = consensus.tree
    passed = max(tree.notarizations, default=0)
    last = max(passed, tree.final_height)
    return timeout_ms(consensus._params, consensus.committee.faulty_max, consensus.height, last)


def _close_on_notarization(inner: Callable[..., Any], tree: Tree) -> Certificate | None:
    for height, certificate in tree.notarizations.items():
        if height >= tree.closing_above and tree._executes(certificate.header):
            return certificate
    found: Certificate | None = inner()
    return found


def _never_lost(inner: Callable[..., Any], starting: Any, domain: Any, signing: Any, _lost: Any) -> None:
    inner(domain, signing, None)


def _nothing(_inner: Callable[..., Any], _self: Any, *_args: Any) -> None:
    """In place of a method that matters."""


COMMITTEE_MUTATIONS: Mapping[str, Mutation] = {
    "send-before-durable": Mutation(
        "what a member signs leaves before it is durable",
        "committee",
        ("S3",),
        3,
        around(Simplex, "_say", _send_first),
    ),
    "quorum-of-2f": Mutation(
        "2f members make a certificate",
        "committee-equivocators",
        ("S1", "S17"),
        40,
        lambda: replaced(members, "quorum_of", lambda size: 2 * members.faulty_max(size)),
    ),
    "quorum-of-half": Mutation("f+1 of n = 5 make a certificate", "committee-five", ("S1", "S17"), 40, _five_members),
    "finalize-after-nullify": Mutation(
        "a member that gave a height up finalizes it when it is notarized after all",
        "committee",
        ("S2",),
        10,
        lambda: replaced(signer, "_EXCLUDED", {StatementKind.NULLIFY: StatementKind.FINALIZE}),
    ),
    "vote-over-a-gap": Mutation(
        "a member votes for a block though a height between its parent and it is not nullified",
        "committee-skipper",
        ("S1", "S17"),
        10,
        lambda: replaced(proposals, "not_nullified", lambda *_: None),
    ),
    "two-votes": Mutation(
        "a member votes for a leader's second block too",
        "committee-doubler",
        ("S2",),
        10,
        together(
            around(Signer, "sign", _vote_twice),
            around(Simplex, "on_propose", _take_the_last),
            around(Simplex, "_may_say", _may_vote_again),
            around(Simplex, "_vote", _vote_once_a_block),
        ),
    ),
    "no-resend": Mutation(
        "nothing is sent twice",
        "committee-lossy",
        ("L1", "L5", "L8"),
        20,
        lambda: replaced(machine, "resend", lambda _: []),
    ),
    "no-relay": Mutation(
        "whoever leaves a height keeps the certificate to itself",
        "committee-whisperer",
        ("L1", "L2"),
        20,
        around(Simplex, "_hold", _leave_silently),
    ),
    "no-back-off": Mutation(
        "the timer is the same at every height",
        "committee-far",
        ("L1",),
        10,
        lambda: replaced(
            simplex, "timeout_ms", lambda params, f, height, _final: timeout_ms(params, f, height, height)
        ),
    ),
    "back-off-by-nullifications": Mutation(
        "the timer backs off for heights that were given up, not for heights that are not final",
        "committee-late",
        ("L1",),
        20,
        around(Simplex, "_timeout_ms", _count_nullified),
    ),
    "nullify-forgotten": Mutation(
        "after a crash a member finalizes what it had given up",
        "committee-crashes",
        ("S2",),
        40,
        together(around(Signer, "_load", _forget_nullifies), around(Signer, "lacks", _nothing)),
    ),
    "vote-before-block": Mutation(
        "a member votes for a block that it would not have after a crash",
        "committee",
        ("S3",),
        5,
        around(Simplex, "_say", _vote_without_block),
    ),
    "hand-over-on-notarization": Mutation(
        "an epoch closes with a block that is not final yet",
        "committee",
        ("S1", "S17"),
        5,
        around(Tree, "settleable", _close_on_notarization),
    ),
    "lost-log-is-empty": Mutation(
        "a member whose signer log is gone goes on as if it had signed nothing",
        "committee-lost-logs",
        ("S2",),
        40,
        together(around(Starting, "__init__", _never_lost), around(Signer, "lacks", _nothing)),
    ),
}
"""By name."""

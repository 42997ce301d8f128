"""What members say of the chain, and what it does once f+1 of them have said the same."""

from collections.abc import Sequence

import msgspec

from protocol.committee.members import faulty_max
from protocol.core.codec import pack
from protocol.core.genesis import ALLOCATION_MAX
from protocol.core.ids import NodeId
from protocol.core.signing import keccak
from protocol.ledger.chain import ChainState, Said, is_committee
from protocol.ledger.nodes import node_of
from protocol.ledger.records import Section
from protocol.ledger.working import Working
from protocol.messages.chain import (
    WORD_BYTES_MAX,
    Accepted,
    ChainEvent,
    ChainWord,
    Deposited,
    Drawn,
    NodeChanged,
    run_digest,
)

WORDS_KEPT = 4
"""Of a member: it may see the chain at other blocks than the others, but not for ever."""
DRAWS_KEPT = 4


def take_words(work: Working, oracle: NodeId, words: Sequence[ChainWord]) -> None:
    """A member's words on the chain. Spec: [CHAIN-KEPT.1] [CHAIN-APPLY.1]"""
    present = work.homes[work.epoch]
    for word in words:
        if work.chain is None or oracle not in present or not follows(work.chain, word, work.params.anchor_stride):
            continue
        name = keccak(pack(word))
        work.chain = _kept(work.chain, oracle, name)
        if len(list(work.chain.sayers(name))) > faulty_max(len(present)):
            _apply(work, word)


def follows(chain: ChainState, word: ChainWord, stride: int) -> bool:
    """Whether a word continues what the ledger has taken in, and leads where it says. Spec: [CHAIN-FOLLOWS.1]"""
    ahead = word.number > chain.number and word.number % stride == 0
    # More events follow than fit into it: the anchor stays where it is until all of a block are in.
    some = (word.number, word.hash) == (chain.number, chain.hash) and bool(word.events)
    if word.first != chain.events or not (ahead or some) or len(pack(word)) > WORD_BYTES_MAX:
        return False
    digest, number, deposited = chain.digest, chain.deposits, chain.deposited
    for event in word.events:
        digest = run_digest(digest, event)
        if isinstance(event, Deposited):
            if event.number != number + 1:
                return False
            number, deposited = event.number, deposited + event.amount
    return digest == word.digest and deposited <= ALLOCATION_MAX


def _kept(chain: ChainState, oracle: NodeId, name: bytes) -> ChainState:
    before = chain.words_of(oracle)
    names = (*(known for known in before if known != name), name)[-WORDS_KEPT:]
    others = [said for said in chain.said if said.oracle != oracle]
    said = sorted([*others, Said(oracle, names)], key=lambda each: each.oracle)
    return msgspec.structs.replace(chain, said=tuple(said))


def _apply(work: Working, word: ChainWord) -> None:
    for event in word.events:
        _take(work, event)
    chain = work.chain
    assert chain is not None, "who applies a word has a chain"
    moved = word.number > chain.number
    work.chain = msgspec.structs.replace(
        chain,
        number=word.number,
        hash=word.hash,
        events=chain.events + len(word.events),
        beyond=0 if moved else chain.beyond + len(word.events),
        digest=word.digest,
        said=(),
    )


def _take(work: Working, event: ChainEvent) -> None:
    """One event comes in. Spec: [CHAIN-ACCEPTED.1]"""
    chain = work.chain
    assert chain is not None, "who applies a word has a chain"
    match event:
        case Deposited():
            work.chain = _deposit(work, chain, event)
        case NodeChanged():
            _change(work, event)
        case Drawn():
            work.chain = _draw(work, chain, event)
        case Accepted():
            last = chain.accepted
            if last is None or (event.epoch, event.height) > (last.epoch, last.height):
                work.chain = msgspec.structs.replace(chain, accepted=event)


def _deposit(work: Working, chain: ChainState, event: Deposited) -> ChainState:
    """What is deposited is free to spend. Spec: [CHAIN-DEPOSIT.1] [LEDGER-CONSERVED.1]"""
    account = work.account(event.account)
    work.set_account(event.account, msgspec.structs.replace(account, balance_wei=account.balance_wei + event.amount))
    return msgspec.structs.replace(chain, deposits=event.number, deposited=chain.deposited + event.amount)


def _change(work: Working, event: NodeChanged) -> None:
    """The registry says something else of a node. Who may not mine any more has no place in the pool.

    Spec: [CHAIN-NODES.1]
    """
    node = node_of(event)
    room = work.size(Section.NODES) < work.params.registered_max
    if node is None or room or work.registered(event.node) is not None:
        work.write(Section.NODES, event.node, node)
    if (node is None or not node.may_mine) and work.miner(event.node) is not None:
        work.write(Section.MINERS, event.node, None)


def _draw(work: Working, chain: ChainState, event: Drawn) -> ChainState:
    """A committee is drawn. Of the next epoch it comes too late: what its headers name was fixed when this one began.

    Spec: [CHAIN-COMMITTEE.1]
    """
    if event.epoch <= work.epoch + 1 or not is_committee(event.members):
        return chain
    others = [draw for draw in chain.draws if draw.epoch != event.epoch]
    draws = sorted([*others, event], key=lambda draw: draw.epoch)[:DRAWS_KEPT]
    return msgspec.structs.replace(chain, draws=tuple(draws))

"""The model registry's heads."""

import pytest

from protocol.core.errors import DecodeError
from protocol.core.ids import ZERO_DIGEST
from protocol.core.signing import keccak, typed_digest
from protocol.ledger import registry
from protocol.ledger.names import Alias, Name
from protocol.messages.results import NAME_BYTES_MAX, Content, SignedEntry
from tests.unit.protocol.ledger_at_hand import (
    DOMAIN,
    MODEL,
    OWNER,
    STRANGER,
    Books,
    entry_of,
    keyed,  # noqa: F401
)

NEWER, NEWEST = keccak(b"newer"), keccak(b"newest")


def head(books: Books, name: str = "tiny") -> Name:
    """A name's record."""
    record = books.state.name(name)
    assert record is not None
    return record


def next_of(signed: SignedEntry, **fields: object) -> SignedEntry:
    """The entry that follows another."""
    entry = signed.entry
    return entry_of(**{"number": entry.number + 1, "previous": typed_digest(DOMAIN, entry), "model": NEWER, **fields})  # type: ignore[arg-type]


@pytest.mark.spec("REGISTRY-HEAD.1")
def test_the_first_entry_makes_a_name_its_owners_and_the_log_goes_on() -> None:
    books = Books()
    first = entry_of(alias="stable")
    second = next_of(first, alias="canary")
    third = next_of(second, model=NEWEST)
    books.bring(entries=[first, second, third])
    record = head(books)
    assert (record.owner, record.number, record.model) == (OWNER.node_id, 3, NEWEST)
    assert record.head == typed_digest(DOMAIN, third.entry)
    assert [(alias.alias, alias.number, alias.model) for alias in record.aliases] == [
        ("canary", 2, NEWER),
        ("stable", 1, MODEL),
    ]
    books.bring(entries=[next_of(third, model=MODEL, alias="canary")])
    assert [alias.number for alias in head(books).aliases] == [4, 1], "rolled back by a new entry"


@pytest.mark.spec("REGISTRY-HEAD.1")
def test_nothing_else_changes_a_head() -> None:
    books = Books()
    first = entry_of()
    books.bring(entries=[first])
    before = books.state.trees
    wrong = [
        first,
        entry_of(STRANGER),
        next_of(first, number=3),
        next_of(first, previous=ZERO_DIGEST),
        next_of(first, owner=STRANGER),
        next_of(first, signer=STRANGER),
        next_of(first, alias="latest"),
        entry_of(name="other", number=2),
        entry_of(name="other", previous=NEWER),
        entry_of(name="other", signer=STRANGER),
        entry_of(name=""),
        entry_of(name="ü" * NAME_BYTES_MAX),
    ]
    for entry in wrong:
        books.bring(entries=[entry])
    assert books.state.trees == before


@pytest.mark.spec("REGISTRY-HEAD.1")
def test_of_two_entries_with_one_number_the_first_in_the_cut_counts() -> None:
    books = Books()
    first = entry_of()
    books.bring(entries=[first])
    rivals = [next_of(first), next_of(first, model=NEWEST)]
    books.block({at: Content(entries=(rival,)) for at, rival in enumerate(rivals)})
    assert head(books).number == 2
    assert head(books).model in (NEWER, NEWEST)


@pytest.mark.spec("REGISTRY-HEAD.1")
def test_the_number_of_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "NAMES_MAX", 2)
    books = Books()
    books.bring(entries=[entry_of(name=str(number)) for number in range(3)])
    assert [books.state.name(str(number)) is not None for number in range(3)] == [True, True, False]


@pytest.mark.spec("LEDGER-NAME.1")
def test_a_name_is_words_and_has_one_encoding() -> None:
    name = Name(OWNER.node_id, 5, NEWER, NEWEST, (Alias("canary", 2, MODEL), Alias("stable", 5, NEWEST)))
    data = name.packed()
    words = [data[at : at + 32] for at in range(0, len(data), 32)]
    assert [words[0][12:], int.from_bytes(words[1], "big"), *words[2:4]] == [OWNER.node_id, 5, NEWER, NEWEST]
    assert words[4] == b"canary" + bytes(26)
    assert Name.read(data) == name
    other_order = data[: 4 * 32] + data[7 * 32 :] + data[4 * 32 : 7 * 32]
    wrong = [b"", data[:-1], data[:-32], data[: 3 * 32], b"\1" + data[1:], other_order]
    wrong += [data[: 4 * 32] + alias + data[5 * 32 :] for alias in (bytes(32), b"\xff" * 32)]
    wrong.append(data[:32] + b"\xff" * 32 + data[64:])
    for each in wrong:
        with pytest.raises(DecodeError):
            Name.read(each)

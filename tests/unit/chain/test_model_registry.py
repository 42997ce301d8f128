"""The model registry on chain: heads of the ledger's logs, by proof, forward only."""

from dataclasses import dataclass

import pytest

from chain.artifacts import load_artifact
from protocol.core.signing import keccak
from protocol.core.sparse import SparseTree
from protocol.ledger.names import Alias, Name
from protocol.ledger.records import Section
from protocol.ledger.state import ledger_root
from protocol.messages.committee import Header
from tests.unit.chain.contracts_at_hand import ANYBODY, DEPLOYER, DOMAIN, Rig, Settings, fields_of
from tests.unit.chain.evm import Done, Kept, Refused

OWNER = b"\x0e" * 20
HEADS = [keccak(bytes([number])) for number in range(8)]
MODEL, CANARY = b"\xaa" * 32, b"\xbb" * 32
NOBODY = f"0x{bytes(20).hex()}"


@dataclass
class Shelf:
    """The contract before true checkpoints."""

    rig: Rig
    height: int = 0

    def __post_init__(self) -> None:
        self.models = self.rig.evm.deploy(
            load_artifact("ModelRegistry"),
            DOMAIN.network_id,
            self.rig.evm.chain_id,
            self.rig.checkpoints.address,
            sender=DEPLOYER,
        )

    def header(
        self, records: dict[str, bytes], section: Section = Section.NAMES
    ) -> tuple[Header, SparseTree, list[bytes]]:
        """The next block's header, with these names in its ledger."""
        self.height += 1
        tree = SparseTree.of((name.encode(), record) for name, record in records.items())
        sections = [tree.root if at == section else bytes([at]) * 32 for at in Section]
        return self.rig.header(1, self.height, ledger_root=ledger_root(tuple(sections))), tree, sections

    def prove(self, name: str, record: bytes, *, usable: bool = True, accepted: bool = True, **other: Section) -> Done:
        """Have a name's record finalized, and bring it."""
        header, tree, sections = self.header({name: record, "other": b"?" * 128}, **other)
        if accepted:
            self.rig.submit(header)
        if usable:
            self.rig.evm.advance(seconds=self.rig.settings.window_s)
        siblings = tree.prove(name.encode())[1]
        return self.models.send("prove", name, record, fields_of(header), siblings, sections, sender=ANYBODY)

    def head(self, name: str) -> tuple[str, int, bytes, bytes]:
        """What the contract says of a name."""
        owner, number, head, model = self.models.call("head", name)
        return owner, number, head, model

    def alias(self, name: str, alias: str) -> tuple[int, bytes]:
        """What an alias stands for."""
        number, model = self.models.call("alias", name, alias.encode().ljust(32, b"\0"))
        return number, model


@pytest.fixture(scope="module")
def kept() -> tuple[Shelf, Kept]:
    """Deployed once."""
    shelf = Shelf(Rig(Settings()))
    return shelf, shelf.rig.evm.keep()


@pytest.fixture
def shelf(kept: tuple[Shelf, Kept]) -> Shelf:
    """As if nothing had happened."""
    shelf, state = kept
    shelf.rig.evm.take_back(state)
    shelf.height = 0
    return shelf


def record(number: int, *aliases: Alias, model: bytes = MODEL) -> bytes:
    """A name's record."""
    return Name(OWNER, number, HEADS[number % 8], model, aliases).packed()


@pytest.mark.spec("MODELS-HEAD.1")
def test_a_head_is_proved_with_its_aliases(shelf: Shelf) -> None:
    assert shelf.head("tiny") == (NOBODY, 0, bytes(32), bytes(32))
    done = shelf.prove("tiny", record(3, Alias("canary", 3, CANARY), Alias("stable", 1, MODEL)))
    owner = f"0x{OWNER.hex()}"
    assert shelf.models.events(done) == [("Proved", keccak(b"tiny"), owner, 3, HEADS[3], MODEL, "tiny")]
    assert shelf.head("tiny") == (owner, 3, HEADS[3], MODEL)
    assert shelf.alias("tiny", "canary") == (3, CANARY)
    assert shelf.alias("tiny", "stable") == (1, MODEL)
    assert shelf.alias("tiny", "latest") == shelf.alias("other", "stable") == (0, bytes(32))
    shelf.prove("tiny", record(5, Alias("canary", 5, MODEL), Alias("stable", 4, CANARY)))
    assert (shelf.alias("tiny", "canary"), shelf.alias("tiny", "stable")) == ((5, MODEL), (4, CANARY))


@pytest.mark.spec("MODELS-HEAD.2")
def test_a_log_only_goes_forward(shelf: Shelf) -> None:
    shelf.prove("tiny", record(3))
    for number in (0, 1, 2, 3):
        with pytest.raises(Refused, match="old"):
            shelf.prove("tiny", record(number, Alias("stable", 9, CANARY), model=CANARY))
    assert shelf.head("tiny")[1:] == (3, HEADS[3], MODEL)
    assert shelf.alias("tiny", "stable") == (0, bytes(32))
    shelf.prove("tiny", record(2**63 - 1))
    shelf.prove("other one", record(1))


@pytest.mark.spec("MODELS-HEAD.1")
def test_only_a_usable_header_proves(shelf: Shelf) -> None:
    for how in ({"accepted": False}, {"usable": False}):
        with pytest.raises(Refused, match="not usable"):
            shelf.prove("tiny", record(1), **how)  # type: ignore[arg-type]
    for section in (Section.ACCOUNTS, Section.SESSIONS, Section.LANES_2):
        with pytest.raises(Refused, match="proof"):
            shelf.prove("tiny", record(1), section=section)
    header, tree, sections = shelf.header({"tiny": record(1), "more": record(2)})
    shelf.rig.submit(header)
    shelf.rig.evm.advance(seconds=shelf.rig.settings.window_s)
    siblings = tree.prove(b"tiny")[1]
    for name, value in (("more", record(1)), ("tiny", record(2)), ("tin", record(1)), ("tiny", record(1) + bytes(96))):
        with pytest.raises(Refused, match="proof"):
            shelf.models.send("prove", name, value, fields_of(header), siblings, sections, sender=ANYBODY)


@pytest.mark.spec("LEDGER-NAME.1")
def test_what_is_no_record_is_refused_with_a_reason(shelf: Shelf) -> None:
    good = record(1, Alias("stable", 1, MODEL))
    for wrong in (b"", good[:127], good[:-32], good + bytes(32), good[:96]):
        with pytest.raises(Refused, match="record"):
            shelf.prove("tiny", wrong)
    with pytest.raises(Refused, match="record"):
        shelf.prove("tiny", b"\x01" + good[1:])
    many = tuple(Alias(f"alias {place}", 1, MODEL) for place in range(9))
    shelf.prove("eight", record(1, *many[:8]))
    with pytest.raises(Refused):
        shelf.prove("nine", record(1, *many))


def test_the_longest_name_is_proved(shelf: Shelf) -> None:
    name = "ü" * 32
    shelf.prove(name, record(1))
    assert shelf.head(name)[1] == 1

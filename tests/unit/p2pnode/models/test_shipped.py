"""The files that ship are the ones whose digests are written down, and they are what the card says."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import gguf

import p2pnode.models
from p2pnode.models.vocabulary import CHAT_TEMPLATE

MODELS = Path(p2pnode.models.__file__).parent
SHIPPED = MODELS / "shipped"


def _digests() -> dict[str, str]:
    rows = (line.split() for line in (SHIPPED / "SHA256SUMS").read_text().splitlines())
    return {name: digest for digest, name in rows}


def test_every_file_has_its_digest() -> None:
    files = {path.name: sha256(path.read_bytes()).hexdigest() for path in SHIPPED.glob("*.gguf")}
    assert files == _digests()


def test_files_are_small_complete_and_free() -> None:
    for name in _digests():
        fields = gguf.GGUFReader(SHIPPED / name).fields
        assert fields["tokenizer.chat_template"].contents() == CHAT_TEMPLATE
        assert fields["general.license"].contents() == "apache-2.0"
        assert (SHIPPED / name).stat().st_size < 4_000_000


def test_card_names_every_file_and_its_size() -> None:
    card = (MODELS / "CARD.md").read_text()
    for name in _digests():
        assert name in card
        assert f"{(SHIPPED / name).stat().st_size:,}" in card

"""What a miner keeps to show: for a while, and within its bytes."""

import pytest
from msgspec import structs

from protocol.core.codec import encode
from protocol.core.ids import Digest
from protocol.messages.audits import Transcript
from protocol.results.audit import check_transcript
from protocol.roles.miner import transcripts
from protocol.roles.miner.transcripts import Draft, KeepTranscript, Transcripts
from tests.unit.protocol.machines import DOMAIN, MINER, NOW_MS, PROMPT, of, opening_of
from tests.unit.protocol.miner_results_at_hand import Bound, Streamed
from tests.unit.protocol.test_audit import root_of, transcript_of


def test_a_draft_becomes_the_transcript_of_what_was_sent() -> None:
    whole, _ = transcript_of()
    draft = Draft(PROMPT)
    draft.add(whole.ids, whole.texts)
    draft.add((7,), (b"made, not sent",))
    kept = draft.finish(whole.order, whole.heads, whole.end)
    assert kept.transcript == structs.replace(whole, build="")


@pytest.mark.spec("TEST-KEPT.1")
def test_of_more_than_the_bytes_hold_the_oldest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = transcript_of()
    kept = Transcripts()
    kept.keep(Digest(b"a" * 32), whole, NOW_MS)
    size = kept.bytes
    assert size >= len(encode(whole))
    monkeypatch.setattr(transcripts, "KEPT_BYTES_MAX", 2 * size)
    kept.keep(Digest(b"b" * 32), whole, NOW_MS + 1)
    kept.keep(Digest(b"b" * 32), whole, NOW_MS + 2)
    assert (len(kept), kept.bytes) == (2, 2 * size)
    kept.keep(Digest(b"c" * 32), whole, NOW_MS + 3)
    assert kept.bytes == 2 * size
    assert kept.get(Digest(b"a" * 32)) is None
    assert kept.get(Digest(b"c" * 32)) is whole


@pytest.mark.spec("TEST-KEPT.1")
def test_what_is_kept_is_forgotten_in_time() -> None:
    whole, _ = transcript_of()
    kept = Transcripts()
    kept.keep(Digest(b"a" * 32), whole, NOW_MS)
    assert kept.next_deadline() == NOW_MS + transcripts.KEPT_MS
    kept.expire(NOW_MS + transcripts.KEPT_MS)
    assert (len(kept), kept.bytes, kept.next_deadline()) == (0, 0, None)


def test_what_no_message_can_hold_is_not_kept() -> None:
    whole, _ = transcript_of()
    large = structs.replace(whole, ids=(1,) * 1_100, texts=(b"a" * 1_000,) * 1_100)
    kept = Transcripts()
    kept.keep(Digest(b"a" * 32), large, NOW_MS)
    assert len(kept) == 0
    room = (Transcript.LIMIT_BYTES - 1_200) // 1_006
    fits = structs.replace(whole, ids=(1,) * room, texts=(b"a" * 1_000,) * room)
    kept.keep(Digest(b"a" * 32), fits, NOW_MS)
    assert len(kept) == 1
    assert len(encode(structs.replace(fits, build="x" * 128))) <= Transcript.LIMIT_BYTES


@pytest.mark.spec("TEST-KEPT.1")
@pytest.mark.parametrize("audits", [True, False])
def test_a_miner_keeps_what_it_wrote_if_the_client_agreed(audits: bool) -> None:
    run = Streamed(Bound(), opening_of(audits=audits))
    kept = of(run.end(3), KeepTranscript)
    assert len(kept) == audits
    for each in kept:
        transcript = each.transcript
        assert (transcript.ids, transcript.prompt) == ((0, 1, 2), PROMPT)
        assert check_transcript(DOMAIN, root_of(transcript), MINER.node, transcript) == 0

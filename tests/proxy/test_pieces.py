"""A piece and its halves; what becomes of pieces is tested in test_fanout."""

from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.engines.work import Urgency
from vllm_router.outbound.upload import Upload
from vllm_router.proxy.facts import RequestFacts, Task
from vllm_router.proxy.pieces import LongAudio, SpooledPiece
from vllm_router.proxy.story import Story
from vllm_router.wire.levels import RATE_HZ
from vllm_router.wire.speech import Span


def piece(speech: tuple[Span, ...], start_s: float, end_s: float) -> SpooledPiece:
    size_bytes = 2 * round((end_s - start_s) * RATE_HZ)
    stretches = ((0.0, start_s, size_bytes / 2 / RATE_HZ),)
    return SpooledPiece(0, start_s, end_s, speech, cast(Upload, None), size_bytes, stretches)


@st.composite
def spoken(draw: st.DrawFn) -> SpooledPiece:
    start_s = draw(st.integers(0, 1000)) / 8
    at, speech = start_s, []
    for pause, length in draw(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 60)))):
        speech.append(Span(at + pause / 10, at + (pause + length) / 10))
        at = speech[-1].end_s
    return piece(tuple(speech), start_s, at + 0.5)


@given(spoken())
def test_halves_are_the_whole_without_a_sample_or_a_sentence_lost_or_doubled(
    whole: SpooledPiece,
) -> None:
    halves = whole.halves()
    assert (halves is None) == (len(whole.speech) < 2)
    if halves is None:
        return
    first, second = halves
    assert (first.start_s, second.end_s) == pytest.approx((whole.start_s, whole.end_s), abs=1e-4)
    assert first.end_s == pytest.approx(second.start_s)
    assert first.speech + second.speech == whole.speech
    assert first.first_byte == whole.first_byte
    assert second.first_byte == whole.first_byte + first.size_bytes
    assert first.size_bytes + second.size_bytes == whole.size_bytes
    # Cut in a pause, so that no sentence lies on both sides.
    assert first.speech[-1].end_s <= first.end_s <= second.speech[0].start_s


def long_audio(language: str | None) -> LongAudio:
    return LongAudio(
        facts=cast(RequestFacts, None),
        story=Story("request-1", Task.TRANSCRIBE),
        headers=[],
        language=language,
        file=-1,
        enqueued_at=0.0,
        urgency=Urgency.LONG,
        skip_silence=True,
        partial_ok=False,
    )


@pytest.mark.parametrize(
    ("given", "heard", "language"), [(None, "de", "de"), ("en", "de", "en"), (None, None, None)]
)
async def test_the_first_piece_leads_and_names_the_language(
    given: str | None, heard: str | None, language: str | None
) -> None:
    audio = long_audio(given)
    assert [audio.leads() for _ in range(3)] == [True, False, False]
    audio.heard_leader(heard)
    await audio.wait_for_leader()
    assert audio.language == language

"""A piece and its halves; what becomes of pieces is tested in test_fanout."""

import asyncio
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.levels import RATE_HZ
from vllm_router.audio.piece import heard_at, placed
from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.pieces import (
    EXTRA_SHARE,
    EXTRA_WINDOWS,
    FRUITLESS_LIMIT,
    LongAudio,
    SpooledPiece,
)
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.scheduling.work import Urgency
from vllm_router.spool.upload import Upload

#: Of a longer pause so much is kept, the middle of it as digital silence.
KEPT_S = 2.0
PAD_S = 0.2


def piece(speech: tuple[SpeechSpan, ...], start_s: float, end_s: float) -> SpooledPiece:
    stretches: list[tuple[float, float, float]] = []
    own_s, from_s = 0.0, start_s
    for before, after in pairwise(speech):
        if after.start_s - before.end_s > KEPT_S:
            stretches.append((own_s, from_s, before.end_s + PAD_S - from_s))
            own_s += before.end_s + PAD_S - from_s + KEPT_S - 2 * PAD_S
            from_s = after.start_s - PAD_S
    stretches.append((own_s, from_s, end_s - from_s))
    size_bytes = 2 * round((own_s + end_s - from_s) * RATE_HZ)
    return SpooledPiece(0, start_s, end_s, speech, tuple(stretches), cast(Upload, None), size_bytes)


@st.composite
def spoken(draw: st.DrawFn, longest_pause: int = 20) -> SpooledPiece:
    start_s = draw(st.integers(0, 1000)) / 8
    at, speech = start_s, []
    pauses = st.tuples(st.integers(1, longest_pause), st.integers(1, 60))
    for pause, length in draw(st.lists(pauses, min_size=1)):
        speech.append(SpeechSpan(at + pause / 10, at + (pause + length) / 10))
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


@given(spoken(longest_pause=80), st.integers(0, 4))
def test_halves_lose_nothing_but_digital_silence(whole: SpooledPiece, depth: int) -> None:
    halves = whole.halves()
    if halves is None:
        return
    first, second = halves
    assert first.speech + second.speech == whole.speech
    lost_bytes = second.first_byte - (first.first_byte + first.size_bytes)
    assert 0 <= lost_bytes <= 2 * RATE_HZ * (KEPT_S - 2 * PAD_S) + 4
    sound_s = sum(length_s for _, _, length_s in whole.stretches)
    kept_s = sum(length_s for half in halves for _, _, length_s in half.stretches)
    assert kept_s == pytest.approx(sound_s, abs=1e-3)
    for half in halves:
        assert half.first_byte % 2 == half.size_bytes % 2 == 0
        assert half.stretches[0][0] == 0.0
        # Each span is where it was, by the half's own clock too.
        for span in half.speech:
            own_s = placed(span.start_s, half.stretches)
            assert heard_at(own_s, half.stretches) == pytest.approx(span.start_s, abs=1e-3)
            assert own_s <= half.length_s + 1e-3
    if depth:
        test_halves_lose_nothing_but_digital_silence.hypothesis.inner_test(first, depth - 1)


def long_audio() -> LongAudio:
    return LongAudio(
        request=cast(TranscriptionRequest, None),
        record=RequestRecord("request-1", Task.TRANSCRIBE),
        headers=[],
        language=None,
        file=-1,
        enqueued_at=0.0,
        urgency=Urgency.LONG,
        skip_silence=True,
        partial_ok=False,
    )


async def test_the_others_wait_for_the_leading_piece_alone() -> None:
    audio = long_audio()
    waiting = asyncio.create_task(audio.wait_for_leader())
    audio.end_lead(3)
    await asyncio.sleep(0)
    assert not waiting.done()
    audio.end_lead(0)
    await asyncio.wait_for(waiting, 1)
    # Who comes later does not wait at all.
    await asyncio.wait_for(audio.wait_for_leader(), 1)


@given(st.lists(st.tuples(st.sampled_from(["sent", "again"]), st.integers(1, 4))))
def test_what_is_asked_again_stays_within_its_share(steps: list[tuple[str, int]]) -> None:
    audio = long_audio()
    sent = again = 0
    for step, windows in steps:
        bound = EXTRA_WINDOWS + EXTRA_SHARE * sent
        if step == "sent":
            audio.sent(windows)
            sent += windows
        elif audio.may_ask_again(windows):
            again += windows
            assert again <= bound
        else:
            assert again + windows > bound


@given(st.lists(st.booleans(), max_size=30))
def test_second_answers_that_do_not_help_end_the_asking(helped: list[bool]) -> None:
    audio = long_audio()
    audio.sent(1000)
    in_vain = 0
    for has_helped in helped:
        assert audio.may_ask_again(1) is (in_vain < FRUITLESS_LIMIT)
        audio.asked_again(has_helped=has_helped)
        in_vain = 0 if has_helped else in_vain + 1

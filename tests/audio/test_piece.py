import io
import wave
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.levels import RATE_HZ
from vllm_router.audio.piece import Piece, halved, halves, heard_at, placed

Seconds = tuple[float, float]


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    """Return a piece with spans, of which some pauses were shortened."""
    start = at = draw(st.integers(0, 10**7))
    own = first = 0
    stretches, speech, pcm = [], [], bytearray()
    for pause, length in draw(
        st.lists(st.tuples(st.integers(0, 90_000), st.integers(1, 90_000)), min_size=1, max_size=9)
    ):
        if speech and pause > 32_000:
            stretches.append((first, start, own + 3200 - first))
            pcm += b"xy" * 3200 + bytes(2 * 25_600)
            own += 32_000
            first, start = own - 3200, at + pause - 3200
            pcm += b"xy" * 3200
        else:
            pcm += b"xy" * pause
            own += pause
        at += pause
        speech.append((at / RATE_HZ, (at + length) / RATE_HZ))
        pcm += b"xy" * length
        at += length
        own += length
    stretches.append((first, start, own - first))
    in_seconds = tuple((a / RATE_HZ, b / RATE_HZ, c / RATE_HZ) for a, b, c in stretches)
    return Piece(3, in_seconds[0][1], at / RATE_HZ, bytes(pcm), tuple(speech), in_seconds)


def assert_consistent(piece: Piece) -> None:
    at = 0
    for own_s, start_s, length_s in piece.stretches:
        own = round(own_s * RATE_HZ)
        assert not any(piece.pcm[2 * at : 2 * own])
        at = own + round(length_s * RATE_HZ)
        assert set(piece.pcm[2 * own : 2 * at : 2]) <= {ord("x")}
        assert start_s >= piece.start_s
    assert at * 2 == len(piece.pcm)
    assert piece.stretches[0][:2] == (0, piece.start_s)
    assert piece.end_s == pytest.approx(sum(piece.stretches[-1][1:]))


@given(pieces())
def test_halves_are_the_whole_without_a_sample_or_a_span_lost_or_doubled(piece: Piece) -> None:
    assert_consistent(piece)
    parts = halves(piece)
    gaps = [b[0] - a[1] for a, b in pairwise(piece.speech)]
    if parts is None:
        assert max(gaps, default=0) < 2 / RATE_HZ
        return
    first, second = parts
    assert_consistent(first)
    assert_consistent(second)
    assert first.speech + second.speech == piece.speech
    assert first.start_s == piece.start_s
    assert second.end_s == pytest.approx(piece.end_s)
    assert first.speech[-1][1] <= first.end_s + 1e-9
    assert first.end_s <= second.start_s + 1e-9
    assert second.start_s <= second.speech[0][0] + 1e-9
    sounding = [p.pcm.count(b"x") for p in (piece, first, second)]
    assert sounding[0] == sounding[1] + sounding[2]
    assert piece.pcm.startswith(first.pcm)
    assert piece.pcm.endswith(second.pcm)


@given(pieces(), st.floats(0, 1))
def test_a_place_in_a_piece_and_its_moment_in_the_audio_belong_together(
    piece: Piece, share: float
) -> None:
    for a, b in piece.speech:
        moment = a + share * (b - a)
        assert heard_at(placed(moment, piece.stretches), piece.stretches) == pytest.approx(moment)
    own = share * piece.length_s
    moment = heard_at(own, piece.stretches)
    assert piece.start_s <= moment <= piece.end_s + 1e-9


def test_moments_are_in_order_also_where_a_pause_was_shortened() -> None:
    stretches = ((0.0, 100.0, 5.0), (6.6, 120.0, 3.0))
    assert [heard_at(s, stretches) for s in (-1, 0, 5, 6.6, 9.6, 12)] == [
        100, 100, 105, 120, 123, 123
    ]  # fmt: skip
    assert heard_at(5.8, stretches) == pytest.approx(112.5)
    assert [placed(s, stretches) for s in (99, 100, 105, 110, 121, 130)] == [
        0, 0, 5, 6.6, 7.6, 9.6
    ]  # fmt: skip


def test_a_long_pause_in_the_middle_beats_a_short_one() -> None:
    speech = ((0.0, 8.0), (8.1, 11.0), (12.0, 20.0))
    first, second = halved(speech, ((0.0, 0.0, 20.0),)) or pytest.fail("it has pauses")
    assert (first.end_s, second.start_s) == (11.5, 11.5)
    assert (first.past_byte, second.first_byte) == (11.5 * 32_000, 11.5 * 32_000)


def test_without_a_pause_there_are_no_halves() -> None:
    assert halved(((0.0, 8.0),), ((0.0, 0.0, 20.0),)) is None
    assert halved((), ((0.0, 0.0, 20.0),)) is None


def test_a_piece_can_be_sent_as_a_wav() -> None:
    piece = Piece(0, 0.0, 2.0, b"ab" * 2 * RATE_HZ, (), ((0.0, 0.0, 2.0),))
    assert piece.is_silent
    assert piece.length_s == 2
    with wave.open(io.BytesIO(piece.wav())) as file:
        assert file.getparams()[:4] == (1, 2, RATE_HZ, 2 * RATE_HZ)
        assert file.readframes(99_999) == piece.pcm

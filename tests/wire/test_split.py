import io
import itertools
import json
import random
import wave
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vllm_router.wire.split import RATE_HZ, Cutter, Piece

SAMPLES = Path(__file__).parents[2] / "speech_model" / "samples"
Signal = npt.NDArray[np.float64]


def noise(seconds: float, rms: float, seed: int = 0) -> Signal:
    return np.random.default_rng(seed).normal(0, rms, round(seconds * RATE_HZ))


@pytest.fixture(scope="module")
def steady() -> Signal:
    """Return sound without any pause."""
    return noise(45, 2000)


def pcm(signal: Signal) -> bytes:
    return np.clip(np.rint(signal), -32768, 32767).astype("<i2").tobytes()


def recording(name: str) -> Signal:
    with wave.open(str(SAMPLES / name)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float64)


def cut(
    data: bytes, *, step: int = 1 << 20, max_s: float = 30.0, first_s: tuple[float, ...] = ()
) -> list[Piece]:
    cutter = Cutter(max_s=max_s, first_s=first_s)
    pieces = [
        piece for at in range(0, len(data), step) for piece in cutter.feed(data[at : at + step])
    ]
    return pieces + cutter.flush()


def joined(seed: int, seconds: float) -> tuple[Signal, list[tuple[float, float]]]:
    """Return recordings one after the other, with pauses of their own faint noise."""
    rng = random.Random(seed)
    index = json.loads((SAMPLES / "index.json").read_text())
    parts: list[Signal] = []
    sentences: list[tuple[float, float]] = []
    at = 0.0
    while at < seconds:
        entry = rng.choice(index)
        pause = noise(rng.uniform(0.2, 0.6), 12, seed)
        parts += [recording(entry["file"]), pause]
        sentences += [(at + s["start"], at + s["end"]) for s in entry["segments"]]
        at += sum(len(part) for part in parts[-2:]) / RATE_HZ
    return np.concatenate(parts), sentences


def assert_whole(pieces: list[Piece], data: bytes, max_s: float = 30.0) -> None:
    assert b"".join(piece.pcm for piece in pieces) == data
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    end_s = 0.0
    for piece in pieces:
        assert piece.start_s == end_s
        end_s = piece.end_s
        assert len(piece.pcm) == round((piece.end_s - piece.start_s) * RATE_HZ) * 2
        assert len(piece.pcm) <= max_s * RATE_HZ * 2
        for a, b in piece.speech:
            assert piece.start_s <= a < b <= piece.end_s
        assert all(a[1] <= b[0] for a, b in itertools.pairwise(piece.speech))
    assert end_s == len(data) / 2 / RATE_HZ


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_sample_is_lost_or_doubled(data: st.DataObject) -> None:
    spans = data.draw(
        st.lists(
            st.tuples(st.floats(0, 12), st.sampled_from([0, 1, 12, 200, 3000, 40_000])), max_size=12
        )
    )
    seed = data.draw(st.integers(0, 99))
    sound = pcm(np.concatenate([np.zeros(0), *(noise(s, rms, seed) for s, rms in spans)]))
    max_s = data.draw(st.sampled_from([4.0, 7.5, 30.0]))
    first_s = data.draw(st.sampled_from([(), (4.0,), (5.0, 11.0)]))
    step = data.draw(st.sampled_from([333, 32_000, 999_999, 1 << 24]))
    pieces = cut(sound, step=step, max_s=max_s, first_s=first_s)
    assert_whole(pieces, sound, max(max_s, *first_s, 0))
    # Where it is cut does not depend on how it came.
    assert pieces == cut(sound, max_s=max_s, first_s=first_s)


@pytest.mark.parametrize("seed", range(200))
def test_the_cut_falls_into_the_one_pause_there_is(seed: int, steady: Signal) -> None:
    rng = random.Random(seed)
    at, width = rng.uniform(4, 29), rng.uniform(0.15, 0.75)
    sound = np.roll(steady, rng.randrange(len(steady)))
    begin, end = round(at * RATE_HZ), round((at + width) * RATE_HZ)
    sound[begin:end] = noise((end - begin) / RATE_HZ, rng.choice([0, 5, 12, 40]), seed)
    first = cut(pcm(sound))[0]
    middle = min((begin + end) / 2 / RATE_HZ, 30)
    assert first.end_s == pytest.approx(middle, abs=0.03)


@pytest.mark.parametrize("seed", range(4))
def test_no_cut_falls_inside_a_sentence(seed: int) -> None:
    sound, sentences = joined(seed, 300)
    data = pcm(sound)
    pieces = cut(data, first_s=(8, 16))
    assert_whole(pieces, data)
    for piece in pieces[:-1]:
        gap = min(max(a - piece.end_s, piece.end_s - b) for a, b in sentences)
        assert gap > 0.1, piece.end_s
    assert np.mean([p.end_s - p.start_s for p in pieces[2:-1] if not p.is_silent]) > 25


def test_phrases_begin_where_sentences_do() -> None:
    sound, sentences = joined(7, 200)
    phrases = [phrase for piece in cut(pcm(sound)) for phrase in piece.speech]
    for begin, end in sentences:
        assert min(abs(begin - a) for a, _ in phrases) < 0.15
        assert min(abs(end - b) for _, b in phrases) < 0.3


def test_a_long_pause_beats_a_short_one_nearby() -> None:
    sound = noise(45, 2000)
    for begin, width in ((22.0, 0.7), (27.0, 0.12)):
        sound[round(begin * RATE_HZ) : round((begin + width) * RATE_HZ)] = noise(width, 12)[0]
    assert cut(pcm(sound))[0].end_s == pytest.approx(22.35, abs=0.03)


def test_of_equal_pauses_the_last_is_taken() -> None:
    sound = noise(45, 2000)
    for begin in (5, 12, 20, 28):
        sound[begin * RATE_HZ : begin * RATE_HZ + RATE_HZ // 2] = 0
    assert cut(pcm(sound))[0].end_s == pytest.approx(28.25, abs=0.03)


def test_sound_without_any_pause_is_cut_late() -> None:
    tone = 3000 * np.sin(2 * np.pi * 440 * np.arange(70 * RATE_HZ) / RATE_HZ)
    data = pcm(tone)
    pieces = cut(data)
    assert_whole(pieces, data)
    assert [round(p.end_s - p.start_s) for p in pieces] == [30, 30, 10]
    assert not any(piece.is_silent for piece in pieces)


def test_first_pieces_may_be_shorter() -> None:
    sound, _ = joined(1, 120)
    pieces = cut(pcm(sound), first_s=(8, 16))
    assert pieces[0].end_s <= 8
    assert pieces[1].end_s - pieces[1].start_s <= 16
    assert pieces[2].end_s - pieces[2].start_s > 16


def test_a_piece_comes_as_soon_as_it_is_decided() -> None:
    data = pcm(noise(40, 2000))
    cutter = Cutter()
    assert cutter.feed(data[: 31 * RATE_HZ * 2 - 2]) == []
    assert len(cutter.feed(data[:2])) == 1


def test_no_piece_is_a_sliver() -> None:
    for extra in (0.001, 0.4, 0.99, 1.5):
        pieces = cut(pcm(noise(30 + extra, 2000)))
        assert [len(p.pcm) >= 2 * RATE_HZ for p in pieces] == [True, True]


@pytest.mark.parametrize("seconds", [0.001, 0.004, 1.0])
def test_short_audio_is_one_piece(seconds: float) -> None:
    data = pcm(noise(seconds, 2000))
    assert_whole(cut(data), data)
    assert len(cut(data)) == 1


def test_no_audio_is_no_piece() -> None:
    assert cut(b"") == []


def test_half_a_sample_at_the_end_is_dropped() -> None:
    assert cut(b"\1\2\3")[0].pcm == b"\1\2"


@pytest.mark.parametrize(
    "sound",
    [
        np.zeros(90 * RATE_HZ),
        noise(90, 1),
        noise(90, 12),
        noise(90, 100),
        noise(90, 400),
        noise(90, 12) + 2000,
        noise(90, 12) + 300 * np.sin(2 * np.pi * 50 * np.arange(90 * RATE_HZ) / RATE_HZ),
        np.concatenate([np.zeros(10 * RATE_HZ), noise(20, 12)] * 3),
        noise(90, 12) + np.where(np.arange(90 * RATE_HZ) % RATE_HZ < 16, noise(90, 8000), 0),
    ],
    ids=["zeros", "dither", "faint", "hiss", "loud hiss", "offset", "hum", "mixed", "clicks"],
)
def test_nothing_but_silence_is_silent(sound: Signal) -> None:
    data = pcm(sound)
    pieces = cut(data)
    assert_whole(pieces, data)
    assert len(pieces) <= 4
    assert all(piece.is_silent for piece in pieces)


@pytest.mark.parametrize("gain", [1.0, 0.1, 0.03, 0.01])
@pytest.mark.parametrize("hiss", [0.0, 12.0])
def test_quiet_speech_is_not_silence(gain: float, hiss: float) -> None:
    speech = recording("15.wav")
    sound = speech * gain + noise(len(speech) / RATE_HZ, hiss)[: len(speech)]
    (piece,) = cut(pcm(sound))
    assert sum(b - a for a, b in piece.speech) > 4


def test_one_quiet_word_in_a_minute_of_noise_is_kept() -> None:
    sound = noise(90, 12)
    word = recording("00.wav")[3680:11_200] * 0.05
    sound[50 * RATE_HZ : 50 * RATE_HZ + len(word)] += word
    pieces = cut(pcm(sound))
    spoken = [piece for piece in pieces if not piece.is_silent]
    assert len(spoken) == 1
    assert spoken[0].start_s < 49.8
    assert spoken[0].speech[0][0] == pytest.approx(50, abs=0.2)


def test_long_silence_goes_alone() -> None:
    speech = recording("05.wav")
    sound = np.concatenate([noise(20, 12), speech, noise(40, 12, 1), speech])
    pieces = cut(pcm(sound))
    heard_s = sum(p.end_s - p.start_s for p in pieces if not p.is_silent)
    assert heard_s < 2 * len(speech) / RATE_HZ + 12


@pytest.mark.parametrize("hush", [0, 5, 12, 40])
def test_a_long_pause_between_pieces_is_left_out_but_for_its_ends(hush: float) -> None:
    sound = noise(80, 2000)
    begin, end = 25 * RATE_HZ, 27 * RATE_HZ
    sound[begin:end] = noise(2, hush)
    first, pause, second, *_ = cut(pcm(sound))
    assert (first.is_silent, pause.is_silent, second.is_silent) == (False, True, False)
    assert first.end_s == pytest.approx(25.3, abs=0.06)
    assert second.start_s == pytest.approx(26.7, abs=0.06)


def test_a_pause_in_which_someone_murmurs_is_kept() -> None:
    sound = noise(80, 4000)
    begin, end = 25 * RATE_HZ, 28 * RATE_HZ
    sound[begin:end] = 0
    murmur = recording("00.wav")[3680:11_200] * 0.02
    sound[begin + RATE_HZ : begin + RATE_HZ + len(murmur)] = murmur
    pieces = cut(pcm(sound))
    (kept,) = (p for p in pieces if p.start_s <= 26 and p.end_s >= 26.4)
    assert not kept.is_silent


def test_silence_stays_where_it_is_wanted() -> None:
    data = pcm(joined(3, 300)[0])
    assert any(piece.is_silent for piece in cut(data)[:-1])
    cutter = Cutter(keeps_silence=True)
    pieces = [*cutter.feed(data), *cutter.flush()]
    assert_whole(pieces, data)
    assert not any(piece.is_silent for piece in pieces[:-1])


def test_silence_does_not_take_the_place_of_a_short_first_piece() -> None:
    sound = np.concatenate([noise(7, 12), joined(1, 60)[0]])
    silent, first, *_ = cut(pcm(sound), first_s=(8,))
    assert silent.is_silent
    assert first.end_s - first.start_s <= 8


def test_a_piece_can_be_sent_as_a_wav() -> None:
    (piece,) = cut(pcm(noise(2, 2000)))
    with wave.open(io.BytesIO(piece.wav())) as file:
        assert file.getparams()[:4] == (1, 2, RATE_HZ, 2 * RATE_HZ)
        assert file.readframes(99_999) == piece.pcm


@pytest.mark.parametrize(("max_s", "first_s"), [(3.9, ()), (30.0, (1.0,))])
def test_pieces_too_short_to_cut_are_refused(max_s: float, first_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="4 s"):
        Cutter(max_s=max_s, first_s=first_s)


def test_a_cutter_tells_where_it_is() -> None:
    cutter = Cutter()
    cutter.feed(pcm(noise(40, 2000)))
    assert repr(cutter).startswith("<Cutter piece 1 at ")

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

from vllm_router.audio.levels import RATE_HZ, LevelDetector, Samples
from vllm_router.audio.packing import KEPT_PAUSE, LEAD, PAD
from vllm_router.audio.split import Cutter, Piece

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


class Told:
    """A detector that has been told where somebody speaks, and says so a block at a time."""

    def __init__(self, spans: list[Samples], block: int) -> None:
        self._spans = spans
        self._block = block
        self._fed = 0
        self.known = 0

    def feed(self, pcm: bytes) -> list[Samples]:
        self._fed += len(pcm) // 2
        return self._until(self._fed // self._block * self._block)

    def flush(self) -> list[Samples]:
        return self._until(self._fed)

    def _until(self, known: int) -> list[Samples]:
        before, self.known = self.known, known
        parts = [(max(a, before), min(b, known)) for a, b in self._spans]
        return [(a, b) for a, b in parts if a < b]


def run(cutter: Cutter, data: bytes, step: int) -> list[Piece]:
    pieces = [
        piece for at in range(0, len(data), step) for piece in cutter.feed(data[at : at + step])
    ]
    return pieces + cutter.flush()


def cut(
    data: bytes, *, step: int = 1 << 20, max_s: float = 30.0, first_s: tuple[float, ...] = ()
) -> list[Piece]:
    return run(Cutter(LevelDetector(), max_s=max_s, first_s=first_s), data, step)


def cut_whole(data: bytes, *, step: int = 1 << 20, max_s: float = 30.0) -> list[Piece]:
    return run(Cutter(LevelDetector(), max_s=max_s, keeps_silence=True), data, step)


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


def samples(seconds: float) -> int:
    return round(seconds * RATE_HZ)


def assert_consistent(piece: Piece, data: bytes, max_s: float = 30.0) -> None:
    """The samples are those of the audio that the stretches name, with silence between."""
    assert len(piece.pcm) <= max_s * RATE_HZ * 2
    at = 0
    for own_s, start_s, length_s in piece.stretches:
        own, start, length = samples(own_s), samples(start_s), samples(length_s)
        assert not any(piece.pcm[2 * at : 2 * own])
        assert piece.pcm[2 * own : 2 * (own + length)] == data[2 * start : 2 * (start + length)]
        at = own + length
    assert at == len(piece.pcm) // 2
    assert piece.stretches[0][:2] == (0, piece.start_s)
    assert piece.end_s == pytest.approx(sum(piece.stretches[-1][1:]))
    for a, b in piece.speech:
        assert piece.start_s <= a < b <= piece.end_s
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(piece.speech))


def covered(pieces: list[Piece], size: int) -> npt.NDArray[np.int64]:
    """Return in how many pieces each sample is."""
    count = np.zeros(size, np.int64)
    for piece in pieces:
        for _, start_s, length_s in piece.stretches:
            count[samples(start_s) : samples(start_s) + samples(length_s)] += 1
    return count


def assert_whole(pieces: list[Piece], data: bytes, max_s: float = 30.0) -> None:
    assert b"".join(piece.pcm for piece in pieces) == data
    end_s = 0.0
    for piece in pieces:
        assert_consistent(piece, data, max_s)
        assert piece.start_s == end_s
        end_s = piece.end_s
    assert end_s == len(data) / 2 / RATE_HZ


lengths = st.one_of(
    st.sampled_from([512, 1600, 4096, 16_000, 100_000, 700_000]), st.integers(1, 200_000)
)


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_all_speech_is_in_one_piece_each(data: st.DataObject) -> None:
    layout = data.draw(st.lists(st.tuples(lengths, lengths), max_size=25))
    spans: list[Samples] = []
    at = 0
    for pause, length in layout:
        spans.append((at + pause, at + pause + length))
        at += pause + length
    size = at + data.draw(lengths)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    sound = rng.integers(1, 99, size).astype("<i2").tobytes()
    max_s = data.draw(st.sampled_from([4.0, 7.5, 30.0]))
    first_s = data.draw(st.sampled_from([(), (4.0,), (5.0, 11.0)]))
    block = data.draw(st.sampled_from([512, 65_536, 480_000]))
    step = data.draw(st.sampled_from([3333, 32_000, 999_999, 1 << 24]))
    max_lag_s = data.draw(st.sampled_from([None, 3.0, 20.0]))

    def made(step: int) -> Cutter:
        return Cutter(Told(spans, block), max_s=max_s, first_s=first_s, max_lag_s=max_lag_s)

    cutter = made(step)
    pieces = run(cutter, sound, step)
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    for number, piece in enumerate(pieces):
        assert_consistent(piece, sound, ((*first_s, max_s) + (max_s,) * 99)[number])
        assert piece.speech
    assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(pieces))
    count = covered(pieces, size)
    assert count.max(initial=0) <= 1
    for a, b in spans:
        assert count[a:b].all()
    for (_, end), (begin, _) in itertools.pairwise(spans):
        pad = min(PAD, (begin - end) // 2)
        assert count[end : end + pad].all()
        assert count[begin - pad : begin].all()
    if spans:
        assert count[max(0, spans[0][0] - PAD) : spans[-1][1] + PAD].size
        assert count[max(0, spans[0][0] - PAD) : spans[0][0]].all()
        assert count[spans[-1][1] : spans[-1][1] + PAD].all()
    told = sum(b - a for a, b in spans)
    assert sum(samples(b) - samples(a) for p in pieces for a, b in p.speech) == told
    assert samples(cutter.speech_s) == told
    assert samples(cutter.length_s) == size
    if max_lag_s is None:
        # Where it is cut does not depend on how it came.
        assert pieces == run(made(1 << 24), sound, 1 << 24)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_sample_is_lost_or_doubled_where_all_is_kept(data: st.DataObject) -> None:
    spans = data.draw(
        st.lists(
            st.tuples(st.floats(0, 12), st.sampled_from([0, 1, 12, 200, 3000, 40_000])), max_size=12
        )
    )
    seed = data.draw(st.integers(0, 99))
    sound = pcm(np.concatenate([np.zeros(0), *(noise(s, rms, seed) for s, rms in spans)]))
    max_s = data.draw(st.sampled_from([4.0, 7.5, 30.0]))
    step = data.draw(st.sampled_from([333, 32_000, 999_999, 1 << 24]))
    pieces = cut_whole(sound, step=step, max_s=max_s)
    assert_whole(pieces, sound, max_s)
    assert pieces == cut_whole(sound, max_s=max_s)


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_no_piece_starts_before_what_was_promised(data: st.DataObject) -> None:
    pauses = st.integers(1600, 500_000)
    layout = data.draw(st.lists(st.tuples(pauses, st.integers(1600, 600_000)), max_size=12))
    spans: list[Samples] = []
    at = 0
    for pause, length in layout:
        spans.append((at + pause, at + pause + length))
        at += pause + length
    sound = bytes(2 * (at + 16_000))
    cutter = Cutter(
        Told(spans, data.draw(st.sampled_from([512, 65_536]))),
        keeps_silence=data.draw(st.booleans()),
        max_lag_s=data.draw(st.sampled_from([None, 20.0])),
    )
    promised_s = 0.0
    for begin in range(0, len(sound), 200_000):
        for piece in cutter.feed(sound[begin : begin + 200_000]):
            assert piece.start_s >= promised_s
        assert cutter.next_s >= promised_s
        promised_s = cutter.next_s
    assert all(piece.start_s >= promised_s for piece in cutter.flush())
    assert cutter.next_s == cutter.length_s


def test_a_word_waits_for_others_no_longer_than_it_may() -> None:
    spans = [(RATE_HZ, 2 * RATE_HZ), (10 * RATE_HZ, 11 * RATE_HZ), (300 * RATE_HZ, 301 * RATE_HZ)]
    sound = bytes(2 * 320 * RATE_HZ)
    for max_lag_s, counts in ((None, [3]), (60.0, [2, 1]), (5.0, [1, 1, 1])):
        cutter = Cutter(Told(spans, 512), max_lag_s=max_lag_s)
        pieces = run(cutter, sound, 16_000)
        assert [len(piece.speech) for piece in pieces] == counts


def test_hours_without_speech_take_no_memory() -> None:
    cutter = Cutter(Told([(RATE_HZ, 2 * RATE_HZ)], 65_536))
    hush = bytes(20 * RATE_HZ)
    for _ in range(100):
        assert cutter.feed(hush) == []
        assert cutter._held.size < 30 * RATE_HZ
    (piece,) = cutter.flush()
    assert piece.length_s == pytest.approx(1.9)
    assert cutter.length_s == 1000


def test_a_long_pause_inside_a_piece_is_shortened() -> None:
    sound = np.arange(60 * RATE_HZ) % 100 + 1
    spans = [(2 * RATE_HZ, 4 * RATE_HZ), (50 * RATE_HZ, 55 * RATE_HZ)]
    data = sound.astype("<i2").tobytes()
    (piece,) = run(Cutter(Told(spans, 65_536)), data, 1 << 17)
    assert_consistent(piece, data)
    assert len(piece.pcm) // 2 == 7 * RATE_HZ + KEPT_PAUSE + LEAD + PAD
    assert [round(start_s, 3) for _, start_s, _ in piece.stretches] == [1.5, 49.5]


@pytest.mark.parametrize("seed", range(50))
def test_the_cut_falls_into_the_one_pause_there_is(seed: int, steady: Signal) -> None:
    rng = random.Random(seed)
    at, width = rng.uniform(12, 29), rng.uniform(0.15, 0.75)
    sound = np.roll(steady, rng.randrange(len(steady)))
    begin, end = round(at * RATE_HZ), round((at + width) * RATE_HZ)
    sound[begin:end] = noise((end - begin) / RATE_HZ, rng.choice([0, 5, 12, 40]), seed)
    for pieces in (cut(pcm(sound)), cut_whole(pcm(sound))):
        assert begin / RATE_HZ - 0.03 < pieces[0].end_s < end / RATE_HZ + 0.03
        assert pieces[1].start_s >= pieces[0].end_s
        assert pieces[1].start_s < end / RATE_HZ + 0.03


@pytest.mark.parametrize("seed", range(4))
def test_no_cut_falls_inside_a_sentence(seed: int) -> None:
    sound, sentences = joined(seed, 300)
    data = pcm(sound)
    pieces = cut(data, first_s=(8, 16))
    for piece in pieces[:-1]:
        gap = min(max(a - piece.end_s, piece.end_s - b) for a, b in sentences)
        assert gap > 0.05, piece.end_s
    assert np.mean([p.length_s for p in pieces[2:-1]]) > 24


def test_a_long_pause_beats_a_short_one_nearby() -> None:
    sound = noise(45, 2000)
    for begin, width in ((22.0, 0.7), (27.0, 0.12)):
        sound[round(begin * RATE_HZ) : round((begin + width) * RATE_HZ)] = noise(width, 12)[0]
    assert cut_whole(pcm(sound))[0].end_s == pytest.approx(22.35, abs=0.03)
    assert cut(pcm(sound))[0].end_s == pytest.approx(22.35, abs=0.03)


def test_the_end_of_an_audio_is_not_a_piece_of_one_word() -> None:
    spans = [(samples(at), samples(at + 2.0)) for at in np.arange(0, 31, 2.5)]
    pieces = run(Cutter(Told(spans, 512)), bytes(2 * 33 * RATE_HZ), 1 << 16)
    assert len(pieces) == 2
    assert min(piece.length_s for piece in pieces) > 10


def test_sound_without_any_pause_is_cut_late() -> None:
    tone = 3000 * np.sin(2 * np.pi * 440 * np.arange(70 * RATE_HZ) / RATE_HZ)
    data = pcm(tone)
    for pieces in (cut(data), cut_whole(data)):
        assert_whole(pieces, data)
        assert [round(p.length_s) for p in pieces] == [30, 30, 10]


def test_first_pieces_may_be_shorter() -> None:
    sound, _ = joined(1, 120)
    pieces = cut(pcm(sound), first_s=(8, 16))
    assert pieces[0].length_s <= 8
    assert pieces[1].length_s <= 16
    assert pieces[2].length_s > 16


def test_a_piece_comes_as_soon_as_it_is_decided() -> None:
    cutter = Cutter(LevelDetector(), keeps_silence=True)
    data = pcm(noise(40, 2000))
    assert cutter.feed(data[: 31 * RATE_HZ * 2 - 2]) == []
    assert len(cutter.feed(data[:2])) == 1
    spans = [(0, 5 * RATE_HZ), (6 * RATE_HZ, 40 * RATE_HZ)]
    cutter = Cutter(Told(spans, 512), first_s=(6,))
    assert cutter.feed(data[: 7 * RATE_HZ * 2]) == []
    (first,) = cutter.feed(data[: RATE_HZ * 2])
    assert first.end_s == pytest.approx(5.4)


def test_no_piece_is_a_sliver() -> None:
    for extra in (0.001, 0.4, 0.99, 1.5):
        for pieces in (cut(pcm(noise(30 + extra, 2000))), cut_whole(pcm(noise(30 + extra, 2000)))):
            assert [len(p.pcm) >= 2 * RATE_HZ * 0.99 for p in pieces] == [True, True]


@pytest.mark.parametrize("seconds", [0.001, 0.004, 1.0])
def test_short_audio_is_one_piece_where_all_is_kept(seconds: float) -> None:
    data = pcm(noise(seconds, 2000))
    assert_whole(cut_whole(data), data)
    assert len(cut_whole(data)) == 1


def test_no_audio_is_no_piece() -> None:
    assert cut(b"") == cut_whole(b"") == []


def test_half_a_sample_at_the_end_is_dropped() -> None:
    assert cut_whole(b"\1\2\3")[0].pcm == b"\1\2"


def test_nothing_is_made_of_silence() -> None:
    assert cut(pcm(noise(90, 12))) == []
    assert all(piece.is_silent for piece in cut_whole(pcm(noise(90, 12))))


def test_silence_does_not_take_the_place_of_a_short_first_piece() -> None:
    sound = pcm(np.concatenate([noise(70, 12), joined(1, 60)[0]]))
    cutter = Cutter(LevelDetector(), first_s=(8,), keeps_silence=True)
    pieces = run(cutter, sound, 1 << 20)
    assert_whole(pieces, sound)
    assert pieces[0].is_silent
    (first, *_) = (piece for piece in pieces if not piece.is_silent)
    assert first.length_s <= 8


@pytest.mark.parametrize(("max_s", "first_s"), [(3.9, ()), (30.0, (1.0,))])
def test_pieces_too_short_to_cut_are_refused(max_s: float, first_s: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="4 s"):
        Cutter(LevelDetector(), max_s=max_s, first_s=first_s)


def test_a_cutter_tells_where_it_is() -> None:
    cutter = Cutter(LevelDetector())
    cutter.feed(pcm(noise(80, 2000)))
    assert repr(cutter).startswith("<Cutter piece 1 at 80.00 s")

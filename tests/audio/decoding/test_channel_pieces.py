import itertools
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.calls import RATE_HZ, Turn, call, numbers_in, wav

from vllm_router.audio.channels import Channels
from vllm_router.audio.decoding.channel_pieces import MAX_LAG_S, ChannelCutter, channel_blocks
from vllm_router.audio.decoding.samples import ByteRange, NotAudio, channel_count
from vllm_router.audio.levels import LevelDetector
from vllm_router.audio.piece import Piece
from vllm_router.audio.split import Cutter


class Files:
    """Opens files, and closes them when a test is over."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._fds: list[int] = []

    def of(self, data: bytes) -> ByteRange:
        path = self._folder / f"{len(self._fds)}"
        path.write_bytes(b"before" + data)
        self._fds.append(os.open(path, os.O_RDONLY))
        return ByteRange(self._fds[-1], 6, len(data))

    def close(self) -> None:
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Files]:
    files = Files(tmp_path)
    yield files
    files.close()


def read(file: ByteRange, channels: Channels) -> list[bytes]:
    blocks = list(channel_blocks(file, 3600.0, channels))
    return [b"".join(parts) for parts in zip(*blocks, strict=True)]


def cut(file: ByteRange, *, keeps_silence: bool = False) -> list[Piece]:
    cutter: ChannelCutter | None = None
    out: list[Piece] = []
    for blocks in channel_blocks(file, 36_000.0, Channels.EACH):
        cutter = cutter or ChannelCutter(
            [
                Cutter(LevelDetector(), keeps_silence=keeps_silence, max_lag_s=MAX_LAG_S)
                for _ in blocks
            ]
        )
        out += cutter.feed(blocks)
    assert cutter is not None
    return [*out, *cutter.flush()]


@pytest.mark.parametrize("rate_hz", [16_000, 8_000])
def test_channels_are_those_of_the_file(files: Files, rate_hz: int) -> None:
    rng = np.random.default_rng(1)
    sound = rng.normal(0, 3000, (rate_hz * 2, 3)).astype("<i2")
    file = files.of(wav(sound, rate_hz))
    assert channel_count(file) == 3
    left, right, each = (read(file, c) for c in (Channels.LEFT, Channels.RIGHT, Channels.EACH))
    assert len(each) == 3
    assert (left, right) == (each[:1], each[1:2])
    assert len({len(channel) for channel in each}) == 1
    if rate_hz == RATE_HZ:
        assert np.array_equal(np.frombuffer(each[2], "<i2"), sound[:, 2])


def test_one_channel_is_read_as_ever(files: Files) -> None:
    sound = call([Turn(0, 0.5, 1)], 3.0, 1)
    for channels in Channels:
        assert read(files.of(wav(sound)), channels) == [sound.tobytes()]
    assert {piece.channel for piece in cut(files.of(wav(sound)))} == {None}


def test_too_many_channels_to_tell_apart_are_refused(files: Files) -> None:
    file = files.of(wav(np.ones((16_000, 9), np.int16)))
    with pytest.raises(NotAudio, match="9 channels; at most 8"):
        read(file, Channels.EACH)


def test_longer_audio_than_is_accepted_is_refused(files: Files) -> None:
    file = files.of(wav(call([Turn(1, 0.5, 1)], 5.0)))
    with pytest.raises(NotAudio, match="longer"):
        list(channel_blocks(file, 2.0, Channels.EACH))


def test_pieces_say_before_what_nothing_comes_any_more(files: Files) -> None:
    turns = [Turn(at % 2, 1.0 + 5.3 * at, at % 60, 4.0) for at in range(60)]
    # The right one falls silent for minutes, with a word in the middle.
    turns = [t for t in turns if t.channel == 0 or not 40 < t.start_s < 300]
    turns.append(Turn(1, 150.0, 55, 1.0))
    pieces = cut(files.of(wav(call(turns, 330.0))))
    assert [piece.index for piece in pieces] == list(range(len(pieces)))
    for at, piece in enumerate(pieces):
        assert all(later.start_s >= piece.frontier_s for later in pieces[at + 1 :])
    spoken = sorted(n for piece in pieces for n in numbers_in(piece.wav()))
    assert spoken == sorted(turn.number for turn in turns)
    for channel in (0, 1):
        own = [piece for piece in pieces if piece.channel == channel]
        assert all(a.end_s <= b.start_s for a, b in itertools.pairwise(own))


def test_a_word_of_one_who_says_little_holds_nobody_up_for_long(files: Files) -> None:
    turns = [Turn(0, 1.0 + 4.0 * at, at % 60, 3.5) for at in range(150)]
    turns.append(Turn(1, 3.0, 55, 1.0))
    pieces = cut(files.of(wav(call(turns, 610.0))))
    (word,) = [piece for piece in pieces if piece.channel == 1]
    late = [piece for piece in pieces if piece.index < word.index]
    assert late[-1].start_s < 3.0 + MAX_LAG_S + 30


def test_where_silence_is_kept_a_channel_without_any_sound_costs_nothing(files: Files) -> None:
    sound = call([Turn(0, 1.0, 1)], 20.0)
    pieces = cut(files.of(wav(sound)), keeps_silence=True)
    assert {piece.channel for piece in pieces} == {0}
    assert sum(piece.length_s for piece in pieces) == pytest.approx(20.0)


def test_its_length_and_speech_are_known(files: Files) -> None:
    cutter = ChannelCutter([Cutter(LevelDetector()) for _ in range(2)])
    sound = call([Turn(0, 1.0, 1), Turn(1, 4.0, 2)], 8.0)
    cutter.feed([sound[:, 0].tobytes(), sound[:, 1].tobytes()])
    cutter.flush()
    assert cutter.length_s == 8.0
    assert cutter.speech_s == pytest.approx(4.0, abs=0.3)
    assert "Cutter" in repr(cutter)

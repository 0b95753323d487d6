import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audio_files import audio_folder, make_kind, probed_seconds

from vllm_router.audio.containers.aiff import aiff_seconds
from vllm_router.audio.duration import audio_seconds, container_kind

__all__ = ["audio_folder"]


def common(frames: int, rate_hz: int) -> bytes:
    """Return a common chunk of AIFF."""
    shift = 64 - rate_hz.bit_length()
    rate = struct.pack(">HQ", 16383 + 63 - shift, rate_hz << shift) if rate_hz else bytes(10)
    return b"COMM" + struct.pack(">IhIh", 18, 1, frames, 16) + rate


def aiff(*chunks: bytes) -> bytes:
    body = b"AIFF" + b"".join(chunks)
    return b"FORM" + struct.pack(">I", len(body)) + body


@pytest.mark.parametrize("kind", ["aiff", "aiff_c"])
@pytest.mark.parametrize("seconds", [3.3, 50.0])
def test_the_length_is_as_ffprobe_has_it(kind: str, seconds: float, audio_folder: Path) -> None:
    path = make_kind(audio_folder, kind, seconds)
    data = path.read_bytes()
    assert container_kind(data) == "aiff"
    found = audio_seconds(data[:65_536], len(data))
    assert found == pytest.approx(probed_seconds(path), abs=0.001)


@given(st.integers(1, 2**32 - 1), st.integers(1, 400_000))
def test_frames_over_rate_are_seconds(frames: int, rate_hz: int) -> None:
    assert aiff_seconds(aiff(common(frames, rate_hz))) == pytest.approx(frames / rate_hz)


def test_other_chunks_may_come_first() -> None:
    name = b"NAME" + struct.pack(">I", 3) + b"abc\0"
    assert aiff_seconds(aiff(name, common(16_000, 8_000))) == 2.0


def test_no_count_and_no_rate_are_no_length() -> None:
    assert aiff_seconds(aiff(common(0, 8_000))) is None
    assert aiff_seconds(aiff(common(8_000, 0))) is None
    assert aiff_seconds(aiff()) is None
    assert aiff_seconds(aiff(common(16_000, 8_000))[:-1]) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_read(data: bytes) -> None:
    seconds = aiff_seconds(b"FORM\0\0\0\0AIFF" + data)
    assert seconds is None or 0 < seconds < 2**32

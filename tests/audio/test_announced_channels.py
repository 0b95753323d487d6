"""What containers announce, made by ffmpeg."""

import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audio_files import audio_folder, make

from vllm_router.audio.announced_channels import announced_channels
from vllm_router.audio.duration import HEAD_BYTES, TAIL_BYTES, tail_offset

__all__ = ["audio_folder"]

KINDS = {
    "wav": ["-c:a", "pcm_s16le"],
    "adpcm.wav": ["-c:a", "adpcm_ms", "-f", "wav"],
    "flac": ["-c:a", "flac"],
    "mp3": ["-c:a", "libmp3lame", "-ar", "44100"],
    "ogg": ["-c:a", "libopus"],
    "vorbis.ogg": ["-c:a", "libvorbis"],
    "flac.ogg": ["-c:a", "flac", "-f", "ogg"],
    "speex.ogg": ["-c:a", "libspeex", "-f", "ogg"],
    "m4a": ["-c:a", "alac"],
    "front.m4a": ["-c:a", "aac", "-movflags", "+faststart"],
    "mov": ["-c:a", "pcm_s16le"],
    "webm": ["-c:a", "libopus"],
    "mka": ["-c:a", "flac"],
    "aac": ["-c:a", "aac"],
    "aiff": ["-c:a", "pcm_s16be"],
    "au": ["-c:a", "pcm_s16be"],
    "caf": ["-c:a", "pcm_s16be"],
}


def announced(data: bytes) -> int | None:
    head = data[:HEAD_BYTES]
    at = tail_offset(head, len(data))
    return announced_channels(head, len(data), data[at : at + TAIL_BYTES])


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_container_announces_is_found(kind: str, audio_folder: Path) -> None:
    for channels in (1, 2):
        path = audio_folder / f"{channels}.{kind}"
        options = [*KINDS[kind], "-ac", str(channels)]
        found = announced(make(path, 2.0, options).read_bytes())
        assert found == channels or (kind == "front.m4a" and found == 2)


def test_an_index_behind_many_samples_is_found(audio_folder: Path) -> None:
    options = ["-c:a", "alac", "-ac", "2", "-ar", "48000"]
    data = make(audio_folder / "behind.m4a", 8.0, options).read_bytes()
    assert len(data) > HEAD_BYTES
    assert announced(data) == 2


def test_what_says_nothing_is_none() -> None:
    for data in (b"", b"no audio", b"OggS", b"\x1a\x45\xdf\xa3", b"caffdesc", b".snd", b"fLaC"):
        assert announced_channels(data, len(data)) is None


MAGICS = [b"", b".snd", b"OggS", b"fLaC", b"\x1a\x45\xdf\xa3", b"FORM....AIFF", b"....moov"]


@given(st.binary(max_size=200), st.sampled_from(MAGICS))
def test_any_bytes_are_looked_at(data: bytes, magic: bytes) -> None:
    found = announced_channels(magic + data, len(data) + 4, data)
    assert found is None or found > 0


@given(st.binary(max_size=64))
def test_a_torn_index_is_looked_at(data: bytes) -> None:
    box = struct.pack(">I4s", 16, b"ftyp") + bytes(8) + struct.pack(">I4s", 200, b"moov") + data
    assert announced_channels(box, len(box), box) in (None, *range(1, 65536))

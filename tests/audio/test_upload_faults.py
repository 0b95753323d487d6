from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audio_files import KINDS, LONG, audio_folder, make_kind, piped

from vllm_router.audio.duration import HEAD_BYTES, TAIL_BYTES, tail_offset
from vllm_router.audio.upload_faults import (
    audio_damage,
    audio_refusal,
    is_whole_wav,
    most_plausible_s,
    plain_wav,
)
from vllm_router.audio.wav import silence

__all__ = ["audio_folder"]

# Nothing in these says how long they ought to be before they are decoded.
_SILENT_ABOUT_THEIR_END = {"flac", "flac_stereo_24", "mp3_cbr_bare", "mp3_cbr_tagged", "mp2"}
_SILENT_ABOUT_THEIR_END |= {"aac_adts"}


def trouble_of(data: bytes) -> str | None:
    head = data[:HEAD_BYTES]
    at = tail_offset(head, len(data))
    refusal = audio_refusal(head, len(data))
    return refusal or audio_damage(head, len(data), data[at : at + TAIL_BYTES])


def test_an_empty_file_is_empty() -> None:
    assert trouble_of(b"") == "The audio file is empty."


@pytest.mark.parametrize(
    ("kind", "seconds"), [(kind, 3.3) for kind in KINDS] + [(kind, 50.0) for kind in LONG]
)
def test_whole_files_have_no_trouble(kind: str, seconds: float, audio_folder: Path) -> None:
    assert trouble_of(make_kind(audio_folder, kind, seconds).read_bytes()) is None


@pytest.mark.parametrize("container", ["wav", "webm", "ogg", "flac"])
def test_files_from_a_pipe_have_no_trouble(container: str, audio_folder: Path) -> None:
    path = piped(audio_folder / f"trouble_{container}", container, 3, [])
    assert trouble_of(path.read_bytes()) is None


@pytest.mark.parametrize("kind", sorted(set(KINDS) - _SILENT_ABOUT_THEIR_END))
def test_half_a_file_is_cut_short(kind: str, audio_folder: Path) -> None:
    data = make_kind(audio_folder, kind, 3.3).read_bytes()
    trouble = trouble_of(data[: len(data) // 2])
    assert trouble is not None
    assert "cut short" in trouble


def test_an_ogg_cut_inside_its_last_page_header_is_cut_short(audio_folder: Path) -> None:
    data = make_kind(audio_folder, "opus", 3.3).read_bytes()
    trouble = trouble_of(data[: data.rfind(b"OggS") + 10])
    assert trouble is not None
    assert "cut short" in trouble


def test_a_head_that_ends_inside_a_count_shows_nothing() -> None:
    frame = b"\xff\xf3\x14\xc4" + bytes(9) + b"Xing\0\0\0\x03\0\0\0"
    assert audio_damage(frame + b"\xff\xf3\x14\xc4", 1000) is None


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (24, (4_000_000_000).to_bytes(4, "little"), "sample rate of 4000000000 Hz"),
        (22, b"\0\0", "0 channels"),
        (40, (64_000).to_bytes(4, "little"), "declares 2.0 s of audio but only 1.0 s follow"),
        (40, (16_000).to_bytes(4, "little"), "declares 0.5 s of audio but 1.0 s follow"),
    ],
)
def test_a_wav_header_that_lies_is_named(at: int, value: bytes, words: str) -> None:
    data = bytearray(silence(1))
    data[at : at + len(value)] = value
    trouble = trouble_of(bytes(data))
    assert trouble is not None
    assert words in trouble


@pytest.mark.parametrize("data", [silence(1)[:44], silence(1)[:45]])
def test_a_wav_without_samples_is_empty(data: bytes) -> None:
    trouble = trouble_of(data)
    assert trouble is not None
    assert "no samples" in trouble


def test_a_length_that_is_a_little_off_is_forgiven() -> None:
    data = bytearray(silence(1))
    data[40:44] = (32_036).to_bytes(4, "little")
    assert trouble_of(bytes(data)) is None
    assert trouble_of(silence(1) + b"\0" * 60) is None


def test_metadata_behind_the_samples_is_not_trouble() -> None:
    chunk = b"LIST" + (9000).to_bytes(4, "little") + bytes(9000)
    assert trouble_of(silence(1) + chunk) is None
    assert trouble_of(silence(60) + chunk) is None
    assert trouble_of(silence(60) + chunk * 20) is None
    # What stands too far from either end to be seen is believed.
    assert (
        trouble_of(silence(60) + chunk[:4] + (90_000).to_bytes(4, "little") + bytes(90_000)) is None
    )


def test_sound_behind_the_declared_end_is_found_in_the_tail() -> None:
    trouble = trouble_of(silence(60) + bytes(40_000))
    assert trouble is not None
    assert "60.0 s of audio but 61.2 s follow" in trouble


def test_a_wav_whose_samples_start_late_is_left_alone() -> None:
    data = b"RIFF\0\0\0\0WAVEid3 " + (1 << 19).to_bytes(4, "little") + bytes(1 << 19)
    assert trouble_of(data + silence(1)[12:]) is None


def test_only_a_wav_whose_bytes_measure_its_sound_is_plain() -> None:
    plain = silence(1)
    assert plain_wav(plain, len(plain)) is not None
    for at, value in ((20, b"\x11\0"), (32, b"\x04\0"), (40, b"\0\x40\0\0")):
        data = bytearray(plain)
        data[at : at + len(value)] = value
        assert plain_wav(bytes(data), len(data)) is None
    assert plain_wav(plain + plain, 2 * len(plain)) is None


@pytest.mark.parametrize("behind", [b"", b"LIST" + (9000).to_bytes(4, "little") + bytes(9000)])
def test_a_second_wav_file_behind_the_first_is_seen(behind: bytes) -> None:
    plain = silence(60) + behind
    at = 44 + 60 * 32_000
    assert is_whole_wav(plain[:HEAD_BYTES], len(plain), plain[at : at + TAIL_BYTES])
    both = plain + silence(1)
    assert not is_whole_wav(both[:HEAD_BYTES], len(both), both[at : at + TAIL_BYTES])
    assert trouble_of(both) is None


@pytest.mark.parametrize(
    "text",
    [b"#EXTM3U\n", b"\xef\xbb\xbf#EXTM3U", b"ffconcat version 1.0", b"<?xml version='1.0'?><MPD>",
     b"[playlist]\nFile1=", b"v=0\r\no=", b"\n\n<smil>"],
)  # fmt: skip
def test_what_only_names_audio_is_refused(text: bytes) -> None:
    refusal = audio_refusal(text, 1000)
    assert refusal is not None
    assert "playlist" in refusal


def test_a_length_that_cannot_be_is_named(audio_folder: Path) -> None:
    data = bytearray(make_kind(audio_folder, "flac", 3.3).read_bytes())
    data[21:26] = b"\xff\xff\xff\xff\xff"
    trouble = trouble_of(bytes(data))
    assert trouble is not None
    assert "impossible" in trouble


def test_two_hours_are_granted_to_any_size() -> None:
    assert most_plausible_s(10) == 7200
    assert most_plausible_s(10**9) == 10**7


def test_a_count_in_a_frame_that_is_not_there_is_no_trouble() -> None:
    assert trouble_of(b"ID3\x04\0\0\0\0\0\0" + bytes(100)) is None


_MAGIC = [b"OggS", b"RIFF\0\0\0\0WAVE", b"\0\0\0\x08ftyp", b"ID3", b"\x1a\x45\xdf\xa3"]


@given(st.sampled_from(_MAGIC), st.binary(max_size=300), st.integers(0, 1 << 41))
def test_no_bytes_break_the_check(magic: bytes, rest: bytes, size_bytes: int) -> None:
    for trouble in (
        audio_refusal(magic + rest, size_bytes),
        audio_damage(magic + rest, size_bytes, rest),
    ):
        assert trouble is None or trouble.endswith(".")
    is_whole_wav(magic + rest, size_bytes, rest)

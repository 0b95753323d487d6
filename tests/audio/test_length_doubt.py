"""Which lengths are not to be believed before the file has been decoded."""

import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audio_files import KINDS, LONG, audio_folder, make_kind, piped

from vllm_router.audio.duration import (
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    tail_offset,
)
from vllm_router.audio.length_doubt import bounded_hint, length_doubt, may_exceed

__all__ = ["audio_folder"]

# No header counts their frames or their samples, or fragments follow it.
DOUBTFUL = {
    "mp3_cbr_bare", "mp3_cbr_tagged", "mp2", "aac_adts", "m4a_fragmented", "m4a_dash",
    "wav_adpcm", "mka_flac_live",
}  # fmt: skip
# The frames of the end are too far apart to be looked at.
TOO_WIDE = {"video_mp4", "video_webm"}


def doubt_of(data: bytes) -> str | None:
    head = data[:HEAD_BYTES]
    at = tail_offset(head, len(data))
    tail = data[at : at + TAIL_BYTES]
    seconds = audio_seconds(head, len(data), tail)
    return length_doubt(container_kind(head), head, len(data), tail, seconds)


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [(kind, 3.3) for kind in KINDS if not kind.startswith("wav") or kind == "wav_adpcm"]
    + [(kind, 50.0) for kind in LONG if kind not in TOO_WIDE],
)
def test_a_consistent_file_is_believed(kind: str, seconds: float, audio_folder: Path) -> None:
    doubt = doubt_of(make_kind(audio_folder, kind, seconds).read_bytes())
    assert (doubt is not None) == (kind in DOUBTFUL), doubt


@pytest.mark.parametrize(
    ("container", "options"),
    [
        ("webm", ["-c:a", "libopus", "-live", "1"]),
        ("flac", ["-c:a", "flac"]),
        ("mp3", ["-c:a", "libmp3lame", "-q:a", "5"]),
        ("mp4", ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov"]),
        ("adts", ["-c:a", "aac"]),
        ("mpegts", ["-c:a", "aac"]),
    ],
)
def test_a_writer_that_could_not_go_back_is_not_believed(
    container: str, options: list[str], audio_folder: Path
) -> None:
    assert doubt_of(piped(audio_folder / f"doubt_{container}", container, 3, options).read_bytes())


@pytest.mark.parametrize(
    "kind", ["flac", "mp3_cbr", "mp3_vbr", "opus", "vorbis", "ogg_flac", "m4a", "webm_opus", "aiff"]
)
def test_files_that_were_joined_are_not_believed(kind: str, audio_folder: Path) -> None:
    data = make_kind(audio_folder, kind, 3.3).read_bytes()
    if kind not in ("m4a", "aiff"):
        # A decoder reads on there.
        assert doubt_of(data + data)
    if kind in ("flac", "opus"):
        long = make_kind(audio_folder, kind, 50.0).read_bytes()
        assert doubt_of(long + data)
        assert doubt_of(data + long)


def patched(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def test_a_xing_header_without_counts_or_for_another_size_is_not_believed(
    audio_folder: Path,
) -> None:
    data = make_kind(audio_folder, "mp3_vbr", 3.3).read_bytes()
    at = data.find(b"Xing")
    assert doubt_of(patched(data, at + 4, bytes(4)))
    assert doubt_of(patched(data, at + 8, bytes(4)))
    assert doubt_of(patched(data, at + 12, struct.pack(">I", 5000)))


def test_a_duration_that_other_parts_contradict_is_not_believed(audio_folder: Path) -> None:
    webm = make_kind(audio_folder, "webm_opus", 3.3).read_bytes()
    at = webm.find(b"\x44\x89\x88") + 3
    for milliseconds in (0.0, 1000.0, 25_000.0):
        assert doubt_of(patched(webm, at, struct.pack(">d", milliseconds)))
    flac = make_kind(audio_folder, "flac", 3.3).read_bytes()
    for samples in (0, 44_100, 441_000):
        packed = int.from_bytes(flac[18:26], "big") >> 36 << 36 | samples
        assert doubt_of(patched(flac, 18, packed.to_bytes(8, "big")))
    for kind in ("m4a", "m4a_front"):
        mp4 = make_kind(audio_folder, kind, 3.3).read_bytes()
        at = mp4.find(b"mdhd") + 20
        for units in (0, 20, 44_100, 441_000):
            assert doubt_of(patched(mp4, at, struct.pack(">I", units)))


def test_ogg_pages_from_the_middle_of_a_stream_are_not_believed(audio_folder: Path) -> None:
    data = make_kind(audio_folder, "opus", 50.0).read_bytes()
    pages = [b"OggS" + page for page in data.split(b"OggS")[1:]]
    assert doubt_of(b"".join(pages)) is None
    assert doubt_of(b"".join(pages[:2] + pages[10:]))
    assert doubt_of(b"".join(pages[:10] + pages[12:]))


def test_two_sound_tracks_are_not_believed_to_be_the_right_one(
    audio_folder: Path, tmp_path: Path
) -> None:
    source = str(make_kind(audio_folder, "wav_s16", 3.3))
    for name, codec in (("a.mkv", "libopus"), ("a.mp4", "aac"), ("a.ogg", "libvorbis")):
        path = tmp_path / name
        command = ["ffmpeg", "-v", "error", "-i", source, "-map", "0:a", "-map", "0:a"]
        subprocess.run([*command, "-c:a", codec, str(path)], check=True)
        doubt = doubt_of(path.read_bytes())
        assert doubt is not None
        assert "several sound" in doubt


def test_only_a_file_that_is_large_enough_can_exceed_a_window() -> None:
    assert not may_exceed("mp3", 29_000, 30.0)
    assert may_exceed("mp3", 31_000, 30.0)
    assert may_exceed("aac", 31_000, 30.0)
    assert not may_exceed("aac", 300, 30.0)


def test_a_doubtful_hint_is_bounded_by_what_people_record() -> None:
    assert bounded_hint(96_232.0, 16_000_000) == 32_000.0
    assert bounded_hint(15.0, 151_000) == 15.0


@given(data=st.data())
def test_no_damage_breaks_the_check(data: st.DataObject, audio_folder: Path) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    whole = bytearray(make_kind(audio_folder, kind, 3.3).read_bytes())
    place = st.integers(0, min(len(whole) - 1, 3000))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=20)):
        whole[at] = value
    head = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    tail = bytes(whole[-data.draw(st.integers(1, 3000)) :])
    size_bytes = data.draw(st.sampled_from([len(whole), len(head), 1 << 40]))
    seconds = data.draw(st.sampled_from([None, 0.0, 3.3, 1e6]))
    doubt = length_doubt(container_kind(head), head, size_bytes, tail, seconds)
    assert doubt is None or doubt

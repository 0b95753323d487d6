"""Lengths against ffprobe's, for files of every kind that ffmpeg makes."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.audio_files import KINDS, LONG, audio_folder, make_kind, piped, probed_seconds

from vllm_router.audio.duration import (
    HEAD_BYTES,
    TAIL_BYTES,
    audio_seconds,
    container_kind,
    tail_offset,
)
from vllm_router.audio.wav import silence

__all__ = ["audio_folder"]

# Where the container has no length of its own, ffprobe guesses as well as we do.
_GUESSED = {"aac_adts": 0.03, "mp3_vbr_piped": 0.12}
_CONTAINERS = {
    "aiff": "aiff",
    "wav": "wav", "flac": "flac", "mp3": "mp3", "mp2": "mp3", "ogg": "ogg", "m4a": "mp4",
    "mp4": "mp4", "mov": "mp4", "webm": "webm", "mka": "webm", "aac": "aac",
}  # fmt: skip


def seconds_of(path: Path) -> float | None:
    data = path.read_bytes()
    head = data[:HEAD_BYTES]
    at = tail_offset(head, len(data))
    return audio_seconds(head, len(data), data[at : at + TAIL_BYTES])


@pytest.mark.parametrize(
    ("kind", "seconds"),
    [(kind, 3.3) for kind in KINDS] + [(kind, 50.0) for kind in LONG],
)
def test_length_agrees_with_ffprobe(kind: str, seconds: float, audio_folder: Path) -> None:
    path = make_kind(audio_folder, kind, seconds)
    told = seconds_of(path)
    assert told is not None
    assert told == pytest.approx(probed_seconds(path), rel=_GUESSED.get(kind, 0), abs=0.1)
    assert told == pytest.approx(seconds, rel=_GUESSED.get(kind, 0), abs=0.2)


@pytest.mark.parametrize(
    ("name", "container", "options"),
    [
        ("wav_piped", "wav", ["-c:a", "pcm_s16le"]),
        ("webm_piped", "webm", ["-c:a", "libopus"]),
        ("ogg_piped", "ogg", ["-c:a", "libvorbis"]),
        ("mp3_vbr_piped", "mp3", ["-c:a", "libmp3lame", "-q:a", "5"]),
        (
            "mp4_piped",
            "mp4",
            ["-c:a", "aac", "-movflags", "frag_keyframe+empty_moov", "-frag_duration", "900000"],
        ),
        (
            "mp4_piped_long_fragments",
            "mp4",
            ["-c:a", "aac", "-b:a", "128k", "-movflags", "frag_keyframe+empty_moov",
             "-frag_duration", "10000000"],
        ),
    ],
)  # fmt: skip
def test_a_writer_that_cannot_go_back_is_understood(
    name: str, container: str, options: list[str], audio_folder: Path
) -> None:
    path = piped(audio_folder / name, container, 50.0, options)
    assert seconds_of(path) == pytest.approx(50.0, rel=_GUESSED.get(name, 0.01), abs=0.1)


def test_a_flac_from_a_pipe_does_not_tell(audio_folder: Path) -> None:
    assert seconds_of(piped(audio_folder / "flac_piped", "flac", 3, ["-c:a", "flac"])) is None


@pytest.mark.parametrize("kind", KINDS)
def test_the_container_is_known_by_its_first_bytes(kind: str, audio_folder: Path) -> None:
    path = make_kind(audio_folder, kind, 3.3)
    assert container_kind(path.read_bytes()) == _CONTAINERS[KINDS[kind][0]]


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"", "unknown"),
        (b"hello, world", "unknown"),
        (b"RIFF\0\0\0\0AVI ", "unknown"),
        (bytes(5000), "unknown"),
        (b"#!AMR\n\x3c", "amr"),
        (b"#!AMR-WB\n\x44", "amr"),
        (b"ID3\x04\0\0\0\0\x0f\x00" + bytes(50), "mp3"),
        (b"\0\0\0\x08wide\0\0\0\0mdat", "mp4"),
    ],
)
def test_odd_beginnings_have_a_name_too(head: bytes, kind: str) -> None:
    assert container_kind(head) == kind
    assert container_kind(memoryview(head)) == kind


@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("kind", ["wav_s16", "flac", "mp3_vbr", "opus", "m4a", "webm_opus"])
def test_any_buffer_will_do(kind: str, buffer: type, audio_folder: Path) -> None:
    data = make_kind(audio_folder, kind, 3.3).read_bytes()
    assert audio_seconds(buffer(data), len(data), buffer(b"")) is not None


@pytest.mark.parametrize("kind", ["m4a", "alac"])
def test_an_index_behind_the_samples_is_where_the_tail_begins(
    kind: str, audio_folder: Path
) -> None:
    data = make_kind(audio_folder, kind, 50).read_bytes()
    at = tail_offset(data[:HEAD_BYTES], len(data))
    assert data[at + 4 : at + 8] == b"moov"


def test_the_tail_of_all_else_is_the_end(audio_folder: Path) -> None:
    assert tail_offset(b"fLaC", 1_000_000) == 1_000_000 - TAIL_BYTES
    # Of a WAV, what stands behind its samples.
    assert tail_offset(silence(1), 1_000_000) == 32_044
    assert tail_offset(silence(1), 100) == 0
    front = make_kind(audio_folder, "m4a_front", 50)
    size_bytes = front.stat().st_size
    assert tail_offset(front.read_bytes()[:HEAD_BYTES], size_bytes) == size_bytes - TAIL_BYTES


def test_a_length_that_the_size_rules_out_is_unknown(audio_folder: Path) -> None:
    data = bytearray(make_kind(audio_folder, "flac", 3.3).read_bytes())
    data[21:26] = b"\xff\xff\xff\xff\xff"
    assert audio_seconds(data, len(data)) is None


def test_a_broken_wav_header_tells_nothing() -> None:
    assert audio_seconds(b"RIFF\0\0\0\0WAVEfmt ", 1000) is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_cut_anywhere_is_survived(kind: str, audio_folder: Path) -> None:
    data = make_kind(audio_folder, kind, 3.3).read_bytes()
    for count in (*range(0, 300, 7), *range(300, len(data), len(data) // 20)):
        audio_seconds(data[:count], len(data), data[-count:])
        seconds = audio_seconds(data[:count], count)
        assert seconds is None or seconds >= 0


@given(data=st.data())
def test_no_damage_breaks_the_parsers(data: st.DataObject, audio_folder: Path) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    whole = bytearray(make_kind(audio_folder, kind, 3.3).read_bytes()[:HEAD_BYTES])
    place = st.integers(0, min(len(whole) - 1, 2000))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=20)):
        whole[at] = value
    size_bytes = data.draw(st.sampled_from([len(whole), 0, 1, 1 << 40]))
    tail = bytes(whole[-data.draw(st.integers(1, 3000)) :])
    seconds = audio_seconds(whole, size_bytes, tail)
    assert seconds is None or 0 <= seconds <= size_bytes
    assert 0 <= tail_offset(whole, size_bytes) <= size_bytes


@given(
    st.sampled_from(
        [b"fLaC", b"OggS", b"\x1a\x45\xdf\xa3", b"\0\0\0\x10ftyp", b"\xff\xfb", b"\xff\xf1",
         b"ID3", b"#!AMR\n", b"#!AMR-WB\n", b"RIFF", b""]
    ),
    st.binary(max_size=400),
    st.binary(max_size=400),
    st.integers(0, 1 << 41),
)  # fmt: skip
def test_no_bytes_break_the_parsers(magic: bytes, rest: bytes, tail: bytes, size: int) -> None:
    seconds = audio_seconds(magic + rest, size, tail)
    assert seconds is None or 0 <= seconds <= size


@given(
    st.lists(
        st.sampled_from(
            [b"moov", b"trak", b"mdia", b"mdhd", b"hdlr", b"moof", b"traf", b"tfhd", b"tfdt",
             b"trun", b"mvex", b"mehd", b"sidx", b"mdat", b"mvhd", b"tkhd", b"soun", b"\0\0\0\0",
             b"\0\0\0\1", b"\0\0\0\x20", b"\0\0\1\0", b"\xff\xff\xff\xff"]
        ),
        max_size=60,
    )
)  # fmt: skip
def test_no_nesting_of_boxes_breaks_the_parser(words: list[bytes]) -> None:
    data = b"\0\0\0\x08ftyp" + b"".join(words)
    audio_seconds(data, len(data))
    audio_seconds(data, 1 << 30, data)

import struct

import pytest

from vllm_router.audio.containers.mp4 import boxes, index_offset, mp4_seconds


def box(kind: bytes, *content: bytes, size: int | None = None) -> bytes:
    body = b"".join(content)
    return struct.pack(">I4s", 8 + len(body) if size is None else size, kind) + body


def u32(*numbers: int) -> bytes:
    return struct.pack(f">{len(numbers)}I", *numbers)


def mvhd(scale: int, units: int) -> bytes:
    return box(b"mvhd", u32(0, 0, 0, scale, units))


def trak(handler: bytes, scale: int, units: int, track: int = 1, wide: bool = False) -> bytes:
    if wide:
        tkhd = box(b"tkhd", b"\1\0\0\0", bytes(16), u32(track))
        mdhd = box(b"mdhd", b"\1\0\0\0", bytes(16), u32(scale), struct.pack(">Q", units))
    else:
        tkhd = box(b"tkhd", u32(0, 0, 0, track))
        mdhd = box(b"mdhd", u32(0, 0, 0, scale, units))
    return box(b"trak", tkhd, box(b"mdia", mdhd, box(b"hdlr", u32(0, 0), handler), box(b"minf")))


def moof(track: int, start: int, count: int, *, flags: int = 0x28, run: int = 0) -> bytes:
    extra = (bytes(8) if flags & 1 else b"") + (bytes(4) if flags & 2 else b"")
    extra += u32(1000) if flags & 8 else b""
    tfhd = box(b"tfhd", u32(flags, track), extra)
    tfdt = box(b"tfdt", u32(1 << 24), struct.pack(">Q", start))
    lead = (bytes(4) if run & 1 else b"") + (bytes(4) if run & 4 else b"")
    trun = box(b"trun", u32(run, count), lead, u32(2000) if run & 0x100 else b"")
    return box(b"moof", box(b"mfhd", u32(0, 1)), box(b"traf", tfhd, tfdt, trun))


FTYP = box(b"ftyp", b"M4A ", u32(0))


def test_the_audio_track_decides_not_the_movie() -> None:
    moov = box(b"moov", mvhd(1000, 9000), trak(b"vide", 90, 900), trak(b"soun", 100, 500))
    assert mp4_seconds(FTYP + moov, 1000, b"") == 5.0


@pytest.mark.parametrize("is_long", [False, True])
def test_a_pause_in_the_edit_list_counts(is_long: bool) -> None:
    layout, version = (">QqI", 1 << 24) if is_long else (">IiI", 0)
    edits = [(6000, -1, 1 << 16), (5000, 0, 1 << 16)]
    entries = b"".join(struct.pack(layout, *edit) for edit in edits)
    track = trak(b"soun", 100, 500)
    elst = box(b"elst", u32(version, len(edits)), entries)
    moov = box(b"moov", mvhd(1000, 11000), box(b"trak", track[8:], box(b"edts", elst)))
    assert mp4_seconds(FTYP + moov, 1000, b"") == 11.0


def test_without_an_audio_length_the_movie_decides() -> None:
    moov = box(b"moov", mvhd(1000, 9000), trak(b"vide", 90, 900))
    assert mp4_seconds(FTYP + moov, 1000, b"") == 9.0
    cut = moov[:44]
    assert mp4_seconds(FTYP + cut, 1000, b"") == 9.0


def test_64_bit_times_are_read() -> None:
    moov = box(b"moov", mvhd(1000, 0), trak(b"soun", 48_000, 48_000 * 7, wide=True))
    assert mp4_seconds(FTYP + moov, 1000, b"") == 7.0


@pytest.mark.parametrize("unknown", [0, 0xFFFFFFFF])
def test_an_unknown_length_is_unknown(unknown: int) -> None:
    moov = box(b"moov", mvhd(1000, unknown), trak(b"soun", 100, unknown))
    assert mp4_seconds(FTYP + moov, 1000, b"") is None


def test_an_index_in_the_tail_is_found() -> None:
    moov = box(b"moov", mvhd(1000, 3000))
    head = FTYP + box(b"mdat", size=100_000)
    assert mp4_seconds(head, 100_100, moov) == 3.0
    assert mp4_seconds(head, 100_100, bytes(50) + moov) == 3.0
    assert mp4_seconds(head, 100_100, b"") is None
    assert mp4_seconds(head, 100_100, b"\0moov") is None
    assert mp4_seconds(head, 100_100, u32(1) + b"moov") is None


def test_where_the_index_must_be_is_known_from_the_head() -> None:
    large = struct.pack(">I4sQ", 1, b"mdat", 1 << 33)
    assert index_offset(FTYP + large, 1 << 34) == len(FTYP) + (1 << 33)
    assert index_offset(FTYP + box(b"mdat", size=1000), 500) is None
    assert index_offset(FTYP + box(b"moov"), 1000) is None
    assert index_offset(FTYP + box(b"moof"), 1000) is None
    assert index_offset(FTYP + box(b"mdat", size=0), 1000) is None


def test_a_fragmented_files_header_may_tell() -> None:
    mvex = box(b"mvex", box(b"trex"), box(b"mehd", u32(0, 4500)))
    moov = box(b"moov", mvhd(1000, 0), trak(b"soun", 100, 0), mvex)
    assert mp4_seconds(FTYP + moov, 1000, b"") == 4.5


@pytest.mark.parametrize("flags", [0x28, 0x29, 0x2A, 0x2B])
@pytest.mark.parametrize("run", [0, 1, 5])
def test_the_last_fragment_tells(flags: int, run: int) -> None:
    moov = box(b"moov", mvhd(1000, 0), trak(b"soun", 1000, 0, track=2))
    tail = moof(2, 5000, 9) + box(b"mdat") + moof(2, 20_000, 4, flags=flags, run=run)
    tail += box(b"mdat") + moof(1, 99_000, 9)
    assert mp4_seconds(FTYP + moov, 10**6, tail) == 24.0


def test_samples_with_lengths_of_their_own_count_as_the_first() -> None:
    moov = box(b"moov", trak(b"soun", 1000, 0))
    tail = moof(1, 1000, 3, flags=0x20, run=0x100)
    assert mp4_seconds(FTYP + moov, 10**6, tail) == 7.0


def test_fragments_too_large_for_the_tail_show_their_pace() -> None:
    moov = box(b"moov", trak(b"soun", 1000, 0))
    head = FTYP + moov + moof(1, 0, 10)
    size = len(head) + 10_000
    assert mp4_seconds(head + box(b"mdat", size=10_000), 4 * size, b"") == pytest.approx(40.0)
    assert mp4_seconds(head, len(head), b"") == pytest.approx(10.0)
    assert mp4_seconds(FTYP + moov, 10**6, u32(4) + b"moof") is None


@pytest.mark.parametrize("version", [0, 1])
def test_an_index_of_segments_that_spans_the_file_tells(version: int) -> None:
    times = bytes(16 if version else 8)
    entries = b"".join(u32(100_000, 2000, 0) for _ in range(1000))
    sidx = box(b"sidx", u32(version << 24, 1, 1000), times, struct.pack(">HH", 0, 1000), entries)
    moov = box(b"moov", trak(b"soun", 1000, 0))
    head = FTYP + moov + sidx + sidx
    assert mp4_seconds(head, len(head) + 10**8, b"") == pytest.approx(2000.0)
    # One that covers only the next fragment does not.
    assert mp4_seconds(head, len(head) + 10**10, b"") is None


def test_boxes_end_where_they_must() -> None:
    assert list(boxes(box(b"free") * 100, 0, 10**6))[-1][2] == 64 * 8
    assert list(boxes(u32(1) + b"mdat", 0, 100)) == []
    assert list(boxes(u32(4) + b"mdat", 0, 100)) == []
    assert list(boxes(b"", 0, 0)) == []

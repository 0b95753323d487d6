import struct

import pytest

from vllm_router.audio.containers.mpeg import (
    counted_bytes,
    counted_frames,
    first_frame,
    frame_at,
    id3_end,
    mpeg_seconds,
)

# MPEG-1 layer 3, 128 kbit/s, 44.1 kHz, joint stereo: 417 bytes, 1152 samples.
HEADER = b"\xff\xfb\x90\x64"
FRAME = HEADER + bytes(413)
FRAME_S = 1152 / 44_100


def id3(size: int, flags: int = 0) -> bytes:
    length = bytes(size >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x04\x00" + bytes([flags]) + length


def with_count(mark: bytes, flags: int, *numbers: int) -> bytes:
    head = HEADER + bytes(32) + mark + struct.pack(">I", flags)
    head += b"".join(struct.pack(">I", n) for n in numbers)
    return head + bytes(417 - len(head))


@pytest.mark.parametrize(
    ("header", "samples", "size_bytes", "rate_hz"),
    [
        (HEADER, 1152, 417, 44_100),
        (b"\xff\xfb\x92\x64", 1152, 418, 44_100),
        (b"\xff\xf3\x80\xc4", 576, 208, 22_050),
        (b"\xff\xe3\x88\xc4", 576, 576, 8_000),
        (b"\xff\xfd\x84\x04", 1152, 384, 48_000),
        (b"\xff\xff\x44\x04", 384, 128, 48_000),
        (b"\xff\xf5\xe8\x04", 1152, 1440, 16_000),
    ],
)
def test_every_version_and_layer_has_its_frame_size(
    header: bytes, samples: int, size_bytes: int, rate_hz: int
) -> None:
    frame = frame_at(b"x" + header, 1)
    assert frame is not None
    assert (frame.samples, frame.size_bytes, frame.rate_hz) == (samples, size_bytes, rate_hz)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfb\x90",
        b"\xff\x1b\x90\x64",
        b"\xff\xeb\x90\x64",
        b"\xff\xf9\x90\x64",
        b"\xff\xfb\x9c\x64",
        b"\xff\xfb\x00\x64",
        b"\xff\xfb\xf0\x64",
    ],
)
def test_no_frame_is_no_frame(data: bytes) -> None:
    assert frame_at(data, 0) is None


def test_tags_in_front_are_passed_over() -> None:
    assert id3_end(id3(300)) == 310
    assert id3_end(id3(300, 0x10)) == 320
    assert id3_end(id3(4) + b"\0\0\0\0" + id3(10)) == 34
    assert id3_end(id3(0) * 100) == 40
    assert id3_end(b"ID3\x04") == 0


def test_one_frame_alone_may_be_chance() -> None:
    assert first_frame(b"junk\xff" + FRAME + HEADER, 0) is not None
    assert first_frame(FRAME + b"junk", 0) is None
    assert first_frame(FRAME[:417] + b"\xff\xf3\x80\xc4", 0) is None
    assert first_frame(b"\xff" * 5000, 0) is None


@pytest.mark.parametrize("mark", [b"Xing", b"Info"])
def test_a_count_of_frames_is_believed(mark: bytes) -> None:
    data = with_count(mark, 3, 1000, 417_000) + FRAME * 3
    found = first_frame(data, 0)
    assert found is not None
    assert counted_frames(data, *found) == 1000
    assert counted_bytes(data, *found) == 417_000
    assert mpeg_seconds(data, 417_000, data) == pytest.approx(1000 * FRAME_S)


def test_a_header_may_count_bytes_only_or_nothing() -> None:
    data = with_count(b"Info", 2, 5000) + FRAME * 3
    found = first_frame(data, 0)
    assert found is not None
    assert counted_frames(data, *found) is None
    assert counted_bytes(data, *found) == 5000
    assert mpeg_seconds(data, len(data), data) == pytest.approx(4 * FRAME_S, rel=0.01)
    plain = FRAME * 4
    at_start = frame_at(plain, 0)
    assert at_start is not None
    assert counted_bytes(plain, 0, at_start) is None


def test_vbri_counts_too() -> None:
    head = HEADER + bytes(32) + b"VBRI" + bytes(10) + struct.pack(">I", 500)
    data = head + bytes(417 - len(head)) + FRAME * 3
    assert mpeg_seconds(data, 10**6, data) == pytest.approx(500 * FRAME_S)


def test_tags_behind_are_not_sound() -> None:
    ape = b"APETAGEX" + struct.pack("<III", 2000, 132, 1) + b"\0\0\0\x80" + bytes(8)
    bare = FRAME * 100
    want = pytest.approx(100 * FRAME_S, rel=0.001)
    for tags in (
        b"",
        b"TAG" + bytes(125),
        bytes(132) + ape,
        bytes(132) + ape + b"TAG" + bytes(125),
    ):
        data = bare + tags
        assert mpeg_seconds(data, len(data), data) == want, tags


def test_without_its_header_flag_an_ape_tag_is_32_bytes_shorter() -> None:
    ape = bytes(100) + b"APETAGEX" + struct.pack("<III", 2000, 132, 1) + bytes(12)
    data = FRAME * 100 + ape
    assert mpeg_seconds(data, len(data), data) == pytest.approx(100 * FRAME_S, rel=0.001)


def test_a_picture_that_fills_the_head_leaves_the_tail_to_tell() -> None:
    head = id3(10**6) + bytes(1000)
    size_bytes = 10**6 + 10 + 417 * 1000
    assert mpeg_seconds(head, size_bytes, FRAME * 20) == pytest.approx(1000 * FRAME_S, rel=0.001)
    assert mpeg_seconds(head, size_bytes, b"") is None


def test_no_frames_tell_nothing() -> None:
    assert mpeg_seconds(bytes(1000), 1000, b"") is None

import struct

import pytest

from vllm_router.audio.containers.ogg import ogg_seconds, page_end


def page(body: bytes, position: int, serial: int = 1, flags: int = 0, version: int = 0) -> bytes:
    laces = bytes([255] * (len(body) // 255) + [len(body) % 255])
    head = struct.pack("<4sBBqIIIB", b"OggS", version, flags, position, serial, 0, 0, len(laces))
    return head + laces + body


OPUS = page(b"OpusHead\x01\x01" + struct.pack("<HI", 312, 16_000), 0, flags=2)
TAGS = page(b"OpusTags" + bytes(600), 0)
SOUND = page(bytes(100), 48_000 + 312)
LAST = page(bytes(100), 480_000 + 312, flags=4)


def test_opus_counts_48000_a_second_after_its_lead_in() -> None:
    assert ogg_seconds(OPUS + TAGS + SOUND, LAST) == pytest.approx(10.0)


@pytest.mark.parametrize(
    ("first", "rate_hz"),
    [
        (b"\x01vorbis" + bytes(5) + struct.pack("<I", 44_100), 44_100),
        (b"\x7fFLAC\x01\0\0\x01fLaC\0\0\0\x22" + bytes(10) + (8000 << 4).to_bytes(3, "big"), 8000),
        (b"Speex   " + bytes(28) + struct.pack("<I", 16_000), 16_000),
    ],
)
def test_other_codecs_tell_their_rate(first: bytes, rate_hz: int) -> None:
    head = page(first, 0, flags=2) + SOUND
    assert ogg_seconds(head, page(b"", 20 * rate_hz)) == pytest.approx(20.0)


def test_pictures_beside_the_sound_are_passed_over() -> None:
    head = page(b"\x80theora" + bytes(30), 0, 9, flags=2) + OPUS + TAGS + SOUND
    tail = LAST + page(bytes(50), 1 << 50, 9)
    assert ogg_seconds(head, tail) == pytest.approx(10.0)


def test_pages_without_a_position_or_of_another_stream_are_not_the_last() -> None:
    tail = LAST + page(b"x", -1) + page(b"x", 99, version=1) + b"OggS\0\0"
    assert ogg_seconds(OPUS + TAGS + SOUND, tail) == pytest.approx(10.0)
    assert ogg_seconds(OPUS + TAGS, page(b"x", 99, serial=7)) is None
    assert ogg_seconds(OPUS + TAGS, b"") is None
    assert ogg_seconds(OPUS + TAGS, page(b"x", -1) * 100) is None


def test_a_cut_from_a_broadcast_counts_from_its_own_start() -> None:
    start = 1000 * 48_000
    head = OPUS + TAGS + page(bytes(9), start)
    assert ogg_seconds(head, page(b"", start + 96_000)) == pytest.approx(2.0)


def test_the_first_position_is_not_needed() -> None:
    assert ogg_seconds(OPUS + b"garbage" * 9, LAST) == pytest.approx(10.0)
    assert ogg_seconds(OPUS + TAGS * 20, LAST) == pytest.approx(10.0)


@pytest.mark.parametrize(
    "head",
    [
        page(b"OpusHead" + bytes(11), 0),
        page(b"Speex   " + bytes(40), 0, flags=2) + SOUND,
        page(b"kate", 0, flags=2) * 20,
    ],
)
def test_no_audio_stream_is_none(head: bytes) -> None:
    assert ogg_seconds(head, LAST) is None


def test_a_page_ends_where_its_lengths_say() -> None:
    assert page_end(b"xx" + TAGS, 2) == len(TAGS) + 2
    assert page_end(TAGS[:100], 0) == len(TAGS)
    for count in (0, 10, 28):
        with pytest.raises(struct.error):
            page_end(TAGS[:count], 0)

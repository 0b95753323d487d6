import pytest

from vllm_router.audio.containers.framed import adts_frame_bytes, adts_seconds, amr_seconds


def adts(size: int, rate_index: int = 4) -> bytes:
    header = bytes(
        [0xFF, 0xF1, 0x40 | rate_index << 2, 0x80 | size >> 11, size >> 3 & 255, (size & 7) << 5, 0]
    )
    return header + bytes(size - 7)


def test_adts_length_is_bytes_over_the_mean_frame() -> None:
    data = b"".join(adts(200 + 10 * (i % 3)) for i in range(400))
    assert adts_seconds(data, 0, len(data)) == pytest.approx(400 * 1024 / 44_100, rel=0.01)
    assert adts_seconds(b"tag" + data, 3, len(data) + 3) == adts_seconds(data, 0, len(data))


@pytest.mark.parametrize(
    "frame",
    [b"", adts(200)[:6], b"\xff\xfb" + bytes(10), b"\xff\xf1\x7c" + bytes(10), adts(7, 13)],
)
def test_no_adts_frame_has_no_size(frame: bytes) -> None:
    assert adts_frame_bytes(frame, 0) == 0


def test_an_adts_frame_shorter_than_its_header_is_none() -> None:
    assert adts_frame_bytes(b"\xff\xf1\x50\x80\x00\xc0\x00", 0) == 0
    assert adts_seconds(b"\xff\xf1\x50\x80\x00\xc0\x00", 0, 100) is None


@pytest.mark.parametrize(
    ("magic", "frame"), [(b"#!AMR\n", b"\x3c" + bytes(31)), (b"#!AMR-WB\n", b"\x44" + bytes(60))]
)
def test_amr_frames_are_a_fiftieth_of_a_second(magic: bytes, frame: bytes) -> None:
    data = magic + frame * 500
    assert amr_seconds(data, len(data)) == pytest.approx(10.0)
    assert amr_seconds(data[:200], len(data)) == pytest.approx(10.0)
    assert amr_seconds(magic, len(magic)) is None

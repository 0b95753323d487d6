import pytest

from vllm_router.audio.containers.flac import flac_seconds, flac_total


def stream(samples: int, rate_hz: int, block_type: int = 0) -> bytes:
    packed = (rate_hz << 44 | 1 << 41 | 15 << 36 | samples).to_bytes(8, "big")
    return b"fLaC" + bytes([block_type]) + b"\0\0\x22" + bytes(10) + packed + bytes(16)


def test_samples_and_rate_are_read_wherever_the_stream_starts() -> None:
    assert flac_total(b"ID3 tag" + stream(96_000, 48_000), 7) == (96_000, 48_000)
    assert flac_seconds(stream((1 << 36) - 1, 1000), 0) == pytest.approx(68_719_476.735)


@pytest.mark.parametrize(
    "head",
    [stream(0, 48_000), stream(10, 0), stream(10, 8000, 4), stream(10, 8000)[:-1], b"fLaX" * 20],
)
def test_what_does_not_tell_is_none(head: bytes) -> None:
    assert flac_seconds(head, 0) is None

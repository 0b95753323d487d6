import struct

import pytest

from vllm_router.audio.containers.matroska import elements, matroska_seconds, segment


def element(identifier: str, *content: bytes, is_open: bool = False) -> bytes:
    body = b"".join(content)
    size = b"\x01" + b"\xff" * 7 if is_open else (1 << 56 | len(body)).to_bytes(8, "big")
    return bytes.fromhex(identifier) + size + body


HEADER = element("1a45dfa3", b"webm")
SCALE = element("2ad7b1", (1_000_000).to_bytes(3, "big"))


def cluster(start: int, *blocks: bytes, is_open: bool = False) -> bytes:
    return element("1f43b675", element("e7", start.to_bytes(2, "big")), *blocks, is_open=is_open)


def simple(time: int) -> bytes:
    return element("a3", b"\x81" + struct.pack(">h", time) + b"\0")


def group(time: int) -> bytes:
    return element("a0", element("a1", b"\x81" + struct.pack(">h", time) + b"\0"))


@pytest.mark.parametrize(("form", "digits"), [(">f", 4), (">d", 8)])
def test_a_stated_duration_is_believed(form: str, digits: int) -> None:
    info = element("1549a966", SCALE, element("4489", struct.pack(form, 2500.0)))
    assert matroska_seconds(HEADER + element("18538067", info), b"") == 2.5


def test_the_scale_of_time_is_respected() -> None:
    scale = element("2ad7b1", (2_000_000).to_bytes(3, "big"))
    info = element("1549a966", element("4489", struct.pack(">d", 2500.0)), scale)
    assert matroska_seconds(HEADER + element("18538067", info), b"") == 5.0


@pytest.mark.parametrize("last", [simple, group])
@pytest.mark.parametrize("is_open", [True, False])
def test_without_a_duration_the_last_cluster_tells(last: object, is_open: bool) -> None:
    assert callable(last)
    head = HEADER + element("18538067", element("1549a966", SCALE), cluster(100), is_open=True)
    tail = b"junk" + cluster(4000) + cluster(9000, simple(10), last(1100), is_open=is_open)
    assert matroska_seconds(head, tail) == 10.0


@pytest.mark.parametrize(
    "tail", [b"", b"junk", b"\x1f\x43\xb6\x75", element("1f43b675", simple(3))]
)
def test_a_tail_without_a_time_tells_nothing(tail: bytes) -> None:
    assert matroska_seconds(HEADER + element("18538067", is_open=True), tail) is None


def test_a_duration_of_no_known_width_is_none() -> None:
    info = element("1549a966", element("4489", b"\0\0"))
    assert matroska_seconds(HEADER + element("18538067", info), b"") is None


def test_a_cluster_without_time_starts_at_zero() -> None:
    head = HEADER + element("18538067", element("1f43b675", simple(0)))
    assert matroska_seconds(head, cluster(7000)) == 7.0
    empty = HEADER + element("18538067", element("1f43b675"))
    assert matroska_seconds(empty, cluster(7000)) == 7.0


def test_an_open_info_is_not_searched() -> None:
    head = HEADER + element("18538067", element("1549a966", is_open=True))
    assert matroska_seconds(head, b"") is None


def test_without_a_segment_there_is_no_length() -> None:
    assert matroska_seconds(HEADER, cluster(7000)) is None
    assert segment(HEADER) is None


@pytest.mark.parametrize("data", [b"\x01\x80", b"\x00\x80", b"\x81\x00", b"\x81\x08"])
def test_impossible_elements_end_the_walk(data: bytes) -> None:
    assert list(elements(data, 0, 9)) == []


def test_the_walk_is_bounded() -> None:
    assert len(list(elements(b"\x81\x80" * 100, 0, 9))) == 9

"""The chunked coding, against h11 and by its rules."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.server.chunked import MAX_LINE_BYTES, MAX_TRAILER_BYTES, BadChunk, ChunkedReader


def read_by(body: bytes, size: int) -> tuple[bytes, bytes]:
    """Return the content, and what stands behind the body; fed in pieces inside larger memory."""
    reader = ChunkedReader()
    content, at = b"", 0
    while at < len(body) and not reader.is_done:
        piece = body[at : at + size]
        data = bytearray(b"7\r\n" + piece + b"\r\n")
        spans, stop = reader.feed(data, 3, 3 + len(piece))
        assert 3 <= stop <= 3 + len(piece)
        assert reader.is_done or stop == 3 + len(piece)
        content += b"".join(data[start:end] for start, end in spans)
        at += stop - 3
    assert reader.is_done
    return content, body[at:]


def by_h11(body: bytes) -> bytes:
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
    connection.next_event()
    connection.receive_data(body)
    content = b""
    while True:
        event = connection.next_event()
        if isinstance(event, h11.Data):
            content += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return content
        else:
            raise h11.RemoteProtocolError(repr(event))


extensions = st.sampled_from([b"", b";a", b";a=b", b'; a="b"', b"  ", b";\xff"])
chunks = st.lists(
    st.tuples(st.binary(min_size=1, max_size=40), extensions, st.booleans(), st.integers(0, 3)),
    max_size=6,
)
trailers = st.lists(st.sampled_from([b"A: b\r\n", b"Content-Length: 5\r\n"]), max_size=3)


def encoded(parts: list[tuple[bytes, bytes, bool, int]], trailer: list[bytes]) -> bytes:
    out = []
    for data, extension, is_upper, zeros in parts:
        size = b"0" * zeros + (b"%X" if is_upper else b"%x") % len(data)
        out.append(size + extension + b"\r\n" + data + b"\r\n")
    return b"".join(out) + b"0\r\n" + b"".join(trailer) + b"\r\n"


@given(chunks, trailers, st.binary(max_size=20), st.integers(1, 50))
def test_any_body_is_read_in_whatever_pieces(
    parts: list[tuple[bytes, bytes, bool, int]], trailer: list[bytes], behind: bytes, size: int
) -> None:
    body = encoded(parts, trailer)
    whole = b"".join(data for data, *_ in parts)
    for step in (1, size, 10_000):
        assert read_by(body + behind, step) == (whole, behind)


@given(chunks, trailers, st.data())
def test_h11_reads_the_same_or_we_refuse(
    parts: list[tuple[bytes, bytes, bool, int]], trailer: list[bytes], data: st.DataObject
) -> None:
    body = encoded(parts, trailer)
    at = data.draw(st.integers(0, len(body) - 1))
    new = data.draw(st.sampled_from([b"", b"\r", b"\n", b"0", b" ", b"f", b"+", b"\0", b"\r\n"]))
    body = body[:at] + new + body[at + data.draw(st.integers(0, 1)) :]
    reader = ChunkedReader()
    try:
        spans, _ = reader.feed(body, 0, len(body))
    except BadChunk:
        return
    if not reader.is_done:
        return
    try:
        expected = by_h11(body)
    except h11.RemoteProtocolError:
        # It also reads what a trailer's fields and a chunk's extension say, which we drop.
        assert b":" in body or b";" in body
        return
    assert b"".join(body[start:end] for start, end in spans) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"\r\n",
        b" 5\r\nhello\r\n",
        b"+5\r\nhello\r\n",
        b"-1\r\n",
        b"0x5\r\nhello\r\n",
        b"5_0\r\n",
        b"g\r\n",
        b"5\nhello\r\n",
        b"5\r\nhello\n",
        b"5\r\nhelloX\r\n",
        b"5\r\nhello!0\r\n\r\n",
        b"5\r\rhello\n",
        b"5;a\x00b\r\nhello\r\n",
        b"5;a\rb\r\nhello\r\n",
        b"5 x\r\nhello\r\n",
        b"5 ;x\r\nhello\r\n",
        b"0\r\n\n",
        b"0\r\nA: b\n\r\n",
        b"0\r\nA: b\r\n folded\r\n\r\n",
        b"0\r\nA : b\r\n\r\n",
        b"0\r\nA\r\n\r\n",
        b"0\r\nA: \0\r\n\r\n",
        b"1234567890abcdef0\r\n",
        b"5;" + b"x" * MAX_LINE_BYTES,
        b"5;" + b"x" * MAX_LINE_BYTES + b"\r\nhello",
        b"0\r\n" + b"A: b\r\n" * MAX_TRAILER_BYTES,
        b"0\r\nA: " + b"b" * MAX_TRAILER_BYTES,
        "５\r\nhello\r\n".encode(),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 100_000])
def test_what_might_be_read_in_two_ways_is_refused(body: bytes, size: int) -> None:
    with pytest.raises(BadChunk):
        read_by(body, size)


@given(st.binary(max_size=200))
def test_no_bytes_bring_it_down(body: bytes) -> None:
    outcomes: list[object] = []
    for size in (1, 7, 1000):
        try:
            outcomes.append(read_by(body, size))
        except BadChunk:
            outcomes.append(BadChunk)
        except AssertionError:
            outcomes.append("not at its end")
    assert outcomes[0] == outcomes[1] == outcomes[2]


def test_nothing_is_read_behind_the_end() -> None:
    reader = ChunkedReader()
    body = b"0\r\n\r\nGET /"
    assert reader.feed(body, 0, len(body)) == ([], 5)
    assert reader.feed(body, 5, len(body)) == ([], 5)


def test_a_chunk_larger_than_memory_is_only_counted() -> None:
    reader = ChunkedReader()
    head = b"fffffffffffffff\r\n"
    assert reader.feed(head, 0, len(head)) == ([], len(head))
    assert reader.feed(b"x" * 1000, 0, 1000) == ([(0, 1000)], 1000)
    assert not reader.is_done

"""Answers as they are written; how they travel is shown with the connection."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.errors import NoEngineReady
from vllm_router.server.exchange import Exchange
from vllm_router.server.head import read_head


class Clock:
    """In the place of the listener."""

    def date_line(self, now: float) -> bytes:
        return b"date: today\r\n"


class Wire:
    """What an exchange needs of its connection."""

    def __init__(self, *, is_kept: bool = True) -> None:
        self.is_kept = is_kept
        self.will_close = False
        self.client = "127.0.0.1"
        self.listener = Clock()
        self.write_waiter = None
        self.sent = b""
        self.is_cut = False

    def now(self) -> float:
        return 7.0

    def write(self, data: bytes) -> None:
        self.sent += data

    def may_keep_alive(self, exchange: Exchange) -> bool:
        return self.is_kept and exchange.head.is_keep_alive

    def abort(self) -> None:
        self.is_cut = True


def exchange(wire: Wire, request: bytes = b"GET / HTTP/1.1") -> Exchange:
    return Exchange(wire, read_head(request + b"\r\nHost: a\r\n\r\n"), 5.0)  # type: ignore[arg-type]


def test_an_exchange_has_one_answer() -> None:
    one = exchange(Wire())
    one.respond(200, [(b"x-a", b"b")], b"words")
    assert (one.status, one.sent_bytes, one.is_complete, one.first_byte_at) == (200, 5, True, 7.0)
    with pytest.raises(RuntimeError):
        one.respond(200, [])
    with pytest.raises(RuntimeError):
        one.begin(200, [])


def test_a_whole_answer_has_its_length_and_the_headers_of_every_answer() -> None:
    wire = Wire()
    one = exchange(wire)
    one.extra.append((b"x-request-id", b"r1"))
    one.respond(200, [(b"x-a", b"b")], b"words")
    assert wire.sent == (
        b"HTTP/1.1 200 OK\r\nx-a: b\r\nx-request-id: r1\r\ndate: today\r\n"
        b"content-length: 5\r\n\r\nwords"
    )


def test_an_error_has_openais_shape_and_its_headers() -> None:
    wire = Wire(is_kept=False)
    exchange(wire).refuse(NoEngineReady("none", retry_after_s=2.1))
    head, _, body = wire.sent.partition(b"\r\n\r\n")
    assert b"retry-after: 3" in head
    assert b"connection: close" in head
    assert wire.will_close
    assert json.loads(body)["error"]["message"] == "none"


def test_chunks_are_sent_where_they_are_known_and_nothing_for_nothing() -> None:
    wire = Wire()
    one = exchange(wire)
    body = one.begin(200, [])
    body.write(b"")
    body.write(b"twelve bytes")
    body.end()
    assert wire.sent.endswith(b"chunked\r\n\r\nc\r\ntwelve bytes\r\n0\r\n\r\n")
    assert one.sent_bytes == 12
    wire = Wire()
    one = exchange(wire, b"GET / HTTP/1.0")
    body = one.begin(200, [])
    body.write(b"words")
    body.end()
    assert wire.sent == b"HTTP/1.1 200 OK\r\ndate: today\r\nconnection: close\r\n\r\nwords"


def test_a_begun_answer_has_one_writer() -> None:
    wire = Wire()
    one = exchange(wire)
    body = one.begin(200, [], 5)
    with pytest.raises(RuntimeError):
        one.begin(200, [])
    with pytest.raises(RuntimeError):
        one.respond(500, [])
    with pytest.raises(RuntimeError):
        one.refuse(NoEngineReady("none"))
    body.write(b"words")
    body.end()
    before = wire.sent
    for second in (body.end, lambda: body.write(b"more")):
        with pytest.raises(RuntimeError):
            second()
    assert (wire.sent, wire.is_cut, one.is_complete) == (before, False, True)


@given(
    length=st.integers(0, 30),
    pieces=st.lists(st.binary(max_size=10), max_size=8),
)
def test_a_body_is_as_long_as_declared_or_the_connection_is_cut(
    length: int, pieces: list[bytes]
) -> None:
    wire = Wire()
    one = exchange(wire)
    body = one.begin(200, [], length)
    head = wire.sent
    try:
        for piece in pieces:
            body.write(piece)
        body.end()
    except RuntimeError:
        assert wire.is_cut
        assert not one.is_complete
    sent = wire.sent.removeprefix(head)
    assert b"".join(pieces).startswith(sent)
    assert len(sent) == one.sent_bytes <= length
    assert one.is_complete == (not wire.is_cut) == (len(b"".join(pieces)) == length)


@pytest.mark.parametrize("length", [None, 5])
def test_a_head_has_the_headers_of_the_whole_answer_and_no_body(length: int | None) -> None:
    whole, alone = Wire(), Wire()
    for wire, method in ((whole, b"GET"), (alone, b"HEAD")):
        body = exchange(wire, method + b" / HTTP/1.1").begin(200, [], length)
        body.write(b"words")
        body.end()
    assert alone.sent.endswith(b"\r\n\r\n")
    assert whole.sent.startswith(alone.sent)


@pytest.mark.parametrize("status", [204, 304])
def test_answers_that_have_no_body_get_none(status: int) -> None:
    wire = Wire()
    exchange(wire).respond(status, [], b"words")
    assert wire.sent.endswith(b"\r\n\r\n")
    assert b"content-length" not in wire.sent
    wire = Wire()
    exchange(wire).begin(status, []).end()
    assert wire.sent.endswith(b"\r\n\r\n")
    assert b"transfer-encoding" not in wire.sent


def test_a_status_that_nobody_has_named_is_passed_on() -> None:
    for status, line in ((299, b"HTTP/1.1 299 \r\n"), (404, b"HTTP/1.1 404 Not Found\r\n")):
        wire = Wire()
        exchange(wire).respond(status, [])
        assert wire.sent.startswith(line)


def test_it_says_what_it_is_and_cuts_when_told() -> None:
    wire = Wire()
    one = exchange(wire)
    assert repr(one) == "<Exchange GET / -> None>"
    one.abort()
    assert wire.is_cut

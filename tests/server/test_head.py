"""Request heads: what is read, and what is refused because two parsers could disagree on it."""

import contextlib
import random

import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.fuzz.targets import mutated

from vllm_router.server.head import MAX_HEADERS, BadHead, RequestHead, read_head


def head(*lines: bytes, request: bytes = b"POST /x HTTP/1.1") -> RequestHead:
    return read_head(b"\r\n".join([request, b"Host: a", *lines]) + b"\r\n\r\n")


#: From the published collections on request smuggling: each is read as two different requests by
#: some pair of servers.
SMUGGLED = {
    "both lengths": [b"Content-Length: 5", b"Transfer-Encoding: chunked"],
    "both, the other way round": [b"Transfer-Encoding: chunked", b"Content-Length: 5"],
    "a length of nothing and chunks": [b"Content-Length: 0", b"Transfer-Encoding: chunked"],
    "two equal lengths": [b"Content-Length: 5", b"Content-Length: 5"],
    "two different lengths": [b"Content-Length: 5", b"Content-Length: 6"],
    "two lengths in one line": [b"Content-Length: 5, 5"],
    "a signed length": [b"Content-Length: +5"],
    "a negative length": [b"Content-Length: -5"],
    "a hexadecimal length": [b"Content-Length: 0x5"],
    "a length with a point": [b"Content-Length: 5.0"],
    "a length with a gap": [b"Content-Length: 5 5"],
    "a length with an underscore": [b"Content-Length: 1_0"],
    "no length": [b"Content-Length:"],
    "a huge length": [b"Content-Length: 9" + b"9" * 40],
    "a length past 64 bits": [b"Content-Length: 18446744073709551621"],
    "a length of 19 digits": [b"Content-Length: 1000000000000000000"],
    "other digits": ["Content-Length: ５".encode()],
    "a folded header": [b"X: a", b" b"],
    "a folded header by tab": [b"X: a", b"\tb"],
    "a folded length": [b"Content-Length:", b" 5"],
    "a folded encoding": [b"Transfer-Encoding:", b" chunked"],
    "a first header that is folded": [b" X: a"],
    "a blank before the colon": [b"Content-Length : 5"],
    "a blank before the colon of the encoding": [b"Transfer-Encoding : chunked"],
    "a tab before the colon": [b"Transfer-Encoding\t: chunked"],
    "a bare line feed": [b"X: a\nTransfer-Encoding: chunked"],
    "a bare carriage return": [b"X: a\rTransfer-Encoding: chunked"],
    "a bare carriage return at a line's start": [b"\rX: a"],
    "a NUL in a value": [b"X: a\0b"],
    "a NUL in a name": [b"X\0: a"],
    "a vertical tab before the encoding": [b"Transfer-Encoding: \x0bchunked"],
    "chunks, then the plain": [b"Transfer-Encoding: chunked, identity"],
    "the plain, then chunks": [b"Transfer-Encoding: identity, chunked"],
    "the plain": [b"Transfer-Encoding: identity"],
    "compressed chunks": [b"Transfer-Encoding: gzip, chunked"],
    "an unknown encoding": [b"Transfer-Encoding: xchunked"],
    "a quoted encoding": [b'Transfer-Encoding: "chunked"'],
    "an encoding with a parameter": [b"Transfer-Encoding: chunked;a=b"],
    "chunks twice": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"],
    "chunks and the plain": [b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"],
    "no encoding": [b"Transfer-Encoding:"],
    "two hosts": [b"Host: b"],
    "no colon": [b"X"],
    "no name": [b": x"],
    "a control character in a name": [b"X\x7f: 1"],
    "a control character in a value": [b"X: \x01"],
    "a request in a header": [b"Content-Length: 0\n\nGET /y HTTP/1.1\r\nHost: b"],
}


@pytest.mark.parametrize("lines", SMUGGLED.values(), ids=SMUGGLED)
def test_what_two_servers_may_read_differently_is_refused(lines: list[bytes]) -> None:
    with pytest.raises(BadHead):
        head(*lines)


REQUEST_LINES = [
    b"GET /",
    b"GET / HTTP/0.9",
    b"GET / HTTP/1.2",
    b"GET / HTTP/2.0",
    b"GET / HTTP/01.1",
    b"GET / HTTP/1.1 ",
    b"GET / http/1.1",
    b"GET / RTSP/1.0",
    b"SOURCE / ICE/1.0",
    b"PRI * HTTP/2.0",
    b"get / HTTP/1.1",
    b"INVENTED / HTTP/1.1",
    b"GET\t/ HTTP/1.1",
    b"GET /a b HTTP/1.1",
    b"GET /\x80 HTTP/1.1",
    b"GET /\0 HTTP/1.1",
    b"GET / HTTP/1.1\n",
    b"GET a/b HTTP/1.1",
    b"GET ftp://host/path HTTP/1.1",
    b"CONNECT engine:8000 HTTP/1.1",
    b" GET / HTTP/1.1",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"",
]


@pytest.mark.parametrize("request_line", REQUEST_LINES)
def test_other_protocols_and_broken_request_lines_are_refused(request_line: bytes) -> None:
    with pytest.raises(BadHead):
        head(request=request_line)


def test_a_head_must_be_whole_and_nothing_else() -> None:
    whole = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
    for end in range(len(whole)):
        with pytest.raises(BadHead):
            read_head(whole[:end])
    assert read_head(whole).path == "/"


def test_an_offer_to_upgrade_is_passed_over_unless_it_has_begun() -> None:
    offer = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    assert read_head(offer).method == "GET"
    with pytest.raises(BadHead, match="protocol"):
        read_head(offer + b"\x81\x00")


def test_http_1_1_needs_a_host_and_http_1_0_takes_no_chunks() -> None:
    assert read_head(b"GET / HTTP/1.0\r\n\r\n").http_version == "1.0"
    with pytest.raises(BadHead, match="Host"):
        read_head(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(BadHead, match="chunked"):
        head(b"Transfer-Encoding: chunked", request=b"POST / HTTP/1.0")


def test_the_number_of_headers_is_bounded() -> None:
    assert len(head(*[b"X: y"] * (MAX_HEADERS - 1)).headers) == MAX_HEADERS
    with pytest.raises(BadHead, match="headers"):
        head(*[b"X: y"] * MAX_HEADERS)


@pytest.mark.parametrize(
    ("request_line", "lines", "expected"),
    [
        (b"POST / HTTP/1.1", [], True),
        (b"POST / HTTP/1.1", [b"Connection: close"], False),
        (b"GET / HTTP/1.1", [b"Connection: Keep-Alive, Close"], False),
        (b"POST / HTTP/1.1", [b"Content-Length: 5", b"Connection: close"], False),
        (b"GET / HTTP/1.1", [b"Connection: keep-alive"], True),
        (b"GET / HTTP/1.0", [], False),
        (b"GET / HTTP/1.0", [b"Connection: keep-alive"], True),
        (b"GET / HTTP/1.0", [b"Connection: close"], False),
    ],
)
def test_the_client_says_whether_the_connection_is_kept(
    request_line: bytes, lines: list[bytes], expected: bool
) -> None:
    assert head(*lines, request=request_line).is_keep_alive is expected


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/v1/models", "/v1/models", b""),
        (b"/a%20b%C3%A9?x=%20&y", "/a bé", b"x=%20&y"),
        (b"/%ff", "/\ufffd", b""),
        (b"//x", "//x", b""),
        (b"/?a?b", "/", b"a?b"),
        (b"http://router:8001/v1/models?x", "/v1/models", b"x"),
        (b"HTTPS://router", "/", b""),
        (b"*", "*", b""),
    ],
)
def test_the_target_is_read(target: bytes, path: str, query: bytes) -> None:
    read = head(request=b"OPTIONS " + target + b" HTTP/1.1")
    assert (read.path, read.query) == (path, query)


def test_headers_keep_their_order_and_their_bytes() -> None:
    read = head(b"X-Two: \t 2 ", b"x-TWO:\xff\xfe", b"Content-Length: 12")
    assert read.headers[1:3] == [(b"x-two", b"2 "), (b"x-two", b"\xff\xfe")]
    assert read.header(b"x-two") == b"2 "
    assert read.header(b"nobody") is None
    assert (read.content_length, read.is_chunked) == (12, False)


def test_a_body_is_known_by_its_framing_alone() -> None:
    chunked = head(b"Transfer-Encoding: Chunked")
    assert (chunked.content_length, chunked.is_chunked) == (None, True)
    assert head(b"Content-Length: 0").content_length == 0
    assert head().content_length is None


@given(st.binary(max_size=120))
def test_no_bytes_bring_it_down(data: bytes) -> None:
    for whole in (data, b"GET / HTTP/1.1\r\nHost: a\r\n" + data + b"\r\n\r\n"):
        try:
            read = read_head(whole)
        except BadHead:
            continue
        assert all(b"\r" not in v and b"\n" not in v and b"\0" not in v for _, v in read.headers)


class Events:
    """What llhttp reports."""

    def __init__(self) -> None:
        self.target = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


SEEDS = (
    b"POST /v1/audio/transcriptions?a=b HTTP/1.1\r\nHost: a:1\r\nUser-Agent: curl/7.88.1\r\n"
    b"Accept: */*\r\nContent-Length: 98600\r\nConnection: keep-alive\r\nX:  two words \r\n\r\n",
    b"GET /metrics HTTP/1.0\r\nhost:a\r\nx-1:\t\r\nX-1: \xe9:\xff\r\nUpgrade: websocket\r\n"
    b"connection:upgrade\r\n\r\n",
)


@given(st.sampled_from(SEEDS), st.integers(0, 2**32))
def test_what_is_read_is_what_llhttp_reads(seed: bytes, chance: int) -> None:
    raw = mutated(seed, random.Random(chance))
    try:
        read = read_head(raw)
    except BadHead:
        return
    events = Events()
    with contextlib.suppress(httptools.HttpParserUpgrade):
        httptools.HttpRequestParser(events).feed_data(raw)
    assert read.headers == events.headers
    path, _, query = events.target.partition(b"?")
    assert read.query == query.partition(b"#")[0]
    assert read.raw_path == path or b"://" in path


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r",
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx\r\nx\r\n\r\n",
        b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n",
    ],
)
def test_what_is_not_one_whole_head_is_refused(raw: bytes) -> None:
    with pytest.raises(BadHead):
        read_head(raw)

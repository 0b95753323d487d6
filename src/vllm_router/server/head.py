"""A request's head: bytes in, values out, by httptools (llhttp), which refuses what is ambiguous.

Knows nothing of sockets. What two parsers might read differently (both Content-Length and chunked,
two lengths, a length that is no number) is refused here, since that is what request smuggling lives
from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools

#: 16 KiB is what uvicorn's h11 side and nginx's large header buffers take twice over.
MAX_HEAD_BYTES: Final = 32 * 1024
#: Apache's default; no client of an audio API comes near.
MAX_HEADERS: Final = 100

#: What decides where a request ends, and where it goes.
_FRAMING: Final = frozenset({b"connection", b"content-length", b"host", b"transfer-encoding"})


class BadHead(ValueError):
    """The head breaks HTTP's rules; the message says how."""


@dataclass(slots=True)
class RequestHead:
    """What a request's head says.

    Attributes:
        method: Upper case, as sent.
        path: Percent-decoded path, without the query.
        raw_path: The path as sent.
        query: What stands behind the question mark, undecoded.
        headers: Lower-case names and values, in the order sent.
        content_length: Declared length of the body in bytes, None when not declared.
        is_chunked: Whether the body comes in chunks.
        is_keep_alive: Whether the client wants the connection kept.
        http_version: "1.0" or "1.1".
        first: The first value of each name; None: not worked out yet.
    """

    method: str
    path: str
    raw_path: bytes
    query: bytes
    headers: list[tuple[bytes, bytes]]
    content_length: int | None
    is_chunked: bool
    is_keep_alive: bool
    http_version: str
    first: dict[bytes, bytes] | None = field(default=None, repr=False, compare=False)

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that lower-case name."""
        first = self.first
        if first is None:
            # Of each name the last one read stays.
            first = self.first = dict(reversed(self.headers))
        return first.get(name)

    @property
    def has_body(self) -> bool:
        """Whether any body bytes follow."""
        return self.is_chunked or bool(self.content_length)


class _Events:
    """What llhttp reports; its callbacks are looked up by name."""

    __slots__ = ("headers", "is_complete", "url")

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        self.is_complete = True


def read_head(data: bytes) -> RequestHead:
    """Read one request head, from its first byte to the empty line's last.

    Raises:
        BadHead: It is not a request, or one that may be read in two ways.
    """
    method, target, headers, version = _parsed(data)
    if len(headers) > MAX_HEADERS:
        raise BadHead(f"the request has more than {MAX_HEADERS} headers")
    length, is_chunked, is_keep_alive = _framing(headers, version)
    raw_path, _, query = target.partition(b"?")
    if not raw_path.startswith(b"/"):
        raw_path = _path_of_absolute(raw_path)
    path = raw_path.decode("latin-1")
    if "%" in path:
        path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    return RequestHead(
        method=method,
        path=path,
        raw_path=raw_path,
        query=query.partition(b"#")[0],
        headers=headers,
        content_length=length,
        is_chunked=is_chunked,
        is_keep_alive=is_keep_alive,
        http_version=version,
    )


def _parsed(data: bytes) -> tuple[str, bytes, list[tuple[bytes, bytes]], str]:
    events = _Events()
    parser = httptools.HttpRequestParser(events)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as e:
        # We speak nothing else: an offer to upgrade is ignored, as RFC 9110 (7.8) allows. A
        # CONNECT, or bytes left behind the head, is not that.
        if not events.is_complete or e.args[0] != len(data):
            raise BadHead("the request asks for a protocol that is not spoken here") from e
    except httptools.HttpParserError as e:
        raise BadHead(f"the request is not valid HTTP/1.1: {e}") from e
    if not events.is_complete:
        raise BadHead("the request's head is incomplete")
    return parser.get_method().decode("ascii"), events.url, events.headers, _version(data)


def _version(data: bytes) -> str:
    # llhttp also reads HTTP/0.9, HTTP/2.0, RTSP and ICE, none of which is spoken here.
    line = data[: data.find(b"\r\n")]
    if line.endswith(b" HTTP/1.1"):
        return "1.1"
    if line.endswith(b" HTTP/1.0"):
        return "1.0"
    raise BadHead("only HTTP/1.1 and HTTP/1.0 are spoken here")


def _framing(headers: list[tuple[bytes, bytes]], version: str) -> tuple[int | None, bool, bool]:
    """Return the body's declared length, whether it is chunked, and the wish to keep alive."""
    length: int | None = None
    is_chunked = False
    # llhttp forgets what Connection said once a request without a body has ended.
    is_keep_alive = version == "1.1"
    hosts = 0
    for name, value in headers:
        if name not in _FRAMING:
            continue
        if name == b"content-length":
            if length is not None or not value.isdigit() or len(value) > 18:
                raise BadHead("the request's Content-Length is not one plain number")
            length = int(value)
        elif name == b"transfer-encoding":
            if is_chunked or value.strip().lower() != b"chunked":
                raise BadHead("the only Transfer-Encoding taken is chunked")
            is_chunked = True
        elif name == b"connection":
            options = [option.strip() for option in value.lower().split(b",")]
            if b"close" in options:
                is_keep_alive = False
            elif version == "1.0":
                is_keep_alive = b"keep-alive" in options
        else:
            hosts += 1
    if is_chunked and length is not None:
        raise BadHead("the request has both a Content-Length and a Transfer-Encoding")
    if is_chunked and version == "1.0":
        # HTTP/1.0 knows no chunks: who stands in front may have read another end (RFC 9112, 6.1).
        raise BadHead("an HTTP/1.0 request cannot be chunked")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise BadHead("the request must have one Host")
    return length, is_chunked, is_keep_alive


def _path_of_absolute(url: bytes) -> bytes:
    # "POST http://router/v1/... HTTP/1.1", as a client that takes us for a forward proxy sends.
    scheme, separator, rest = url.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        _, slash, path = rest.partition(b"/")
        return slash + path or b"/"
    if url == b"*":
        return b"*"
    raise BadHead("the request's target is not a path")

"""A request's head: bytes in, values out, validated by httptools (llhttp).

Knows nothing of sockets. Rejects heads that two parsers might read differently (both Content-Length
and chunked, two lengths, a non-numeric length), because request smuggling relies on them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_to_bytes

import httptools

#: Twice the 16 KiB that uvicorn's h11 and nginx's large header buffers accept.
MAX_HEAD_BYTES: Final = 32 * 1024
#: Apache's default. Clients of an audio API send far fewer.
MAX_HEADERS: Final = 100

#: llhttp also parses HTTP/0.9, HTTP/2.0, RTSP and ICE, which are not supported here.
_VERSIONS: Final = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
#: For a parser that only validates: a callback per header costs more than splitting the head.
_NO_CALLBACKS: Final = object()


class BadHead(ValueError):
    """The head violates HTTP; the message says how."""


@dataclass(slots=True)
class RequestHead:
    """The contents of a request's head.

    Attributes:
        method: Upper case, as sent.
        path: Percent-decoded path, without the query.
        raw_path: The path as sent.
        query: The part after the question mark, not decoded.
        headers: Lower-case names and values, in the order sent.
        content_length: Declared length of the body in bytes; None if not declared.
        is_chunked: Whether the body is chunked.
        is_keep_alive: Whether the client wants a persistent connection.
        http_version: "1.0" or "1.1".
        fields: The first value of each name.
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
    fields: dict[bytes, bytes] = field(repr=False, compare=False)

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that lower-case name."""
        return self.fields.get(name)


def read_head(data: bytes) -> RequestHead:
    """Parse one request head, from its first byte to the end of the empty line.

    Raises:
        BadHead: It is not a request, or is ambiguous.
    """
    parser = httptools.HttpRequestParser(_NO_CALLBACKS)
    try:
        parser.feed_data(data)
    except httptools.HttpParserUpgrade as e:
        # No other protocol is supported: an upgrade offer is ignored, as RFC 9110 (7.8) allows.
        # Bytes after the head are an error instead.
        if e.args[0] != len(data):
            raise BadHead("the request asks for an unsupported protocol") from e
    except httptools.HttpParserError as e:
        raise BadHead(f"the request is not valid HTTP/1.1: {e}") from e
    # llhttp has verified that each line ends with CRLF, that each name is a token before a colon,
    # and that no line is folded. So splitting at CRLFs and first colons gives the same result.
    first, *lines = data.split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3:
        raise BadHead("the request line is not a method, a target and a version")
    method, target, said_version = words
    version = _VERSIONS.get(said_version)
    if version is None:
        raise BadHead("only HTTP/1.1 and HTTP/1.0 are supported")
    # The last line is followed by an empty line, and then by nothing.
    if len(lines) < 2 or lines.pop() or lines.pop() or b"" in lines:
        raise BadHead("the request's head is incomplete")
    if len(lines) > MAX_HEADERS:
        raise BadHead(f"the request has more than {MAX_HEADERS} headers")
    headers = []
    for line in lines:
        name, _, value = line.partition(b":")
        headers.append((name.lower(), value.lstrip(b" \t")))
    # The first value of each name wins, because it is inserted last.
    fields = dict(reversed(headers))
    length, is_chunked = _framing(headers, fields, version)
    raw_path, _, query = target.partition(b"?")
    if not raw_path.startswith(b"/"):
        raw_path = _path_of_absolute(raw_path)
    path = raw_path.decode("latin-1")
    if "%" in path:
        path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    is_keep_alive = version == "1.1"
    if b"connection" in fields:
        is_keep_alive = _is_keep_alive(headers, version)
    return RequestHead(
        method.decode("ascii"),
        path,
        raw_path,
        query.partition(b"#")[0],
        headers,
        length,
        is_chunked,
        is_keep_alive,
        version,
        fields,
    )


def _framing(
    headers: list[tuple[bytes, bytes]], fields: dict[bytes, bytes], version: str
) -> tuple[int | None, bool]:
    """Return the body's declared length, and whether it is chunked."""
    # Only repeated headers are missing from the fields.
    names = list(fields) if len(fields) == len(headers) else [name for name, _ in headers]
    hosts = names.count(b"host")
    if hosts > 1 or (not hosts and version == "1.1"):
        raise BadHead("the request must have exactly one Host header")
    length = fields.get(b"content-length")
    encoding = fields.get(b"transfer-encoding")
    if length is not None and (
        names.count(b"content-length") > 1 or not length.isdigit() or len(length) > 18
    ):
        raise BadHead("the request's Content-Length is not a single plain number")
    if encoding is None:
        return None if length is None else int(length), False
    if names.count(b"transfer-encoding") > 1 or encoding.strip().lower() != b"chunked":
        raise BadHead("the only supported Transfer-Encoding is chunked")
    if length is not None:
        raise BadHead("the request has both a Content-Length and a Transfer-Encoding")
    if version == "1.0":
        # HTTP/1.0 has no chunks: a proxy in front may see a different end (RFC 9112, 6.1).
        raise BadHead("an HTTP/1.0 request cannot be chunked")
    return None, True


def _is_keep_alive(headers: list[tuple[bytes, bytes]], version: str) -> bool:
    # llhttp forgets the Connection header once a request without a body has ended.
    said = b",".join(value for name, value in headers if name == b"connection")
    options = [option.strip() for option in said.lower().split(b",")]
    return b"close" not in options and (version == "1.1" or b"keep-alive" in options)


def _path_of_absolute(url: bytes) -> bytes:
    # "POST http://router/v1/... HTTP/1.1", sent by a client that uses the router as a forward
    # proxy.
    scheme, separator, rest = url.partition(b"://")
    if separator and scheme.lower() in (b"http", b"https"):
        _, slash, path = rest.partition(b"/")
        return slash + path or b"/"
    if url == b"*":
        return b"*"
    raise BadHead("the request's target is not a path")

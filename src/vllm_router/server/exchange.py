"""One request and its response, as the code that responds sees them.

An `Exchange` writes exactly one response: whole with `respond`, or only its head with `begin`,
which returns the only object that can write the body. It knows how HTTP/1.1 frames responses
(lengths, chunks, persistent connections) and nothing of routes or engines.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

from vllm_router.errors import RouterError

if TYPE_CHECKING:
    from vllm_router.server.connection import Connection
    from vllm_router.server.head import RequestHead

Headers = list[tuple[bytes, bytes]]

_STATUS_LINES: Final = {s.value: b"HTTP/1.1 %d %b" % (s, s.phrase.encode()) for s in HTTPStatus}
_NO_BODY: Final = frozenset({204, 304})


class Exchange:
    """A request's head and the means to respond.

    Attributes:
        head: The request's head.
        client: The client's address, for the log.
        started_at: Monotonic seconds at the end of the head.
        first_byte_at: Time of the response's first byte, excluding keep-alive comments; None
            before.
        status: The response's status; None before the response.
        sent_bytes: Body bytes of the response so far.
        is_complete: Whether the response was written completely.
        has_left: Whether the client has disconnected.
        extra: Headers for any response.
        refusal: The code of the error response; None if there was none.
        record: Data that the service keeps for this request; this package never reads it.
    """

    __slots__ = (
        "_connection",
        "client",
        "extra",
        "first_byte_at",
        "has_left",
        "head",
        "is_complete",
        "received_bytes",
        "record",
        "refusal",
        "sent_bytes",
        "started_at",
        "status",
    )

    def __init__(self, connection: Connection, head: RequestHead, started_at: float) -> None:
        self._connection = connection
        self.head = head
        self.client = connection.client
        self.started_at = started_at
        self.first_byte_at: float | None = None
        self.status: int | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self.is_complete = False
        self.has_left = False
        self.extra: Headers = []
        self.refusal: str | None = None
        self.record: Any = None

    def __repr__(self) -> str:
        return f"<Exchange {self.head.method} {self.head.path} -> {self.status}>"

    def respond(self, status: int, headers: Headers, body: bytes = b"") -> None:
        """Send a whole response at once; a Content-Length is added."""
        head = self._head(status, headers, len(body))
        if self.head.method == "HEAD" or status in _NO_BODY:
            body = b""
        self.sent_bytes = len(body)
        self._connection.write(head + body)
        self.is_complete = True

    def refuse(self, error: RouterError) -> None:
        """Send an error response in OpenAI's format."""
        self.refusal = error.code
        headers: Headers = [(b"content-type", b"application/json"), *error.headers()]
        self.respond(error.status, headers, error.body())

    def begin(self, status: int, headers: Headers, length: int | None = None) -> AnswerBody:
        """Send only the head.

        Args:
            status: HTTP status.
            headers: Headers without framing, which is added here.
            length: Body length in bytes; None sends chunks.

        Returns:
            The body's only writer.

        Raises:
            RuntimeError: The exchange already has a response.
        """
        if status in _NO_BODY:
            length = 0
        is_chunked = length is None and self.head.http_version == "1.1"
        self._connection.write(self._head(status, headers, length, is_chunked))
        is_silent = self.head.method == "HEAD"
        return AnswerBody(self, self._connection, is_chunked, is_silent, length)

    def _head(
        self, status: int, headers: Headers, length: int | None, is_chunked: bool = False
    ) -> bytes:
        if self.status is not None:
            raise RuntimeError("the exchange already has a response")
        self.status = status
        self.first_byte_at = now = self._connection.now()
        keep_alive = self._connection.may_keep_alive(self)
        rest = self._connection.listener.date_line(now)
        if length is not None:
            if status not in _NO_BODY:
                rest += b"content-length: %d\r\n" % length
        elif is_chunked:
            rest += b"transfer-encoding: chunked\r\n"
        else:
            # HTTP/1.0 has no chunks: the end of the connection ends the body.
            keep_alive = False
        if not keep_alive:
            self._connection.will_close = True
            rest += b"connection: close\r\n"
        elif self.head.http_version == "1.0":
            rest += b"connection: keep-alive\r\n"
        # An engine may respond with a status that has no standard phrase.
        first = _STATUS_LINES.get(status) or b"HTTP/1.1 %d " % status
        lines = map(b": ".join, headers + self.extra)
        return b"\r\n".join((first, *lines, rest + b"\r\n"))

    def speak(self) -> None:
        """Record that the response begins now: everything before was keep-alive."""
        self.first_byte_at = self._connection.now()

    def abort(self) -> None:
        """Abort the connection: the only correct end of a body that cannot be completed."""
        self._connection.abort()


class AnswerBody:
    """The body of a response whose head has been sent; nothing else can write to the connection.

    It enforces the declared Content-Length, because a client parses excess bytes as the next
    response.
    """

    __slots__ = ("_connection", "_exchange", "_is_chunked", "_is_silent", "_left")

    def __init__(
        self,
        exchange: Exchange,
        connection: Connection,
        is_chunked: bool,
        is_silent: bool,
        length: int | None,
    ) -> None:
        self._exchange = exchange
        self._connection = connection
        self._is_chunked = is_chunked
        self._is_silent = is_silent
        self._left = length

    def write(self, data: bytes) -> None:
        """Send body bytes at once.

        Raises:
            RuntimeError: The body has ended, or would exceed its declared length. In the latter
                case the connection is aborted. None of `data` is sent.
        """
        if not data or self._is_silent:
            return
        exchange, left = self._exchange, self._left
        if exchange.is_complete:
            raise RuntimeError("the response has ended")
        size = len(data)
        if left is not None:
            if size > left:
                self._connection.abort()
                raise RuntimeError(f"the response is {size - left} bytes longer than declared")
            self._left = left - size
        exchange.sent_bytes += size
        if self._is_chunked:
            data = b"%x\r\n%b\r\n" % (size, data)
        self._connection.write(data)

    async def drain(self) -> None:
        """Wait until the client has received most of the written bytes.

        If the client receives nothing within the connection's timeout, the connection is aborted,
        which cancels this wait.
        """
        waiter = self._connection.write_waiter
        if waiter is not None:
            await asyncio.shield(waiter)

    def end(self) -> None:
        """End the body.

        Raises:
            RuntimeError: The body has already ended, or is shorter than declared. In the latter
                case the connection is aborted.
        """
        exchange = self._exchange
        if exchange.is_complete:
            raise RuntimeError("the response has ended")
        if not self._is_silent:
            if self._left:
                self._connection.abort()
                raise RuntimeError(f"the response is {self._left} bytes shorter than declared")
            if self._is_chunked:
                self._connection.write(b"0\r\n\r\n")
        exchange.is_complete = True

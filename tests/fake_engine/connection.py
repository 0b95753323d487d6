"""A small HTTP/1.1 server connection on asyncio and httptools.

One task per exchange; it is cancelled when the client leaves. Requests that were pipelined are
answered one after the other. The server can break a connection off with a reset at a given byte
of an upload; what happens to answers is the exchange's business.
"""

import asyncio
import logging
import socket
import struct
from collections import deque
from typing import cast

import httptools
from tests.fake_engine.exchange import STATUS_LINES, Exchange, Head, Service

log = logging.getLogger(__name__)

# Well above what any client sends; tests of the router's own limits send more.
HEAD_BYTES = 64 << 10
# Clients that pipeline send a handful; more is a loop gone wrong.
PIPELINE = 16
# SO_LINGER on, zero seconds: close() sends RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)


class Connection(asyncio.Protocol):
    """One client's connection.

    Args:
        service: Who answers.
        connections: The set this connection is in while it is open.
    """

    def __init__(self, service: Service, connections: set["Connection"]) -> None:
        self._service = service
        self._connections = connections
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._url = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_bytes = 0
        self._arriving: Exchange | None = None
        self._waiting: deque[Exchange] = deque()
        self._task: asyncio.Task[None] | None = None
        self._may_write: asyncio.Event = asyncio.Event()
        self._may_write.set()
        self.idle_since: float | None = self._loop.time()

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember the transport."""
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the response: nobody is left to read it."""
        self._connections.discard(self)
        self._transport = None
        self._may_write.set()
        if self._arriving is not None:
            self._service.left(self._arriving)
            self._arriving = None
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        """Parse the next bytes."""
        self.idle_since = None
        self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            # A callback that reset the connection can be the cause, too.
            self._refuse(400, b"Invalid HTTP request received.")
            return
        if self._arriving is None and self._head_bytes > HEAD_BYTES and self._headers:
            self._refuse(431, b"Request header fields too large.")

    def pause_writing(self) -> None:
        """Make writers wait: the client reads slowly."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """Let writers continue."""
        self._may_write.set()

    # What httptools calls

    def on_message_begin(self) -> None:
        """Start collecting a new request."""
        self._url = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        """Collect the target, which may come in pieces."""
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Collect a header."""
        self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Ask the service where the body goes."""
        self._head_bytes = 0
        path, _, query = self._url.decode("latin-1").partition("?")
        head = Head(self._parser.get_method().decode(), path, query, tuple(self._headers))
        exchange = self._arriving = Exchange(self, head)
        exchange.body = self._service.begin(exchange)
        if exchange.reset_upload_at == 0:
            self.reset()
        elif (head.header(b"expect") or b"").lower() == b"100-continue" and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        """Pass a piece of the body on."""
        self._head_bytes = 0
        exchange = self._arriving
        if exchange is None or exchange.body is None:
            return
        exchange.body_bytes += len(data)
        limit = exchange.reset_upload_at
        if limit is not None and exchange.body_bytes >= limit:
            self.reset()
            return
        if exchange.error is None:
            try:
                exchange.body.feed(data)
            except ValueError as error:
                exchange.error = error

    def on_message_complete(self) -> None:
        """Answer the request once its predecessors have been answered."""
        exchange, self._arriving = self._arriving, None
        if exchange is None or self._transport is None or self._transport.is_closing():
            return
        exchange.is_complete = True
        exchange.is_keep_alive = self._parser.should_keep_alive()
        if len(self._waiting) >= PIPELINE:
            self.close()
            return
        self._waiting.append(exchange)
        if self._task is None:
            self._task = self._loop.create_task(self._answer_all())

    # What exchanges call

    async def write(self, data: bytes) -> None:
        """Write bytes; wait while the client reads too slowly."""
        if self._transport is None:
            raise asyncio.CancelledError
        self._transport.write(data)
        if not self._may_write.is_set():
            await self._may_write.wait()

    async def flush(self) -> None:
        """Wait until the kernel has taken every byte written so far."""
        # Polled: transports report their low-water mark, not an empty buffer.
        while self._transport is not None and self._transport.get_write_buffer_size():
            await asyncio.sleep(0.001)

    def pause(self) -> None:
        """Stop reading."""
        if self._transport is not None:
            self._transport.pause_reading()

    def close(self) -> None:
        """Close once everything has been written."""
        if self._transport is not None:
            self._transport.close()

    def reset(self) -> None:
        """Close with a TCP reset."""
        if self._transport is None:
            return
        sock = self._transport.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    @property
    def is_idle(self) -> bool:
        """Whether no request is arriving or being answered."""
        return self._arriving is None and self._task is None

    def _refuse(self, status: int, text: bytes) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        self._transport.write(
            STATUS_LINES[status]
            + b"content-type: text/plain; charset=utf-8\r\nconnection: close\r\n"
            + b"content-length: %d\r\n\r\n%s" % (len(text), text)
        )
        self._transport.close()

    async def _answer_all(self) -> None:
        try:
            while self._waiting:
                exchange = self._waiting.popleft()
                await self._answer(exchange)
                if not exchange.is_keep_alive or not exchange.is_over:
                    self.close()
                    return
            self.idle_since = self._loop.time()
        finally:
            self._task = None

    async def _answer(self, exchange: Exchange) -> None:
        try:
            await self._service.answer(exchange)
        except asyncio.CancelledError:
            self._service.left(exchange)
            raise
        except Exception:
            # The outer edge of a request: a bug must not end the server.
            log.exception("%s %s failed", exchange.head.method, exchange.head.path)
            if not exchange.is_started:
                await exchange.respond(500, b"Internal Server Error", "text/plain; charset=utf-8")

"""A client that takes nothing for granted: one request at a time on a kept connection, no retries.

Says of each reply whether it came whole, was cut, never came, or came with more than was asked for.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import httptools
from benchmarks.chaos.uploads import Request

#: Writes of a slow client.
_STEPS = 10


@dataclass(slots=True)
class Reply:
    """What came back.

    Attributes:
        started_at: Monotonic seconds when the request began.
        ended_at: When it was over.
        status: None: no head came.
        headers: Lower-case names.
        body: As far as it came.
        is_whole: The framing says that it is complete.
        is_doubled: More came than one answer.
        has_left: The client left, as it meant to.
        has_hung: Nothing was over by the deadline.
        error: What the connection said.
    """

    started_at: float
    ended_at: float = 0.0
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    is_whole: bool = False
    is_doubled: bool = False
    has_left: bool = False
    has_hung: bool = False
    error: str = ""


class Client:
    """One client with one connection, made anew when it must be.

    Args:
        host: Where to connect.
        port: There.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._connection: _Connection | None = None

    async def ask(self, request: Request, deadline_s: float) -> Reply:
        """Send a request and return what came of it; never raises."""
        loop = asyncio.get_running_loop()
        reply = Reply(loop.time())
        sender: asyncio.Task[None] | None = None
        try:
            async with asyncio.timeout(deadline_s):
                connection = self._connection
                if connection is None or connection.is_closed:
                    connection = await self._connect()
                over = connection.expect(reply)
                if request.pace_s or len(request.body) > 65_536:
                    sender = asyncio.create_task(connection.send_slowly(request))
                else:
                    connection.send(request)
                if request.leaves_after_s is not None:
                    await asyncio.wait((over,), timeout=request.leaves_after_s)
                    reply.has_left = not over.done()
                else:
                    await over
        except TimeoutError:
            reply.has_hung = True
        except OSError as e:
            reply.error = f"connect: {e}"
        if sender is not None:
            if not sender.done():
                self.close()
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        if not reply.is_whole or reply.headers.get("connection") == "close":
            self.close()
        reply.ended_at = loop.time()
        return reply

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        _, self._connection = await loop.create_connection(_Connection, self._host, self._port)
        return self._connection

    def close(self) -> None:
        """Cut the connection."""
        if self._connection is not None:
            self._connection.cut()
            self._connection = None


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.is_closed = False
        self._reply: Reply | None = None
        self._over: asyncio.Future[None] | None = None
        self._parser: Any = None
        self._body: list[bytes] = []
        self._can_write = asyncio.Event()
        self._can_write.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def expect(self, reply: Reply) -> asyncio.Future[None]:
        self._reply = reply
        self._body = []
        self._parser = httptools.HttpResponseParser(self)
        self._over = asyncio.get_running_loop().create_future()
        return self._over

    def send(self, request: Request) -> None:
        self._transport.writelines((request.head, request.body))

    async def send_slowly(self, request: Request) -> None:
        self._transport.write(request.head)
        size = -(-len(request.body) // _STEPS) if request.pace_s else 65_536
        for at in range(0, len(request.body), size):
            await self._can_write.wait()
            if self.is_closed:
                return
            self._transport.write(request.body[at : at + size])
            if request.pace_s:
                await asyncio.sleep(request.pace_s / _STEPS)

    def pause_writing(self) -> None:
        self._can_write.clear()

    def resume_writing(self) -> None:
        self._can_write.set()

    def data_received(self, data: bytes) -> None:
        reply = self._reply
        if reply is None or reply.is_whole:
            if reply is not None:
                reply.is_doubled = True
            self.cut()
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as e:
            reply.error = f"not HTTP: {e}"
            self.cut()

    def on_message_begin(self) -> None:
        if self._reply is not None and self._reply.is_whole:
            self._reply.is_doubled = True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reply is not None:
            self._reply.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._reply is not None and status >= 200:
            self._reply.status = status

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        reply = self._reply
        if reply is None or reply.status is None:
            return
        reply.is_whole = True
        reply.body = b"".join(self._body)
        self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._can_write.set()
        reply = self._reply
        if reply is not None and not reply.is_whole:
            reply.error = reply.error or (str(exc) if exc else "closed")
            reply.body = b"".join(self._body)
        self._finish()

    def _finish(self) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_result(None)

    def cut(self) -> None:
        self._transport.abort()
        self._finish()

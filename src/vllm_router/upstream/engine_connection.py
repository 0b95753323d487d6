"""One connection to an engine: one call at a time, and its response.

This file implements HTTP/1.1 responses and every deadline of a call. `http_client` pools the
connections. Uploads are sent without copying, and the transport may keep views of their memory
after the call; `block_pool` decides when that memory is reused.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol, cast

import httptools

from vllm_router.formats.media_type import is_type
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import (
    BadAnswer,
    Body,
    Buffers,
    CallFailed,
    CallTimedOut,
    ConnectionBroke,
    Deadlines,
    Headers,
)
from vllm_router.upstream.origin import Origin

#: Limit on a response's head; nginx allows upstreams 4 to 8 KiB.
MAX_HEAD_BYTES: Final = 64 * 1024
#: Unread bytes of a streamed response after which reading from the engine is paused.
AHEAD_BYTES: Final = 256 * 1024


class Keeper(Protocol):
    """The owner of idle connections."""

    def opened(self, connection: EngineConnection) -> None:
        """Register a new connection."""

    def closed(self, connection: EngineConnection) -> None:
        """Unregister a closed connection."""

    def keep(self, origin: Origin, connection: EngineConnection) -> None:
        """Take back a connection that may carry another request."""


class EngineConnection(asyncio.Protocol):
    """One connection to an engine; carries one call at a time."""

    __slots__ = (
        "_body",
        "_body_bytes",
        "_chunk_waiter",
        "_client",
        "_deadlines",
        "_due",
        "_error",
        "_head_bytes",
        "_headers",
        "_idle_since",
        "_is_all_written",
        "_is_called",
        "_is_complete",
        "_is_event_stream",
        "_is_head_done",
        "_is_interim",
        "_is_keep_alive",
        "_is_reading_paused",
        "_is_sent",
        "_is_streamed",
        "_is_until_close",
        "_is_writing_paused",
        "_last_arrival",
        "_loop",
        "_origin",
        "_parser",
        "_status",
        "_timer",
        "_timer_at",
        "_transport",
        "_unsent_bytes",
        "_waiter",
        "_whole_bytes",
        "_write_waiter",
        "calls",
        "is_stale",
    )

    def __init__(self, client: Keeper, origin: Origin) -> None:
        self._client = client
        self._origin = origin
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._due = math.inf
        self._is_writing_paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._chunk_waiter: asyncio.Future[None] | None = None
        self._write_waiter: asyncio.Future[None] | None = None
        self._error: CallFailed | None = None
        self.calls = 0
        self._idle_since = 0.0
        self.is_stale = False
        # One parser for all calls, because creating one looks up ten callbacks. It references this
        # object and so is dropped at the end.
        self._parser: Any = httptools.HttpResponseParser(self)
        self._reset()

    def __repr__(self) -> str:
        return f"<connection to {self._origin.host}:{self._origin.port}, {self.calls} calls>"

    def _reset(self) -> None:
        self._is_called = False
        self._headers: Headers = []
        self._head_bytes = 0
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._is_head_done = False
        self._is_complete = False
        self._is_event_stream = False
        self._is_interim = False
        self._is_keep_alive = False
        self._is_reading_paused = False
        self._is_sent = False
        self._is_streamed = False
        self._is_until_close = False
        self._is_all_written = False
        self._unsent_bytes = 0
        self._last_arrival = 0.0
        self._status = 0

    @property
    def idle_s(self) -> float:
        """Seconds since the connection was returned to the pool."""
        return self._loop.time() - self._idle_since

    def is_usable(self, max_idle_s: float) -> bool:
        """Return whether another call may use the connection."""
        return (
            self._error is None
            and self._loop.time() - self._idle_since < max_idle_s
            and not self._transport.is_closing()
        )

    # --- Event loop callbacks.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        self._transport = cast(asyncio.Transport, transport)
        # Pause until the very last byte is gone: then the next block can reuse the memory.
        self._transport.set_write_buffer_limits(high=0)
        self._client.opened(self)

    def data_received(self, data: bytes) -> None:
        """Parse what the engine sent."""
        if not self._is_called:
            # An engine must not send anything between calls.
            self._fail(BadAnswer("the engine sent unsolicited bytes"))
            return
        self._last_arrival = self._loop.time()
        body_bytes = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._fail(BadAnswer("the engine requested a protocol upgrade"))
            return
        except httptools.HttpParserError as e:
            self._fail(BadAnswer(f"the engine's response is not valid HTTP: {e}"))
            return
        if self._body_bytes == body_bytes:
            # Head, trailer or chunk extensions: nothing that reaches the client.
            self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self._is_complete:
            self._fail(BadAnswer("the engine's response head is too large"))
        elif self._waiter is not None and not self._waiter.done():
            if self._is_complete or self._is_streamed:
                self._waiter.set_result(None)
        elif self._is_streamed:
            self._wake_reader()
            if self._body_bytes > AHEAD_BYTES and not self._is_reading_paused:
                self._is_reading_paused = True
                self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail the call in progress."""
        self._client.closed(self)
        self._cancel_timer()
        if self._is_until_close and self._error is None and exc is None:
            self._is_complete = True
        words = (
            "the engine closed the connection" if exc is None else f"the connection broke: {exc}"
        )
        if self._is_head_done and not self._is_complete:
            words = "the engine closed the connection mid-response"
        # For a response that is sent whole, the head shows that the work is done.
        is_at_work = self._is_sent and (not self._is_head_done or self._is_event_stream)
        self._fail(ConnectionBroke(words, is_at_work=is_at_work))

    def eof_received(self) -> bool:
        """Cut the connection: an engine that closes its side sends nothing more.

        On its own, the transport would close only after the engine has read everything unsent.
        """
        # In the next loop iteration: TLS calls this in the middle of its own shutdown.
        self._loop.call_soon(self._transport.abort)
        return False

    def pause_writing(self) -> None:
        """Stop writing until the engine has read what was written."""
        self._is_writing_paused = True

    def resume_writing(self) -> None:
        """Continue: the engine has read what was written."""
        self._is_writing_paused = False
        if self._is_all_written:
            self._sent()
        else:
            self._wake_writer()

    def _wake_writer(self) -> None:
        waiter, self._write_waiter = self._write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- Parser callbacks.

    def on_message_begin(self) -> None:
        """Start a response."""
        if self._is_complete:
            # A second response to one request; the next call would receive it.
            self._error = BadAnswer("the engine sent more than one response")

    def on_header(self, name: bytes, value: bytes) -> None:
        """Store a header."""
        # Trailer fields arrive here too; they are ignored.
        if not self._is_head_done:
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Determine how the body is framed."""
        if self._is_complete:
            return
        self._status = status = self._parser.get_status_code()
        if status < 100:
            raise BadAnswer(f"{status} is not a valid status")
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            return
        self._is_head_done = True
        fields = dict(self._headers)
        has_length = b"content-length" in fields or b"transfer-encoding" in fields
        is_stream = is_type(fields.get(b"content-type", b""), b"text/event-stream")
        self._is_until_close = not has_length and status not in (204, 304)
        self._is_event_stream = is_stream

    def on_body(self, data: bytes) -> None:
        """Store a part of the body."""
        if self._is_complete:
            return
        self._body.append(data)
        self._body_bytes += len(data)
        # Not before its first bytes: until then, a crash of the engine costs the client nothing.
        if self._is_event_stream or self._body_bytes > self._whole_bytes:
            self._is_streamed = True

    def on_message_complete(self) -> None:
        """Finish a response."""
        if self._is_interim:
            self._headers = []
            self._is_interim = False
        elif not self._is_complete:
            self._is_complete = True
            self._is_keep_alive = self._parser.should_keep_alive()

    # --- One call.

    async def call(self, head: bytes, body: Body, deadlines: Deadlines, whole_bytes: int) -> Answer:
        """Perform one call; see `HttpClient.call`."""
        self._reset()
        self._whole_bytes = whole_bytes
        self._deadlines = deadlines
        self._is_called = True
        self._waiter = waiter = self._loop.create_future()
        self.calls += 1
        try:
            buffers = body.in_memory()
            if buffers is not None:
                self._transport.writelines([head, *buffers])
                # A failure's traceback would keep these views alive, and with them the memory.
                buffers = None
                self._is_all_written = True
            else:
                self._is_all_written = await self._send_pieces(head, body.pieces(), waiter)
            if self._is_writing_paused:
                self._expect_taken()
            elif self._is_all_written:
                self._sent()
            else:
                self._arm(deadlines.read_s)
            await waiter
            if self._error is not None and not self._is_complete and not self._is_streamed:
                raise self._error
        except BaseException:
            self.is_stale = self.calls > 1 and self._head_bytes == 0 and self._status == 0
            self.abort()
            raise
        self._waiter = None
        whole = None
        if self._is_complete:
            whole = b"".join(self._body)
            self._body = []
        return Answer(self, self._status, self._headers, whole)

    async def _send_pieces(
        self, head: bytes, pieces: AsyncIterator[Buffers], waiter: asyncio.Future[None]
    ) -> bool:
        """Send a body from disk; return False if the engine answered or failed first."""
        self._transport.write(head)
        try:
            async for piece in pieces:
                if self._is_writing_paused:
                    await self._taken(waiter)
                if waiter.done():
                    return False
                self._transport.writelines(piece)
                # Without this view, the next block can reuse the memory once this one is sent.
                del piece
                if self._is_writing_paused:
                    await self._taken(waiter)
            return True
        finally:
            await cast(Any, pieces).aclose()

    async def _taken(self, waiter: asyncio.Future[None]) -> None:
        """Wait until the engine has read what was written, has answered, or has failed."""
        self._expect_taken()
        self._write_waiter = self._loop.create_future()
        await asyncio.wait((waiter, self._write_waiter), return_when=asyncio.FIRST_COMPLETED)
        self._write_waiter = None
        self._disarm()

    def _expect_taken(self) -> None:
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._arm(self._deadlines.write_s)

    def _sent(self) -> None:
        """Record that the whole request is sent; the response deadline starts now."""
        if self._is_sent or self._error is not None:
            return
        self._is_sent = True
        self._last_arrival = self._loop.time()
        if not self._is_complete:
            self._arm(self._deadlines.read_s)

    async def next_chunk(self) -> bytes:
        """Return the next bytes of a streamed body, empty at its end."""
        while not self._body:
            if self._is_complete:
                return b""
            if self._error is not None:
                raise self._error
            self._chunk_waiter = self._loop.create_future()
            await self._chunk_waiter
        data = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._body = []
        self._body_bytes = 0
        if self._is_reading_paused and not self._transport.is_closing():
            self._is_reading_paused = False
            self._last_arrival = self._loop.time()
            self._transport.resume_reading()
        return data

    def _wake_reader(self) -> None:
        waiter, self._chunk_waiter = self._chunk_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _fail(self, error: CallFailed) -> None:
        if self._error is None:
            self._error = error
        self._disarm()
        self._transport.abort()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        self._wake_writer()
        self._wake_reader()

    # One timer serves many calls. Setting or lifting a deadline does not move it; when it fires, it
    # checks what is due. Creating and cancelling one per call would cost more.

    def _arm(self, seconds: float) -> None:
        self._due = due = self._loop.time() + seconds
        if self._timer is None or self._timer_at > due:
            self._cancel_timer()
            self._timer_at = due
            self._timer = self._loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        self._due = math.inf

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self) -> None:
        self._timer = None
        due, self._due = self._due, math.inf
        if due == math.inf or self._is_complete:
            return
        left_s = due - self._loop.time()
        if left_s < 0.001:
            left_s = self._more_time_s()
        if left_s > 0.001:
            self._arm(left_s)
        elif self._is_sent:
            self._fail(CallTimedOut(f"no answer for {self._deadlines.read_s:g} s"))
        else:
            seconds = self._deadlines.write_s
            words = f"the engine read no more of the upload for {seconds:g} s"
            self._fail(CallTimedOut(words))

    def _more_time_s(self) -> float:
        """Return the time that an overdue call may still take, given its recent progress."""
        deadlines = self._deadlines
        if self._is_sent or self._status:
            if self._is_reading_paused:
                # The client is the slow side.
                return deadlines.read_s
            return self._last_arrival + deadlines.read_s - self._loop.time()
        before, self._unsent_bytes = self._unsent_bytes, self._transport.get_write_buffer_size()
        return deadlines.write_s if self._unsent_bytes < before else 0.0

    def break_off(self, words: str) -> None:
        """Fail the call in progress as if the engine had broken the connection."""
        self._fail(ConnectionBroke(words))

    def release(self) -> None:
        """Return the connection to the pool, or cut it if the call is not finished."""
        self._due = math.inf
        transport = self._transport
        is_called, self._is_called = self._is_called, False
        self._body = []
        if (
            is_called
            and self._is_complete
            and self._is_sent
            and self._is_keep_alive
            and self._error is None
            and not transport.is_closing()
            # It answered before it had read the whole upload, and may never read the rest.
            and not transport.get_write_buffer_size()
        ):
            self._idle_since = self._loop.time()
            self._client.keep(self._origin, self)
        else:
            self.abort()

    def abort(self) -> None:
        """Cut the connection. May be called twice."""
        self._disarm()
        self._cancel_timer()
        self._is_called = False
        self._parser = None
        self._waiter = None
        if self._error is None:
            self._error = ConnectionBroke("the connection was cut")
        # Even if it is closing already, which lasts until the engine has read what is unsent.
        self._transport.abort()

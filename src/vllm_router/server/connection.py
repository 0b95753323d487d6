"""One client connection: consecutive HTTP/1.1 requests, with uploads received in place.

An upload's bytes are received directly into the memory from which they are sent to an engine.
Everything else is small and passes through one scratch buffer shared by all connections, so that an
idle connection costs nothing. The `Service` interprets requests. Bounds: the size and time of the
head, the timeout of a silent client, and the bytes read ahead while a response is in progress.
"""

from __future__ import annotations

import asyncio
import fcntl
import sys
import termios
from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, cast

from vllm_router.errors import BadRequest, HeadersTooLarge, RouterError, TooLarge, TooSlow
from vllm_router.server.chunked import BadChunk, ChunkedReader
from vllm_router.server.exchange import Exchange
from vllm_router.server.head import MAX_HEAD_BYTES, BadHead, RequestHead, read_head

if TYPE_CHECKING:
    from vllm_router.server.listener import Intake, Listener

#: Bytes that a client may pipeline before the connection stops reading.
MAX_AHEAD_BYTES: Final = 64 * 1024
#: Body limit of every route that takes no upload.
MAX_SMALL_BODY_BYTES: Final = 1024 * 1024
#: If one read holds more chunks than this, they are joined: passing each on costs more than a copy.
MANY_CHUNKS: Final = 16
#: If fewer body bytes than this follow the head, they are copied instead of occupying a whole
#: block.
WORTH_ADOPTING_BYTES: Final = 16 * 1024
#: How long a client may continue to send after its response, before the connection is closed.
#: Closing at once would reset the connection and could lose the response (RFC 9112, 9.6).
LINGER_S: Final = 10.0


class _State(Enum):
    HEAD = auto()
    BODY = auto()
    ANSWER = auto()
    LINGER = auto()
    CLOSED = auto()


# Enum member lookup is slow before Python 3.12, and every step needs these.
_HEAD: Final[_State] = _State.HEAD
_BODY: Final[_State] = _State.BODY
_ANSWER: Final[_State] = _State.ANSWER
_LINGER: Final[_State] = _State.LINGER
_CLOSED: Final[_State] = _State.CLOSED


class Connection(asyncio.BufferedProtocol):
    """One client connection."""

    __slots__ = (
        "_ahead",
        "_chunks",
        "_direct",
        "_exchange",
        "_has_dropped",
        "_head",
        "_intake",
        "_is_answering",
        "_is_paused",
        "_left",
        "_loop",
        "_service",
        "_small",
        "_state",
        "_task",
        "_transport",
        "_unsent",
        "client",
        "deadline",
        "listener",
        "now",
        "will_close",
        "write_waiter",
    )

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._service = listener.service
        self.now: Callable[[], float] = listener.service.now
        self._state = _HEAD
        self._head = bytearray()
        self._ahead = bytearray()
        self._exchange: Exchange | None = None
        self._intake: Intake | None = None
        self._small: bytearray | None = None
        self._chunks: ChunkedReader | None = None
        self._left = 0
        self._is_answering = False
        self._has_dropped = False
        self._direct: memoryview | None = None
        self._is_paused = False
        # Stored, because get_running_loop makes a system call (getpid) before Python 3.12.
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[None] | None = None
        self._unsent = 0
        self.client = ""
        self.deadline = 0.0
        self.will_close = False
        self.write_waiter: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"<Connection {self.client} {self._state.name} {self._exchange!r}>"

    # --- called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: D102
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self.client = peer[0] if isinstance(peer, tuple) else "local"
        listener = self.listener
        listener.connections.add(self)
        self.deadline = self.now() + listener.patience.head_s
        if len(listener.connections) > listener.max_connections:
            self.abort()

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: D102
        # The event loop may request a buffer and then have no data for it.
        self._direct = None
        if self._state is _BODY and self._intake is not None and self._chunks is None:
            try:
                block, used = self._intake.block()
            except RouterError as error:
                # The bytes need some destination. The request is rejected and they are dropped.
                self._refuse(error)
            else:
                # Offer one extra byte so that a full buffer is noticed.
                self._direct = view = memoryview(block)[used : used + self._left + 1]
                return view
        return self.listener.scratch_view

    def buffer_updated(self, count: int) -> None:  # noqa: D102
        view, self._direct = self._direct, None
        if view is not None:
            self.deadline = self.now() + self.listener.patience.body_s
            if count > self._left:
                self._ahead += view[self._left : count]
                count = self._left
            self._left -= count
            self._take_body(None, count)
        elif self._state is _HEAD:
            self._read_head(self.listener.scratch, self.listener.scratch_view, 0, count)
        else:
            self._received(self.listener.scratch, self.listener.scratch_view, 0, count)

    def eof_received(self) -> bool:  # noqa: D102
        if self._state is _BODY:
            self.will_close = True
            self._refuse(BadRequest("the body ended before its declared length"))
            return False
        # A client may close its sending side and still wait for a small response. For an upload,
        # this is the only sign that the client left, and the engine must be released at once.
        self.will_close = True
        return self._state is _ANSWER and self._intake is None

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: D102
        self.listener.connections.discard(self)
        state, self._state = self._state, _CLOSED
        self._resume_writers()
        if self._task is not None:
            if self._exchange is not None:
                self._exchange.has_left = not self._exchange.is_complete
            self._task.cancel()
            if state is _ANSWER and not self._is_answering:
                # A task that is cancelled before its first step never runs.
                self._task = None
                self._finish()
        elif state is _BODY:
            if self._exchange is not None:
                self._exchange.has_left = True
            self._finish()

    def pause_writing(self) -> None:  # noqa: D102
        if self.write_waiter is None:
            self.write_waiter = self._loop.create_future()
        self._unsent = self._unsent_bytes()
        self.deadline = self.now() + self.listener.patience.body_s

    def resume_writing(self) -> None:  # noqa: D102
        self._resume_writers()
        if self._state is _ANSWER:
            self.deadline = float("inf")
        elif self._state is _HEAD and self._is_paused:
            self._read_ahead()

    def _resume_writers(self) -> None:
        waiter, self.write_waiter = self.write_waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # --- called by the exchange

    def write(self, data: bytes) -> None:
        """Send bytes to the client."""
        self._transport.write(data)

    def may_keep_alive(self, exchange: Exchange) -> bool:
        """Return whether another request may follow this response."""
        return (
            exchange.head.is_keep_alive
            and self._state is _ANSWER
            and not self.will_close
            and not self.listener.is_draining
        )

    def abort(self) -> None:
        """Abort the connection."""
        self._transport.abort()

    # --- time

    def expire(self) -> None:
        """Handle an expired deadline."""
        if self._state is _BODY:
            self._refuse(TooSlow("the body stopped arriving; send it without long pauses"))
        elif self._state is _HEAD and self._head:
            self._refuse_early(TooSlow("the request's head took too long to arrive"))
        elif self._is_taking():
            self.deadline = self.now() + self.listener.patience.body_s
        else:
            self.abort()

    def _is_taking(self) -> bool:
        """Return whether the client has received unsent bytes since the last call."""
        before, self._unsent = self._unsent, self._unsent_bytes()
        return 0 < self._unsent < (before or self._unsent + 1)

    def _unsent_bytes(self) -> int:
        # The kernel buffers some megabytes and requests more only when a third of them is sent.
        handle = self._transport.get_extra_info("socket").fileno()
        queued = int.from_bytes(fcntl.ioctl(handle, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
        return queued + self._transport.get_write_buffer_size()

    def drain(self) -> None:
        """Close now if no request is in progress, else after it."""
        self.will_close = True
        if self._state is _HEAD and not self._head:
            self._transport.close()

    # --- reading

    def _received(self, data: bytearray, view: memoryview, at: int, end: int) -> None:
        state = self._state
        if state is _HEAD:
            self._read_head(data, view, at, end)
        elif state is _BODY:
            self.deadline = self.now() + self.listener.patience.body_s
            self._read_body(data, view, at, end)
        elif state is _ANSWER:
            if self.will_close:
                return
            self._ahead += view[at:end]
            if len(self._ahead) > MAX_AHEAD_BYTES:
                # Pausing reads would hide a disconnect. Drop the pipelined bytes instead; the
                # closed connection tells the client to send them again (RFC 9112, 9.3.2).
                self._ahead.clear()
                self._has_dropped = True
                self.will_close = True

    def _read_head(self, data: bytearray, view: memoryview, at: int, end: int) -> None:
        held = self._head
        if not held:
            # Blank lines before a request are tolerated (RFC 9112, 2.2).
            while at < end and data[at] in b"\r\n":
                at += 1
            if at == end:
                return
            stop = data.find(b"\r\n\r\n", at, end)
            if 0 <= stop - at <= MAX_HEAD_BYTES:
                self._begin(bytes(view[at : stop + 4]), data, view, stop + 4, end)
                return
            self.deadline = self.now() + self.listener.patience.head_s
        before = len(held)
        held += view[at : min(end, at + MAX_HEAD_BYTES + 4)]
        stop = held.find(b"\r\n\r\n", max(0, before - 3))
        if stop < 0 or stop > MAX_HEAD_BYTES:
            if len(held) > MAX_HEAD_BYTES:
                limit = f"the request's head is larger than {MAX_HEAD_BYTES} bytes"
                self._refuse_early(HeadersTooLarge(limit))
            return
        head = bytes(held[: stop + 4])
        held.clear()
        self._begin(head, data, view, at + stop + 4 - before, end)

    def _begin(self, raw: bytes, data: bytearray, view: memoryview, at: int, end: int) -> None:
        try:
            head = read_head(raw)
        except BadHead as e:
            self._refuse_early(BadRequest(str(e)))
            return
        self._exchange = exchange = Exchange(self, head, self.now())
        self._state = _BODY
        self.deadline = exchange.started_at + self.listener.patience.body_s
        self._chunks = ChunkedReader() if head.is_chunked else None
        self._left = head.content_length or 0
        try:
            self._intake = self._service.open_intake(exchange)
        except RouterError as error:
            self._refuse(error)
            return
        if self._intake is None:
            self._small = bytearray()
            if self._left > MAX_SMALL_BODY_BYTES:
                self._refuse(TooLarge("this route does not accept a large body"))
                return
        if head.content_length or head.is_chunked:
            if at == end and head.http_version == "1.1":
                expect = head.header(b"expect")
                if expect is not None and expect.lower() == b"100-continue":
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._read_body(data, view, at, end)
        else:
            self._ahead += view[at:end]
            self._body_complete()

    def _read_body(self, data: bytearray, view: memoryview, at: int, end: int) -> None:
        if self._chunks is None:
            count = min(end - at, self._left)
            self._left -= count
            if at + count < end:
                self._ahead += view[at + count : end]
            listener = self.listener
            if (
                count >= WORTH_ADOPTING_BYTES
                and self._intake is not None
                and data is listener.scratch
            ):
                block = self._intake.adopt(data, at)
                if block is not None:
                    # The bytes stay in place: the upload now owns this buffer.
                    listener.scratch, listener.scratch_view = block, memoryview(block)
                    self._take_body(None, count)
                    return
            if count:
                self._take_body(view[at : at + count], count)
            return
        try:
            spans, stop = self._chunks.feed(data, at, end)
        except BadChunk as e:
            self._refuse(BadRequest(f"the body is not valid chunked coding: {e}"))
            return
        is_done = self._chunks.is_done
        if len(spans) > MANY_CHUNKS:
            data = bytearray().join([view[first:last] for first, last in spans])
            spans, together = [(0, len(data))], memoryview(data)
        else:
            together = view
        for first, last in spans:
            self._take_body(together[first:last], last - first)
            if self._state is not _BODY:
                return
        if is_done:
            self._ahead += view[stop:end]
            self._body_complete()

    def _take_body(self, data: memoryview | None, count: int) -> None:
        """Pass on `count` body bytes. If `data` is None, the intake already holds them."""
        exchange, intake = self._exchange, self._intake
        assert exchange is not None
        exchange.received_bytes += count
        try:
            if intake is None:
                assert data is not None
                assert self._small is not None
                self._small += data
                if len(self._small) > MAX_SMALL_BODY_BYTES:
                    raise TooLarge("this route does not accept a large body")
            elif data is None:
                intake.wrote(count)
            else:
                intake.append(data)
        except RouterError as error:
            self._refuse(error)
            return
        if self._chunks is None and not self._left:
            self._body_complete()
        elif intake is not None and intake.must_flush and not self._is_paused:
            self._pause()
            self._task = self._loop.create_task(intake.flush())
            self._task.add_done_callback(self._flushed)

    def _flushed(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if self._state is not _BODY:
            self._finish()
            return
        if not task.cancelled() and (error := task.exception()) is not None:
            self._refuse(self._shown(error))
            return
        # The client was silent because reading was paused.
        self.deadline = self.now() + self.listener.patience.body_s
        self._resume()

    def _body_complete(self) -> None:
        exchange = self._exchange
        assert exchange is not None
        if self._task is not None:
            # The last bytes of a chunked body may arrive during a flush. Wait for it.
            self._task.remove_done_callback(self._flushed)
            self._task.add_done_callback(lambda task: self._complete_after(task))
            return
        self._state = _ANSWER
        self.deadline = float("inf")
        self._is_answering = False
        self._task = self._loop.create_task(self._answer(exchange))

    def _complete_after(self, task: asyncio.Task[None]) -> None:
        self._flushed(task)
        if self._state is _BODY:
            self._body_complete()

    async def _answer(self, exchange: Exchange) -> None:
        # The work after a response happens in the same step, not in a callback. Otherwise a fast
        # client's next request would arrive in between, be buffered, and be read again.
        self._is_answering = True
        try:
            if self._intake is not None:
                await self._service.answer_upload(exchange, self._intake)
            else:
                await self._service.answer(exchange, bytes(self._small or b""))
        except asyncio.CancelledError:
            pass
        except Exception as error:
            if exchange.status is None and self._state is _ANSWER:
                exchange.refuse(self._shown(error))
            elif not isinstance(error, RouterError):
                self._service.failed(exchange, error)
        self._task = None
        self._finish()
        if self._state is _ANSWER:
            if exchange.is_complete:
                self._next()
            else:
                self.abort()

    def _shown(self, error: BaseException) -> RouterError:
        if isinstance(error, RouterError):
            return error
        assert self._exchange is not None
        return self._service.failed(self._exchange, cast(Exception, error))

    def _next(self) -> None:
        if self.will_close:
            # A client that has sent so much ahead is probably still sending.
            self._linger(LINGER_S if self._has_dropped else 0)
            return
        self._state = _HEAD
        self.deadline = self.now() + self.listener.patience.idle_s
        if self.write_waiter is not None:
            # A client that pipelines requests and reads no responses would fill the memory.
            self._pause()
        elif self._is_paused or self._ahead:
            self._read_ahead()

    def _read_ahead(self) -> None:
        self._resume()
        if self._ahead:
            data, self._ahead = self._ahead, bytearray()
            self._received(data, memoryview(data), 0, len(data))

    # --- ending

    def _refuse(self, error: RouterError) -> None:
        """Send an error response while the body is still arriving."""
        exchange = self._exchange
        assert exchange is not None
        is_flushing = self._task is not None
        # Bytes that follow, such as the rest of the body, must not be parsed as a request.
        self.will_close = True
        self._state = _ANSWER
        exchange.refuse(error)
        if not is_flushing:
            self._finish()
        self._linger(LINGER_S)

    def _refuse_early(self, error: RouterError) -> None:
        """Send an error response to bytes that are not a valid request."""
        head = RequestHead("GET", "", b"", b"", [], None, False, False, "1.1", {})
        self._exchange = Exchange(self, head, self.now())
        self._exchange.extra = list(self.listener.early_headers)
        self.will_close = True
        self._exchange.refuse(error)
        self._finish()
        self._linger(LINGER_S)

    def _linger(self, seconds: float) -> None:
        """Close the connection, but let a client that is still sending read its response first."""
        self._state = _LINGER
        self._unsent = 0
        self.deadline = self.now() + (seconds or self.listener.patience.body_s)
        if not seconds:
            self._transport.close()
            return
        self._resume()
        if self._transport.can_write_eof():
            self._transport.write_eof()

    def _finish(self) -> None:
        """Release the request's resources and report its end, once."""
        exchange, self._exchange = self._exchange, None
        intake, self._intake = self._intake, None
        # A remaining view of an unused buffer would prevent the buffer's reuse.
        self._small = self._chunks = self._direct = None
        self._left = 0
        if intake is not None:
            intake.close()
        if exchange is not None:
            self._service.finished(exchange)

    def _pause(self) -> None:
        if not self._is_paused:
            self._is_paused = True
            self._transport.pause_reading()

    def _resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            if self._state is not _CLOSED and not self._transport.is_closing():
                self._transport.resume_reading()

"""A streamed response: started late, kept alive, and always ended explicitly.

The head is sent with the first event, so that earlier failures are reported by an HTTP status.
If no event comes for a while, a comment is sent, and the head with it, because proxies close idle
connections. Before another writer may respond to the client, the stream must give way.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from vllm_router.errors import RouterError
from vllm_router.formats.sse import CONTENT_TYPE, comment, encode
from vllm_router.formats.stream_events import error_event
from vllm_router.observability.request_record import RequestRecord
from vllm_router.server.exchange import AnswerBody, Exchange

#: Below the shortest common idle timeouts: 30 s in some clients, 60 s in nginx and load balancers.
KEEP_ALIVE_S = 10.0


class EventStream:
    """A stream of events to one client, written inside a `with` block.

    A RouterError that leaves the block becomes the stream's last event if the stream has begun.
    Otherwise it propagates, and the caller reports it by an HTTP status.

    Args:
        exchange: The exchange to respond to.
        record: Receives the code of an error that ends the stream.
        keep_alive_s: Longest silence, in seconds.
    """

    def __init__(
        self, exchange: Exchange, record: RequestRecord, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self._exchange = exchange
        self._record = record
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._last_at = self._loop.time()
        self._has_spoken = False
        self._body: AnswerBody | None = None
        self._timer = self._loop.call_later(keep_alive_s, self._tick)
        self._headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"cache-control", b"no-cache"),
            # Otherwise nginx in front buffers the events.
            (b"x-accel-buffering", b"no"),
        ]

    @property
    def is_begun(self) -> bool:
        """Whether the client has received the head, with status 200."""
        return self._body is not None

    def set_header(self, name: bytes, value: bytes) -> None:
        """Set a header; has no effect once the head was sent."""
        if not self.is_begun:
            self._headers = [header for header in self._headers if header[0] != name]
            self._headers.append((name, value))

    def give_way(self) -> None:
        """Leave the response to another writer; this stream sends nothing from now on.

        Raises:
            RuntimeError: The stream has begun.
        """
        if self.is_begun:
            raise RuntimeError("a stream that has begun cannot give way")
        self._timer.cancel()

    def _begun(self) -> AnswerBody:
        if self._body is None:
            self._body = self._exchange.begin(200, self._headers)
        return self._body

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_at
        if silent_s >= self._keep_alive_s * 0.99:
            self._write(comment())
            silent_s = 0.0
        self._timer = self._loop.call_later(self._keep_alive_s - silent_s, self._tick)

    def _write(self, data: bytes) -> AnswerBody:
        body = self._begun()
        self._last_at = self._loop.time()
        body.write(data)
        return body

    async def send(self, data: bytes) -> None:
        """Send encoded events, and wait if the client is slow to read."""
        if data:
            if not self._has_spoken:
                self._has_spoken = True
                if self.is_begun:
                    self._exchange.speak()
            await self._write(data).drain()

    def __enter__(self) -> EventStream:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self._timer.cancel()
        if not isinstance(error, RouterError) or not self.is_begun:
            return False
        # A stream never ends without an explanation.
        self._record.error = error.code
        event = error_event(error.message, error.error_type, error.param, error.code)
        self._write(encode(event)).end()
        return True

    def end(self) -> None:
        """End the stream."""
        self._begun().end()

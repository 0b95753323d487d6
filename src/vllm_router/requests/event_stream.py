"""A streamed answer to a client: begun late, kept alive, ended truly.

The head is sent with the first event, so that whatever fails before it is told by an HTTP status.
When nothing comes for a while, a comment goes out, and the head with it: proxies cut silent
connections. Before anything else may answer the client in its place, a stream gives way.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from vllm_router.errors import RouterError
from vllm_router.formats.sse import CONTENT_TYPE, comment, encode
from vllm_router.formats.stream_events import error_event
from vllm_router.observability.request_record import RequestRecord
from vllm_router.server.exchange import AnswerBody, Exchange

#: Less than the shortest idle limits about: 30 s in some clients, 60 s in nginx and load balancers.
KEEP_ALIVE_S = 10.0


class EventStream:
    """Events to one client, to be written within a `with`.

    A RouterError that leaves it becomes the stream's last event, once the stream has begun; before,
    it goes on to whoever tells it by an HTTP status.

    Args:
        exchange: To be answered.
        story: Told of an error in the midst.
        keep_alive_s: Longest silence.
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
            # nginx in front would otherwise collect the events.
            (b"x-accel-buffering", b"no"),
        ]

    @property
    def is_begun(self) -> bool:
        """Whether the client has been told that all is well so far."""
        return self._body is not None

    def set_header(self, name: bytes, value: bytes) -> None:
        """Give a header its value, while the head has not gone."""
        if not self.is_begun:
            self._headers = [header for header in self._headers if header[0] != name]
            self._headers.append((name, value))

    def give_way(self) -> None:
        """Leave the answer to another writer; this stream sends nothing from now on.

        Raises:
            RuntimeError: The stream has begun, so the answer is its own.
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
        """Send encoded events, waiting for a client that is slow to take them."""
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
        # A stream never just stops.
        self._record.error = error.code
        event = error_event(error.message, error.error_type, error.param, error.code)
        self._write(encode(event)).end()
        return True

    def end(self) -> None:
        """End the stream."""
        self._begun().end()

"""A streamed answer to a client: begun late, kept alive, ended truly.

The head is sent with the first event, so that whatever fails before it is told by an HTTP status.
When nothing comes for a while, a comment goes out, and the head with it: proxies cut silent
connections.
"""

from __future__ import annotations

import asyncio

from vllm_router.errors import RouterError
from vllm_router.inbound.exchange import Exchange
from vllm_router.wire.sse import CONTENT_TYPE, comment, encode
from vllm_router.wire.stream_events import error_event

#: Less than the shortest idle limits about: 30 s in some clients, 60 s in nginx and load balancers.
KEEP_ALIVE_S = 10.0


class EventStream:
    """Events to one client. Close it whatever happens.

    Args:
        exchange: To be answered.
        keep_alive_s: Longest silence.
    """

    def __init__(self, exchange: Exchange, keep_alive_s: float = KEEP_ALIVE_S) -> None:
        self._exchange = exchange
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._last_at = self._loop.time()
        self._has_spoken = False
        self._timer: asyncio.TimerHandle | None = self._loop.call_later(keep_alive_s, self._tick)
        self._headers = [
            (b"content-type", CONTENT_TYPE.encode()),
            (b"cache-control", b"no-cache"),
            # nginx in front would otherwise collect the events.
            (b"x-accel-buffering", b"no"),
        ]

    @property
    def is_begun(self) -> bool:
        """Whether the client has been told that all is well so far."""
        return self._exchange.status is not None

    def add_header(self, name: bytes, value: bytes) -> None:
        """Add a header, while the head has not gone."""
        if not self.is_begun:
            self._headers.append((name, value))

    def _begin(self) -> None:
        if not self.is_begun:
            self._exchange.begin(200, self._headers)

    def _tick(self) -> None:
        silent_s = self._loop.time() - self._last_at
        if silent_s >= self._keep_alive_s * 0.99:
            self._write(comment())
            silent_s = 0.0
        self._timer = self._loop.call_later(self._keep_alive_s - silent_s, self._tick)

    def _write(self, data: bytes) -> None:
        self._begin()
        self._last_at = self._loop.time()
        self._exchange.write(data)

    async def send(self, data: bytes) -> None:
        """Send encoded events, waiting for a client that is slow to take them."""
        if data:
            if not self._has_spoken:
                self._has_spoken = True
                if self.is_begun:
                    self._exchange.speak()
            self._write(data)
            await self._exchange.drain()

    def fail(self, error: RouterError) -> None:
        """End the stream with an error event: a stream never just stops."""
        self._write(encode(error_event(error.message, error.error_type, error.param, error.code)))
        self._exchange.end()

    def end(self) -> None:
        """End the stream."""
        self._begin()
        self._exchange.end()

    def close(self) -> None:
        """Stop keeping it alive. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

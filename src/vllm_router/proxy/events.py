"""A streamed answer to a client: begun late, kept alive, ended truly.

The head is sent with the first event, so that whatever fails before it is told by an HTTP status.
When nothing comes for a while, a comment goes out, and the head with it: proxies cut silent
connections.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from vllm_router.errors import RouterError
from vllm_router.inbound.exchange import Exchange
from vllm_router.proxy.story import Story
from vllm_router.wire.sse import CONTENT_TYPE, comment, encode
from vllm_router.wire.stream_events import error_event

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
        self, exchange: Exchange, story: Story, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self._exchange = exchange
        self._story = story
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._last_at = self._loop.time()
        self._has_spoken = False
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
        return self._exchange.status is not None

    def set_header(self, name: bytes, value: bytes) -> None:
        """Give a header its value, while the head has not gone."""
        if not self.is_begun:
            self._headers = [header for header in self._headers if header[0] != name]
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
        self._story.error = error.code
        self._write(encode(error_event(error.message, error.error_type, error.param, error.code)))
        self._exchange.end()
        return True

    def end(self) -> None:
        """End the stream."""
        self._begin()
        self._exchange.end()

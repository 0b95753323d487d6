"""Calls and bodies for tests of the engines' client."""

import asyncio
from collections.abc import AsyncIterator

from tests.upstream.raw_engine import (
    CALM,
)

from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import (
    Body,
    Buffers,
    BytesBody,
    Deadlines,
)
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.origin import Origin

BIG = bytes(range(256)) * 4 * 5000  # 5 MB: more than the kernel takes at once
EVENTS = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n"
)


class SlowBody:
    """A body that is read from somewhere, piece by piece."""

    def __init__(self, data: bytes, size: int = 100_000, error: Exception | None = None) -> None:
        self._data = data
        self._size = size
        self._error = error
        self.size_bytes = len(data)
        self.given = 0
        self.is_closed = False

    def in_memory(self) -> Buffers | None:
        return None

    async def pieces(self) -> AsyncIterator[Buffers]:
        try:
            for at in range(0, len(self._data), self._size):
                await asyncio.sleep(0)
                self.given += 1
                yield [self._data[at : at + self._size]]
                if self._error is not None:
                    raise self._error
        finally:
            self.is_closed = True


async def call(
    client: HttpClient,
    origin: Origin,
    body: Body | None = None,
    deadlines: Deadlines = CALM,
    whole_bytes: int = 2 << 20,
) -> Answer:
    async with asyncio.timeout(30):
        return await client.call(
            origin,
            b"POST",
            b"/v1/x",
            [(b"x-a", b"b")],
            body or BytesBody(b"body"),
            deadlines,
            whole_bytes=whole_bytes,
        )

"""An engine's response: its head, and its body either whole or streamed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vllm_router.upstream.call import BadAnswer, ConnectionBroke, Headers

if TYPE_CHECKING:
    from vllm_router.upstream.engine_connection import EngineConnection

#: The largest response that is read whole; verbose_json for an hour of audio has 2 MB.
MAX_READ_BYTES: Final = 64 * 1024 * 1024


class Answer:
    """An engine's response: its head, and its body either whole or streamed.

    Attributes:
        status: HTTP status.
        headers: Lower-case names and values, in order.
        body: The whole body; None if it is streamed by `chunks`.
        arrivals: How often bytes of a streamed body have been taken.
        is_awaited: Whether a caller is waiting for more of them now.
    """

    __slots__ = ("_connection", "arrivals", "body", "headers", "is_awaited", "status")

    def __init__(
        self, connection: EngineConnection, status: int, headers: Headers, body: bytes | None
    ) -> None:
        self._connection: EngineConnection | None = connection
        self.status = status
        self.headers = headers
        self.body = body
        self.arrivals = 0
        self.is_awaited = False

    def header(self, name: bytes) -> bytes:
        """Return a header's value by its lower-case name; empty if it is absent."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    def chunks(self) -> Chunks:
        """Return an iterator over a streamed body's bytes as they arrive.

        Raises:
            ConnectionBroke: The connection broke mid-response.
            CallTimedOut: Nothing arrived before the read deadline.
            BadAnswer: The framing is invalid.
        """
        return Chunks(self)

    async def next_chunk(self) -> bytes:
        """Return the next bytes of a streamed body, empty at its end; raises like `chunks`."""
        if self._connection is None:
            raise ConnectionBroke("the response was closed")
        self.is_awaited = True
        try:
            return await self._connection.next_chunk()
        finally:
            self.is_awaited = False
            self.arrivals += 1

    async def read(self, limit_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return the whole body.

        Raises:
            BadAnswer: It exceeds the limit.
            CallFailed: Like `chunks`.
        """
        if self.body is None:
            parts = []
            size = 0
            while chunk := await self.next_chunk():
                parts.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    raise BadAnswer(f"the engine's response is larger than {limit_bytes} bytes")
            self.body = b"".join(parts)
        return self.body

    def break_off(self, words: str) -> None:
        """Fail a streamed body's reader with ConnectionBroke; do nothing if closed."""
        if self._connection is not None:
            self._connection.break_off(words)

    def close(self) -> None:
        """Return the connection for reuse, or cut it if the response was not read to its end.

        May be called twice; by then, another call may be using the connection.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class Chunks:
    """A response's body, for a single iteration."""

    __slots__ = ("_answer", "_is_begun")

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._is_begun = False

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        whole = self._answer.body
        if whole is None:
            chunk = await self._answer.next_chunk()
            if not chunk:
                raise StopAsyncIteration
            return chunk
        if self._is_begun:
            raise StopAsyncIteration
        self._is_begun = True
        return whole


def denial(status: int) -> str | None:
    """Return advice for a status that shows a misconfigured router; None for any other."""
    if status in (401, 403):
        return "check --engine-api-key"
    if status == 407:
        return "a proxy in front of it requires a password; use the engine's own address"
    if 300 <= status < 400:
        return "it redirects; use the engine's own address"
    return None

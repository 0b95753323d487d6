"""An engine's answer, as whoever asked for it sees it: a head, and a body whole or as it comes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from vllm_router.upstream.call import BadAnswer, ConnectionBroke, Headers

if TYPE_CHECKING:
    from vllm_router.upstream.engine_connection import EngineConnection

#: The largest answer that is read whole: an hour's verbose_json has 2 MB.
MAX_READ_BYTES: Final = 64 * 1024 * 1024


class Answer:
    """An engine's answer: its head, and its body whole or as it comes.

    Attributes:
        status: HTTP status.
        headers: Lower-case names and values, in order.
        body: The whole body; None when it is streamed by `chunks`.
        arrivals: Times that bytes of a streamed body were taken.
        is_awaited: Whether somebody waits for more of them now.
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
        """Return a header's value by its lower-case name, empty if it is not there."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""

    def chunks(self) -> Chunks:
        """Return a streamed body's bytes as they arrive.

        Raises:
            ConnectionBroke: It broke off.
            CallTimedOut: Nothing came for the read deadline.
            BadAnswer: The framing is broken.
        """
        return Chunks(self)

    async def next_chunk(self) -> bytes:
        """Return the next bytes of a streamed body, empty at its end; errors as `chunks`."""
        if self._connection is None:
            raise ConnectionBroke("the answer was closed")
        self.is_awaited = True
        try:
            return await self._connection.next_chunk()
        finally:
            self.is_awaited = False
            self.arrivals += 1

    async def read(self, limit_bytes: int = MAX_READ_BYTES) -> bytes:
        """Return the body whole.

        Raises:
            BadAnswer: It is larger than the limit.
            CallFailed: As `chunks`.
        """
        if self.body is None:
            parts = []
            size = 0
            while chunk := await self.next_chunk():
                parts.append(chunk)
                size += len(chunk)
                if size > limit_bytes:
                    raise BadAnswer(f"the engine's answer is larger than {limit_bytes} bytes")
            self.body = b"".join(parts)
        return self.body

    def break_off(self, words: str) -> None:
        """Let whoever waits for more of a streamed body get ConnectionBroke; nothing if closed."""
        if self._connection is not None:
            self._connection.break_off(words)

    def close(self) -> None:
        """Give the connection back, or cut it if the answer was not taken to its end.

        May be called twice; the connection may be another call's by then.
        """
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.release()


class Chunks:
    """An answer's body, to be iterated over once."""

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
    """Return what to do about an answer that says how the router is set up, None for any other."""
    if status in (401, 403):
        return "check --engine-api-key"
    if status == 407:
        return "a proxy in front of it asks for a password; give the engine's own address"
    if 300 <= status < 400:
        return "it redirects; give the engine's own address"
    return None

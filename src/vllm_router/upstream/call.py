"""The parts of a call to an engine: body, deadlines and errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = list[tuple[bytes, bytes]]
Buffers = Sequence[bytes | memoryview]


class CallFailed(Exception):
    """A call to an engine failed; the subclass says what was known at that point."""


class NotConnected(CallFailed):
    """The engine could not be reached; nothing was sent."""


class ConnectionBroke(CallFailed):
    """The engine closed the connection before its response was complete.

    Attributes:
        is_at_work: Whether the engine had the whole upload and was still working on it. If so, the
            upload may have crashed it.
    """

    def __init__(self, words: str, *, is_at_work: bool = False) -> None:
        super().__init__(words)
        self.is_at_work = is_at_work


class BadAnswer(CallFailed):
    """The response is not valid HTTP, or exceeds a limit."""


class CallTimedOut(CallFailed):
    """The engine exceeded the deadline for reading the upload or for answering."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Deadlines of one call, in seconds.

    Attributes:
        connect_s: For connecting to the engine.
        write_s: For the engine to accept more of the upload.
        read_s: From the last byte of the upload to the first of the response, and between two
            arrivals after it.
    """

    connect_s: float
    write_s: float
    read_s: float


class Body(Protocol):
    """A request's body; it can be sent more than once."""

    @property
    def size_bytes(self) -> int:
        """Size in bytes."""

    def in_memory(self) -> Buffers | None:
        """Return its buffers without copying, or None if they must be read from disk."""

    def pieces(self) -> AsyncIterator[Buffers]:
        """Yield its bytes in blocks."""


class BytesBody:
    """A body in memory, in one or more buffers."""

    __slots__ = ("_buffers", "size_bytes")

    def __init__(self, *buffers: bytes) -> None:
        self._buffers = tuple(buffer for buffer in buffers if buffer)
        self.size_bytes = sum(map(len, buffers))

    def in_memory(self) -> Buffers:
        """Return the buffers."""
        return self._buffers

    async def pieces(self) -> AsyncIterator[Buffers]:
        """Yield the bytes."""
        yield self.in_memory()

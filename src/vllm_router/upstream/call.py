"""What a call to an engine is made of: a body, deadlines, and the ways in which it may fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Headers = list[tuple[bytes, bytes]]
Buffers = Sequence[bytes | memoryview]


class CallFailed(Exception):
    """A call to an engine failed; the kinds say what was known then."""


class NotConnected(CallFailed):
    """Nothing was sent: the engine could not be reached."""


class ConnectionBroke(CallFailed):
    """The engine broke the connection before its answer was complete.

    Attributes:
        is_at_work: Whether it had the whole upload and was not done with it. If so, the upload may
            be what ended it.
    """

    def __init__(self, words: str, *, is_at_work: bool = False) -> None:
        super().__init__(words)
        self.is_at_work = is_at_work


class BadAnswer(CallFailed):
    """What came is not HTTP, or beyond the bounds."""


class CallTimedOut(CallFailed):
    """The engine took longer than the deadline to take the upload or to answer."""


@dataclass(frozen=True, slots=True)
class Deadlines:
    """Bounds of one call, in seconds.

    Attributes:
        connect_s: To reach the engine.
        write_s: Without the engine taking any more of the upload.
        read_s: From the upload's last byte to the answer's first, and between two arrivals after
        it.
    """

    connect_s: float
    write_s: float
    read_s: float


class Body(Protocol):
    """A request's body; can be sent more than once."""

    @property
    def size_bytes(self) -> int:
        """Its length."""

    def in_memory(self) -> Buffers | None:
        """Return its bytes where they lie, or None if they must be read from somewhere."""

    def pieces(self) -> AsyncIterator[Buffers]:
        """Yield its bytes in pieces."""


class BytesBody:
    """A body that is in memory, in one or several buffers."""

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

"""What all connections of a process share: whom they serve, their patience, buffer and end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import formatdate
from typing import Any, Protocol

from vllm_router.errors import RouterError
from vllm_router.server.connection import Connection
from vllm_router.server.exchange import Exchange, Headers


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a client may take, in seconds.

    Attributes:
        head_s: From a request's first byte to its head's end.
        idle_s: Between requests.
        body_s: Between two arrivals of a body's bytes, and between two of taking the answer's.
    """

    head_s: float = 15.0
    idle_s: float = 75.0
    body_s: float = 60.0


class Intake(Protocol):
    """Takes an upload's bytes. Methods may raise RouterError, which is answered at once."""

    def block(self) -> tuple[bytearray, int]:
        """Return the memory for the next bytes and the offset in it."""

    def adopt(self, block: bytearray, at: int) -> bytearray | None:
        """Take over memory in which the first bytes lie from `at` on; `wrote` then says how many.

        Returns:
            Memory of the same size in exchange; None if it was not taken.
        """

    def wrote(self, count: int) -> None:
        """Say that bytes were put there."""

    def append(self, data: memoryview) -> None:
        """Take bytes that arrived elsewhere."""

    @property
    def must_flush(self) -> bool:
        """Whether `flush` must be awaited before more bytes come."""

    async def flush(self) -> None:
        """Make room."""

    def close(self) -> None:
        """Release everything. May be called twice."""


class Service(Protocol):
    """What the connection serves."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def open_intake(self, exchange: Exchange) -> Intake | None:
        """Return where a request's upload goes; None if its route takes none.

        Raises:
            RouterError: The request is refused before its body is read.
        """

    async def answer_upload(self, exchange: Exchange, intake: Any) -> None:
        """Answer a request whose upload has come whole. The intake is closed by the caller."""

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer any other request."""

    def failed(self, exchange: Exchange, error: Exception) -> RouterError:
        """Log a fault of our own and return what the client is told."""

    def finished(self, exchange: Exchange) -> None:
        """Take note that a request has ended, whichever way."""


class Listener:
    """What all connections of one process share.

    Args:
        service: Answers the requests.
        patience: Time limits.
        max_connections: Further connections are refused.
        scratch_bytes: Size of the buffer for all that is not read in place; an intake may take it
            over if it is the size of its own memory.
        early_headers: Headers of the errors that answer what cannot be read as a request.
        wall_clock: Unix seconds, for Date.
    """

    def __init__(
        self,
        service: Service,
        patience: Patience | None = None,
        max_connections: int = 20_000,
        scratch_bytes: int = 128 * 1024,
        early_headers: Headers | None = None,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.service = service
        self.patience = patience or Patience()
        self.max_connections = max_connections
        self.connections: set[Connection] = set()
        self.is_draining = False
        self.scratch = bytearray(scratch_bytes)
        self.scratch_view = memoryview(self.scratch)
        self.early_headers: Headers = early_headers or []
        self._wall_clock = wall_clock
        self._date_line = b""
        self._date_until = float("-inf")

    def date_line(self, now: float) -> bytes:
        """Return the Date header as a line, made anew once a second.

        Args:
            now: The service's clock.
        """
        if now >= self._date_until:
            wall = self._wall_clock()
            self._date_line = b"date: %b\r\n" % formatdate(wall, usegmt=True).encode()
            self._date_until = now + 1.0 - wall % 1.0
        return self._date_line

    def __call__(self) -> Connection:
        """Return the protocol for a new connection, as `create_server` asks for it."""
        return Connection(self)

    def sweep(self) -> None:
        """Close the connections whose patience has run out; to be called every second or so."""
        now = self.service.now()
        for connection in [c for c in self.connections if c.deadline < now]:
            connection.expire()

    def drain(self) -> None:
        """Close idle connections now and the others after their answer."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.drain()

    def abort(self) -> None:
        """Cut every connection."""
        for connection in list(self.connections):
            connection.abort()

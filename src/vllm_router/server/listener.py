"""State shared by all connections of a process: service, timeouts, scratch buffer, shutdown."""

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
    """Client timeouts, in seconds.

    Attributes:
        head_s: From a request's first byte to the end of its head.
        idle_s: Between requests.
        body_s: Between two receipts of body bytes, and between two sends of response bytes.
    """

    head_s: float = 15.0
    idle_s: float = 75.0
    body_s: float = 60.0


class Intake(Protocol):
    """Receives an upload's bytes. Methods may raise RouterError, which is sent to the client."""

    def block(self) -> tuple[bytearray, int]:
        """Return the memory for the next bytes and the offset in it."""

    def adopt(self, block: bytearray, at: int) -> bytearray | None:
        """Take over memory that holds the first bytes from `at` on; `wrote` then gives their
        number.

        Returns:
            Memory of the same size in exchange; None if it was not taken over.
        """

    def wrote(self, count: int) -> None:
        """Report that bytes were written there."""

    def append(self, data: memoryview) -> None:
        """Copy bytes that arrived elsewhere."""

    @property
    def must_flush(self) -> bool:
        """Whether `flush` must be awaited before more bytes arrive."""

    async def flush(self) -> None:
        """Make room."""

    def close(self) -> None:
        """Release everything. May be called twice."""


class Service(Protocol):
    """The application behind the connections."""

    def now(self) -> float:
        """Return monotonic seconds."""

    def open_intake(self, exchange: Exchange) -> Intake | None:
        """Return the intake for a request's upload; None if its route takes none.

        Raises:
            RouterError: The request is rejected before its body is read.
        """

    async def answer_upload(self, exchange: Exchange, intake: Any) -> None:
        """Answer a request whose upload is complete. The caller closes the intake."""

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer any other request."""

    def failed(self, exchange: Exchange, error: Exception) -> RouterError:
        """Log an internal error and return the error for the client."""

    def finished(self, exchange: Exchange) -> None:
        """Record that a request has ended, successfully or not."""


class Listener:
    """State shared by all connections of one process.

    Args:
        service: Answers the requests.
        patience: Timeouts.
        max_connections: Further connections are rejected.
        scratch_bytes: Size of the buffer for all bytes that are not received in place. An intake
            may take it over if its own memory has the same size.
        early_headers: Headers of error responses to bytes that are not a valid request.
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
        """Return the Date header line, updated once a second.

        Args:
            now: The service's clock.
        """
        if now >= self._date_until:
            wall = self._wall_clock()
            self._date_line = b"date: %b\r\n" % formatdate(wall, usegmt=True).encode()
            self._date_until = now + 1.0 - wall % 1.0
        return self._date_line

    def __call__(self) -> Connection:
        """Return the protocol of a new connection, for `create_server`."""
        return Connection(self)

    def sweep(self) -> None:
        """Close connections whose timeout has expired. Call this about once a second."""
        now = self.service.now()
        for connection in [c for c in self.connections if c.deadline < now]:
            connection.expire()

    def drain(self) -> None:
        """Close idle connections now and the others after their response."""
        self.is_draining = True
        for connection in list(self.connections):
            connection.drain()

    def abort(self) -> None:
        """Abort every connection."""
        for connection in list(self.connections):
            connection.abort()

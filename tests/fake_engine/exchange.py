"""One HTTP request and its response, which faults can corrupt on its way out.

Everything that an exchange writes passes through one place, which can stop, cut or slow it at a
given byte, or send something else instead.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tests.fake_engine.connection import Connection

STATUS_LINES = {s.value: b"HTTP/1.1 %d %s\r\n" % (s.value, s.phrase.encode()) for s in HTTPStatus}


@dataclass(frozen=True, slots=True)
class Head:
    """A request's line and headers; header names as received."""

    method: str
    path: str
    query: str
    headers: tuple[tuple[bytes, bytes], ...]

    def header(self, name: bytes) -> bytes | None:
        """Return the first header of that (lower case) name."""
        for key, value in self.headers:
            if key.lower() == name:
                return value
        return None


class Body(Protocol):
    """Where the bytes of a request's body go."""

    def feed(self, data: bytes) -> None:
        """Take the next bytes; a ValueError makes the rest useless."""


class Service(Protocol):
    """Receives the bodies of requests and answers them."""

    def begin(self, exchange: "Exchange") -> Body:
        """Return the receiver of the body; called when the headers are complete."""

    async def answer(self, exchange: "Exchange") -> None:
        """Answer a complete request by the exchange's `respond` or `stream` and `send`."""

    def left(self, exchange: "Exchange") -> None:
        """Note that the client left before the response was complete."""


@dataclass(slots=True)
class Shape:
    """How the bytes of a response are corrupted; not at all by default."""

    bytes_per_s: float | None = None
    cut_at: int | None = None
    cut_by_reset: bool = True
    hang_at: int | None = None
    length_off_by: int = 0
    padding_bytes: int = 0


class Exchange:
    """One request and its response."""

    __slots__ = (
        "body",
        "body_bytes",
        "connection",
        "error",
        "head",
        "is_complete",
        "is_keep_alive",
        "is_over",
        "is_started",
        "note",
        "reset_upload_at",
        "sent_bytes",
        "shape",
        "status",
    )

    def __init__(self, connection: "Connection", head: Head) -> None:
        self.connection = connection
        self.head = head
        self.body: Body | None = None
        self.body_bytes = 0
        self.error: ValueError | None = None
        self.is_complete = False
        self.is_keep_alive = True
        self.is_over = False
        self.is_started = False
        self.note: Any = None
        self.reset_upload_at: int | None = None
        self.sent_bytes = 0
        self.shape: Shape | None = None
        self.status: int | None = None

    async def respond(
        self,
        status: int,
        body: bytes = b"",
        content_type: str = "application/json",
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """Send a whole response with its length."""
        length = len(body) + (self.shape.length_off_by if self.shape else 0)
        lines = [
            STATUS_LINES[status],
            b"content-length: %d\r\ncontent-type: %s\r\n" % (length, content_type.encode()),
        ]
        for name, value in (headers or {}).items():
            lines.append(f"{name}: {value}\r\n".encode("latin-1"))
        lines.extend(self._last_header_lines())
        if self.head.method != "HEAD":
            lines.append(body)
        self.is_started = True
        self.status = status
        await self.send_raw(b"".join(lines))
        self.is_over = True

    async def respond_json(
        self, status: int, value: object, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send a value as compact JSON, as FastAPI writes it."""
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        await self.respond(status, text.encode(), headers=headers)

    async def stream(self, status: int, content_type: str) -> None:
        """Begin a response of unknown length; `send` and `finish` follow."""
        lines = [
            STATUS_LINES[status],
            b"content-type: %s\r\ntransfer-encoding: chunked\r\n" % content_type.encode(),
            *self._last_header_lines(),
        ]
        self.is_started = True
        self.status = status
        await self.send_raw(b"".join(lines))

    async def send(self, data: bytes) -> None:
        """Send a piece of a streamed response."""
        await self.send_raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def finish(self) -> None:
        """End a streamed response."""
        await self.send_raw(b"0\r\n\r\n")
        self.is_over = True

    async def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, subject to the exchange's shape.

        Raises:
            asyncio.CancelledError: The shape cuts the connection here.
        """
        if self.shape is not None:
            await self._send_shaped(data, self.shape)
        else:
            self.sent_bytes += len(data)
            await self.connection.write(data)

    async def hang(self) -> None:
        """Do nothing until the client leaves."""
        await asyncio.Event().wait()

    def _last_header_lines(self) -> list[bytes]:
        lines = []
        left = self.shape.padding_bytes if self.shape else 0
        while left > 0:
            lines.append(b"x-padding: %s\r\n" % (b"p" * max(1, min(left, 1024) - 13)))
            left -= 1024
        if not self.is_keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        return lines

    async def _send_shaped(self, data: bytes, shape: Shape) -> None:
        stop = min((at for at in (shape.cut_at, shape.hang_at) if at is not None), default=None)
        is_end = stop is not None and self.sent_bytes + len(data) >= stop
        if is_end and stop is not None:
            data = data[: stop - self.sent_bytes]
        if shape.bytes_per_s is None:
            await self.connection.write(data)
        else:
            # At most fifty pieces per second, of at least one byte.
            size = max(1, int(shape.bytes_per_s / 50))
            for at in range(0, len(data), size):
                await self.connection.write(data[at : at + size])
                await asyncio.sleep(size / shape.bytes_per_s)
        self.sent_bytes += len(data)
        if not is_end:
            return
        if stop == shape.hang_at:
            await self.hang()
        # A reset discards what the client has not received yet.
        await self.connection.flush()
        if shape.cut_by_reset:
            self.connection.reset()
        else:
            self.connection.close()
        raise asyncio.CancelledError

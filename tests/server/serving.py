"""A service on a socket that answers by path, with a clock that tests can put forward."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from vllm_router.errors import BadRequest, RouterError, TooLarge
from vllm_router.server.exchange import Exchange
from vllm_router.server.listener import Listener, Patience

#: Small, so that every body crosses from one block into the next.
BLOCK_BYTES = 700
PATIENCE_S = 20.0
#: More than the kernel holds for both ends of a connection.
LARGE = 20_000_000


class Intake:
    """Keeps a body, block by block; says no to a byte 0xff, and waits for `gate` to flush."""

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._block = bytearray(BLOCK_BYTES)
        self._used = 0
        self.data = bytearray()
        self.adopted = 0
        self.closed = 0
        self.flushes = 0
        self.must_flush = False

    def block(self) -> tuple[bytearray, int]:
        if self._service.has_no_room:
            raise TooLarge("no room")
        if self._used == len(self._block):
            self._block, self._used = bytearray(BLOCK_BYTES), 0
        return self._block, self._used

    def adopt(self, block: bytearray, at: int) -> bytearray | None:
        if not self._service.adopts:
            return None
        self.adopted += 1
        self._block, self._used = block, at
        return bytearray(len(block))

    def wrote(self, count: int) -> None:
        self._take(bytes(self._block[self._used : self._used + count]))
        self._used += count

    def append(self, data: memoryview) -> None:
        self._take(bytes(data))

    def _take(self, data: bytes) -> None:
        if b"\xff" in data:
            raise BadRequest("0xff is not welcome")
        self.data += data
        self.must_flush = b"F" in data

    async def flush(self) -> None:
        self.flushes += 1
        self.must_flush = False
        await self._service.gate.wait()
        if self._service.flush_error is not None:
            raise self._service.flush_error

    def close(self) -> None:
        self.closed += 1


@dataclass
class Service:
    """Answers by path; remembers what ended and what failed."""

    skew_s: float = 0.0
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    has_no_room: bool = False
    adopts: bool = True
    flush_error: Exception | None = None
    intakes: list[Intake] = field(default_factory=list)
    begun: list[str] = field(default_factory=list)
    ended: list[Exchange] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    cancelled: int = 0

    def __post_init__(self) -> None:
        self.gate.set()

    def now(self) -> float:
        return asyncio.get_running_loop().time() + self.skew_s

    def open_intake(self, exchange: Exchange) -> Intake | None:
        self.begun.append(exchange.head.path)
        if exchange.head.path == "/refused":
            raise BadRequest("not here")
        if not exchange.head.path.startswith("/upload"):
            return None
        self.intakes.append(Intake(self))
        return self.intakes[-1]

    async def answer_upload(self, exchange: Exchange, intake: Intake) -> None:
        if exchange.head.path == "/upload/hang":
            await self._hang()
        exchange.respond(200, [(b"x-flushes", b"%d" % intake.flushes)], bytes(intake.data))

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        path = exchange.head.path
        if path == "/hang":
            await self._hang()
        elif path == "/gated":
            await self.gate.wait()
            exchange.respond(200, [], b"open")
        elif path == "/fault":
            raise RuntimeError("a mistake of our own")
        elif path == "/no":
            raise BadRequest("no")
        elif path in ("/late-fault", "/late-no"):
            exchange.begin(200, []).write(b"begun")
            raise RuntimeError("late") if path == "/late-fault" else BadRequest("late")
        elif path == "/forgotten":
            pass
        elif path == "/large":
            exchange.respond(200, [], bytes(LARGE))
        elif path == "/stream":
            answer = exchange.begin(200, [])
            for piece in (b"one ", b"", b"two"):
                answer.write(piece)
                await answer.drain()
            answer.end()
        elif path == "/endless":
            answer = exchange.begin(200, [])
            while True:
                answer.write(bytes(64 * 1024))
                await answer.drain()
                await asyncio.sleep(0)
        elif path == "/known":
            answer = exchange.begin(200, [], 5)
            answer.write(b"five!")
            answer.end()
        elif path in ("/too-long", "/too-short", "/second-writer", "/after-the-end"):
            answer = exchange.begin(200, [], 5)
            answer.write(b"four" if path == "/too-short" else b"five!")
            if path == "/too-long":
                answer.write(b" and more")
            elif path == "/second-writer":
                exchange.begin(200, [])
            answer.end()
            if path == "/after-the-end":
                answer.write(b"more")
        elif path == "/empty":
            exchange.respond(204, [])
        else:
            exchange.respond(200, [(b"x-path", path.encode("latin-1", "replace"))], body)

    async def _hang(self) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled += 1

    def failed(self, exchange: Exchange, error: Exception) -> RouterError:
        self.failures.append(error)
        return RouterError("a fault")

    def finished(self, exchange: Exchange) -> None:
        self.ended.append(exchange)


@dataclass
class Served:
    """A service that listens."""

    service: Service
    listener: Listener
    port: int

    async def settled(self) -> None:
        """Return once nobody is connected and every intake is closed exactly once."""
        await until(lambda: not self.listener.connections)
        await until(lambda: all(intake.closed for intake in self.service.intakes))
        assert [intake.closed for intake in self.service.intakes] == [1] * len(self.service.intakes)


@contextlib.asynccontextmanager
async def serving(
    patience: Patience | None = None, max_connections: int = 1000
) -> AsyncIterator[Served]:
    service = Service()
    listener = Listener(service, patience, max_connections)
    server = await asyncio.get_running_loop().create_server(listener, "127.0.0.1", 0)
    try:
        yield Served(service, listener, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        listener.abort()
        await until(lambda: not listener.connections)


async def until(claim: object) -> None:
    """Return once a claim holds; fail after a while."""
    async with asyncio.timeout(PATIENCE_S):
        while not claim():  # type: ignore[operator]
            await asyncio.sleep(0.002)


class Client:
    """Speaks raw bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        """Return one answer's head and its body, chunks undone."""
        async with asyncio.timeout(PATIENCE_S):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lower = head.lower()
            if b"transfer-encoding: chunked" in lower:
                body = b""
                while size := int(await self.reader.readline(), 16):
                    body += await self.reader.readexactly(size)
                    await self.reader.readexactly(2)
                await self.reader.readexactly(2)
                return head, body
            length = 0
            if b"content-length: " in lower:
                length = int(lower.split(b"content-length: ")[1].split(b"\r\n")[0])
            return head, await self.reader.readexactly(length)

    async def rest(self) -> bytes:
        """Return everything up to the end of the connection, by whatever end."""
        data = b""
        async with asyncio.timeout(PATIENCE_S):
            with contextlib.suppress(ConnectionError):
                while piece := await self.reader.read(1 << 20):
                    data += piece
        return data

    def reset(self) -> None:
        """Leave at once, with a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def client(port: int, limit: int = 1 << 24) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=limit)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def get(path: str, *lines: bytes, version: bytes = b"1.1") -> bytes:
    return b"\r\n".join(
        [b"GET %b HTTP/%b" % (path.encode(), version), b"Host: t", *lines, b"", b""]
    )


def post(path: str, body: bytes, *lines: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    head = [b"POST %b HTTP/1.1" % path.encode(), b"Host: t", b"Content-Length: %d" % size, *lines]
    return b"\r\n".join([*head, b"", b""]) + body


def chunked(path: str, *chunks: bytes) -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n" % path.encode()
    return head + b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"

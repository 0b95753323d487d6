"""A service that answers what it got, and a client that speaks raw HTTP."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.fake_engine.api import PlainBody
from tests.fake_engine.exchange import Body, Exchange, Shape
from tests.fake_engine.serving import Port


class Echo:
    """Answers with what it got; the path orders anything else."""

    def __init__(self) -> None:
        self.left_count = 0
        self.shape: Shape | None = None

    def begin(self, exchange: Exchange) -> Body:
        if exchange.head.path == "/reset-upload":
            exchange.reset_upload_at = int(exchange.head.query)
        return PlainBody()

    def left(self, exchange: Exchange) -> None:
        self.left_count += 1

    async def answer(self, exchange: Exchange) -> None:
        exchange.shape = self.shape
        path = exchange.head.path
        if path == "/hang":
            await exchange.hang()
        elif path == "/break":
            raise RuntimeError("a mistake of the service")
        elif path == "/stream":
            await exchange.stream(200, "text/event-stream")
            for piece in (b"one", b"two"):
                await exchange.send(piece)
            await exchange.finish()
        elif path == "/large":
            await exchange.respond(200, bytes(20_000_000))
        elif path == "/too-much":
            status = 400 if exchange.error else 200
            await exchange.respond(status, str(exchange.error).encode(), "text/plain")
        else:
            body = exchange.body
            assert isinstance(body, PlainBody)
            await exchange.respond_json(
                200,
                {"method": exchange.head.method, "body": body.data.decode(), "path": path},
                headers={"X-Told": "yes"},
            )


class Client:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self) -> tuple[bytes, bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        return head, await self.reader.readexactly(length)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[tuple[Echo, Port]]:
    echo = Echo()
    port = Port(echo, "127.0.0.1", 0)
    await port.listen()
    try:
        yield echo, port
    finally:
        await port.shut()


@contextlib.asynccontextmanager
async def client(port: Port) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


def get(path: str, extra: bytes = b"") -> bytes:
    return b"GET " + path.encode() + b" HTTP/1.1\r\nHost: test\r\n" + extra + b"\r\n"


def start(target: str, header: bytes) -> bytes:
    """Return the head of a POST."""
    return b"POST " + target.encode() + b" HTTP/1.1\r\nHost: test\r\n" + header + b"\r\n\r\n"

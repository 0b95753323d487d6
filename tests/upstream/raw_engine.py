"""An engine that says exactly what a test tells it to say, on a loopback socket."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

from vllm_router.upstream.call import Deadlines
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.origin import Origin

#: Long enough for a loaded machine.
CALM = Deadlines(20.0, 20.0, 20.0)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Peer:
    """One connection at the engine's end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def request(self) -> tuple[bytes, bytes]:
        """Return the next request's head and body.

        Raises:
            asyncio.IncompleteReadError: The client left.
        """
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = 0
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        return head, await self.reader.readexactly(length)

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def reset(self) -> None:
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()

    def close(self) -> None:
        self.writer.close()

    async def left(self) -> None:
        """Return once the client has gone."""
        with contextlib.suppress(ConnectionError):
            while await self.reader.read(1 << 20):
                pass


Script = Callable[[Peer], Awaitable[None]]


@dataclass
class RawEngine:
    """A listening engine."""

    port: int
    connections: int = 0
    gone: int = 0
    errors: list[BaseException] = field(default_factory=list)
    server: asyncio.Server | None = None

    def close(self) -> None:
        """Listen no longer."""
        assert self.server is not None
        self.server.close()

    @property
    def origin(self) -> Origin:
        return Origin.of(f"http://127.0.0.1:{self.port}")


async def answering(peer: Peer) -> None:
    """Answer every request."""
    while True:
        await peer.request()
        await peer.say(OK)


def saying(*pieces: bytes, then: str = "wait") -> Script:
    """Answer the first request by these bytes, then wait, close or reset."""

    async def script(peer: Peer) -> None:
        await peer.request()
        for piece in pieces:
            await peer.say(piece)
            await asyncio.sleep(0)
        if then == "close":
            peer.close()
        elif then == "reset":
            await asyncio.sleep(0.02)
            peer.reset()
        else:
            await peer.left()

    return script


@contextlib.asynccontextmanager
async def raw_engine(*scripts: Script) -> AsyncIterator[RawEngine]:
    """Listen; each connection gets the next script, the last one again and again."""
    engine = RawEngine(0)
    peers: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        script = scripts[min(engine.connections, len(scripts) - 1)]
        engine.connections += 1
        try:
            await script(Peer(reader, writer))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as e:
            engine.errors.append(e)
        finally:
            engine.gone += 1
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        peers.add(task)
        task.add_done_callback(peers.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=1 << 16)
    engine.server = server
    engine.port = server.sockets[0].getsockname()[1]
    try:
        yield engine
    finally:
        server.close()
        for task in list(peers):
            task.cancel()
        await asyncio.gather(*peers, return_exceptions=True)
        assert not engine.errors, engine.errors


@contextlib.asynccontextmanager
async def http_client() -> AsyncIterator[HttpClient]:
    """A client that has no connection left when the block ends."""
    client = HttpClient()
    try:
        yield client
    finally:
        client.close()
        await until(lambda: not client.open_connections)


async def until(claim: Callable[[], object]) -> None:
    """Return once a claim holds; fail after a while."""
    async with asyncio.timeout(20):
        while not claim():
            await asyncio.sleep(0.002)

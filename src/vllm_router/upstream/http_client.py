"""HTTP/1.1 client for the upload path: pooled connections, responses parsed by httptools.

An upload is sent in one gathered write from the memory it is in, or block by block from disk. The
response is returned whole, so an engine that fails midway costs the client nothing. Event streams
and large responses are forwarded as they arrive. If a pooled connection turns out to be closed
before the first byte of a response, the engine has not failed: the request is sent once more on a
new connection. Refuses to know: engines' states, models and forms.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from typing import Any, Final

from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import (
    Body,
    ConnectionBroke,
    Deadlines,
    Headers,
    NotConnected,
)
from vllm_router.upstream.engine_connection import EngineConnection
from vllm_router.upstream.origin import Origin
from vllm_router.upstream.time_limit import TimeLimit

#: vLLM's uvicorn closes idle connections after 5 s. Drop them earlier to avoid racing with it.
IDLE_S: Final = 4.0
#: Idle connections kept per engine, enough for a burst.
MAX_IDLE: Final = 64
#: A response up to this size is read whole before its first byte is forwarded.
WHOLE_BYTES: Final = 2 * 1024 * 1024


class HttpClient:
    """Calls engines and pools their connections.

    Args:
        tls: For https URLs; None uses the system's certificate authorities.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self._idle: dict[tuple[str, int, bool], deque[EngineConnection]] = {}
        self._open: set[EngineConnection] = set()

    @property
    def open_connections(self) -> int:
        """Connections to engines, including idle ones."""
        return len(self._open)

    async def call(
        self,
        origin: Origin,
        method: bytes,
        path: bytes,
        headers: Headers,
        body: Body,
        deadlines: Deadlines,
        *,
        whole_bytes: int = WHOLE_BYTES,
    ) -> Answer:
        """Send one request; return its response once it is whole, or its head if it is streamed.

        The caller closes the response. Cancelling cuts the connection, which tells the engine that
        nobody waits for the result.

        Args:
            origin: The engine.
            method: Such as b"POST".
            path: Path after the engine's prefix.
            headers: Headers except Host and Content-Length.
            body: Request body.
            deadlines: Deadlines of the call.
            whole_bytes: A body up to this size is read whole, unless it is an event stream.

        Raises:
            NotConnected: The engine could not be reached; nothing was sent.
            ConnectionBroke: The connection broke before the response was complete.
            BadAnswer: The response is not valid HTTP.
            CallTimedOut: A deadline passed.
        """
        lines = [
            b"%b %b%b HTTP/1.1" % (method, origin.prefix, path),
            b"host: " + origin.host_header,
            *map(b": ".join, headers),
        ]
        if body.size_bytes or method == b"POST":
            lines.append(b"content-length: %d" % body.size_bytes)
        head = b"\r\n".join((*lines, b"\r\n"))
        connection = self._take(origin)
        broke: ConnectionBroke | None = None
        if connection is not None:
            try:
                return await connection.call(head, body, deadlines, whole_bytes)
            except ConnectionBroke as e:
                if not connection.is_stale:
                    raise
                broke = e
        try:
            connection = await self._connect(origin, deadlines.connect_s)
        except NotConnected:
            if broke is None:
                raise
            # The connection was not closed as idle: the engine crashed while it held the request.
            raise broke from None
        return await connection.call(head, body, deadlines, whole_bytes)

    def _take(self, origin: Origin) -> EngineConnection | None:
        idle = self._idle.get(origin.address)
        while idle:
            connection = idle.pop()
            if connection.is_usable(IDLE_S):
                return connection
            connection.abort()
        return None

    async def _connect(self, origin: Origin, connect_s: float) -> EngineConnection:
        loop = asyncio.get_running_loop()
        tls: Any = None
        if origin.is_tls:
            # Loading the system's certificate authorities takes 20 ms: once, not per connection.
            tls = self._tls = self._tls or ssl.create_default_context()
        try:
            with TimeLimit(loop, connect_s):
                _, connection = await loop.create_connection(
                    lambda: EngineConnection(self, origin), origin.host, origin.port, ssl=tls
                )
        except TimeoutError as e:
            raise NotConnected(f"no connection within {connect_s:g} s") from e
        except ssl.SSLError as e:
            raise NotConnected(f"TLS failed: {e.reason or e}") from e
        except OSError as e:
            raise NotConnected(f"connection failed: {_plain(e)}") from e
        except UnicodeError as e:
            raise NotConnected(f"{origin.host!r} is not a valid host name") from e
        return connection

    def sweep(self) -> None:
        """Close connections that have been idle too long; call this about once per second."""
        for address, idle in list(self._idle.items()):
            while idle and idle[0].idle_s > IDLE_S:
                idle.popleft().abort()
            if not idle:
                del self._idle[address]

    def close(self) -> None:
        """Cut every connection."""
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()

    # --- Callbacks from connections.

    def opened(self, connection: EngineConnection) -> None:
        """Register a new connection."""
        self._open.add(connection)

    def closed(self, connection: EngineConnection) -> None:
        """Unregister a closed connection."""
        self._open.discard(connection)

    def keep(self, origin: Origin, connection: EngineConnection) -> None:
        """Take back a connection that may carry another request."""
        idle = self._idle.get(origin.address)
        if idle is None:
            idle = self._idle[origin.address] = deque()
        if len(idle) >= MAX_IDLE:
            idle.popleft().abort()
        idle.append(connection)


def _plain(e: OSError) -> str:
    # uvloop and getaddrinfo put the message in different places.
    return e.strerror or str(e) or type(e).__name__

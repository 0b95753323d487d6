"""A simulated engine on a port, in this process: start, refuse connections, return, stop.

While connections are refused, a second socket that is bound to the port but never listens keeps it.
"""

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from typing import Any

from tests.fake_engine.connection import Connection
from tests.fake_engine.curve import CurveShape
from tests.fake_engine.engine import SimulatedEngine
from tests.fake_engine.exchange import Service
from tests.fake_engine.faults import Faults, read_faults
from tests.fake_engine.request_log import RequestLog

from vllm_router.audio.duration import audio_seconds
from vllm_router.local.errors import MAX_AUDIO_S

# Load tests open hundreds of connections at once.
BACKLOG = 4096
# The default of uvicorn, and so of vLLM.
KEEP_ALIVE_S = 5.0


class Port:
    """A service on a port.

    Args:
        service: Answers the requests.
        host: Address to bind.
        port: 0 takes a free one.
        keep_alive_s: How long an idle connection is kept.
    """

    def __init__(
        self, service: Service, host: str, port: int, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        self._service = service
        self._host = host
        self._keep_alive_s = keep_alive_s
        self._loop = asyncio.get_running_loop()
        self._connections: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._opening = asyncio.Lock()
        self._placeholder = self._bound(port)
        self.port: int = self._placeholder.getsockname()[1]

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    @property
    def is_listening(self) -> bool:
        """Whether connections are accepted."""
        return self._server is not None

    async def listen(self) -> None:
        """Accept connections, if it does not already."""
        async with self._opening:
            if self._server is not None:
                return
            self._server = await self._loop.create_server(
                lambda: Connection(self._service, self._connections),
                sock=self._bound(self.port),
                backlog=BACKLOG,
            )
        self._sweep_idle()

    def refuse(self) -> None:
        """Refuse new connections and close idle ones; work in progress continues."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for connection in tuple(self._connections):
            if connection.is_idle:
                connection.close()

    def kill(self) -> None:
        """End as a killed process does: refuse connections, and reset those that are open."""
        self.refuse()
        for connection in tuple(self._connections):
            connection.reset()

    async def shut(self, grace_s: float = 0.0) -> None:
        """Refuse connections, wait up to `grace_s` for work in progress, then end for good."""
        self.refuse()
        deadline = self._loop.time() + grace_s
        while self._connections and self._loop.time() < deadline:
            await asyncio.sleep(0.02)
        self.kill()
        if self._sweep is not None:
            self._sweep.cancel()
        self._placeholder.close()
        # Until the transports are closed and the cancelled tasks have ended.
        while self._connections:
            await asyncio.sleep(0)

    def _bound(self, port: int) -> socket.socket:
        family, kind, proto, _, address = socket.getaddrinfo(
            self._host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, proto)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError:
            sock.close()
            raise
        return sock

    def _sweep_idle(self) -> None:
        """Close connections that were idle for too long, as uvicorn does."""
        oldest = self._loop.time() - self._keep_alive_s
        for connection in tuple(self._connections):
            if connection.is_idle and (connection.idle_since or oldest + 1) < oldest:
                connection.close()
        if self._sweep is not None:
            self._sweep.cancel()
        self._sweep = self._loop.call_later(self._keep_alive_s / 5, self._sweep_idle)


class SimulatedHandle:
    """A running simulated engine in this process."""

    def __init__(self, engine: SimulatedEngine, host: str, port: int, keep_alive_s: float) -> None:
        self.engine = engine
        self._port = Port(engine, host, port, keep_alive_s)
        engine.on_refuse = self._refuse
        self._tasks: set[asyncio.Task[None]] = set()
        shown = f"[{host}]" if ":" in host else host
        self.url = f"http://{shown}:{self._port.port}"

    @property
    def port(self) -> int:
        """The port it listens on, also while it refuses."""
        return self._port.port

    @property
    def log(self) -> RequestLog:
        """The requests that it received."""
        return self.engine.log

    @property
    def faults(self) -> Faults:
        """The faults that it shows; `order` changes them."""
        return self.engine.faults

    @property
    def running(self) -> int:
        """Windows in service."""
        return self.engine.curve.running

    @property
    def waiting(self) -> int:
        """Windows waiting."""
        return self.engine.curve.waiting

    @property
    def in_hand(self) -> int:
        """Audio requests being worked on."""
        return self.engine.api.in_hand

    @property
    def open_connections(self) -> int:
        """How many connections are open."""
        return self._port.open_connections

    async def start(self) -> None:
        """Listen, unless the faults include `refuse`."""
        if not self.engine.faults.refuse:
            await self._port.listen()

    async def order(self, **faults: Any) -> None:
        """Show only these faults, named as the fields of `Faults`.

        Raises:
            FaultsError: No such fault.
        """
        self.engine.order(read_faults(faults))
        if not self.engine.faults.refuse:
            await self._port.listen()

    async def kill(self) -> None:
        """End as a killed process does: reset open connections, refuse new ones."""
        self._port.kill()
        await asyncio.sleep(0)

    async def restart(self) -> None:
        """Listen again on the same port, without faults."""
        await self.order()

    async def stop(self, grace_s: float = 0.0) -> None:
        """End for good."""
        self.engine.on_refuse = None
        await self._port.shut(grace_s)

    def _refuse(self, is_refusing: bool) -> None:
        if is_refusing:
            self._port.refuse()
        elif not self._port.is_listening:
            # Ordered over HTTP on a connection that is still open.
            task = asyncio.get_running_loop().create_task(self._port.listen())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)


@contextlib.asynccontextmanager
async def serve_simulated(
    model: str = "openai/whisper-small",
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    time_scale: float = 1.0,
    curve: CurveShape | None = None,
    max_running: int = 256,
    cache_windows: int = 256,
    max_audio_s: float = MAX_AUDIO_S,
    api_key: str | None = None,
    ranks: int = 1,
    keep_alive_s: float = KEEP_ALIVE_S,
    seed: int = 0,
    faults: Faults | None = None,
) -> AsyncIterator[SimulatedHandle]:
    """Run a simulated engine in this event loop.

    Args:
        model: The name that is served.
        host: Address to bind.
        port: 0 takes a free one.
        time_scale: Simulated seconds that pass in one real second; 100 makes tests quick.
        curve: The service curve, by default an H200's.
        max_running: Windows in service at the same time; more wait.
        cache_windows: Windows that the KV cache holds; more wait as well.
        max_audio_s: Longer audio is refused, as by vLLM with VLLM_MAX_AUDIO_DECODE_DURATION_S.
        api_key: Required on /v1 routes.
        ranks: Data-parallel ranks shown in /metrics.
        keep_alive_s: How long an idle connection is kept.
        seed: Of the random numbers that decide which requests a fault's `rate` strikes.
        faults: Shown from the start; `order` on the handle changes them.

    Yields:
        The running engine; it ends with the block, resetting what is still open.
    """
    engine = SimulatedEngine(
        model,
        audio_seconds,
        shape=curve,
        time_scale=time_scale,
        max_running=max_running,
        cache_windows=cache_windows,
        max_audio_s=max_audio_s,
        api_key=api_key,
        ranks=ranks,
        faults=faults,
        rng=random.Random(seed),
    )
    handle = SimulatedHandle(engine, host, port, keep_alive_s)
    await handle.start()
    try:
        yield handle
    finally:
        await handle.stop()

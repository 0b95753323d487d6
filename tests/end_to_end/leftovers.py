"""What a router holds, and raw clients that are rude to it."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Any

from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, RunningRouter, field, file, form, request, running_router, until
from tests.server.serving import Client, client

from vllm_router.audio.wav import silence

UPLOAD = request(form(field("model", MODEL), file(silence(1.0))))


def held(router: RunningRouter) -> dict[str, object]:
    """Return everything that one request might leave behind."""
    parts = router.router
    return {
        "charges": sum(engine.in_flight for engine in parts.dispatcher.fleet.engines()),
        "audio": sum(engine.audio_s_in_flight for engine in parts.dispatcher.fleet.engines()),
        "queued": parts.dispatcher.slots.waiting,
        "requests": parts.service.in_flight,
        "uploads": sum(spool.open_uploads for spool in parts.spools),
        "disk": sum(spool.bytes_on_disk for spool in parts.spools),
        "memory": sum(spool.pool.bytes_out for spool in parts.spools),
    }


def at_work(engine: SimulatedHandle) -> int:
    """Return how many uploads an engine has in hand, hanging ones included."""
    return sum(logged.ended_at is None for logged in engine.log.audio())


def sockets(router: RunningRouter) -> int:
    """Return how many files and sockets are open, without the pools of connections to engines."""
    pooled = sum(client.open_connections for client in router.router.clients)
    # Both ends are in this process.
    return len(os.listdir("/proc/self/fd")) - 2 * pooled


async def nothing_left(router: RunningRouter, connections: int = 0) -> None:
    """Return once the router holds nothing and so many clients are connected; else fail."""
    parts = router.router
    await until(lambda: not any(held(router).values()), f"held: {held(router)}")
    await until(
        lambda: len(parts.listener.connections) <= connections,
        f"connected: {parts.listener.connections}",
    )


@contextlib.asynccontextmanager
async def served(*engines: SimulatedHandle | str, **settings: Any) -> AsyncIterator[RunningRouter]:
    """Run a router; when the block ends it must hold nothing, and still serve."""
    async with running_router(*engines, **settings) as router:
        yield router
        # The pool of the tests' own client.
        await nothing_left(router, 100)
        files = [task.get_coro().cr_code.co_filename for task in asyncio.all_tasks()]  # type: ignore[union-attr]
        assert not [name for name in files if "/inbound/" in name or "/proxy/" in name]


@contextlib.asynccontextmanager
async def one_engine(**settings: Any) -> AsyncIterator[tuple[RunningRouter, SimulatedHandle]]:
    """Run a router in front of one quick engine."""
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        served(engine, **settings) as router,
    ):
        yield router, engine


async def is_served(router: RunningRouter) -> bool:
    """Return whether an ordinary client gets its words."""
    answer = await router.upload()
    return answer.status_code == 200 and bool(answer.json()["text"])


__all__ = [
    "UPLOAD",
    "Client",
    "at_work",
    "client",
    "held",
    "is_served",
    "nothing_left",
    "one_engine",
    "served",
    "sockets",
]

"""The life of one process: listen, discover, watch, serve, and stop without losing uploads.

On SIGTERM, `/ready` returns 503 at once, so that load balancers stop sending traffic; the socket
stays open to return it. For a grace period uploads are still accepted, and each response closes its
connection. After that period, or at once on SIGINT, new uploads get 503. Requests in flight finish
within the drain timeout; then everything is closed. A second signal stops the process immediately.
A worker whose parent has died stops as if it had received SIGTERM. Nothing else ends the process:
failed background loops restart (see `background`).
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import multiprocessing
import shutil
import signal
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import uvloop
from prometheus_client import disable_created_metrics

from vllm_router import __version__
from vllm_router.app.build import Router, build_router
from vllm_router.app.compiled import how_it_runs
from vllm_router.app.siblings import Siblings
from vllm_router.background import BackgroundLoop
from vllm_router.observability.inherited_counts import InheritedCounts
from vllm_router.observability.logs import set_up_logging
from vllm_router.observability.stats_table import stats_table
from vllm_router.scheduling.heartbeat import BEAT_S
from vllm_router.server.fair_listener import BACKLOG, ConnectionBoard, FairListener
from vllm_router.settings import Settings

log = logging.getLogger("vllm_router")

#: Interval at which client timeouts are checked; they may be exceeded by this much.
SWEEP_S = 1.0
#: Signals closer together than this count as one: systemd signals every process of a service, and
#: the parent of several workers passes the signal on to them as well.
SAME_WORD_S = 1.0
#: Time for the last responses to leave the process.
LAST_WORDS_S = 0.2


class CannotStart(Exception):
    """The router cannot start; the message says why in one sentence."""


@dataclass(frozen=True, slots=True)
class Worker:
    """Identifies one of several worker processes.

    Attributes:
        index: The worker's number, from 0.
        count: Number of workers.
        folder: Directory of their sockets.
        parent: Descriptor that becomes readable when the parent dies; None: not watched.
    """

    index: int
    count: int
    folder: Path
    parent: int | None = None


def run(settings: Settings, worker: Worker | None = None) -> None:
    """Run one router process until it is told to stop.

    Args:
        settings: The settings.
        worker: Which of several workers this is; None: it is the only process.

    Raises:
        CannotStart: The address or the settings cannot be used.
    """
    set_up_logging(settings.log_level, settings.log_format)
    # Creation times of series are not needed, and they double the page.
    disable_created_metrics()  # type: ignore[no-untyped-call]
    try:
        router = build_router(settings, share=1 / worker.count if worker else 1.0)
    except ValueError as e:
        raise CannotStart(str(e)) from e
    listening = bind(settings.host, settings.port, is_shared=worker is not None)
    siblings = None
    if worker is not None:
        siblings = Siblings(
            worker.folder,
            worker.index,
            worker.count,
            partial(router.background.failed, BackgroundLoop.SIBLINGS),
        )
        router.operations.legacy = InheritedCounts(worker.folder, worker.index)
    # Current objects are permanent: spare the collector from visiting them, 40 ms each time.
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(router, listening, settings, siblings, worker))


def run_worker(settings: Settings, worker: Worker) -> None:
    """Run one of several workers; the entry point of a new process."""
    parent = multiprocessing.parent_process()
    try:
        run(settings, replace(worker, parent=parent.sentinel if parent else None))
    except CannotStart as e:
        log.error("%s", e)
        sys.exit(2)


def bind(host: str, port: int, *, is_shared: bool = False) -> socket.socket:
    """Return a socket bound to the address.

    Args:
        host: IPv4 or IPv6 address.
        port: 0 selects a free port.
        is_shared: Whether other worker processes listen there too.

    Raises:
        CannotStart: The address is in use or not available.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if is_shared:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listening.bind((host, port))
    except (OSError, OverflowError) as e:
        listening.close()
        why = getattr(e, "strerror", None) or str(e)
        raise CannotStart(f"--host {host} --port {port}: cannot listen: {why}.") from e
    listening.setblocking(False)
    return listening


async def serve(
    router: Router,
    listening: socket.socket,
    settings: Settings,
    siblings: Siblings | None = None,
    worker: Worker | None = None,
) -> None:
    """Serve on a bound socket until a signal arrives, then drain and close."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    hurry = asyncio.Event()
    grace_s = settings.shutdown_grace_s
    first_at = 0.0

    def on_signal(number: signal.Signals) -> None:
        nonlocal first_at, grace_s
        if not stop.is_set():
            first_at = loop.time()
            if number == signal.SIGINT:
                # Someone is waiting at a terminal.
                grace_s = 0.0
            stop.set()
        elif loop.time() - first_at > SAME_WORD_S:
            hurry.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    parent = worker.parent if worker is not None else None
    if worker is not None and parent is not None:

        def on_parent_gone() -> None:
            loop.remove_reader(parent)
            log.error("the parent process has died; stopping")
            # No other process is left to do it.
            shutil.rmtree(worker.folder, ignore_errors=True)
            on_signal(signal.SIGTERM)

        loop.add_reader(parent, on_parent_gone)
    async with running(router, settings, siblings):
        host, port = listening.getsockname()[:2]
        server: FairListener | asyncio.Server
        if worker is None:
            server = await loop.create_server(router.listener, sock=listening, backlog=BACKLOG)
        else:
            server = _fair_listener(router, listening, worker)
            server.start()
        shown = f"[{host}]" if ":" in host else host
        kind = how_it_runs()
        log.info("vllm-router %s (%s) listens on http://%s:%d", __version__, kind, shown, port)
        await stop.wait()
        await drain(router, hurry, settings.drain_timeout_s, grace_s)
        server.close()
        router.listener.abort()
    log.info("stopped")


def _fair_listener(router: Router, listening: socket.socket, worker: Worker) -> FairListener:
    return FairListener(
        listening,
        router.listener,
        lambda: len(router.listener.connections),
        ConnectionBoard(worker.folder, worker.index, worker.count),
        worker.folder,
        worker.index,
        router.listener.max_connections,
        partial(router.background.failed, BackgroundLoop.HANDOVER),
    )


async def drain(
    router: Router, hurry: asyncio.Event, timeout_s: float, grace_s: float = 0.0
) -> None:
    """Announce the shutdown, then refuse new uploads and wait for those in flight.

    Args:
        router: The router.
        hurry: Set when all waiting must end.
        timeout_s: Maximum time for uploads in flight, in seconds.
        grace_s: Seconds before that in which new uploads are still accepted.
    """
    router.service.is_draining = True
    router.metrics.is_draining.set(1)
    router.listener.is_draining = True
    if grace_s:
        log.info("no longer ready; accepting uploads for another %g s", grace_s)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace_s):
                await hurry.wait()
    router.service.is_refusing = True
    log.info("stopping: %d uploads in flight", router.service.in_flight)
    deadline = router.now() + timeout_s
    while router.service.in_flight and router.now() < deadline and not hurry.is_set():
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                await hurry.wait()
    if router.service.in_flight:
        log.warning("%d uploads in flight are cut off", router.service.in_flight)
    router.listener.drain()
    await asyncio.sleep(LAST_WORDS_S)


@contextlib.asynccontextmanager
async def running(
    router: Router, settings: Settings, siblings: Siblings | None = None
) -> AsyncIterator[None]:
    """Run everything that a router does besides answering requests."""
    async with contextlib.AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        loop = asyncio.get_running_loop()
        stack.callback(loop.set_exception_handler, loop.get_exception_handler())
        loop.set_exception_handler(router.background.on_exception)
        if router.access_log is not None:
            # Registered first, so it runs last and writes the very last line.
            stack.callback(router.access_log.flush)
        if router.tracing is not None:
            stack.push_async_callback(router.tracing.close)
        await stack.enter_async_context(router.decoder)
        if siblings is not None:
            router.operations.siblings = siblings
            await stack.enter_async_context(siblings.listening(router.operations.answer_sibling))
        router.watch.start(group)
        loops: dict[BackgroundLoop, Callable[[], Awaitable[None]]] = {
            BackgroundLoop.DISCOVERY: partial(_discover, router),
            BackgroundLoop.SWEEP: partial(_sweep, router),
            BackgroundLoop.HEARTBEAT: partial(_beat, router),
        }
        if router.key_file is not None:
            loops[BackgroundLoop.KEY_FILE] = router.key_file.follow
        if settings.log_stats:
            loops[BackgroundLoop.STATS_TABLE] = partial(
                _print_stats, router, settings.log_stats_interval
            )
        keep = router.background.keep
        tasks = [group.create_task(keep(name, run)) for name, run in loops.items()]
        try:
            yield
        finally:
            router.watch.stop()
            for task in tasks:
                task.cancel()
            for client in router.clients:
                client.close()
            for spool in router.spools:
                spool.close()


async def _discover(router: Router) -> None:
    try:
        async with aclosing(router.discovery.changes()) as changes:
            async for change in changes:
                router.dispatcher.slots.changed(router.dispatcher.fleet.apply(change, router.now()))
                router.watch.follow()
                router.dispatcher.slots.pump()
    except Exception as e:
        # The last list stays in force until the source restarts with a complete one.
        router.discovery.status.failed(f"a fault of the router: {type(e).__name__}: {e}"[:300])
        raise


async def _sweep(router: Router) -> None:
    loop = asyncio.get_running_loop()
    while True:
        asked = loop.time()
        await asyncio.sleep(SWEEP_S)
        router.metrics.loop_lag_seconds.observe(max(0.0, loop.time() - asked - SWEEP_S))
        router.listener.sweep()
        for client in router.clients:
            client.sweep()


async def _beat(router: Router) -> None:
    """Signal the fleet that the event loop runs; stalled time is not held against engines."""
    while True:
        router.dispatcher.fleet.beat(router.now())
        await asyncio.sleep(BEAT_S)


async def _print_stats(router: Router, interval_s: float) -> None:
    fleet = router.dispatcher.fleet
    while True:
        await asyncio.sleep(interval_s)
        table = stats_table(fleet.engines(), router.stats, router.dispatcher.slots.waiting)
        log.info("engines\n%s", table)

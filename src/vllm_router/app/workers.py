"""Several worker processes on one port: started, watched, restarted if one dies, stopped together.

The kernel distributes connections over the workers' sockets. Each worker has its share of the
limits on engines, queue, spool and connections, so that together they behave like one process.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from pathlib import Path
from random import Random
from typing import Final

from vllm_router.app.run import CannotStart, Worker, bind, run_worker
from vllm_router.backoff import full_jitter
from vllm_router.observability.logs import set_up_logging
from vllm_router.settings import Settings

log = logging.getLogger("vllm_router")

#: Maximum bytes of a directory's path if `/worker-999.sock` is to fit a socket address (unix(7)).
LONGEST_FOLDER: Final = 107 - len("/worker-999.sock")

#: A worker that keeps dying at once must not turn the machine into a fork bomb.
RESTART_AFTER_S = 1.0
RESTART_CAP_S = 30.0
#: After this long, a worker counts as healthy and the next delay is short again.
STEADY_S = 60.0
#: How long the supervisor waits for a death at a time.
TURN_S = 0.25
#: Exit code of a worker whose settings or files cannot be used (see `run_worker`). At startup it
#: ends the router, so that the error is reported. Later, while other workers serve, a file may be
#: broken for a moment.
CANNOT_START = 2
#: Time for workers beyond their own grace and drain timeout before they are killed.
GRACE_S = 10.0


def run_workers(settings: Settings) -> None:
    """Run the workers until told to stop.

    Raises:
        CannotStart: The address or the temporary directory cannot be used.
    """
    set_up_logging(settings.log_level, settings.log_format)
    # Bound but never listened on: it reserves the port for workers started later.
    reserved = bind(settings.host, settings.port, is_shared=True)
    port = reserved.getsockname()[1]
    settings = settings.model_copy(update={"port": port})
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="vllm-router-") as folder:
        if len(os.fsencode(folder)) > LONGEST_FOLDER:
            raise CannotStart(
                f"The workers' sockets do not fit into {folder}: a socket's path has at most 107 "
                "bytes. Set TMPDIR to a shorter directory."
            )
        supervisor = _Supervisor(settings, Path(folder))

        def on_signal(number: int, _: object) -> None:
            # Pass on every signal: workers handle a second one, and SIGINT, differently.
            supervisor.pass_on(number)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, on_signal)
        try:
            supervisor.watch(stop)
        finally:
            supervisor.stop()
            reserved.close()
    if supervisor.has_failed:
        raise CannotStart("a worker could not start; its own message says why")


class _Place:
    """A worker's place: when a worker was last started there, how many died there, and when the
    next one starts.
    """

    def __init__(self) -> None:
        self.deaths = 0
        self.again_at: float | None = None
        self._in_a_row = 0
        self._started_at = 0.0

    def started(self) -> None:
        self.again_at = None
        self._started_at = time.monotonic()

    def next_wait_s(self, rng: Random) -> float:
        """Record a death, and return the seconds to wait before the next start."""
        now = time.monotonic()
        self.deaths += 1
        self._in_a_row = 1 if now - self._started_at >= STEADY_S else self._in_a_row + 1
        wait_s = RESTART_AFTER_S
        if self._in_a_row > 1:
            base_s, cap_s = RESTART_AFTER_S, RESTART_CAP_S
            wait_s += full_jitter(self._in_a_row - 1, rng, base_s=base_s, cap_s=cap_s)
        self.again_at = now + wait_s
        return wait_s


class _Supervisor:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, SpawnProcess] = {}
        self._places = {index: _Place() for index in range(settings.workers)}
        self._rng = Random()  # noqa: S311 - spreads waits, guards nothing
        self.has_failed = False

    def watch(self, stop: threading.Event) -> None:
        for index in self._places:
            try:
                self._start(index)
            except OSError as e:
                raise CannotStart(f"--workers: no process can be started: {e.strerror}") from e
        while not stop.is_set():
            # A signal interrupts the wait only on the main thread's next turn: keep turns short.
            living = [one.sentinel for one in self._workers.values() if one.exitcode is None]
            if living:
                wait(living, timeout=TURN_S)
            else:
                stop.wait(TURN_S)
            for index, place in self._places.items():
                worker = self._workers.get(index)
                code = None if worker is None else worker.exitcode
                if stop.is_set() or (worker is not None and code is None):
                    continue
                if place.again_at is not None:
                    if time.monotonic() >= place.again_at:
                        self._start_again(index, place)
                elif code == CANNOT_START and not place.deaths:
                    self.has_failed = True
                    return
                else:
                    wait_s = place.next_wait_s(self._rng)
                    log.error(
                        "worker %d died (exit code %s); starting another in %.0f s",
                        index,
                        code,
                        wait_s,
                    )

    def _start_again(self, index: int, place: _Place) -> None:
        try:
            self._start(index)
        except OSError as e:
            wait_s = place.next_wait_s(self._rng)
            log.error("worker %d cannot be started: %s; again in %.0f s", index, e, wait_s)

    def _start(self, index: int) -> None:
        part = Worker(index, self._settings.workers, self._folder)
        worker = self._context.Process(
            target=run_worker, args=(self._settings, part), name=f"vllm-router-{index}"
        )
        worker.start()
        self._workers[index] = worker
        self._places[index].started()

    def pass_on(self, number: int) -> None:
        for worker in self._workers.values():
            if worker.pid is not None and worker.exitcode is None:
                os.kill(worker.pid, number)

    def stop(self) -> None:
        settings = self._settings
        for worker in self._workers.values():
            if worker.exitcode is None:
                worker.terminate()
        patience_s = settings.shutdown_grace_s + settings.drain_timeout_s + GRACE_S
        deadline = time.monotonic() + patience_s
        for worker in self._workers.values():
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.exitcode is None:
                worker.kill()
                worker.join()

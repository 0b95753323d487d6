"""Several processes on one port: started, watched, started anew when one dies, stopped together.

The kernel spreads connections over the workers' sockets. Each has its share of the engines' limits,
of the queue and of the spool, so that together they do what one would.
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

from vllm_router.app.logs import set_up_logging
from vllm_router.app.run import CannotStart, Worker, bind, run_worker
from vllm_router.settings import Settings

log = logging.getLogger("vllm_router")

#: A worker that dies at once again and again must not turn the machine into a fork bomb.
RESTART_AFTER_S = 1.0
#: Given to workers past their own grace and drain timeout before they are killed.
GRACE_S = 10.0


def run_workers(settings: Settings) -> None:
    """Run the workers until told to stop.

    Raises:
        CannotStart: The address cannot be used.
    """
    set_up_logging(settings.log_level, settings.log_format)
    # Held but never listened on: it keeps the port for workers that are yet to come.
    reserved = bind(settings.host, settings.port, is_shared=True)
    port = reserved.getsockname()[1]
    settings = settings.model_copy(update={"port": port})
    stop = threading.Event()
    with tempfile.TemporaryDirectory(prefix="vllm-router-") as folder:
        supervisor = _Supervisor(settings, Path(folder))

        def on_signal(number: int, _: object) -> None:
            # Each of them: workers know what a second one means, and what SIGINT does.
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


class _Supervisor:
    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings = settings
        self._folder = folder
        self._context = multiprocessing.get_context("spawn")
        self._workers: dict[int, SpawnProcess] = {}
        self.has_failed = False

    def watch(self, stop: threading.Event) -> None:
        for index in range(self._settings.workers):
            self._start(index)
        while not stop.is_set():
            # A signal ends the wait early only on the main thread's next turn: keep turns short.
            wait([worker.sentinel for worker in self._workers.values()], timeout=0.25)
            for index, worker in list(self._workers.items()):
                if worker.exitcode is None or stop.is_set():
                    continue
                if worker.exitcode == 2:
                    self.has_failed = True
                    return
                log.error("worker %d died (exit code %d); starting another", index, worker.exitcode)
                time.sleep(RESTART_AFTER_S)
                self._start(index)

    def _start(self, index: int) -> None:
        part = Worker(index, self._settings.workers, self._folder)
        worker = self._context.Process(
            target=run_worker, args=(self._settings, part), name=f"vllm-router-{index}"
        )
        worker.start()
        self._workers[index] = worker

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

"""An engine's process that is stopped, not killed, costs its clips a few seconds and no more."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import pytest
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, RunningRouter, field, file, running_router, until

from vllm_router.audio.wav import silence
from vllm_router.formats.sse import EventReader
from vllm_router.requests.attempt import SILENCE_S
from vllm_router.scheduling.engine import EngineState

#: What a clip may take besides the wait until it is overdue: the second engine's answer, and a
#: loaded machine.
ANSWER_S = 4.0


@dataclass(slots=True)
class EngineProcess:
    """A simulated engine in a process of its own."""

    process: subprocess.Popen[bytes]
    url: str

    def stop(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@contextmanager
def engine_process() -> Iterator[EngineProcess]:
    command = [sys.executable, "-m", "tests.fake_engine", "--port", "0"]
    # A clip takes a third of a second, as on a real GPU.
    options = ["--served-model-name", MODEL, "--curve", "h200"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout is not None
        yield EngineProcess(process, process.stdout.readline().decode().split()[-1])
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def engines() -> Iterator[list[EngineProcess]]:
    with ExitStack() as stack:
        yield [stack.enter_context(engine_process()) for _ in range(2)]


async def twelve(router: RunningRouter) -> float:
    """Send twelve clips at once; return how long the slowest took."""
    began = time.monotonic()
    answers = await asyncio.gather(*(router.upload() for _ in range(12)))
    assert [answer.status_code for answer in answers] == [200] * 12
    return time.monotonic() - began


async def test_twelve_clips_are_answered_soon_though_one_of_two_engines_hangs(
    engines: list[EngineProcess],
) -> None:
    hung, well = engines
    async with running_router(hung.url, well.url) as router:
        for _ in range(3):
            await twelve(router)
        fleet = router.router.dispatcher.fleet
        rules = fleet.settings.suspicion
        hung.stop()
        assert await twelve(router) < rules.floor_s + ANSWER_S
        states = {engine.spec.url: engine for engine in fleet.engines()}
        await until(lambda: states[hung.url].state is not EngineState.READY, "it was not taken out")
        # From now on nobody has to wait for it.
        assert await twelve(router) < ANSWER_S
        await until(lambda: not states[hung.url].in_flight, "it keeps work")
        hung.go_on()
        await until(lambda: states[hung.url].state is EngineState.READY, "it did not come back")
        await twelve(router)


async def test_a_router_that_has_just_started_waits_a_little_longer(
    engines: list[EngineProcess],
) -> None:
    hung, well = engines
    async with running_router(hung.url, well.url) as router:
        rules = router.router.dispatcher.fleet.settings.suspicion
        hung.stop()
        assert await twelve(router) < rules.unknown_floor_s + rules.recheck_s + ANSWER_S
        hung.go_on()


async def test_a_stream_that_has_begun_goes_on_elsewhere_when_its_engine_is_taken_out() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
        running_router(a, b) as router,
    ):
        # Whoever gets it says its first words and stops.
        for engine in (a, b):
            await engine.order(hang="body")
        stream = [field("model", MODEL), field("stream", "true"), file(silence(20.0))]
        began = time.monotonic()
        waiting = asyncio.create_task(router.upload(*stream))
        fleet = router.router.dispatcher.fleet
        await until(lambda: any(engine.in_flight for engine in fleet.engines()))
        hung, well = (a, b) if a.log.audio() else (b, a)
        await well.order()
        await asyncio.sleep(0.5)
        await hung.order(hang="body", health_status=500)
        answer = await waiting
        events = [json.loads(event.data) for event in EventReader().feed(answer.content)]
        assert events[-1]["type"] == "transcript.text.done"
        told = "".join(e["delta"] for e in events if e["type"] == "transcript.text.delta")
        assert told.strip() == events[-1]["text"].strip()
        assert time.monotonic() - began < SILENCE_S + ANSWER_S
        assert well.log.audio()


async def test_the_work_of_an_engine_that_fails_its_probes_is_moved(
    engines: list[EngineProcess],
) -> None:
    """Long before it would be overdue by itself, being the only witness."""
    hung, well = engines
    quick = {"static_backend_health_check_timeout_seconds": 0.3}
    async with running_router(hung.url, well.url, **quick) as router:
        began = time.monotonic()
        hung.stop()
        await twelve(router)
        rules = router.router.dispatcher.fleet.settings.suspicion
        assert time.monotonic() - began < rules.unknown_floor_s - 1.0
        hung.go_on()

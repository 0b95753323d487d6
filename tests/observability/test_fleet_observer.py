"""What is checked before a body is read, and what is counted when a request is over."""

import asyncio
import logging
from typing import Any

import pytest
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, field, file, form, request, running_router, until

from vllm_router.audio.wav import silence
from vllm_router.observability.fleet_observer import FleetObserver
from vllm_router.observability.metrics import RouterMetrics
from vllm_router.observability.stats_table import RequestStats
from vllm_router.scheduling.engine import EngineId, EngineState, Transition
from vllm_router.scheduling.work import Charge, OutcomeKind, Ticket, Urgency

A = EngineId("http://a")


def ticket() -> Ticket:
    return Ticket("r", "m", 3.0, 1, Urgency.SHORT, 0.0)


@pytest.fixture
def seen() -> list[Transition]:
    return []


@pytest.fixture
def metrics() -> RouterMetrics:
    return RouterMetrics()


@pytest.fixture
def suspects() -> list[EngineId]:
    return []


@pytest.fixture
def observer(
    metrics: RouterMetrics, seen: list[Transition], suspects: list[EngineId]
) -> FleetObserver:
    stats = RequestStats(60, lambda: 0.0)
    return FleetObserver(metrics, stats, lambda engine_id: ("m",), seen.append, suspects.append)


def value(metrics: RouterMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value("vllm_router_" + name, labels)


def test_attempts_are_counted_by_how_they_went(
    observer: FleetObserver, metrics: RouterMetrics
) -> None:
    charge = Charge(ticket(), A, 0.0, 1, 3.0, None)
    for kind in (OutcomeKind.OK, OutcomeKind.OK, OutcomeKind.RESET):
        observer.attempted(charge, kind, 0.5)
    assert value(metrics, "attempts_total", engine=A, outcome="ok") == 2
    assert value(metrics, "attempts_total", engine=A, outcome="reset") == 1
    assert value(metrics, "engine_audio_seconds_total", engine=A) == 6


def test_waits_repeats_and_hedges_are_counted(
    observer: FleetObserver, metrics: RouterMetrics
) -> None:
    observer.waited(ticket(), 0.2)
    observer.waited(ticket(), 0.3)
    observer.repeated(ticket())
    observer.hedged(is_won=True)
    assert value(metrics, "queue_wait_seconds_count", model="m", urgency="short") == 2
    assert value(metrics, "retries_total") == 1
    assert value(metrics, "hedges_total", winner="second") == 1


def test_every_flip_is_one_warning(
    observer: FleetObserver,
    metrics: RouterMetrics,
    seen: list[Transition],
    caplog: pytest.LogCaptureFixture,
) -> None:
    flips = [
        Transition(A, EngineState.PROBING, EngineState.READY, "probe passed"),
        Transition(A, EngineState.READY, EngineState.EJECTED, "3 bad answers"),
        Transition(A, EngineState.EJECTED, EngineState.GONE, "withdrawn"),
    ]
    with caplog.at_level(logging.WARNING):
        for flip in flips[:2]:
            observer.changed(flip)
        assert value(metrics, "ejections_total", engine=A) == 1
        observer.changed(flips[2])
    assert seen == flips
    assert caplog.records[0].getMessage() == ("engine http://a: probing -> ready (probe passed)")
    assert len(caplog.records) == 3
    assert value(metrics, "ejections_total", engine=A) is None


async def test_an_error_of_our_own_is_logged_and_told_without_its_details(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client is told that it failed, the operator why."""
    async with serve_simulated(MODEL) as engine, running_router(engine) as running:
        service = running.router.service
        error = service.failed(Fake(), ZeroDivisionError("inner secret"))  # type: ignore[arg-type]
        assert error.status == 500
        assert "inner secret" not in error.body().decode()
        assert "inner secret" in caplog.text


class Fake:
    def __repr__(self) -> str:
        return "<Exchange POST /x -> None>"


@pytest.mark.parametrize("head", [b"POST /v1/audio/transcriptions HTTP/1.1\r\n"])
async def test_a_wrong_key_is_refused_before_the_body_comes(head: bytes) -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine, api_key="k") as running:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(head + b"Host: r\r\nContent-Length: 1000000\r\nContent-Type: x/y\r\n\r\n")
        assert (await reader.readline()).startswith(b"HTTP/1.1 401 ")
        writer.close()


async def test_in_flight_goes_back_to_nothing_whichever_way_requests_end() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine) as running,
    ):
        service = running.router.service
        good = form(field("model", MODEL), file(silence(1.0)))
        ends: list[Any] = [good, good[:-4], form(field("model", "nobody"), file(b"x")), b"rubbish"]
        for body in ends:
            await running.client.post(
                "/v1/audio/transcriptions",
                content=body,
                headers={"content-type": "multipart/form-data; boundary=test-boundary-7c1e"},
            )
        _, writer = await asyncio.open_connection("127.0.0.1", running.port)
        writer.write(request(good)[:-5])
        await until(lambda: service.in_flight == 1)
        writer.close()
        await until(lambda: service.in_flight == 0)

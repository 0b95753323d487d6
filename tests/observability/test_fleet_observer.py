"""How attempts, waits and engines' changes of state are counted and logged."""

import logging

import pytest

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

"""What is counted is there before it happens and gone with its engine."""

import pytest
from prometheus_client.exposition import generate_latest

from vllm_router.observability.metrics import STATUSES, RouterMetrics, length_label
from vllm_router.scheduling.engine import EngineId

ENGINE = EngineId("http://10.0.0.1:8000")


def lines(metrics: RouterMetrics) -> list[str]:
    page = generate_latest(metrics.registry).decode()
    return [line for line in page.splitlines() if not line.startswith("#")]


@pytest.mark.parametrize(
    ("audio_s", "label"),
    [(0.0, "30s"), (30.0, "30s"), (30.1, "5m"), (300, "5m"), (1800, "30m"), (1800.1, "inf")],
)
def test_a_length_has_the_least_bound_that_holds_it(audio_s: float, label: str) -> None:
    assert length_label(audio_s) == label


def test_what_an_alert_asks_for_is_there_before_it_happens() -> None:
    metrics = RouterMetrics()
    metrics.expect(ENGINE, ("whisper",))
    shown = lines(metrics)
    assert f'vllm_router_ejections_total{{engine="{ENGINE}"}} 0.0' in shown
    assert f'vllm_router_engine_windows_total{{engine="{ENGINE}"}} 0.0' in shown
    assert f'vllm_router_attempts_total{{engine="{ENGINE}",outcome="reset"}} 0.0' in shown
    for status in STATUSES:
        for route in ("transcriptions", "translations"):
            labels = f'model="whisper",route="{route}",status="{status}"'
            assert f"vllm_router_requests_total{{{labels}}} 0.0" in shown
    assert 'vllm_router_queue_wait_seconds_count{model="whisper",urgency="short"} 0.0' in shown
    assert 'vllm_router_pieces_total{outcome="missing"} 0.0' in shown
    assert 'vllm_router_hedges_total{winner="second"} 0.0' in shown
    assert "vllm_router_retries_total 0.0" in shown


def test_an_engine_that_comes_back_keeps_its_counts() -> None:
    metrics = RouterMetrics()
    metrics.expect(ENGINE, ("whisper",))
    metrics.ejections.labels(ENGINE).inc()
    metrics.expect(ENGINE, ("whisper",))
    assert f'vllm_router_ejections_total{{engine="{ENGINE}"}} 1.0' in lines(metrics)


def test_an_engine_that_is_gone_leaves_no_series() -> None:
    metrics = RouterMetrics()
    metrics.expect(ENGINE, ("whisper",))
    metrics.probe_seconds.labels(ENGINE).observe(0.1)
    other = EngineId(ENGINE + "1")
    metrics.expect(other, ())
    metrics.forget(ENGINE)
    assert not [line for line in lines(metrics) if f'"{ENGINE}"' in line]
    assert [line for line in lines(metrics) if f'"{other}"' in line]

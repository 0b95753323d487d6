import contextlib

import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.local.models import QuickModel
from tests.local.serving import serving

from vllm_router.audio.wav import silence
from vllm_router.local.metrics import EngineMetrics
from vllm_router.local.transcriber import CpuTranscriber
from vllm_router.scheduling.engine_metrics import read_engine_stats


def samples(page: bytes) -> dict[str, float]:
    """Return the sums over all labels but a histogram's bounds."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            if "le" not in sample.labels:
                assert (sample.labels["engine"], sample.labels["model_name"]) == ("0", 'a"b')
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


async def test_requests_are_counted_under_vllms_names() -> None:
    transcriber = CpuTranscriber(QuickModel())
    metrics = EngineMetrics('a"b', transcriber)
    metrics.record(0.5, 7)
    metrics.record(0.7, 3)
    with contextlib.suppress(GeneratorExit), metrics.in_flight():
        assert metrics.requests_in_flight == 1
        raise GeneratorExit
    transcriber.running, transcriber.waiting = 1, 4
    page = samples(metrics.page())
    assert page["vllm:request_success_total"] == 3
    assert page["vllm:generation_tokens_total"] == 10
    assert page["vllm:e2e_request_latency_seconds_sum"] == pytest.approx(1.2)
    assert page["vllm:num_requests_running"] == 1
    assert page["vllm:num_requests_waiting"] == 4
    assert metrics.requests_in_flight == 0
    transcriber.close()


async def test_the_router_reads_the_page() -> None:
    async with serving(QuickModel()) as engine:
        await engine.post(silence(1.0))
        page = (await engine.client.get("/metrics")).content
    stats = read_engine_stats(page)
    assert (stats.running, stats.waiting, stats.cache_usage) == (0, 0, 0)

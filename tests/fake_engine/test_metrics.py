import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.fake_engine.metrics import Figures, metrics_page, shares

from vllm_router.scheduling.engine_metrics import read_engine_stats


def sums(page: bytes) -> dict[str, float]:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            if "le" not in sample.labels:
                found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


def test_the_page_is_read_by_prometheus_and_sums_over_ranks() -> None:
    figures = Figures(succeeded=5, generation_tokens=70, aborted=2)
    for seconds in (0.1, 0.4, 100.0):
        figures.e2e.observe(seconds)
    for ranks in (1, 3):
        page = sums(metrics_page(figures, "m", 7, 2, is_sleeping=False, ranks=ranks))
        assert page["vllm:num_requests_running"] == 7
        assert page["vllm:num_requests_waiting"] == 2
        assert page["vllm:request_success_total"] == 7
        assert page["vllm:generation_tokens_total"] == 70
        assert page["vllm:e2e_request_latency_seconds_count"] == 3
        assert page["vllm:e2e_request_latency_seconds_sum"] == 100.5
        assert page["vllm:admission_rejections_total"] == 0


def test_labels_name_model_and_rank() -> None:
    page = metrics_page(Figures(), 'a"b\\c', 3, 0, is_sleeping=True, ranks=2).decode()
    families = {family.name: family for family in text_string_to_metric_families(page)}
    running = families["vllm:num_requests_running"].samples
    assert [sample.labels for sample in running] == [
        {"engine": "0", "model_name": 'a"b\\c'},
        {"engine": "1", "model_name": 'a"b\\c'},
    ]
    assert [sample.value for sample in running] == [2, 1]
    asleep = {
        sample.labels["sleep_state"]: sample.value
        for sample in families["vllm:engine_sleep_state"].samples
    }
    assert asleep == {"awake": 0, "weights_offloaded": 1, "discard_all": 0}


def test_histogram_buckets_add_up() -> None:
    figures = Figures()
    for seconds in (0.3, 0.31, 61.0):
        figures.queued.observe(seconds)
    page = metrics_page(figures, "m", 0, 0, is_sleeping=False).decode()
    buckets = {
        sample.labels["le"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == "vllm:request_queue_time_seconds_bucket"
    }
    assert (buckets["0.3"], buckets["0.5"], buckets["60.0"], buckets["+Inf"]) == (1, 2, 2, 3)


def test_shares_are_whole_and_complete() -> None:
    assert shares(7, 3) == [3, 2, 2]
    assert sum(shares(0, 4)) == 0


def test_the_caches_usage_is_a_part_of_what_it_holds() -> None:
    page = metrics_page(Figures(), "m", 42, 0, False, cache_windows=168)
    assert read_engine_stats(page).cache_usage == pytest.approx(0.25)

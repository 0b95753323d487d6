"""Pages of several processes as one."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from vllm_router.observability.exposition import merge_expositions


def page(count: float, state: float = 0.0, in_flight: float = 0.0) -> str:
    registry = CollectorRegistry()
    counter = Counter("vllm_router_requests", "Requests.", ["model"], registry=registry)
    counter.labels('a "model"\\').inc(count)
    histogram = Histogram("vllm_router_wait", "Waits.", buckets=(1, 10), registry=registry)
    histogram.observe(count)
    Gauge("vllm_router_engine_state", "State.", registry=registry).set(state)
    Gauge("vllm_router_in_flight", "In flight.", registry=registry).set(in_flight)
    return generate_latest(registry).decode()


def samples(text: bytes) -> dict[str, float]:
    return {
        sample.name + "".join(f"|{v}" for v in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_counters_and_histograms_are_summed() -> None:
    merged = samples(merge_expositions([page(2), page(5)]))
    assert merged['vllm_router_requests_total|a "model"\\'] == 7
    assert merged["vllm_router_wait_count"] == 2
    assert merged["vllm_router_wait_sum"] == 7
    assert merged["vllm_router_wait_bucket|10.0"] == 2
    assert merged["vllm_router_wait_bucket|1.0"] == 0


def test_parts_of_a_whole_are_summed_and_what_all_see_is_not() -> None:
    merged = samples(merge_expositions([page(1, 1, 2), page(1, 0, 3)]))
    assert merged["vllm_router_engine_state"] == 1
    assert merged["vllm_router_in_flight"] == 5


def test_a_series_began_when_its_last_part_did() -> None:
    merged = samples(merge_expositions([page(1), page(1)]))
    created = [name for name in merged if name.startswith("vllm_router_requests_created")]
    assert all(merged[name] < 1e11 for name in created)


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=5))
def test_merging_loses_nothing(counts: list[int]) -> None:
    merged = samples(merge_expositions(page(count) for count in counts))
    assert merged['vllm_router_requests_total|a "model"\\'] == sum(counts)


def test_one_page_stays_what_it_was() -> None:
    text = page(3, 1, 2)
    assert samples(merge_expositions([text])) == samples(text.encode())


def test_no_page_is_an_empty_one() -> None:
    assert merge_expositions([]) == b""

"""What is counted is shown as the client library would show it."""

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from vllm_router.observability.counters import Counter, Histogram

BOUNDS = (0.1, 1, 5)
amounts = st.lists(st.one_of(st.sampled_from([0.0, 0.1, 1, 5, 5.1]), st.floats(0, 1e6)))
prometheus_client.disable_created_metrics()


def shown(registry: CollectorRegistry) -> str:
    return generate_latest(registry).decode()


@given(amounts)
def test_a_histogram_reads_as_the_client_librarys(observed: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Histogram("h", "Text.", ["a"], buckets=BOUNDS, registry=ours).labels("x")
    other = prometheus_client.Histogram("h", "Text.", ["a"], buckets=BOUNDS, registry=theirs)
    for amount in observed:
        mine.observe(amount)
        other.labels("x").observe(amount)
    assert shown(ours) == shown(theirs) or not observed


@given(amounts)
def test_a_counter_reads_as_the_client_librarys(added: list[float]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    mine = Counter("c", "Text.", ["a", "b"], registry=ours).labels("x", "y")
    other = prometheus_client.Counter("c", "Text.", ["a", "b"], registry=theirs).labels("x", "y")
    for amount in added:
        mine.inc(amount)
        other.inc(amount)
    assert shown(ours) == shown(theirs)


def test_families_without_labels_are_there_from_the_start() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "Text.", registry=registry)
    histogram = Histogram("h", "Text.", buckets=BOUNDS, registry=registry)
    assert "c_total 0.0" in shown(registry)
    assert 'h_bucket{le="+Inf"} 0.0' in shown(registry)
    counter.inc()
    histogram.observe(3)
    assert "c_total 1.0" in shown(registry)
    assert 'h_bucket{le="5.0"} 1.0' in shown(registry)
    assert "h_sum 3.0" in shown(registry)


def test_series_are_dropped_by_any_of_their_labels() -> None:
    registry = CollectorRegistry()
    counter = Counter("c", "Text.", ["engine", "outcome"], registry=registry)
    counter.labels("a", "ok").inc()
    counter.labels("a", "bad").inc()
    counter.labels("b", "ok").inc()
    counter.remove_by_labels({"engine": "a"})
    assert 'engine="a"' not in shown(registry)
    assert 'c_total{engine="b",outcome="ok"} 1.0' in shown(registry)


def test_a_series_may_be_kept_and_is_the_same_each_time() -> None:
    counter = Counter("c", "Text.", ["a"], registry=CollectorRegistry())
    assert counter.labels("x") is counter.labels("x")


def test_a_wrong_number_of_labels_is_refused() -> None:
    counter = Counter("c", "Text.", ["a"], registry=CollectorRegistry())
    with pytest.raises(ValueError, match="labels"):
        counter.labels("x", "y")

"""What a worker counted is what the next one in its place begins with."""

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import generate_latest
from tests.observability.test_exposition import samples

from vllm_router.observability.inherited_counts import InheritedCounts


def page(count: float) -> bytes:
    registry = CollectorRegistry()
    Counter("done", "Done.", registry=registry).inc(count)
    Histogram("took", "Took.", buckets=(1, 10), registry=registry).observe(count)
    Gauge("open", "Open.", registry=registry).set(count)
    return generate_latest(registry)


def test_counts_go_on_and_gauges_begin_anew(tmp_path: Path) -> None:
    first = InheritedCounts(tmp_path, 0)
    assert samples(first.add(page(3)))["done_total"] == 3
    first.add(page(5))
    second = samples(InheritedCounts(tmp_path, 0).add(page(2)))
    assert second["done_total"] == 7
    assert second["took_count"] == 2
    assert second["open"] == 2
    # And on, over any number of lives.
    third = samples(InheritedCounts(tmp_path, 0).add(page(1)))
    assert third["done_total"] == 8


def test_each_place_has_its_own(tmp_path: Path) -> None:
    InheritedCounts(tmp_path, 0).add(page(3))
    assert samples(InheritedCounts(tmp_path, 1).add(page(2)))["done_total"] == 2


def test_what_cannot_be_read_or_left_is_told_and_no_obstacle(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "worker-0.metrics").write_text("{ no page")
    assert samples(InheritedCounts(tmp_path, 0).add(page(2)))["done_total"] == 2
    assert "counts are lost" in caplog.text
    gone = InheritedCounts(tmp_path / "gone", 0)
    assert samples(gone.add(page(2)))["done_total"] == 2
    assert "cannot save a page of metrics" in caplog.text

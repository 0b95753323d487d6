"""Counters and histograms for one event loop: an observation takes a fraction of a microsecond.

The client library's own take several locks per observation, for threads that do not exist here.
These have the same names and methods and appear in the same registry. Not thread-safe.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class CounterValue:
    """One series of a counter."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        """Add to the counter."""
        self.value += amount


class HistogramValue:
    """One series of a histogram.

    Args:
        bounds: Upper bounds of its buckets, ascending; a final bucket holds everything above.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, amount: float) -> None:
        """Add an observation."""
        self.total += amount
        # Compiled, this takes a sixth of `bisect_left`: the type is known and the bounds are few.
        at = 0
        for bound in self._bounds:
            if amount <= bound:
                break
            at += 1
        self.counts[at] += 1


SeriesT = TypeVar("SeriesT", CounterValue, HistogramValue)


class _Family(Collector, Generic[SeriesT]):
    """The series of one metric, by label values."""

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str],
        registry: CollectorRegistry,
        new_series: Callable[[], SeriesT],
    ) -> None:
        self._name = name
        self._text = text
        self._labels = tuple(labels)
        self._new_series: Callable[[], SeriesT] = new_series
        self._series: dict[tuple[str, ...], SeriesT] = {}
        if not labels:
            self._series[()] = new_series()
        registry.register(self)

    def labels(self, *values: str) -> SeriesT:
        """Return the series for these label values, created on demand; the caller may keep it.

        Raises:
            ValueError: The number of values differs from the number of labels.
        """
        series = self._series.get(values)
        if series is None:
            if len(values) != len(self._labels):
                raise ValueError(f"{self._name} has the labels {self._labels}, not {len(values)}")
            series = self._series[values] = self._new_series()
        return series

    def remove_by_labels(self, labels: dict[str, str]) -> None:
        """Remove every series that has these labels."""
        wanted = [(self._labels.index(name), value) for name, value in labels.items()]
        for values in list(self._series):
            if all(values[at] == value for at, value in wanted):
                del self._series[values]

    @abstractmethod
    def collect(self) -> Iterator[Metric]:
        """Yield the family, for prometheus_client."""


class Counter(_Family[CounterValue]):
    """A counter with labels.

    Args:
        name: Name without the suffix `_total`.
        text: Help text.
        labels: Names of the labels.
        registry: Registry that exposes it.
    """

    def __init__(
        self, name: str, text: str, labels: Sequence[str] = (), *, registry: CollectorRegistry
    ) -> None:
        super().__init__(name, text, labels, registry, CounterValue)

    def inc(self, amount: float = 1.0) -> None:
        """Add to the only series of a counter without labels."""
        self._series[()].inc(amount)

    def collect(self) -> Iterator[Metric]:
        """Yield the family, for prometheus_client."""
        family = CounterMetricFamily(self._name, self._text, labels=self._labels)
        for values, count in self._series.items():
            family.add_metric(values, count.value)
        yield family


class Histogram(_Family[HistogramValue]):
    """A histogram with labels.

    Args:
        name: Name.
        text: Help text.
        labels: Names of the labels.
        buckets: Upper bounds, ascending.
        registry: Registry that exposes it.
    """

    def __init__(
        self,
        name: str,
        text: str,
        labels: Sequence[str] = (),
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        bounds = tuple(map(float, buckets))
        self._bucket_names = [*map(str, bounds), "+Inf"]
        super().__init__(name, text, labels, registry, lambda: HistogramValue(bounds))

    def observe(self, amount: float) -> None:
        """Add an observation to the only series of a histogram without labels."""
        self._series[()].observe(amount)

    def collect(self) -> Iterator[Metric]:
        """Yield the family, for prometheus_client."""
        family = HistogramMetricFamily(self._name, self._text, labels=self._labels)
        for values, spread in self._series.items():
            up_to = 0
            buckets = []
            for name, count in zip(self._bucket_names, spread.counts, strict=True):
                up_to += count
                buckets.append((name, float(up_to)))
            family.add_metric(values, buckets, spread.total)
        yield family

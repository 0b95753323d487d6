"""Count each upload's request once, when it ends."""

from __future__ import annotations

from vllm_router.audio.length import MeasuredSeconds
from vllm_router.observability.counters import CounterValue, HistogramValue
from vllm_router.observability.metrics import RouterMetrics, length_label
from vllm_router.observability.request_record import RequestRecord
from vllm_router.server.exchange import Exchange


class RequestMetrics:
    """Counts requests, caching their series, because a look-up costs more than counting.

    Args:
        metrics: The router's metrics.
    """

    def __init__(self, metrics: RouterMetrics) -> None:
        self._metrics = metrics
        self._counted: dict[tuple[str, str, int], CounterValue] = {}
        self._timed: dict[
            tuple[str, str], tuple[HistogramValue, HistogramValue, HistogramValue, CounterValue]
        ] = {}

    def ended(self, exchange: Exchange, record: RequestRecord, status: int, now: float) -> None:
        """Count a request.

        Args:
            exchange: Sizes and times.
            record: The request's record.
            status: The response's status, or 499 if the client disconnected.
            now: Monotonic seconds.
        """
        metrics = self._metrics
        metrics.upload_bytes.inc(exchange.received_bytes)
        # A member's `value` and hash are looked up by Python code; its text is not.
        route = str(record.task)
        key = (record.model, route, status)
        counted = self._counted.get(key)
        if counted is None:
            counted = metrics.requests.labels(record.model, route, str(status))
            self._counted[key] = counted
        counted.inc()
        if status == 200 and record.audio_s is not None:
            self._time(exchange, record, record.audio_s, now)
        if record.holder is not None:
            metrics.key_requests.labels(record.holder, str(status)).inc()
            # A reservation is counted once the audio has been measured.
            used_s = 0.0
            if record.charged_s is not None and record.audio_s is not None:
                used_s = record.audio_s * record.channels
            metrics.key_audio_seconds.labels(record.holder).inc(used_s)

    def _time(
        self, exchange: Exchange, record: RequestRecord, audio_s: MeasuredSeconds, now: float
    ) -> None:
        length = length_label(audio_s)
        timed = self._timed.get((record.model, length))
        if timed is None:
            metrics = self._metrics
            timed = self._timed[record.model, length] = (
                metrics.request_seconds.labels(record.model, length),
                metrics.first_byte_seconds.labels(record.model),
                metrics.seconds_per_audio_second.labels(record.model),
                metrics.audio_seconds.labels(record.model),
            )
        request_seconds, first_byte_seconds, ratio, audio_seconds = timed
        request_seconds.observe(now - exchange.started_at)
        audio_seconds.inc(audio_s * record.channels)
        whole_at, first_at = record.whole_at, exchange.first_byte_at
        if whole_at is not None and first_at is not None:
            first_byte_seconds.observe(first_at - whole_at)
            if audio_s > 0:
                ratio.observe((now - whole_at) / audio_s)

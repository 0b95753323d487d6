"""OpenTelemetry traces: one span per upload, wait in the queue, attempt and piece.

Needs the extra `otel`; this module is imported only if tracing is on. A client's W3C context is
continued, and each engine receives the context of its own attempt. A thread sends spans in batches;
spans that the collector does not accept are dropped, and nothing waits for it. Spans never contain
audio, prompts, transcripts or keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from vllm_router import __version__
from vllm_router.observability.request_record import RequestRecord
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work import Outcome, OutcomeKind
from vllm_router.server.exchange import Exchange

Headers = list[tuple[bytes, bytes]]

TRACES_PATH = "/v1/traces"
#: Ten hours of audio are 1,200 pieces with three spans each, which may end within a minute.
MAX_WAITING_SPANS = 16_384
#: The last spans must not delay a shutdown for longer; collectors answer in milliseconds.
FLUSH_S = 5.0
#: Client headers that are replaced by those of an attempt.
_CONTEXT_HEADERS = frozenset({b"traceparent", b"tracestate"})
#: Outcomes of an attempt that are not the engine's fault.
_FAULTLESS = frozenset(
    {OutcomeKind.OK, OutcomeKind.CLIENT_FAULT, OutcomeKind.CLIENT_LEFT, OutcomeKind.CANCELLED}
)

_PROPAGATOR = TraceContextTextMapPropagator()


class Tracing:
    """Creates traces and flushes them at shutdown.

    Args:
        provider: Samples and sends spans.
        now: Monotonic seconds.
        wall_ns: Unix nanoseconds.
        flush_s: Time limit for the last spans, in seconds.
    """

    def __init__(
        self,
        provider: TracerProvider,
        now: Callable[[], float],
        wall_ns: Callable[[], int] = time.time_ns,
        flush_s: float = FLUSH_S,
    ) -> None:
        self._provider = provider
        self._now = now
        self._wall_ns = wall_ns
        self._flush_s = flush_s
        self.tracer = provider.get_tracer("vllm_router", __version__)

    def request(self, exchange: Exchange, record: RequestRecord) -> RequestSpans:
        """Begin the trace of an upload's request, or continue its client's."""
        # Computed per request, so that a clock adjustment cannot tear a trace apart.
        offset_ns = self._wall_ns() - round(self._now() * 1e9)
        return RequestSpans(self.tracer, offset_ns, exchange, record)

    async def close(self) -> None:
        """Send the remaining spans within the time limit."""
        loop = asyncio.get_running_loop()
        is_done = asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with contextlib.suppress(RuntimeError):  # The loop has stopped waiting and is closed.
                loop.call_soon_threadsafe(is_done.set)

        # A daemon thread, because the exporter retries a dead collector for half a minute.
        threading.Thread(target=flush, name="last spans", daemon=True).start()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._flush_s):
                await is_done.wait()


class GuardedExporter(SpanExporter):
    """An exporter whose exceptions are counted and cost its spans, not its thread.

    Args:
        exporter: Sends spans.
        failed: Called with exceptions from it.
    """

    def __init__(self, exporter: SpanExporter, failed: Callable[[Exception], object]) -> None:
        self._exporter = exporter
        self._failed = failed

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans."""
        try:
            return self._exporter.export(spans)
        except Exception as e:
            self._failed(e)
            return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Close the connection."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Send waiting spans."""
        return self._exporter.force_flush(timeout_millis)


def build_tracing(
    endpoint: str,
    sample_ratio: float,
    now: Callable[[], float],
    failed: Callable[[Exception], object],
) -> Tracing:
    """Return traces that are sent to a collector by OTLP over HTTP.

    Other OTEL_* variables (headers, certificates, timeouts, resource) work as the SDK defines.

    Args:
        endpoint: The collector's address, with or without `/v1/traces`.
        sample_ratio: Fraction of requests to trace if their clients have not decided.
        now: Monotonic seconds.
        failed: Called with exceptions from sending, in another thread.
    """
    url = endpoint.rstrip("/")
    if not url.endswith(TRACES_PATH):
        url += TRACES_PATH
    resource = Resource.create({SERVICE_VERSION: __version__})
    if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
        resource = resource.merge(Resource({SERVICE_NAME: "vllm-router"}))
    provider = TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
        resource=resource,
        shutdown_on_exit=False,
    )
    exporter = GuardedExporter(OTLPSpanExporter(url), failed)
    provider.add_span_processor(BatchSpanProcessor(exporter, max_queue_size=MAX_WAITING_SPANS))
    return Tracing(provider, now)


class RequestSpans:
    """The span of one request; see `observability.request_record.RequestTrace`.

    Args:
        tracer: Creates spans.
        offset_ns: Difference between Unix and monotonic time.
        exchange: The request.
        record: The request's record.
    """

    __slots__ = ("_context", "_offset_ns", "_span", "_tracer", "trace_id")

    def __init__(
        self, tracer: Tracer, offset_ns: int, exchange: Exchange, record: RequestRecord
    ) -> None:
        self._tracer = tracer
        self._offset_ns = offset_ns
        head = exchange.head
        carrier: dict[str, str] = {}
        for name, value in head.headers:
            if name in _CONTEXT_HEADERS:
                key, text = name.decode(), value.decode("latin-1")
                # Several headers of one name are one list (RFC 9110, 5.3).
                carrier[key] = f"{carrier[key]},{text}" if key in carrier else text
        route = f"/v1/audio/{record.task.value}"
        # An unknown method must not become part of a span's name.
        method = "POST" if head.method == "POST" else "_OTHER"
        self._span = tracer.start_span(
            f"{method} {route}",
            context=_PROPAGATOR.extract(carrier, Context()),
            kind=SpanKind.SERVER,
            start_time=self._ns(exchange.started_at),
            attributes={
                "http.request.method": method,
                "http.route": route,
                "url.path": head.path,
                "client.address": exchange.client,
                "vllm_router.request_id": record.request_id,
            },
        )
        self._context = set_span_in_context(self._span, Context())
        self.trace_id = format(self._span.get_span_context().trace_id, "032x")

    def _ns(self, at: float) -> int:
        return self._offset_ns + round(at * 1e9)

    def work(self) -> WorkSpans:
        """Return the trace of the upload as a whole."""
        return WorkSpans(self._tracer, self._offset_ns, self._context)

    def piece(self, index: int, start_s: float, end_s: float) -> PieceSpans:
        """Return the trace of a piece."""
        span = self._tracer.start_span(
            "piece",
            context=self._context,
            attributes={
                "vllm_router.piece": index,
                "vllm_router.start_s": start_s,
                "vllm_router.end_s": end_s,
            },
        )
        return PieceSpans(self._tracer, self._offset_ns, span)

    def end(self, exchange: Exchange, record: RequestRecord, status: int) -> None:
        """End the request's span, and add what is known by now."""
        span = self._span
        if span.is_recording():
            if record.whole_at is not None:
                span.add_event("upload complete", timestamp=self._ns(record.whole_at))
            if exchange.first_byte_at is not None:
                span.add_event("first byte", timestamp=self._ns(exchange.first_byte_at))
            span.set_attribute("http.response.status_code", status)
            span.set_attribute("http.request.body.size", exchange.received_bytes)
            span.set_attribute("vllm_router.queue_s", record.queue_s)
            if record.model:
                span.set_attribute("vllm_router.model", record.model)
            if record.audio_s is not None:
                span.set_attribute("vllm_router.audio_s", record.audio_s)
            if record.pieces:
                span.set_attribute("vllm_router.pieces", record.pieces)
            if record.error is not None:
                span.set_attribute("error.type", record.error)
            if status >= 500 or (status < 400 and record.error is not None):
                span.set_status(Status(StatusCode.ERROR, record.error))
        span.end()


class WorkSpans:
    """The spans of one piece of work: waits and attempts; see `scheduling.work.WorkTrace`.

    Args:
        tracer: Creates spans.
        offset_ns: Difference between Unix and monotonic time.
        context: Context of the parent span.
    """

    __slots__ = ("_context", "_offset_ns", "_open", "_tracer")

    def __init__(self, tracer: Tracer, offset_ns: int, context: Context) -> None:
        self._tracer = tracer
        self._offset_ns = offset_ns
        self._context = context
        self._open: dict[EngineId, Span] = {}

    def waited(self, since: float, until: float, end: str) -> None:
        """Make the span of a wait in the queue."""
        span = self._tracer.start_span(
            "queue",
            context=self._context,
            start_time=self._offset_ns + round(since * 1e9),
            attributes={"vllm_router.end": end},
        )
        span.end(self._offset_ns + round(until * 1e9))

    def attempt(self, engine_id: EngineId, headers: Headers) -> Headers:
        """Begin an attempt's span and return the headers that carry its context."""
        span = self._tracer.start_span(
            "attempt",
            context=self._context,
            kind=SpanKind.CLIENT,
            attributes={"vllm_router.engine": engine_id},
        )
        self._open[engine_id] = span
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, set_span_in_context(span, Context()))
        sent = [header for header in headers if header[0] not in _CONTEXT_HEADERS]
        return sent + [(name.encode(), value.encode("latin-1")) for name, value in carrier.items()]

    def finished(self, engine_id: EngineId, outcome: Outcome) -> None:
        """End an attempt's span."""
        span = self._open.pop(engine_id, None)
        if span is None:
            return
        span.set_attribute("vllm_router.outcome", outcome.kind.value)
        if outcome.kind not in _FAULTLESS:
            span.set_status(Status(StatusCode.ERROR, outcome.detail))
        span.end()


class PieceSpans(WorkSpans):
    """The span of one piece of a long audio, and its children (`request_record.PieceTrace`)."""

    __slots__ = ("_span",)

    def __init__(self, tracer: Tracer, offset_ns: int, span: Span) -> None:
        super().__init__(tracer, offset_ns, set_span_in_context(span, Context()))
        self._span = span

    def end(self, error: str | None) -> None:
        """End the piece's span."""
        if error is not None:
            self._span.set_attribute("error.type", error)
            self._span.set_status(Status(StatusCode.ERROR, error))
        self._span.end()

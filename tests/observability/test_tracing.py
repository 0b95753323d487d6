"""Traces of real requests: what is in them, what engines are given, where they go."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExportResult,
)
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.clients.servers import ROOT
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, field, file, form, named, running_router, until

from vllm_router.audio.wav import pcm16_wav, silence
from vllm_router.cli import WrongUse, read_settings
from vllm_router.observability.tracing import GuardedExporter, Tracing

PARENT_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = f"00-{PARENT_TRACE}-00f067aa0ba902b7-01"


class Traces:
    """What was traced, in memory."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.tracing = Tracing(provider, time.monotonic)

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    @property
    def requests(self) -> list[ReadableSpan]:
        spans = self._exporter.get_finished_spans()
        return [span for span in spans if span.kind is SpanKind.SERVER]

    @property
    def all(self) -> tuple[ReadableSpan, ...]:
        return tuple(self._exporter.get_finished_spans())


@pytest.fixture
def traces() -> Traces:
    return Traces()


def id_of(span: ReadableSpan) -> str:
    assert span.context is not None
    return format(span.context.span_id, "016x")


def parent_of(span: ReadableSpan) -> str | None:
    return None if span.parent is None else format(span.parent.span_id, "016x")


def given_to(engine: SimulatedHandle, header: str = "traceparent") -> list[str | None]:
    return [one.header(header) for one in engine.log.audio()]


def about(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


async def test_a_request_goes_on_with_its_clients_trace_and_the_engine_with_its_attempts(
    traces: Traces,
) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        answer = await router.upload(
            traceparent=PARENT, tracestate="vendor=1", baggage="a=b", x_request_id="r-1"
        )
        assert answer.status_code == 200
        await until(lambda: traces.requests)
        (request,) = traces.requests
        (queue,) = traces.named("queue")
        (attempt,) = traces.named("attempt")
        assert request.name == "POST /v1/audio/transcriptions"
        assert parent_of(request) == "00f067aa0ba902b7"
        assert parent_of(queue) == parent_of(attempt) == id_of(request)
        assert given_to(engine) == [f"00-{PARENT_TRACE}-{id_of(attempt)}-01"]
        assert given_to(engine, "tracestate") == ["vendor=1"]
        assert given_to(engine, "baggage") == ["a=b"]
        assert about(request)["vllm_router.request_id"] == "r-1"
        assert about(request)["vllm_router.model"] == MODEL
        assert about(request)["vllm_router.audio_s"] == 1.0
        assert about(request)["http.response.status_code"] == 200
        assert about(queue) == {"vllm_router.end": "given"}
        assert about(attempt) == {"vllm_router.engine": engine.url, "vllm_router.outcome": "ok"}
        assert attempt.kind is SpanKind.CLIENT
        assert [event.name for event in request.events] == ["upload complete", "first byte"]
        assert request.start_time is not None
        assert abs(request.start_time / 1e9 - time.time()) < 600
        begins = [request.start_time, queue.start_time, attempt.start_time, attempt.end_time]
        assert begins == sorted(begins, key=lambda at: at or 0)


async def test_without_a_client_trace_a_new_one_begins(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        await router.upload()
        await router.upload(traceparent="00-no-trace-at-all")
        await until(lambda: len(traces.requests) == 2)
        assert [request.parent for request in traces.requests] == [None, None]
        assert (
            len({request.context.trace_id for request in traces.requests if request.context}) == 2
        )


async def test_a_client_that_does_not_want_to_be_traced_is_not(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        await router.upload(traceparent=PARENT[:-1] + "0")
        await until(lambda: router.router.service.in_flight == 0)
        assert traces.all == ()
        (given,) = given_to(engine)
        assert given is not None
        assert given.startswith(f"00-{PARENT_TRACE}-")
        assert given.endswith("-00")


async def test_a_repeated_attempt_is_a_span_of_its_own_with_its_own_context(
    traces: Traces,
) -> None:
    def tried() -> list[ReadableSpan]:
        return traces.named("attempt")

    def below(span: ReadableSpan) -> list[ReadableSpan]:
        return [each for each in tried() if parent_of(each) == parent_of(span)]

    async with (
        serve_simulated(MODEL, time_scale=1000) as bad,
        serve_simulated(MODEL, time_scale=1000) as good,
        running_router(bad, good, tracing=traces.tracing, routing_logic="roundrobin") as router,
    ):
        await bad.order(status=503)
        while not given_to(bad):
            assert (await router.upload(traceparent=PARENT)).status_code == 200
        await until(lambda: len(tried()) > len(given_to(good)))
        (failed,) = (span for span in tried() if about(span)["vllm_router.engine"] == bad.url)
        assert failed.status.status_code is StatusCode.ERROR
        assert about(failed)["vllm_router.outcome"] == "bad_status"
        assert given_to(bad) == [f"00-{PARENT_TRACE}-{id_of(failed)}-01"]
        await until(lambda: len(below(failed)) == 2)
        (other,) = (span for span in below(failed) if span is not failed)
        assert f"00-{PARENT_TRACE}-{id_of(other)}-01" in given_to(good)


def sentences(seconds: float) -> bytes:
    """Return noise with pauses in which it can be cut."""
    count = int(seconds * 16_000)
    noise = np.random.default_rng(7).normal(0, 3000, count)
    noise[np.arange(count) / 16_000 % 8 > 7] = 0
    return pcm16_wav(noise.astype("<i2").tobytes())


async def test_each_piece_of_long_audio_has_its_span_with_its_attempts_below(
    traces: Traces,
) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        answer = await router.upload(field("model", MODEL), file(sentences(70)))
        assert answer.status_code == 200, answer.text
        await until(lambda: traces.requests)
        (request,) = traces.requests
        pieces = traces.named("piece")
        assert len(pieces) >= 3
        assert about(request)["vllm_router.pieces"] == len(pieces)
        assert {parent_of(piece) for piece in pieces} == {id_of(request)}
        assert sorted(about(piece)["vllm_router.piece"] for piece in pieces) == list(
            range(len(pieces))
        )
        parents = {parent_of(span) for name in ("queue", "attempt") for span in traces.named(name)}
        assert parents == {id_of(piece) for piece in pieces}
        attempts = {id_of(span) for span in traces.named("attempt")}
        assert {(given or "").split("-")[2] for given in given_to(engine)} == attempts


async def test_a_piece_that_cannot_be_had_says_so(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        await engine.order(status=400)
        answer = await router.upload(field("model", MODEL), file(sentences(70)))
        assert answer.status_code == 400
        await until(lambda: traces.requests)
        errors = {about(piece).get("error.type") for piece in traces.named("piece")}
        assert "engine_refused" in errors
        (request,) = traces.requests
        # A refusal is no fault of the server.
        assert request.status.status_code is StatusCode.UNSET


async def test_who_leaves_while_waiting_is_seen_waiting(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL) as engine,
        running_router(engine, tracing=traces.tracing, engine_max_windows=1) as router,
    ):
        await engine.order(hang="answer")
        body = form(field("model", MODEL), file(silence(1.0)))
        waiting = [
            asyncio.create_task(
                router.client.post("/v1/audio/transcriptions", content=body, headers=named({}))
            )
            for _ in range(2)
        ]
        await until(lambda: router.router.dispatcher.slots.waiting == 1)
        for task in waiting:
            task.cancel()
        await until(lambda: len(traces.requests) == len(traces.named("queue")) == 2)
        await until(lambda: traces.named("attempt"))
        ends = {about(span)["vllm_router.end"] for span in traces.named("queue")}
        assert ends == {"given", "left"}
        assert [about(span)["vllm_router.outcome"] for span in traces.named("attempt")] == [
            "client_left"
        ]
        assert {about(span)["http.response.status_code"] for span in traces.requests} == {499}


async def test_who_is_refused_while_waiting_is_seen_waiting(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        await engine.order(status=503)
        assert (await router.upload()).status_code == 502
        await until(lambda: traces.requests)
        ends = [about(span)["vllm_router.end"] for span in traces.named("queue")]
        assert ends == ["given", "no_engine_left"]
        (request,) = traces.requests
        assert request.status.status_code is StatusCode.ERROR
        assert about(request)["error.type"] == "engine_failed"


async def test_a_request_that_is_refused_at_the_door_is_traced_too(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing) as router,
    ):
        await router.client.request("PUT", "/v1/audio/transcriptions")
        await until(lambda: traces.requests)
        (request,) = traces.requests
        assert request.name == "_OTHER /v1/audio/transcriptions"
        assert about(request)["error.type"] == "method_not_allowed"


async def test_spans_hold_no_words_prompts_or_keys(traces: Traces) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=traces.tracing, api_key=("sesame",)) as router,
    ):
        answer = await router.upload(
            field("model", MODEL),
            field("prompt", "open-the-door"),
            file(silence(1.0), filename="my-diagnosis.wav"),
            authorization="Bearer sesame",
        )
        await until(lambda: traces.requests)
        shown = "".join(span.to_json() for span in traces.all)
        for secret in ("sesame", "open-the-door", "my-diagnosis", answer.json()["text"]):
            assert secret not in shown


class StuckProcessor(SpanProcessor):
    """An exporter whose collector takes nothing."""

    def __init__(self) -> None:
        self.may_end = threading.Event()

    def shutdown(self) -> None:
        self.may_end.wait(20)


async def test_a_collector_that_hangs_does_not_hold_up_a_stop() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    stuck = StuckProcessor()
    provider.add_span_processor(stuck)
    tracing = Tracing(provider, time.monotonic, flush_s=0.05)
    async with asyncio.timeout(10):
        await tracing.close()
    stuck.may_end.set()


class Collector:
    """An OTLP/HTTP receiver on a socket, as far as traces go."""

    def __init__(self) -> None:
        self.requests: list[tuple[bytes, bytes]] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> "Collector":
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                (length,) = (
                    int(line.split(b":")[1])
                    for line in head.lower().split(b"\r\n")
                    if line.startswith(b"content-length")
                )
                self.requests.append((head.split(b"\r\n")[0], await reader.readexactly(length)))
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    def spans(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield each span's name with its resource's attributes."""
        for _, body in self.requests:
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                about = {a.key: a.value.string_value for a in resource.resource.attributes}
                for scope in resource.scope_spans:
                    for span in scope.spans:
                        yield span.name, about


@pytest.mark.parametrize("suffix", ["", "/", "/v1/traces"])
async def test_traces_reach_a_collector_by_the_end_of_the_process(suffix: str) -> None:
    async with Collector() as collector, serve_simulated(MODEL, time_scale=1000) as engine:
        async with running_router(engine, otel_endpoint=collector.url + suffix) as router:
            assert (await router.upload()).status_code == 200
        spans = dict(collector.spans())
        assert spans.keys() == {"POST /v1/audio/transcriptions", "queue", "attempt"}
        assert spans["attempt"]["service.name"] == "vllm-router"
        assert {line for line, _ in collector.requests} == {b"POST /v1/traces HTTP/1.1"}


async def test_only_the_part_asked_for_is_traced() -> None:
    async with Collector() as collector, serve_simulated(MODEL, time_scale=1000) as engine:
        settings = {"otel_endpoint": collector.url, "otel_sample_ratio": 0.0}
        async with running_router(engine, **settings) as router:
            await router.upload()
            await router.upload(traceparent=PARENT)
        # The client's decision goes before the router's.
        assert len([name for name, _ in collector.spans() if name.startswith("POST")]) == 1


async def test_the_environment_names_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ears")
    async with Collector() as collector, serve_simulated(MODEL, time_scale=1000) as engine:
        async with running_router(engine, otel_endpoint=collector.url) as router:
            await router.upload()
        assert {about["service.name"] for _, about in collector.spans()} == {"ears"}


async def test_a_collector_that_is_away_costs_requests_nothing() -> None:
    provider = TracerProvider(shutdown_on_exit=False)
    # Nobody may listen on port 0.
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter("http://127.0.0.1:0/")))
    tracing = Tracing(provider, time.monotonic, flush_s=0.0)
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=tracing) as router,
    ):
        assert (await router.upload()).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "environment", "endpoint"),
    [
        ([], {}, None),
        (["--otel-endpoint", "http://a:4318"], {}, "http://a:4318"),
        ([], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b:4318"}, "http://b:4318"),
        ([], {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b:4318", "OTEL_SDK_DISABLED": "true"}, None),
        (
            ["--otel-endpoint", "http://a:4318"],
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b:4318"},
            "http://a:4318",
        ),
        (
            [],
            {
                "VLLM_ROUTER_OTEL_ENDPOINT": "https://c/otlp",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://b:4318",
            },
            "https://c/otlp",
        ),
    ],
)
def test_traces_are_asked_for_by_flag_or_environment(
    arguments: list[str], environment: dict[str, str], endpoint: str | None
) -> None:
    settings = read_settings(["--static-backends", "http://127.0.0.1:9", *arguments], environment)
    assert settings.otel_endpoint == endpoint


@pytest.mark.parametrize("text", ["localhost:4318", "http://", "grpc://a:4317", "http://a:x"])
def test_a_collector_that_is_no_url_is_refused(text: str) -> None:
    with pytest.raises(WrongUse, match=r"^--otel-endpoint '.*' is not a URL such as"):
        read_settings(["--static-backends", "http://127.0.0.1:9", "--otel-endpoint", text], {})


def run_python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_the_extra_the_start_says_in_a_sentence_what_is_missing() -> None:
    done = run_python(
        "import sys\n"
        "sys.modules['opentelemetry.sdk'] = None\n"
        "from vllm_router.cli import main\n"
        "main(['--static-backends', 'http://127.0.0.1:9', '--host', '127.0.0.1', '--port', '0',"
        " '--otel-endpoint', 'http://127.0.0.1:9'])\n"
    )
    assert done.returncode == 2
    assert done.stderr == (
        "vllm-router: --otel-endpoint needs OpenTelemetry; install it with "
        "`pip install 'vllm-whisper-router[otel]'`.\n"
    )


def test_the_sdk_is_not_even_loaded_unless_asked_for() -> None:
    done = run_python(
        "import sys\n"
        "from vllm_router.app import run\n"
        "from vllm_router.app.build import build_router\n"
        "from vllm_router.settings import Settings\n"
        "router = build_router(Settings(static_backends=('http://127.0.0.1:9',)))\n"
        "assert router.tracing is None\n"
        "assert not any(name.startswith('opentelemetry.sdk') for name in sys.modules)\n"
    )
    assert done.returncode == 0, done.stderr


class Breaking(InMemorySpanExporter):
    """Breaks at its first spans."""

    has_broken = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        if not self.has_broken:
            self.has_broken = True
            raise ZeroDivisionError
        return super().export(spans)


async def test_sending_that_breaks_is_counted_and_costs_those_spans() -> None:
    breaking = Breaking()
    told: list[Exception] = []
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(GuardedExporter(breaking, told.append)))
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, tracing=Tracing(provider, time.monotonic)) as running,
    ):
        assert (await running.upload()).status_code == 200
        assert (await running.upload()).status_code == 200
        await until(breaking.get_finished_spans)
        assert provider.force_flush()
    assert [type(error) for error in told] == [ZeroDivisionError]

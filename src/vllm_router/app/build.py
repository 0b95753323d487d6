"""The composition root: builds and wires a router's parts from its settings, in one place."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from vllm_router.app.build_discovery import blaming, build_discovery
from vllm_router.app.machine import memory_bytes, usable_cpus
from vllm_router.app.operations import Operations
from vllm_router.app.routes import build_routes
from vllm_router.audio.channels import Channels
from vllm_router.audio.decoding.decoder import AudioDecoder, default_workers
from vllm_router.audio.length import MeasuredSeconds
from vllm_router.background import Background, BackgroundLoop
from vllm_router.discovery.source import Discovery
from vllm_router.formats.subtitles import SubtitleStyle
from vllm_router.observability.access_log import AccessLog
from vllm_router.observability.fleet_observer import FleetObserver
from vllm_router.observability.gauges import StateCollector
from vllm_router.observability.metrics import RouterMetrics
from vllm_router.observability.stats_table import RequestStats
from vllm_router.requests.access import Holder, KeyFile, KeyRing, digest
from vllm_router.requests.attempts import AttemptRunner
from vllm_router.requests.engine_wait import EngineWait
from vllm_router.requests.fanout import Fanout
from vllm_router.requests.handler import RouterService, UploadLimits
from vllm_router.requests.language_votes import LanguageFinder
from vllm_router.requests.measured_length import Lengths
from vllm_router.requests.options import StreamFormat
from vllm_router.requests.piece_call import PieceCaller
from vllm_router.requests.piece_transcriber import PieceTranscriber
from vllm_router.requests.relay import Relay
from vllm_router.requests.services import Services, TranscriptionRules
from vllm_router.requests.transcribe import Transcriber
from vllm_router.requests.word_counts import WordCounts
from vllm_router.scheduling.engine import EngineId, EngineState, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.quota import QuotaRules, Quotas
from vllm_router.scheduling.registry import FleetSettings
from vllm_router.server.cors import Cors
from vllm_router.server.listener import Listener, Patience
from vllm_router.settings import Settings
from vllm_router.spool.block_pool import BLOCK_BYTES
from vllm_router.spool.memory_budget import spool_memory_mib
from vllm_router.spool.upload import Spool
from vllm_router.upstream.call import Deadlines
from vllm_router.upstream.engine_watch import EngineWatch, WatchSettings
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.model_capabilities import ModelCapabilities
from vllm_router.upstream.probe import EngineInquiry

if TYPE_CHECKING:
    # Only for type checking: tracing needs an optional extra.
    from vllm_router.observability.tracing import Tracing

MIB = 2**20
#: Memory for waiting pieces of long audio; the excess goes to disk.
PIECES_MEMORY_BYTES = 32 * MIB
PIECES_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Router:
    """A router's parts.

    Attributes:
        listener: Creates the protocol for each client connection.
        service: Answers requests.
        dispatcher: Runs uploads on engines.
        discovery: Finds engines.
        watch: Probes engines and scrapes their metrics.
        stats: Recent answers of each engine.
        metrics: Counters and histograms.
        operations: Engines, metrics and draining, for the other routes.
        spools: Hold uploads, and pieces of long audio.
        decoder: Decodes long audio.
        clients: Connections to engines, for uploads and for probes.
        access_log: Receives one line per upload; None: no access log.
        key_file: Watched for changed keys; None: there is none.
        tracing: Creates traces; None: no tracing.
        background: Runs the background loops.
        now: Monotonic seconds.
    """

    listener: Listener
    service: RouterService
    dispatcher: AttemptRunner
    discovery: Discovery
    watch: EngineWatch
    stats: RequestStats
    metrics: RouterMetrics
    operations: Operations
    spools: tuple[Spool, ...]
    decoder: AudioDecoder
    clients: tuple[HttpClient, ...]
    access_log: AccessLog | None
    key_file: KeyFile | None
    tracing: Tracing | None
    background: Background
    now: Callable[[], float]


def build_tracing(
    settings: Settings, now: Callable[[], float], background: Background
) -> Tracing | None:
    """Return the tracer of requests; None: tracing is off.

    Raises:
        ValueError: OpenTelemetry is not installed.
    """
    if settings.otel_endpoint is None:
        return None
    try:
        # Imported only on demand: it needs an extra and takes a quarter of a second.
        from vllm_router.observability import tracing
    except ImportError as e:
        raise ValueError(
            "--otel-endpoint needs OpenTelemetry; install it with "
            "`pip install 'vllm-whisper-router[otel]'`."
        ) from e
    failed = partial(background.failed, BackgroundLoop.TRACES)
    return tracing.build_tracing(settings.otel_endpoint, settings.otel_sample_ratio, now, failed)


def _whole_part(bound: int, share: float) -> int:
    """Return a process's part of a count, rounded down so that the sum never exceeds it."""
    return max(1, int(bound * share + 1e-6))


def _part(bound: float | None, share: float) -> float | None:
    return None if bound is None else bound * share


def build_router(
    settings: Settings,
    *,
    share: float = 1.0,
    discovery: Discovery | None = None,
    tracing: Tracing | None = None,
    now: Callable[[], float] = time.monotonic,
    rng: Random | None = None,
) -> Router:
    """Wire a router. Needs no running event loop and opens no connections.

    Args:
        settings: The settings.
        share: This process's share of all limits, 1/N for each of N workers.
        discovery: Replaces the source in the settings.
        tracing: Replaces the tracing in the settings.
        now: Monotonic seconds.
        rng: Source of randomness for ties and jitter; secrets have their own.

    Raises:
        ValueError: The settings cannot be used; one sentence says why.
    """
    chance = rng or Random()  # noqa: S311
    discovery = discovery or build_discovery(settings, now, chance)
    metrics = RouterMetrics()
    background = Background(metrics.loop_failed, chance, now)
    tracing = tracing or build_tracing(settings, now, background)
    stats = RequestStats(settings.request_stats_window, now)
    limit = settings.engine_max_windows
    fleet = Fleet(
        FleetSettings(
            policy=settings.routing_logic,
            max_windows=None if limit == "auto" else limit,
            limit_share=share,
            max_queue_audio_s=settings.max_queue_audio_s * share,
            max_queue_wait_s=settings.max_queue_wait_s,
            engine_wait_s=settings.engine_wait_s,
            hedge_after_s=None if settings.hedge_after == "off" else settings.hedge_after,
        ),
        chance,
    )
    watches: list[EngineWatch] = []

    def on_change(transition: Transition) -> None:
        if transition.after is EngineState.GONE:
            stats.forget(transition.engine_id)
        for watch in watches:
            watch.changed(transition)

    def models_of(engine_id: EngineId) -> tuple[str, ...]:
        engine = fleet.engine(engine_id)
        return () if engine is None else engine.models

    def on_suspicion(engine_id: EngineId) -> None:
        for watch in watches:
            watch.look(engine_id)

    observer = FleetObserver(metrics, stats, models_of, on_change, on_suspicion)
    engine_wait = EngineWait(fleet, now, settings.engine_wait_s)
    dispatcher = AttemptRunner(fleet, now, observer, settings.max_attempts, engine_wait)
    engine_key = settings.engine_api_key
    key = engine_key.get_secret_value() if engine_key is not None else None
    tls = None
    if settings.engine_ca_file is not None:
        tls = ssl.create_default_context()
        with blaming("--engine-ca-file"):
            tls.load_verify_locations(settings.engine_ca_file)
    uploads, questions = HttpClient(tls), HttpClient(tls)
    inquiry = EngineInquiry(questions, key, settings.static_backend_health_check_timeout_seconds)

    def on_probe(engine_id: EngineId, seconds: float) -> None:
        metrics.probe_seconds.labels(engine_id).observe(seconds)

    watch = EngineWatch(
        fleet,
        inquiry,
        dispatcher.slots.engines_changed,
        on_probe,
        background,
        WatchSettings(
            settings.static_backend_health_check_interval,
            settings.engine_stats_interval,
            settings.static_backend_health_checks,
        ),
        now,
        chance,
    )
    watches.append(watch)
    memory_mb = settings.spool_memory_mb
    if memory_mb == "auto":
        memory_mb = spool_memory_mib(memory_bytes())
    spool = Spool(settings.spool_dir, int(memory_mb * MIB * share))
    # A separate spool, so that one long file does not push other clients' short clips to disk.
    pieces_bytes = max(PIECES_MEMORY_BYTES, PIECES_SHARE * memory_mb * MIB)
    pieces = Spool(settings.spool_dir, int(pieces_bytes * share))
    holders = tuple(
        Holder(f"key-{i}", digest(secret.get_secret_value()))
        for i, secret in enumerate(settings.api_key, 1)
    )
    keys = KeyRing(holders)
    quota_rules = QuotaRules(
        _part(settings.key_max_audio_s, share), _part(settings.key_audio_s_per_minute, share)
    )
    key_file = None
    if settings.api_key_file is not None:
        key_file = KeyFile(settings.api_key_file, keys, holders)
    admin_key = settings.admin_key
    admin = KeyRing(
        [Holder("admin", digest(admin_key.get_secret_value()))] if admin_key is not None else []
    )
    floors = Deadlines(
        settings.connect_timeout_s, settings.write_timeout_s, settings.read_timeout_s
    )

    def is_draining() -> bool:
        return service.is_draining

    capabilities = ModelCapabilities(fleet, dict(settings.model_capabilities), now)
    operations = Operations(
        fleet=fleet,
        aliases=dict(settings.static_aliases),
        capabilities=capabilities,
        keys=keys,
        admin=admin,
        registry=metrics.registry,
        status=discovery.status,
        is_draining=is_draining,
        now=now,
        changed=dispatcher.slots.changed,
        started_at=time.time(),
    )
    routes = build_routes(operations, settings.root_path)
    relay = Relay(uploads, floors, key)
    decode_workers = settings.decode_workers
    if decode_workers == "auto":
        decode_workers = default_workers(usable_cpus() * share)
    decoder = AudioDecoder(
        max_workers=decode_workers,
        max_audio_s=settings.max_audio_s,
        keeps_one_ready=settings.split != "off",
        vad=settings.vad,
    )

    quotas = Quotas(quota_rules)
    transcriber = _build_transcriber(
        settings, dispatcher, relay, capabilities, decoder, pieces, quotas, metrics
    )
    access_log = None
    if settings.access_log and settings.log_level in ("debug", "info"):
        lost = partial(metrics.loop_failed, BackgroundLoop.ACCESS_LOG.value)
        access_log = AccessLog(settings.log_format, sys.stderr, lost=lost)
    disk_bytes = int(settings.spool_max_mb * MIB * share)
    cors = Cors(settings.cors_origins)
    service = RouterService(
        app=routes,
        root_path=settings.root_path,
        fleet=fleet,
        transcriber=transcriber,
        spool=spool,
        limits=UploadLimits(int(settings.max_upload_mb * MIB), disk_bytes),
        aliases=dict(settings.static_aliases),
        keys=keys,
        cors=cors,
        quotas=quotas,
        metrics=metrics,
        access_log=access_log,
        tracing=tracing,
        clock=now,
        new_id=lambda: f"{chance.getrandbits(128):032x}",
    )
    patience = Patience(
        settings.client_head_timeout_s,
        settings.client_idle_timeout_s,
        settings.client_body_timeout_s,
    )
    # Receive buffers have the size of an upload's blocks, so that they can become blocks.
    max_connections = _whole_part(settings.max_connections, share)
    listener = Listener(service, patience, max_connections, BLOCK_BYTES, cors.early_headers)
    metrics.registry.register(
        StateCollector(
            fleet,
            (spool, pieces),
            disk_bytes,
            share,
            lambda: [discovery.status],
            lambda: len(listener.connections),
            now,
        )
    )
    return Router(
        listener=listener,
        service=service,
        dispatcher=dispatcher,
        discovery=discovery,
        watch=watch,
        stats=stats,
        metrics=metrics,
        operations=operations,
        spools=(spool, pieces),
        decoder=decoder,
        clients=(uploads, questions),
        access_log=access_log,
        key_file=key_file,
        tracing=tracing,
        background=background,
        now=now,
    )


def _build_transcriber(
    settings: Settings,
    dispatcher: AttemptRunner,
    relay: Relay,
    capabilities: ModelCapabilities,
    decoder: AudioDecoder,
    pieces: Spool,
    quotas: Quotas,
    metrics: RouterMetrics,
) -> Transcriber:
    def count_piece(outcome: str) -> None:
        metrics.pieces.labels(outcome).inc()

    def count_reheard(model: str, reason: str, seconds: float) -> None:
        metrics.reheard_seconds.labels(model, reason).inc(seconds)

    def count_dropped(reason: str, words: int) -> None:
        metrics.dropped_words.labels(reason).inc(words)

    def count_empty(model: str) -> None:
        metrics.empty_transcripts.labels(model).inc()

    counts = WordCounts(count_reheard, count_dropped, count_empty)
    languages = LanguageFinder()
    caller = PieceCaller(dispatcher, relay, capabilities)

    def correct(holder: str, charged_s: float, true_s: MeasuredSeconds) -> None:
        quotas.correct(holder, charged_s, true_s, dispatcher.now())
        metrics.key_audio_seconds.labels(holder).inc(true_s)

    fanout = Fanout(PieceTranscriber(caller, languages, counts), decoder, pieces, count_piece)
    return Transcriber(
        Services(
            dispatcher,
            relay,
            fanout,
            TranscriptionRules(
                split=settings.split,
                split_longer_than_s=settings.split_longer_than_s,
                skip_silence=settings.skip_silence,
                verifies=settings.verify and settings.vad != "off" and settings.split != "off",
                partial_ok=settings.partial_ok,
                channels=Channels(settings.channels),
                stream_format=StreamFormat(settings.stream_format),
                style=SubtitleStyle(settings.subtitle_max_line_chars, settings.subtitle_max_lines),
                session_header=settings.session_key.lower().encode()
                if settings.session_key
                else None,
            ),
            capabilities,
            counts,
            languages,
            Lengths(fanout.length_s, correct),
        )
    )

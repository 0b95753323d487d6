"""What the sockets serve: upload routes on the direct path, every other route by the ASGI
application.

Checks what can be checked before a body is read, turns a whole upload into an answer, and writes
metrics and one log line when a request has ended, whichever way. Never logs audio, prompts, words
or keys.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from vllm_router.audio.bitrate import BitrateBook
from vllm_router.audio.length import MeasuredSeconds
from vllm_router.errors import (
    Forbidden,
    MethodNotAllowed,
    RateLimited,
    RouterError,
    ShuttingDown,
    UnreadableAudio,
    WrongKey,
)
from vllm_router.observability.access_log import AccessLog
from vllm_router.observability.counters import CounterValue, HistogramValue
from vllm_router.observability.metrics import RouterMetrics, length_label
from vllm_router.observability.request_record import RequestRecord
from vllm_router.observability.stats_table import RequestStats
from vllm_router.requests.access import KeyRing
from vllm_router.requests.receive import UploadReceiver
from vllm_router.requests.transcribe import Transcriber
from vllm_router.requests.transcription_request import Task, read_transcription_request
from vllm_router.scheduling.engine import EngineId, EngineState, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.quota import Quotas
from vllm_router.scheduling.work import Charge, OutcomeKind, Ticket, Urgency
from vllm_router.server.asgi import ASGIApp, serve_asgi
from vllm_router.server.cors import Cors
from vllm_router.server.exchange import Exchange
from vllm_router.server.head import RequestHead
from vllm_router.spool.upload import Spool

if TYPE_CHECKING:
    # Not otherwise: it needs an extra.
    from vllm_router.observability.tracing import Tracing

log = logging.getLogger("vllm_router")

UPLOAD_ROUTES: Final = {
    f"/v1/audio/{task.value}{slash}": task for task in Task for slash in ("", "/")
}
#: Beneath it are the routes that drain engines: no page has any business there.
ADMIN_PREFIX: Final = "/engines/"
#: nginx's status for a client that left; it is only ever seen in metrics and logs.
CLIENT_LEFT: Final = 499
#: What an engine that was ready becomes when its answers or its probes fail.
_TAKEN_OUT: Final = frozenset({EngineState.EJECTED, EngineState.PROBING})
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Bounds of uploads.

    Attributes:
        upload_bytes: The largest taken.
        disk_bytes: What all together may have on disk.
    """

    upload_bytes: int
    disk_bytes: int


class RouterService:
    """Serves one process's requests; see `server.listener.Service`.

    Args:
        app: The ASGI application for all routes but uploads.
        root_path: Where a proxy in front has mounted the router.
        fleet: Knows which models there are.
        transcriber: Answers uploads.
        spool: Holds them.
        limits: Bounds them.
        aliases: Further names of models.
        keys: Who may ask.
        cors: Which pages may ask.
        quotas: How much each may ask.
        metrics: What is counted.
        access_log: Gets a line for each upload; None: none is written.
        tracing: Makes a trace of each upload; None: none is made.
        clock: Monotonic seconds.
        new_id: Makes request ids.
    """

    def __init__(
        self,
        *,
        app: ASGIApp,
        root_path: str,
        fleet: Fleet,
        transcriber: Transcriber,
        spool: Spool,
        limits: UploadLimits,
        aliases: Mapping[str, str],
        keys: KeyRing,
        cors: Cors,
        quotas: Quotas,
        metrics: RouterMetrics,
        access_log: AccessLog | None,
        tracing: Tracing | None,
        clock: Callable[[], float],
        new_id: Callable[[], str],
    ) -> None:
        self._app = app
        self._root_path = root_path.rstrip("/")
        self._fleet = fleet
        self._transcriber = transcriber
        self._spool = spool
        self._limits = limits
        self._aliases = aliases
        self._keys = keys
        self._cors = cors
        self._quotas = quotas
        self._metrics = metrics
        self._access_log = access_log
        self._tracing = tracing
        self._new_id = new_id
        self._bitrates = BitrateBook()
        self._counted: dict[tuple[str, str, int], CounterValue] = {}
        self._timed: dict[
            tuple[str, str], tuple[HistogramValue, HistogramValue, HistogramValue, CounterValue]
        ] = {}
        self.now = clock
        self.is_draining = False
        self.is_refusing = False
        self.in_flight = 0

    # --- before the body

    def open_intake(self, exchange: Exchange) -> UploadReceiver | None:
        """Return where an upload goes; see `server.listener.Service`."""
        head = exchange.head
        path = self._route_path(head)
        task = UPLOAD_ROUTES.get(path)
        cors = self._cors.headers(head.fields.get(b"origin"))
        if task is None or (head.method == "OPTIONS" and self._cors.is_preflight(head)):
            if not _is_admin(path):
                exchange.extra = list(cors)
            return None
        self.in_flight += 1
        given = head.fields.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            request_id = given.decode("ascii")
        else:
            request_id = self._new_id()
        exchange.record = RequestRecord(request_id, task)
        if self._tracing is not None:
            exchange.record.trace = self._tracing.request(exchange, exchange.record)
        exchange.extra = [(b"x-request-id", request_id.encode()), *cors]
        if head.method != "POST":
            exchange.extra.append((b"allow", b"POST"))
            raise MethodNotAllowed(f"Send the audio to /v1/audio/{task.value} with POST.")
        if self.is_refusing:
            raise ShuttingDown("The router is shutting down; try again.", retry_after_s=1)
        if not self._keys.is_open:
            exchange.record.holder = self._holder(exchange)
        return UploadReceiver(
            self._spool,
            head.fields.get(b"content-type", b""),
            head.content_length,
            self._limits.upload_bytes,
            self._limits.disk_bytes,
        )

    def _route_path(self, head: RequestHead) -> str:
        path = head.path
        if self._root_path and path.startswith(self._root_path + "/"):
            path = path[len(self._root_path) :]
        return path

    def _holder(self, exchange: Exchange) -> str:
        authorization = exchange.head.header(b"authorization")
        holder = self._keys.holder(authorization)
        if holder is None:
            exchange.extra.append((b"www-authenticate", b"Bearer"))
            state = "missing" if authorization is None else "not known"
            raise WrongKey(f"Send a valid key as 'Authorization: Bearer KEY'; it is {state}.")
        return holder.name

    # --- after it

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer a request that brings no upload."""
        head = exchange.head
        if self._cors.is_preflight(head) and not _is_admin(self._route_path(head)):
            # It brings no key and needs no engine: the browser asks before the page may.
            origin = head.header(b"origin") or b""
            if not self._cors.allows(origin):
                shown = origin[:200].decode("latin-1")
                raise Forbidden(f"Pages of the origin '{shown}' are not among --cors-origins.")
            exchange.respond(204, self._cors.preflight_headers(head))
            return
        await serve_asgi(self._app, exchange, body, self._root_path)

    async def answer_upload(self, exchange: Exchange, intake: Any) -> None:
        """Answer a request whose upload has come whole."""
        record: RequestRecord = exchange.record
        try:
            form = await intake.form()
            record.whole_at = self.now()
            request = read_transcription_request(
                record.task,
                form,
                intake.upload,
                self._fleet.models(),
                self._aliases,
                self._bitrates,
            )
            record.model, record.audio_s = request.model, request.measured_s
            if request.damage is not None:
                record.damaged((request.damage,))
            if record.holder is not None:
                # Reserved, until the length has been measured.
                self._charge(record.holder, request.hint.seconds)
                record.charged_s = request.hint.seconds
            await self._transcriber.answer(exchange, request, intake.upload, record)
            if request.measured_s is None and record.audio_s is not None:
                size_bytes = request.file.end - request.file.start
                self._bitrates.observe(request.kind, size_bytes, record.audio_s)
        except RouterError as e:
            record.error = e.code
            if isinstance(e, UnreadableAudio) and record.audio_s is None:
                record.audio_s = MeasuredSeconds(0.0)
            raise

    def _charge(self, holder: str, audio_s: float) -> None:
        wait_s = self._quotas.take(holder, audio_s, self.now())
        if wait_s is not None:
            raise RateLimited(
                "This key has used up its share of audio for now.", retry_after_s=wait_s
            )

    # --- when it is over

    def failed(self, exchange: Exchange, error: Exception) -> RouterError:
        """Log a fault of our own and return what the client is told."""
        log.error("a fault of the router at %r", exchange, exc_info=error)
        return RouterError("The router failed at this request; it has been logged.")

    def finished(self, exchange: Exchange) -> None:
        """Count a request that has ended, and write its line."""
        record: RequestRecord | None = exchange.record
        if record is None:
            return
        self.in_flight -= 1
        # Much is refused while the body is still coming, where nobody knows of stories.
        record.error = record.error or exchange.refusal
        if record.holder is not None and record.charged_s is not None:
            self._quotas.give_back(record.holder, record.charged_s)
        now = self.now()
        if record.holder is not None and record.charged_s is not None:
            self._correct(record, record.holder, record.charged_s, now)
        total_s = now - exchange.started_at
        status = CLIENT_LEFT if exchange.has_left or not exchange.status else exchange.status
        self._metrics.upload_bytes.inc(exchange.received_bytes)
        # A member's value and its hash are both looked up by Python code; its text is not.
        route = str(record.task)
        key = (record.model, route, status)
        counted = self._counted.get(key)
        if counted is None:
            counted = self._metrics.requests.labels(record.model, route, str(status))
            self._counted[key] = counted
        counted.inc()
        if status == 200 and record.audio_s is not None:
            self._time(exchange, record, record.audio_s, now)
        if record.holder is not None:
            self._metrics.key_requests.labels(record.holder, str(status)).inc()
            # What is only reserved is counted once it has been measured.
            used_s = 0.0
            if record.charged_s is not None and record.audio_s is not None:
                used_s = record.audio_s * record.channels
            self._metrics.key_audio_seconds.labels(record.holder).inc(used_s)
        if self._access_log is not None:
            self._access_log.write(exchange, record, status, total_s)
        if record.trace is not None:
            record.trace.end(exchange, record, status)

    def _correct(self, record: RequestRecord, holder: str, charged_s: float, now: float) -> None:
        if record.audio_s is None:
            return
        # Each channel is as much work as an upload of its length.
        true_s = record.audio_s * record.channels
        if true_s != charged_s:
            self._quotas.correct(holder, charged_s, true_s, now)
            record.charged_s = true_s

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


def _is_admin(path: str) -> bool:
    return path.startswith(ADMIN_PREFIX) and path != ADMIN_PREFIX


class FleetObserver:
    """Counts what happens to engines and work, and logs engines' flips.

    Args:
        metrics: What is counted.
        stats: What engines answered of late.
        models: Tells which models an engine serves.
        on_change: Called for each transition, so that who watches an engine can look at once.
        on_suspicion: Called for an engine that may hang, for the same reason.
    """

    def __init__(
        self,
        metrics: RouterMetrics,
        stats: RequestStats,
        models: Callable[[EngineId], Iterable[str]],
        on_change: Callable[[Transition], None],
        on_suspicion: Callable[[EngineId], None],
    ) -> None:
        self._metrics = metrics
        self._stats = stats
        self._models = models
        self._on_change = on_change
        self._on_suspicion = on_suspicion
        self._attempts: dict[tuple[EngineId, OutcomeKind], CounterValue] = {}
        self._waits: dict[tuple[str, Urgency], HistogramValue] = {}
        self._done: dict[EngineId, tuple[CounterValue, CounterValue]] = {}

    def attempted(self, charge: Charge, outcome: OutcomeKind, seconds: float) -> None:
        """One attempt on an engine has ended."""
        engine_id = charge.engine_id
        counter = self._attempts.get((engine_id, outcome))
        if counter is None:
            counter = self._metrics.attempts.labels(engine_id, outcome.value)
            self._attempts[engine_id, outcome] = counter
        counter.inc()
        if outcome is OutcomeKind.OK:
            done = self._done.get(engine_id)
            if done is None:
                metrics = self._metrics
                done = self._done[engine_id] = (
                    metrics.engine_audio_seconds.labels(engine_id),
                    metrics.engine_windows.labels(engine_id),
                )
            audio, windows = done
            audio_s = charge.audio_s if charge.measured_s is None else charge.measured_s
            audio.inc(audio_s)
            windows.inc(charge.windows)
            self._stats.note(engine_id, seconds, audio_s)

    def waited(self, ticket: Ticket, seconds: float) -> None:
        """A ticket has left the queue for an engine."""
        key = (ticket.model, ticket.urgency)
        wait = self._waits.get(key)
        if wait is None:
            wait = self._metrics.queue_wait_seconds.labels(ticket.model, ticket.urgency.value)
            self._waits[key] = wait
        wait.observe(seconds)

    def repeated(self, ticket: Ticket) -> None:
        """A ticket goes to a further engine."""
        self._metrics.retries.inc()

    def hedged(self, *, is_won: bool) -> None:
        """Work was sent to a second engine too, which answered first or not."""
        self._metrics.hedges.labels("second" if is_won else "first").inc()

    def suspected(self, engine_id: EngineId) -> None:
        """A call to an engine is overdue."""
        self._on_suspicion(engine_id)

    def changed(self, transition: Transition) -> None:
        """An engine has changed its state."""
        log.warning(
            "engine %s: %s -> %s (%s)",
            transition.engine_id,
            transition.before.value,
            transition.after.value,
            transition.why,
        )
        engine_id, after = transition.engine_id, transition.after
        if after is EngineState.READY:
            self._metrics.expect(engine_id, self._models(engine_id))
        elif transition.before is EngineState.READY and after in _TAKEN_OUT:
            self._metrics.ejections.labels(engine_id).inc()
        elif after is EngineState.GONE:
            self._forget(engine_id)
        self._on_change(transition)

    def _forget(self, engine_id: EngineId) -> None:
        self._done.pop(engine_id, None)
        for key in [key for key in self._attempts if key[0] == engine_id]:
            del self._attempts[key]
        self._metrics.forget(engine_id)

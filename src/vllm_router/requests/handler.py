"""The service behind the sockets: uploads take the direct path, all other routes the ASGI
application.

Checks whatever it can before reading a body, answers complete uploads, and records metrics and one
log line when a request ends, however it ends. Never logs audio, prompts, transcripts or keys.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping
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
from vllm_router.observability.metrics import RouterMetrics
from vllm_router.observability.request_metrics import RequestMetrics
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.access import KeyRing
from vllm_router.requests.receive import UploadReceiver
from vllm_router.requests.transcribe import Transcriber
from vllm_router.requests.transcription_request import read_transcription_request
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.quota import Quotas
from vllm_router.server.asgi import ASGIApp, serve_asgi
from vllm_router.server.cors import Cors
from vllm_router.server.exchange import Exchange
from vllm_router.server.head import RequestHead
from vllm_router.spool.upload import Spool

if TYPE_CHECKING:
    # Only for type checking: tracing needs an optional extra.
    from vllm_router.observability.tracing import Tracing

log = logging.getLogger("vllm_router")

UPLOAD_ROUTES: Final = {
    f"/v1/audio/{task.value}{slash}": task for task in Task for slash in ("", "/")
}
#: Prefix of the routes that drain engines. Web pages never get access to them.
ADMIN_PREFIX: Final = "/engines/"
#: nginx's status for a client that disconnected; appears only in metrics and logs.
CLIENT_LEFT: Final = 499
_REQUEST_ID: Final = re.compile(rb"[\x21-\x7e]{1,128}")


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Limits on uploads.

    Attributes:
        upload_bytes: Maximum size of one upload.
        disk_bytes: Maximum disk space for all uploads together.
    """

    upload_bytes: int
    disk_bytes: int


class RouterService:
    """Serves one process's requests; see `server.listener.Service`.

    Args:
        app: The ASGI application for all routes except uploads.
        root_path: Path prefix under which a proxy serves the router.
        fleet: Knows the models served.
        transcriber: Answers uploads.
        spool: Holds uploads.
        limits: Limits on uploads.
        aliases: Aliases of models.
        keys: Valid API keys.
        cors: Web origins allowed.
        quotas: Quota of each key.
        metrics: Receives counts and times.
        access_log: Receives one line per upload; None: no access log.
        tracing: Traces uploads; None: no tracing.
        clock: Monotonic seconds.
        new_id: Generates request IDs.
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
        self._request_metrics = RequestMetrics(metrics)
        self._access_log = access_log
        self._tracing = tracing
        self._new_id = new_id
        self._bitrates = BitrateBook()
        self.now = clock
        self.is_draining = False
        self.is_refusing = False
        self.in_flight = 0

    # --- before the body is read

    def open_intake(self, exchange: Exchange) -> UploadReceiver | None:
        """Return the receiver for an upload; see `server.listener.Service`."""
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
            state = "missing" if authorization is None else "unknown"
            raise WrongKey(f"Send a valid key as 'Authorization: Bearer KEY'; the key is {state}.")
        return holder.name

    # --- after the body is complete

    async def answer(self, exchange: Exchange, body: bytes) -> None:
        """Answer a request that is not an upload."""
        head = exchange.head
        if self._cors.is_preflight(head) and not _is_admin(self._route_path(head)):
            # It carries no key and needs no engine: the browser asks before the page may.
            origin = head.header(b"origin") or b""
            if not self._cors.allows(origin):
                shown = origin[:200].decode("latin-1")
                raise Forbidden(f"The origin '{shown}' is not listed in --cors-origins.")
            exchange.respond(204, self._cors.preflight_headers(head))
            return
        await serve_asgi(self._app, exchange, body, self._root_path)

    async def answer_upload(self, exchange: Exchange, intake: Any) -> None:
        """Answer a request whose upload is complete."""
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
                # Reserved until the length has been measured.
                reserved_s = self._transcriber.reserved_seconds(request, intake.upload)
                self._charge(record.holder, reserved_s)
                record.charged_s = reserved_s
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
            raise RateLimited("This key has used up its audio quota for now.", retry_after_s=wait_s)

    # --- when the request has ended

    def failed(self, exchange: Exchange, error: Exception) -> RouterError:
        """Log a fault in the router and return the client's error."""
        log.error("a fault of the router at %r", exchange, exc_info=error)
        return RouterError("An internal error occurred in the router and was logged.")

    def finished(self, exchange: Exchange) -> None:
        """Count a request that has ended, and write its log line."""
        record: RequestRecord | None = exchange.record
        if record is None:
            return
        self.in_flight -= 1
        # Many requests are refused while the body arrives, before the handler sees them.
        record.error = record.error or exchange.refusal
        if record.holder is not None and record.charged_s is not None:
            self._quotas.give_back(record.holder, record.charged_s)
        now = self.now()
        if record.holder is not None and record.charged_s is not None:
            self._correct(record, record.holder, record.charged_s, now)
        total_s = now - exchange.started_at
        status = CLIENT_LEFT if exchange.has_left or not exchange.status else exchange.status
        self._request_metrics.ended(exchange, record, status, now)
        if self._access_log is not None:
            self._access_log.write(exchange, record, status, total_s)
        if record.trace is not None:
            record.trace.end(exchange, record, status)

    def _correct(self, record: RequestRecord, holder: str, charged_s: float, now: float) -> None:
        if record.audio_s is None:
            return
        # Each channel costs as much work as an upload of its length.
        true_s = record.audio_s * record.channels
        if true_s != charged_s:
            self._quotas.correct(holder, charged_s, true_s, now)
            record.charged_s = true_s


def _is_admin(path: str) -> bool:
    return path.startswith(ADMIN_PREFIX) and path != ADMIN_PREFIX

"""The simulated engine: vLLM's routes, with faults and a log of requests.

Both are reached in process, or over HTTP: GET and POST /simulate/faults, GET and
DELETE /simulate/log.
"""

import asyncio
import dataclasses
import json
import random
from collections.abc import Callable, Mapping
from urllib.parse import parse_qs

from tests.fake_engine.api import AUDIO_ROUTES, Api, PlainBody
from tests.fake_engine.curve import Curve, CurveShape
from tests.fake_engine.exchange import Body, Exchange, Shape
from tests.fake_engine.faults import Faults, FaultsError, read_faults
from tests.fake_engine.multipart import FormReader
from tests.fake_engine.request_log import LoggedRequest, RequestLog
from tests.fake_engine.words import SimulatedWords

from vllm_router.local.errors import MAX_AUDIO_S, ApiError
from vllm_router.local.responses import models_body


class SimulatedEngine:
    """The routes of a simulated engine, with its faults and its log of requests.

    Args:
        model: The name served.
        audio_seconds: Reads a container's length.
        shape: Parameters of the service curve.
        time_scale: Simulated seconds that pass in one real second.
        max_running: Windows in service at the same time; more wait.
        cache_windows: Windows that the KV cache holds; more wait as well.
        max_audio_s: Longer audio is refused.
        api_key: Required on /v1 routes.
        ranks: Data-parallel ranks in /metrics.
        faults: Shown from the start.
        rng: Decides which requests a `rate` strikes.
    """

    def __init__(
        self,
        model: str,
        audio_seconds: Callable[[bytes, int, bytes], float | None],
        *,
        shape: CurveShape | None = None,
        time_scale: float = 1.0,
        max_running: int = 256,
        cache_windows: int = 256,
        max_audio_s: float = MAX_AUDIO_S,
        api_key: str | None = None,
        ranks: int = 1,
        faults: Faults | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self._time_scale = time_scale
        self.curve = Curve(shape, time_scale, min(max_running, cache_windows))
        source = SimulatedWords(self.curve, audio_seconds, self._count_queued, max_audio_s)
        self.api = Api(source, model, api_key, ranks=ranks)
        self.api.cache_windows = cache_windows
        self.log = RequestLog()
        self.faults = Faults()
        self.on_refuse: Callable[[bool], None] | None = None
        self._times_left: int | None = None
        self._rng = rng or random.Random(0)
        self._loop = asyncio.get_running_loop()
        self.order(faults or Faults())

    def order(self, faults: Faults) -> None:
        """Show these faults from now on; requests in progress keep theirs."""
        self.faults = faults
        self._times_left = faults.times
        self.curve.set_speed(0.0 if faults.sleeping else self._time_scale * faults.speed)
        if self.on_refuse is not None:
            self.on_refuse(faults.refuse)

    # What a connection calls

    def begin(self, exchange: Exchange) -> Body:
        """Log the request and decide which faults strike it."""
        head = exchange.head
        if head.path.startswith("/simulate/"):
            return PlainBody()
        note = LoggedRequest(head, self._loop.time())
        faults = self._strike(head.path)
        exchange.note = (note, faults)
        self.log.add(note)
        if faults is not None:
            exchange.reset_upload_at = faults.reset_upload_at
            if faults.reset_upload_at is not None:
                note.outcome = "reset_upload_at"
            if faults.hang == "upload":
                note.outcome = "hang"
                exchange.connection.pause()
        return self.api.begin(exchange, self._marker())

    def left(self, exchange: Exchange) -> None:
        """Note that the client left."""
        if exchange.note is None:
            return
        note, _ = exchange.note
        note.ended_at = self._loop.time()
        note.body_bytes = exchange.body_bytes
        if note.outcome in ("arriving", "answering"):
            note.outcome = "client left"
        self.api.left(exchange)

    async def answer(self, exchange: Exchange) -> None:
        """Answer a request, subject to its faults."""
        if exchange.note is None:
            await self._answer_simulate(exchange)
            return
        note, faults = exchange.note
        note.body_bytes = exchange.body_bytes
        note.outcome = "answering"
        if isinstance(exchange.body, FormReader):
            note.parts = tuple(exchange.body.parts)
        try:
            if faults is None or not await self._spoil(exchange, faults, note):
                await self._answer_as_ordered(exchange)
                note.outcome = str(exchange.status)
        finally:
            note.ended_at = self._loop.time()
            # The log of thousands of requests must not hold their audio.
            for part in note.parts:
                part.forget_content()

    # Faults

    def _strike(self, path: str) -> Faults | None:
        """Return the faults that strike this request, and count it."""
        faults = self.faults
        if not faults.everywhere and path not in AUDIO_ROUTES:
            return None
        if self._times_left is not None:
            if self._times_left <= 0:
                return None
            self._times_left -= 1
        return faults

    def _marker(self) -> bytes:
        return (self.faults.poison or "").encode()

    async def _spoil(self, exchange: Exchange, faults: Faults, note: LoggedRequest) -> bool:
        """Show the faults that precede a response; return True if they replace it."""
        if faults.delay_s:
            await asyncio.sleep(faults.delay_s)
        if faults.hang in ("answer", "upload"):
            note.outcome = "hang"
            await exchange.hang()
        if self._is_poisonous(faults, note):
            note.outcome = "poison"
            await self._fail(exchange, 500)
            return True
        if faults.status is not None and self._rng.random() < faults.rate:
            note.outcome = str(faults.status)
            await self._fail(exchange, faults.status)
            return True
        if faults.garbage:
            note.outcome = "garbage"
            await exchange.send_raw(b"\x16\x03\x01\x00 this is not HTTP\r\n\r\n" * 8)
            return True
        if faults.bad_body:
            note.outcome = "bad_body"
            await exchange.respond(200, b'{"text": "cut of')
            return True
        exchange.shape = _shape(faults)
        return False

    def _is_poisonous(self, faults: Faults, note: LoggedRequest) -> bool:
        digest = faults.poison_sha256
        return any(
            part.is_marked or (digest is not None and part.sha256 == digest)
            for part in note.parts
            if part.is_file
        )

    async def _fail(self, exchange: Exchange, status: int) -> None:
        error = ApiError(status, "a fault was ordered", "InternalServerError")
        await exchange.respond_json(status, error.body())

    async def _answer_as_ordered(self, exchange: Exchange) -> None:
        """Answer truthfully, except on routes that are ordered to lie."""
        faults, path = self.faults, exchange.head.path
        if path == "/health" and faults.health_status is not None:
            await exchange.respond(faults.health_status)
        elif path == "/v1/models" and faults.models is not None:
            await exchange.respond_json(200, models_body(faults.models, 0))
        elif path == "/metrics" and faults.metrics is not None:
            await exchange.respond(200, faults.metrics.encode(), "text/plain; version=0.0.4")
        elif path == "/metrics":
            await self.api.respond_metrics(exchange, is_sleeping=faults.sleeping)
        else:
            await self.api.answer(exchange)

    # Routes of the simulation itself

    async def _answer_simulate(self, exchange: Exchange) -> None:
        head = exchange.head
        if head.path == "/simulate/faults" and head.method == "POST":
            body = exchange.body
            try:
                order = json.loads((body.data if isinstance(body, PlainBody) else b"") or b"{}")
                if not isinstance(order, Mapping):
                    raise FaultsError("an order is a JSON object")
                self.order(read_faults(order))
            except ValueError as error:
                await exchange.respond_json(400, ApiError(400, str(error)).body())
                return
            await exchange.respond_json(200, self.faults.to_json())
        elif head.path == "/simulate/faults":
            await exchange.respond_json(200, self.faults.to_json())
        elif head.path == "/simulate/log" and head.method == "DELETE":
            self.log.clear()
            await exchange.respond(204)
        elif head.path == "/simulate/log":
            query = parse_qs(head.query)
            limit = query.get("limit", ["100"])[0]
            if limit.isdecimal() and int(limit) > 0:
                found = self._logged(query.get("path", [""])[0], int(limit))
                await exchange.respond_json(200, found)
            else:
                refusal = ApiError(400, "limit must be a number over 0")
                await exchange.respond_json(400, refusal.body())
        else:
            await exchange.respond_json(404, ApiError(404, "Not Found", "Not Found").body())

    def _logged(self, path: str, limit: int) -> list[dict[str, object]]:
        found = [one for one in self.log if not path or one.path == path]
        return [one.to_json() for one in found[-limit:]]

    def _count_queued(self, waited_s: float) -> None:
        self.api.figures.queued.observe(waited_s)


def _shape(faults: Faults) -> Shape | None:
    shape = Shape(
        bytes_per_s=faults.answer_bytes_per_s,
        cut_at=faults.cut_answer_at,
        cut_by_reset=faults.cut_by == "reset",
        # After the headers of any response, before the end of its body.
        hang_at=200 if faults.hang == "body" else None,
        length_off_by=faults.length_off_by,
        padding_bytes=faults.header_bytes,
    )
    return None if shape == Shape() else dataclasses.replace(shape)

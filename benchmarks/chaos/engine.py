"""`python -m benchmarks.chaos.engine`: a simulated engine that can also answer before it has read.

Orders besides those that every simulated engine takes:

- POST /simulate/early `{"share": 0.5}`: that part of the large uploads gets an early answer. The
  engine makes its receive buffer smaller, reads some of it, answers 503 or begins a stream of
  events, and then reads in sips whatever still comes. Each byte of a marked upload is checked, and
  the finding printed, one line for each upload, so that it outlives the process.
- POST /simulate/models `{"body": "…"}`: /v1/models answers that; without a body, the truth again.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import sys
from typing import Any, cast

import uvloop
from benchmarks.chaos.uploads import MARK, foreign_bytes
from tests.fake_engine.api import AUDIO_ROUTES, PlainBody
from tests.fake_engine.engine import SimulatedEngine
from tests.fake_engine.exchange import Body, Exchange
from tests.fake_engine.serving import KEEP_ALIVE_S, SimulatedHandle

from vllm_router.audio.duration import audio_seconds

#: Smaller uploads fit into the kernel's buffers: there would be no back-pressure.
EARLY_FROM_BYTES = 100_000
#: Where an engine stops to answer; routers send a spooled upload in pieces of 128 KiB.
_STOPS = (1, 4096, 65_536, 131_072, 262_144)
#: Uploads without a mark are struck less often: nothing can be told of what came of them.
_UNMARKED = 0.2
_SIPS = 20
#: Part of the requests whose connection ends with the answer: over one that has been quick before,
#: the sender's kernel takes megabytes, and nothing is left to hold back.
_CLOSING = 0.1
#: How long a stream that was begun too early lasts before it breaks off.
_STREAM_S = 1.0
_BUSY = b'{"error":{"message":"too busy to read","type":"ServiceUnavailableError","code":503}}'
_REFUSAL = (
    b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n"
    b"content-length: %d\r\n\r\n%b" % (len(_BUSY), _BUSY)
)
_STREAM = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
    b"transfer-encoding: chunked\r\n\r\n9\r\n: early\n\n\r\n"
)


class EarlyBody:
    """An upload that is answered before it has been read.

    Args:
        exchange: The request.
        stop_at: Bytes to read before the answer.
        rng: Paces the reading.
    """

    def __init__(self, exchange: Exchange, stop_at: int, rng: random.Random) -> None:
        self.data = bytearray()
        self.is_stream = False
        self._exchange = exchange
        self._stop_at = stop_at
        self._rng = rng
        self._task: asyncio.Task[None] | None = None
        self._is_judged = False
        self._transport = cast(asyncio.Transport, cast(Any, exchange.connection)._transport)
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)

    def feed(self, data: bytes) -> None:
        """Take in bytes, and answer once it is time."""
        self.data += data
        if self._task is None and len(self.data) >= self._stop_at:
            self.is_stream = b'name="stream"\r\n\r\ntrue' in self.data
            self._transport.pause_reading()
            self._task = asyncio.get_running_loop().create_task(self._answer())

    async def _answer(self) -> None:
        connection = self._exchange.connection
        await connection.write(_STREAM if self.is_stream else _REFUSAL)
        for _ in range(_SIPS):
            await asyncio.sleep(self._rng.uniform(0.005, 0.05))
            if self._transport.is_closing():
                return
            self._transport.resume_reading()
            await asyncio.sleep(0)
            self._transport.pause_reading()
        self._transport.resume_reading()
        await asyncio.sleep(_STREAM_S)
        connection.reset()

    def judge(self) -> None:
        """Print what came, once."""
        if self._is_judged or self._task is None:
            return
        self._is_judged = True
        name = (self._exchange.head.header(b"x-request-id") or b"").decode("latin-1")
        kind = "stream" if self.is_stream else "503"
        found = foreign_bytes(bytes(self.data), name)
        verdict = "unmarked" if found is None else f"FOREIGN: {found}" if found else "own"
        print(f"early {kind} at {self._stop_at}, {len(self.data)} bytes of {name}: {verdict}")
        sys.stdout.flush()


class ChaosEngine(SimulatedEngine):
    """A simulated engine that takes the orders above as well."""

    early_share = 0.0
    models_body: bytes | None = None

    def begin(self, exchange: Exchange) -> Body:
        """Decide whether the request is answered early."""
        body = super().begin(exchange)
        head = exchange.head
        length = int(head.header(b"content-length") or 0)
        share = self.early_share * (1.0 if head.header(MARK) else _UNMARKED)
        if (
            share
            and head.path in AUDIO_ROUTES
            and length >= EARLY_FROM_BYTES
            and self._rng.random() < share
        ):
            stop_at = min(length, self._rng.choice((*_STOPS, length // 2, length)))
            return EarlyBody(exchange, stop_at, self._rng)
        return body

    async def _answer_as_ordered(self, exchange: Exchange) -> None:
        if self._rng.random() < _CLOSING and exchange.head.path in AUDIO_ROUTES:
            exchange.is_keep_alive = False
        await super()._answer_as_ordered(exchange)

    def left(self, exchange: Exchange) -> None:
        """Judge what came of an upload that was answered early."""
        if isinstance(exchange.body, EarlyBody):
            exchange.body.judge()
        super().left(exchange)

    async def answer(self, exchange: Exchange) -> None:
        """Judge an upload that was answered early and came whole all the same."""
        if isinstance(exchange.body, EarlyBody):
            exchange.body.judge()
            if exchange.body.is_stream:
                await asyncio.sleep(_STREAM_S)
                exchange.connection.reset()
            exchange.is_keep_alive = False
            return
        if exchange.head.path == "/v1/models" and self.models_body is not None:
            await exchange.respond(200, self.models_body)
            return
        order = exchange.head.path.removeprefix("/simulate/")
        if exchange.note is None and order in ("early", "models"):
            assert isinstance(exchange.body, PlainBody)
            value = json.loads(exchange.body.data or b"{}")
            if order == "early":
                self.early_share = float(value.get("share", 0.0))
            else:
                said = value.get("body")
                self.models_body = None if said is None else said.encode("latin-1")
            await exchange.respond(204)
            return
        await super().answer(exchange)


def main() -> None:
    """Run an engine until it is told to stop."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos.engine")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--served-model-name", required=True)
    parser.add_argument("--time-scale", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--early-share", type=float, default=0.0)
    uvloop.run(_serve(parser.parse_args()))


async def _serve(options: argparse.Namespace) -> None:
    engine = ChaosEngine(
        options.served_model_name,
        audio_seconds,
        time_scale=options.time_scale,
        rng=random.Random(options.seed),
    )
    engine.early_share = options.early_share
    handle = SimulatedHandle(engine, options.host, options.port, KEEP_ALIVE_S)
    await handle.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
    await handle.stop()


if __name__ == "__main__":
    main()

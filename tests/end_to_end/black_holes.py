"""Engines that turn into black holes, and steady clients that count what they lose."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Final

from tests.routers import MODEL, RunningRouter, running_router
from tests.routers import field as text_field
from tests.routers import file as audio_file
from tests.upstream.raw_engine import Peer, raw_engine

from vllm_router.audio.wav import silence

#: What an engine takes for an upload; a black hole refuses in no time.
SERVICE_S: Final = 0.03
_WORDS: Final = b'{"text": "some words", "usage": {"type": "duration", "seconds": 1}}'
_METRICS: Final = b"vllm:num_requests_running 0\nvllm:num_requests_waiting 0\n"
#: Bytes in the audio that the engines refuse to read, and that make them crash.
GARBAGE: Final = b"NOT-AUDIO-AT-ALL"
POISON: Final = b"CRASHES-THE-ENGINE"


def _answer(
    status: int, body: bytes, kind: bytes = b"application/json", more: bytes = b""
) -> bytes:
    head = b"HTTP/1.1 %d Whatever\r\nContent-Type: %b\r\nContent-Length: %d\r\n%b\r\n"
    return head % (status, kind, len(body), more) + body


def _error(status: int, message: str) -> bytes:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    return _answer(status, json.dumps({"error": error}).encode())


#: What a black hole answers; None: it breaks the connection or says nothing.
HOLES: Final[dict[str, bytes | None]] = {
    "500": _error(500, "list index out of range"),
    "401": _answer(401, b'{"error": "Unauthorized"}'),
    "403": _answer(403, b"<html>Forbidden</html>", b"text/html"),
    "404": _error(404, f"The model `{MODEL}` does not exist."),
    "404 without a word": _answer(404, b'{"detail": "Not Found"}'),
    "400": _error(400, "Invalid or corrupted audio data."),
    "415": _answer(415, b'{"detail": "Unsupported Media Type"}'),
    "422": _answer(422, b'{"detail": [{"loc": ["body", "file"], "msg": "Field required"}]}'),
    "429": _error(429, "Too many requests."),
    "503, retry later": _answer(503, b"", b"text/plain", b"Retry-After: 2\r\n"),
    "503": _answer(503, b"", b"text/plain"),
    "501": _error(501, "Not implemented."),
    "redirect": _answer(302, b"", b"text/html", b"Location: http://10.0.0.7/login\r\n"),
    "empty 200": _answer(200, b"", b"text/plain"),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "200 with HTML": _answer(200, b"<html><body>Sign in</body></html>", b"text/html"),
    "200 without words": _answer(200, b'{"detail": "warming up"}'),
    "hang": None,
    "reset": None,
}


@dataclass(slots=True)
class Engine:
    """An engine that may be told to misbehave.

    Attributes:
        hole: A name among `HOLES`; None: it is well.
        is_everywhere: It misbehaves to questions and probes as well.
        service_s: What an upload takes.
        restart_s: How long it is away after a crash.
        uploads: Uploads that came, without probes.
        down_until: When it is back from its crash, the loop's time.
        crashes: How often it crashed.
    """

    hole: str | None = None
    is_everywhere: bool = False
    service_s: float = SERVICE_S
    restart_s: float = 1.0
    uploads: int = 0
    down_until: float = 0.0
    crashes: int = 0
    port: int = 0
    _peers: set[Peer] = field(default_factory=set)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    def _is_down(self) -> bool:
        return asyncio.get_running_loop().time() < self.down_until

    def crash(self) -> None:
        """End every connection, and take no new one while it restarts."""
        self.crashes += 1
        self.down_until = asyncio.get_running_loop().time() + self.restart_s
        for peer in list(self._peers):
            peer.reset()

    async def serve(self, peer: Peer) -> None:
        """Answer one connection's requests."""
        if self._is_down():
            peer.reset()
            return
        self._peers.add(peer)
        try:
            while not peer.writer.is_closing():
                head, body = await peer.request()
                await self._reply(peer, head, body)
        finally:
            self._peers.discard(peer)

    async def _reply(self, peer: Peer, head: bytes, body: bytes) -> None:
        is_upload = head.startswith(b"POST")
        is_probe = is_upload and b'filename="silence.wav"' in body
        if is_upload and not is_probe:
            self.uploads += 1
        if self.hole is not None and (self.is_everywhere or (is_upload and not is_probe)):
            await self._misbehave(peer, self.hole)
        elif b"/v1/models" in head:
            models = {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
            await peer.say(_answer(200, json.dumps(models).encode()))
        elif not is_upload:
            await peer.say(_answer(200, _METRICS if b"/metrics" in head else b"", b"text/plain"))
        elif POISON in body:
            await asyncio.sleep(self.service_s / 2)
            self.crash()
        elif GARBAGE in body:
            await peer.say(_error(400, "Invalid or corrupted audio data."))
        else:
            await asyncio.sleep(0.001 if is_probe else self.service_s)
            await peer.say(_answer(200, _WORDS))

    async def _misbehave(self, peer: Peer, hole: str) -> None:
        said = HOLES[hole]
        if said is not None:
            await peer.say(said)
        elif hole == "hang":
            await peer.left()
        else:
            peer.reset()


@contextlib.asynccontextmanager
async def engines(count: int) -> AsyncIterator[list[Engine]]:
    """Run engines that are well."""
    async with contextlib.AsyncExitStack() as stack:
        made = [Engine() for _ in range(count)]
        for engine in made:
            engine.port = (await stack.enter_async_context(raw_engine(engine.serve))).port
        yield made


@dataclass(frozen=True, slots=True)
class Result:
    """One upload and what came of it.

    Attributes:
        at: When it began, the loop's time.
        seconds: How long it took.
        status: The answer's status.
        body: The answer.
        is_good: Whether it got its words.
    """

    at: float
    seconds: float
    status: int
    body: bytes

    @property
    def is_good(self) -> bool:
        """Whether the client got its words."""
        return self.status == 200 and b"some words" in self.body


async def upload(router: RunningRouter, mark: bytes = b"") -> Result:
    """Send one upload; `mark` is put into its audio."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    audio = silence(0.2) + mark
    answer = await router.upload(text_field("model", MODEL), audio_file(audio))
    return Result(began, loop.time() - began, answer.status_code, answer.content)


async def load(
    router: RunningRouter,
    count: int,
    clients: int = 8,
    mark: Callable[[int], bytes] = lambda number: b"",
) -> list[Result]:
    """Have clients send uploads one after the other until they are so many in all."""
    results: list[Result] = []
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            result = await upload(router, mark(number))
            results.append(result)

    await asyncio.gather(*[client() for _ in range(clients)])
    return results


def lost(results: list[Result]) -> list[Result]:
    """Return the uploads that did not get their words."""
    return [result for result in results if not result.is_good]


__all__ = [
    "GARBAGE",
    "HOLES",
    "POISON",
    "Engine",
    "engines",
    "load",
    "lost",
    "running_router",
    "upload",
]

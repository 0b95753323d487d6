"""A whole router in the test's own event loop, and the uploads that tests send it.

Promises: a real listening socket on a free port, everything a router does in the background, and
nothing left of either when the `async with` block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from typing import Any

import httpx
from tests.fake_engine.serving import SimulatedHandle

from vllm_router.app.build import Router, build_router
from vllm_router.app.run import bind, running
from vllm_router.audio.wav import silence
from vllm_router.settings import Settings

MODEL = "openai/whisper-small"
TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"
BOUNDARY = b"test-boundary-7c1e"
CONTENT_TYPE = b"multipart/form-data; boundary=" + BOUNDARY
#: Long enough for a loaded machine; whatever hangs fails here.
PATIENCE_S = 20.0

#: Quick in what a test would otherwise wait for.
QUICK: dict[str, Any] = {
    "host": "127.0.0.1",
    "port": 0,
    "static_backend_health_check_interval": 0.2,
    "engine_stats_interval": 0.2,
    "decode_workers": 1,
    # What speaks in tests is noise, which only a level meter takes for speech.
    "vad": "level",
    # Engines of most tests say a word or two, whatever they are sent: too few for its length, were
    # anybody to compare. Tests of the words themselves set these on their own.
    "verify": False,
    # Shorter than the pieces that audio is cut into would mean pieces of what fits into one.
    "split_longer_than_s": 60,
}


@dataclass(frozen=True, slots=True)
class RunningRouter:
    """A router that listens.

    Attributes:
        url: Its address, without a slash at the end.
        port: Its port.
        router: Its parts.
        client: A client of it, with `url` as its base.
    """

    url: str
    port: int
    router: Router
    client: httpx.AsyncClient

    async def upload(
        self, *parts: bytes, path: str = TRANSCRIPTIONS, **headers: str
    ) -> httpx.Response:
        """Post a form of raw parts; by default a second of silence for the model."""
        body = form(*(parts or (field("model", MODEL), file(silence(1.0)))))
        return await self.client.post(path, content=body, headers=named(headers))

    async def metrics(self) -> dict[str, float]:
        """Return the samples of /metrics by name and labels, as they are written there."""
        text = (await self.client.get("/metrics")).text
        lines = [line for line in text.splitlines() if line and not line.startswith("#")]
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}

    async def engines(self) -> list[dict[str, Any]]:
        """Return what /engines says."""
        views: list[dict[str, Any]] = (await self.client.get("/engines")).json()
        return views


def named(headers: dict[str, str]) -> dict[str, str]:
    """Return headers under their names, with the form's content type if they name none."""
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"content-type": CONTENT_TYPE.decode(), **given}


def field(name: str, value: bytes | str) -> bytes:
    """Return a plain field with its leading delimiter."""
    data = value.encode() if isinstance(value, str) else value
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n'
    return head % (BOUNDARY, name.encode()) + data + b"\r\n"


def file(data: bytes, filename: str = "a.wav", name: str = "file") -> bytes:
    """Return a file with its leading delimiter."""
    head = b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%b"\r\n'
    kind = b"Content-Type: audio/wav\r\n\r\n"
    return head % (BOUNDARY, name.encode(), filename.encode()) + kind + data + b"\r\n"


def form(*parts: bytes) -> bytes:
    """Return a whole form."""
    return b"".join(parts) + b"--%b--\r\n" % BOUNDARY


def request(
    body: bytes,
    path: str = TRANSCRIPTIONS,
    *,
    headers: Iterable[tuple[str, str]] = (),
    length: int | None = None,
) -> bytes:
    """Return the bytes of a whole POST; `length` is declared in place of the true one."""
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: router",
        f"Content-Type: {CONTENT_TYPE.decode()}",
        f"Content-Length: {len(body) if length is None else length}",
        *(f"{name}: {value}" for name, value in headers),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def until(claim: Callable[[], Any], what: str = "") -> None:
    """Return once a claim holds.

    Raises:
        AssertionError: It did not come true within `PATIENCE_S`.
    """
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not claim():
        assert asyncio.get_running_loop().time() < deadline, what or "it never came true"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def running_router(
    *engines: SimulatedHandle | str,
    is_ready: bool = True,
    tracing: Any = None,
    altered: Callable[[Router], Router] | None = None,
    **settings: Any,
) -> AsyncIterator[RunningRouter]:
    """Run a router in this event loop.

    Args:
        engines: Running engines, or their URLs, for `static_backends`.
        is_ready: Whether to wait until every engine is ready.
        tracing: For `build_router`.
        altered: Returns the router to run in place of the one built, with another part, say.
        settings: Fields of `Settings`; by default quick, on a free port of the loopback address.
    """
    urls = tuple(engine if isinstance(engine, str) else engine.url for engine in engines)
    values = {**QUICK, **({"static_backends": urls} if urls else {}), **settings}
    chosen = Settings.model_validate(values)
    router = build_router(chosen, tracing=tracing)
    if altered is not None:
        router = altered(router)
    listening = bind(chosen.host, chosen.port)
    port = listening.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    stop = asyncio.Event()
    has_started = asyncio.Event()

    async def keep_running() -> None:
        # In a task of its own: a failed assertion is then not wrapped in an exception group.
        async with running(router, chosen):
            has_started.set()
            await stop.wait()

    background = asyncio.create_task(keep_running())
    await has_started.wait()
    server = await asyncio.get_running_loop().create_server(router.listener, sock=listening)
    try:
        async with httpx.AsyncClient(base_url=url, timeout=PATIENCE_S) as client:
            if is_ready:
                fleet = router.dispatcher.fleet
                await until(
                    lambda: sum(e.state.value == "ready" for e in fleet.engines()) >= len(urls),
                    "the engines are not ready",
                )
            yield RunningRouter(url, port, router, client)
    finally:
        server.close()
        router.listener.abort()
        stop.set()
        await background

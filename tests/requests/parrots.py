"""An engine that says what a test tells it to, over a real socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from tests.routers import MODEL

from vllm_router.spool.multipart import FormReader, boundary_of

Reply = tuple[int, Any]


@dataclass(frozen=True, slots=True)
class Heard:
    """One upload that came.

    Attributes:
        fields: The form's plain fields, by name.
        audio: The file's bytes.
        number: 0 for the first upload.
    """

    fields: dict[str, str]
    audio: bytes
    number: int


class Dies(Exception):
    """Raised by what an engine should say: its process ends, and every connection with it."""


Says = Callable[[Heard], Awaitable[Reply]]


@contextlib.asynccontextmanager
async def parrot(says: Says, lets_in: Callable[[], bool] = lambda: True) -> AsyncIterator[str]:
    """Serve; yields the URL.

    Args:
        says: Returns a status and an object for JSON, or the bytes of a whole HTTP answer; may
            raise Dies.
        lets_in: Whether the key presented is taken.
    """
    uploads = 0
    tasks: set[asyncio.Task[None]] = set()
    writers: set[asyncio.StreamWriter] = set()

    async def reply(method: str, path: str, headers: dict[str, str], body: bytes) -> Reply:
        nonlocal uploads
        if path.startswith("/v1/") and not lets_in():
            return 401, {"error": "Unauthorized"}
        if path == "/v1/models":
            return 200, {"object": "list", "data": [{"id": MODEL, "object": "model"}]}
        if not path.startswith("/v1/audio/"):
            return 200, {}
        reader = FormReader(boundary_of(headers["content-type"].encode()) or b"")
        reader.feed(body, 0, len(body))
        form = reader.finish()
        file = form.file()
        assert file is not None
        fields = {part.name: part.value.decode() for part in form.parts if part.value is not None}
        uploads += 1
        return await says(Heard(fields, body[file.start : file.end], uploads - 1))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        writers.add(writer)
        try:
            while True:
                first, *lines = (
                    (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                )
                headers = {k.lower(): v for k, _, v in (line.partition(": ") for line in lines)}
                body = await reader.readexactly(int(headers.get("content-length", 0)))
                method, path, _ = first.split(" ")
                status, content = await reply(method, path, headers, body)
                if isinstance(content, bytes):
                    writer.write(content)
                    break
                data = json.dumps(content).encode()
                head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
                writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Dies:
            server.close()
            for each in writers:
                each.transport.abort()
        finally:
            writer.close()
            writers.discard(writer)
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def verbose(text: str, language: str = "en", end_s: float = 5.0, **more: Any) -> dict[str, Any]:
    """Return a verbose_json answer of one segment."""
    segment = {"id": 0, "start": 0.0, "end": end_s, "text": f" {text}"}
    return {"text": text, "language": language, "duration": end_s, "segments": [segment], **more}

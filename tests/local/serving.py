"""The CPU engine on a real socket, in the test's own event loop."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import uvicorn

from vllm_router.local.app import create_app
from vllm_router.local.transcriber import CpuTranscriber

TRANSCRIPTIONS = "/v1/audio/transcriptions"
TRANSLATIONS = "/v1/audio/translations"


@dataclass
class Engine:
    client: httpx.AsyncClient
    transcriber: CpuTranscriber

    async def post(self, data: bytes, path: str = TRANSCRIPTIONS, **fields: str) -> httpx.Response:
        files = {"file": ("a.wav", data, "audio/wav")}
        return await self.client.post(path, files=files, data=fields)


@contextlib.asynccontextmanager
async def serving(model: Any, api_key: str | None = None) -> AsyncIterator[Engine]:
    """Serve a `Whisper`, or a stand-in for one."""
    transcriber = CpuTranscriber(model)
    app = create_app(transcriber, "openai/whisper-small", api_key)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        task = asyncio.create_task(server.serve(sockets=[listening]))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        async with httpx.AsyncClient(base_url=url, timeout=60) as client:
            yield Engine(client, transcriber)
        server.should_exit = True
        await task

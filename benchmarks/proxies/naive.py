"""The proxy one would write in an afternoon: FastAPI and httpx, the body streamed through."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle

import httpx
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from starlette.background import BackgroundTask

ENGINES = cycle(os.environ["ENGINES"].split(","))


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Keep one client for the life of the process."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(timeout=300, limits=limits) as client:
        app.state.client = client
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/audio/transcriptions")
async def transcribe(request: Request) -> StreamingResponse:
    """Pass an upload on and its answer back."""
    client: httpx.AsyncClient = request.app.state.client
    headers = [h for h in request.headers.raw if h[0] not in (b"host", b"connection")]
    call = client.build_request(
        "POST", next(ENGINES) + request.url.path, headers=headers, content=request.stream()
    )
    answer = await client.send(call, stream=True)
    return StreamingResponse(
        answer.aiter_raw(),
        status_code=answer.status_code,
        headers=dict(answer.headers),
        background=BackgroundTask(answer.aclose),
    )

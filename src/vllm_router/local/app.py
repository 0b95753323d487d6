"""The application: vLLM's HTTP API in front of one Whisper model."""

import contextlib
import hmac
import time
from collections.abc import AsyncIterator
from http import HTTPStatus

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send

from vllm_router.local.errors import ApiError
from vllm_router.local.metrics import EngineMetrics
from vllm_router.local.responses import VLLM_VERSION, models_body
from vllm_router.local.transcriber import CpuTranscriber
from vllm_router.local.transcriptions import audio_routes


def create_app(transcriber: CpuTranscriber, model: str, api_key: str | None = None) -> FastAPI:
    """Return the application.

    Args:
        transcriber: Decodes and transcribes; closed when the application ends.
        model: The name under which the model is served.
        api_key: Required on /v1 routes; None requires nothing.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        transcriber.close()

    metrics = EngineMetrics(model, transcriber)
    app = FastAPI(title="A Whisper engine on the CPU", version=VLLM_VERSION, lifespan=lifespan)
    app.include_router(audio_routes(transcriber, model, metrics))
    app.include_router(_status_routes(model, metrics))
    _add_error_handlers(app)
    if api_key is not None:
        app.add_middleware(_RequireApiKey, api_key=api_key)
    return app


def _status_routes(model: str, metrics: EngineMetrics) -> APIRouter:
    router = APIRouter()
    models = models_body([model], created=int(time.time()))

    @router.get("/health")
    async def health() -> Response:
        return Response()

    @router.get("/load")
    async def load() -> dict[str, int]:
        return {"server_load": metrics.requests_in_flight}

    @router.get("/version")
    async def version() -> dict[str, str]:
        return {"version": VLLM_VERSION}

    @router.get("/v1/models")
    async def list_models() -> dict[str, object]:
        return models

    @router.get("/metrics")
    async def metrics_page() -> Response:
        return Response(metrics.page(), media_type=CONTENT_TYPE_LATEST)

    return router


class _RequireApiKey:
    """Refuses /v1 requests without the key before their body is read."""

    def __init__(self, app: ASGIApp, api_key: str) -> None:
        self._app = app
        self._expected = f"Bearer {api_key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        app = self._app
        if scope["type"] == "http" and scope["path"].startswith("/v1"):
            given = dict(scope["headers"]).get(b"authorization", b"")
            if not hmac.compare_digest(given, self._expected):
                app = JSONResponse({"error": "Unauthorized"}, HTTPStatus.UNAUTHORIZED)
        await app(scope, receive, send)


def _add_error_handlers(app: FastAPI) -> None:
    """Answer every error in vLLM's shape."""

    @app.exception_handler(ApiError)
    async def refuse(_: Request, error: ApiError) -> Response:
        return JSONResponse(error.body(), error.status)

    @app.exception_handler(RequestValidationError)
    async def refuse_form(request: Request, error: RequestValidationError) -> Response:
        errors = error.errors()
        count = f"{len(errors)} validation error{'s' if len(errors) != 1 else ''}"
        message = "\n".join([f"{count}:", *(f"  {each}" for each in errors)])
        param = ".".join(str(part) for part in errors[0]["loc"])
        return await refuse(request, ApiError(400, message, "Bad Request", param))

    @app.exception_handler(HTTPException)
    async def refuse_route(request: Request, error: HTTPException) -> Response:
        kind = HTTPStatus(error.status_code).phrase
        return await refuse(request, ApiError(error.status_code, error.detail, kind))

    @app.exception_handler(Exception)
    async def report_bug(request: Request, _: Exception) -> Response:
        error = ApiError(500, "Internal server error", "InternalServerError")
        return await refuse(request, error)

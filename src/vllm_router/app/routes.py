"""All routes except uploads: models, health, engines, metrics, and the docs, on FastAPI."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi_offline import FastAPIOffline
from prometheus_client.exposition import CONTENT_TYPE_LATEST, choose_encoder
from starlette.exceptions import HTTPException

from vllm_router import __version__
from vllm_router.app.docs_page import docs_page
from vllm_router.app.openapi import with_uploads
from vllm_router.app.operations import DrainOrder, Operations, engine_view
from vllm_router.errors import Forbidden, MethodNotAllowed, NotFound, RouterError, WrongKey
from vllm_router.requests.access import KeyRing
from vllm_router.scheduling.engine import EngineId

#: Where Swagger UI's own files are served.
STATIC_URL = "/static-offline-docs"


def build_routes(operations: Operations, root_path: str = "") -> FastAPI:
    """Return the application for all routes except uploads."""
    app = FastAPIOffline(
        title="Whisper router",
        version=__version__,
        description="OpenAI-compatible audio API in front of a fleet of Whisper engines.",
        docs_url=None,
        static_url=STATIC_URL,
        # Trailing slashes are removed before routing; a redirect would trust the client's Host.
        redirect_slashes=False,
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        page = docs_page(f"{app.title}: API", root_path, "/openapi.json", STATIC_URL)
        return HTMLResponse(page)

    _handle_errors(app)
    _add_models(app, operations)
    _add_health(app, operations)
    _add_engines(app, operations)

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            servers = [{"url": root_path}] if root_path else None
            app.openapi_schema = with_uploads(
                get_openapi(
                    title=app.title,
                    version=app.version,
                    description=app.description,
                    routes=app.routes,
                    servers=servers,
                )
            )
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own documented way
    return app


def _answer(error: RouterError) -> Response:
    headers = {k.decode(): v.decode() for k, v in error.headers()}
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(error.body(), error.status, headers, "application/json")


def _handle_errors(app: FastAPI) -> None:
    async def ours(request: Request, error: Exception) -> Response:
        assert isinstance(error, RouterError)
        return _answer(error)

    async def starlettes(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        path = request.url.path
        if error.status_code == 405:
            shown = _answer(MethodNotAllowed(f"{request.method} is not served at {path}."))
            allowed = (error.headers or {}).get("Allow", "GET")
            # HEAD is answered wherever GET is.
            names = [name.strip() for name in allowed.split(",") if name.strip() != "HEAD"]
            names += ["HEAD"] * ("GET" in names)
            shown.headers["allow"] = ", ".join(names)
            return shown
        if error.status_code == 404:
            return _answer(NotFound(f"There is nothing at {path}; /docs lists all routes."))
        return _answer(RouterError(str(error.detail)))

    async def invalid(request: Request, error: Exception) -> Response:
        return _answer(NotFound(f"There is nothing at {request.url.path}."))

    app.add_exception_handler(RouterError, ours)
    app.add_exception_handler(HTTPException, starlettes)
    app.add_exception_handler(RequestValidationError, invalid)


def _require(ring: KeyRing, request: Request) -> None:
    authorization = request.headers.get("authorization")
    given = authorization.encode("latin-1") if authorization is not None else None
    if not ring.is_open and ring.holder(given) is None:
        raise WrongKey("Send a valid key as 'Authorization: Bearer KEY'.")


def _add_models(app: FastAPI, operations: Operations) -> None:
    def entries() -> list[dict[str, Any]]:
        names = operations.fleet.models()
        aliases = [a for a, m in operations.aliases.items() if m in names and a not in names]
        created = int(operations.started_at)
        return [
            {
                "id": name,
                "object": "model",
                "created": created,
                "owned_by": "vllm",
                "root": operations.aliases.get(name, name) if name in aliases else name,
            }
            for name in [*names, *aliases]
        ]

    @app.get("/v1/models", tags=["audio"], summary="Models and aliases served")
    async def models(request: Request) -> Response:
        _require(operations.keys, request)
        return JSONResponse({"object": "list", "data": entries()})

    @app.get("/v1/models/{model:path}", tags=["audio"], summary="One model")
    async def model(model: str, request: Request) -> Response:
        _require(operations.keys, request)
        for entry in entries():
            if entry["id"] == model:
                return JSONResponse(entry)
        raise NotFound(f"The model `{model[:200]}` does not exist.", param="model")


def _add_health(app: FastAPI, operations: Operations) -> None:
    @app.get("/health", tags=["operations"], summary="Whether the process is alive")
    async def health() -> Response:
        status = operations.status
        discovery = {
            "source": status.source,
            "last_sync_age_s": round(status.age_s(operations.now()), 3),
            "error": status.last_error,
        }
        return JSONResponse({"status": "ok", "discovery": discovery})

    @app.get("/ready", tags=["operations"], summary="Whether an engine is ready")
    async def ready() -> Response:
        if operations.is_draining():
            return JSONResponse({"status": "shutting down"}, 503)
        if not operations.fleet.is_ready():
            return JSONResponse({"status": "no engine is ready"}, 503)
        return JSONResponse({"status": "ready"})

    @app.get("/version", tags=["operations"], summary="The router's version")
    async def version() -> Response:
        return JSONResponse({"version": __version__})

    @app.get("/metrics", tags=["operations"], summary="Metrics for Prometheus")
    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        if operations.siblings is None:
            return Response(encode(operations.registry), media_type=content_type)
        return Response(await operations.merged_metrics(), media_type=CONTENT_TYPE_LATEST)


def _add_engines(app: FastAPI, operations: Operations) -> None:
    fleet = operations.fleet

    @app.get("/engines", tags=["operations"], summary="State and load of every engine")
    async def engines() -> Response:
        return JSONResponse(await operations.engine_views())

    async def change(engine_id: str, request: Request, order: DrainOrder) -> Response:
        if operations.admin.is_open:
            raise Forbidden("This route is closed; start the router with --admin-key to open it.")
        _require(operations.admin, request)
        engine = fleet.engine(EngineId(engine_id))
        if engine is None:
            raise NotFound(f"There is no engine `{engine_id[:200]}`; /engines lists them.")
        await operations.give_order(order, engine.engine_id)
        return JSONResponse(engine_view(engine, operations.now()))

    # An engine's ID is often a URL, which contains slashes.
    @app.post("/engines/{engine_id:path}/drain", tags=["operations"], summary="Send no new work")
    async def drain(engine_id: str, request: Request) -> Response:
        return await change(engine_id, request, DrainOrder.DRAIN)

    @app.post("/engines/{engine_id:path}/resume", tags=["operations"], summary="Send work again")
    async def resume(engine_id: str, request: Request) -> Response:
        return await change(engine_id, request, DrainOrder.RESUME)

"""The routes without uploads, as an ASGI application; over sockets they are tested end to end."""

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client import CollectorRegistry

from vllm_router.app.operations import Operations
from vllm_router.app.routes import build_routes
from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.requests.access import Holder, KeyRing, digest
from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.fleet import Fleet
from vllm_router.upstream.model_capabilities import ModelCapabilities

A = EngineId("http://a:8000/prefix")
ADMIN = KeyRing([Holder("admin", digest("word"))])
AUTHORIZED = {"authorization": "Bearer word"}

Asking = Callable[..., httpx.AsyncClient]


def operations() -> Operations:
    fleet = Fleet()
    fleet.apply(Listing((EngineSpec(A, A, ("org/model", "whisper-1")),)), 0.0)
    return Operations(
        fleet=fleet,
        aliases={"alias": "org/model", "lost": "nobody", "whisper-1": "org/model"},
        capabilities=ModelCapabilities(fleet, {}, lambda: 10.0),
        keys=KeyRing([]),
        admin=KeyRing([]),
        registry=CollectorRegistry(),
        status=DiscoveryStatus("flags", 0.0, is_fixed=True),
        is_draining=lambda: False,
        now=lambda: 10.0,
        changed=lambda moves: None,
        started_at=1_700_000_000.5,
    )


@pytest.fixture
async def asking() -> AsyncIterator[Asking]:
    clients = []

    def make(**changes: Any) -> httpx.AsyncClient:
        app = build_routes(replace(operations(), **changes))
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=True)
        clients.append(httpx.AsyncClient(transport=transport, base_url="http://router"))
        return clients[-1]

    yield make
    for client in clients:
        await client.aclose()


async def test_an_alias_never_hides_a_model_of_its_name(asking: Asking) -> None:
    data = (await asking().get("/v1/models")).json()["data"]
    assert [(one["id"], one["root"]) for one in data] == [
        ("org/model", "org/model"),
        ("whisper-1", "whisper-1"),
        ("alias", "org/model"),
    ]
    assert {one["created"] for one in data} == {1_700_000_000}


async def test_models_need_a_key_where_there_are_keys(asking: Asking) -> None:
    client = asking(keys=ADMIN)
    for path in ("/v1/models", "/v1/models/org/model"):
        assert (await client.get(path)).status_code == 401
        assert (await client.get(path, headers=AUTHORIZED)).status_code == 200


@pytest.mark.parametrize("is_draining", [False, True])
async def test_ready_tells_apart_shutting_down_and_no_engine(
    asking: Asking, is_draining: bool
) -> None:
    answer = await asking(is_draining=lambda: is_draining).get("/ready")
    assert answer.status_code == 503
    assert answer.json()["status"] == ("shutting down" if is_draining else "no engine is ready")


async def test_an_engine_is_named_by_its_whole_url(asking: Asking) -> None:
    client = asking(admin=ADMIN)
    answer = await client.post(f"/engines/{A}/drain", headers=AUTHORIZED)
    assert answer.json()["state"] == "draining"
    answer = await client.post(f"/engines/{A}/resume", headers=AUTHORIZED)
    assert answer.json()["state"] == "probing"


@pytest.mark.parametrize("path", ["/engines//drain", "/engines/x/explode", "/nothing", "/v1"])
async def test_what_is_not_there_is_a_404_in_openais_shape(asking: Asking, path: str) -> None:
    answer = await asking(admin=ADMIN).post(path, headers=AUTHORIZED)
    assert answer.status_code in (404, 405)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_a_wrong_method_says_which_are_right(asking: Asking) -> None:
    answer = await asking().post("/health")
    assert answer.status_code == 405
    assert answer.headers["allow"] == "GET, HEAD"
    assert answer.json()["error"]["code"] == "method_not_allowed"


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/openapi.json", "GET, HEAD"),
        ("/static-offline-docs/swagger-ui.css", "GET, HEAD"),
        ("/engines/x/drain", "POST"),
        ("/v1/models", "GET, HEAD"),
    ],
)
async def test_a_405_always_says_which_methods_are_right(
    asking: Asking, path: str, allowed: str
) -> None:
    answer = await asking().request("DELETE", path)
    assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


async def test_a_missing_key_is_asked_for(asking: Asking) -> None:
    assert (await asking(keys=ADMIN).get("/v1/models")).headers["www-authenticate"] == "Bearer"


async def test_no_route_redirects(asking: Asking) -> None:
    for path in ("/health/", "/static-offline-docs", "/v1/models/"):
        assert (await asking().get(path)).status_code in (200, 404)

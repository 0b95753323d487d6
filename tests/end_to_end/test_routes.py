"""Every route answers what the README says of it."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import (
    MODEL,
    TRANSCRIPTIONS,
    TRANSLATIONS,
    RunningRouter,
    field,
    file,
    running_router,
    until,
)

from vllm_router import __version__
from vllm_router.audio.wav import silence


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


@pytest.fixture
async def router(engine: SimulatedHandle) -> AsyncIterator[RunningRouter]:
    aliases = [f"whisper-1:{MODEL}", "nobody:another/model"]
    async with running_router(engine, static_aliases=aliases, static_model_labels="gpu0") as router:
        yield router


async def test_models_and_the_aliases_that_lead_to_one_are_listed(router: RunningRouter) -> None:
    listed = (await router.client.get("/v1/models")).json()
    assert listed["object"] == "list"
    assert [(one["id"], one["root"], one["object"]) for one in listed["data"]] == [
        (MODEL, MODEL, "model"),
        ("whisper-1", MODEL, "model"),
    ]


@pytest.mark.parametrize("name", [MODEL, "whisper-1"])
async def test_one_model_can_be_asked_for(router: RunningRouter, name: str) -> None:
    assert (await router.client.get(f"/v1/models/{name}")).json()["id"] == name


async def test_an_unknown_model_is_a_404(router: RunningRouter) -> None:
    answer = await router.client.get("/v1/models/nobody")
    assert answer.status_code == 404
    assert answer.json()["error"]["param"] == "model"


async def test_health_says_that_the_process_lives_whatever_the_engines_do(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await engine.order(refuse=True)
    fleet = router.router.dispatcher.fleet
    await until(lambda: not fleet.is_ready())
    health = await router.client.get("/health")
    assert health.status_code == 200
    assert health.json()["status"] == "ok"
    assert health.json()["discovery"]["source"] == "flags"
    assert (await router.client.get("/ready")).status_code == 503
    await engine.restart()
    await until(fleet.is_ready)
    assert (await router.client.get("/ready")).json() == {"status": "ready"}


async def test_ready_is_503_until_an_engine_is(engine: SimulatedHandle) -> None:
    await engine.order(health_status=500)
    async with running_router(engine, is_ready=False) as router:
        ready = await router.client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "no engine is ready")
        await engine.restart()
        await until(router.router.dispatcher.fleet.is_ready)
        assert (await router.client.get("/ready")).status_code == 200


async def test_engines_are_shown_with_their_state_and_load(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await router.upload()
    await until(lambda: all(e.stats for e in router.router.dispatcher.fleet.engines()))
    [view] = await router.engines()
    assert view["engine_id"] == view["url"] == engine.url
    assert view["models"] == [MODEL]
    assert view["label"] == "gpu0"
    assert view["state"] == "ready"
    assert (view["in_flight"], view["audio_s_in_flight"]) == (0, 0)
    assert (view["running"], view["waiting"]) == (0, 0)
    assert view["last_probe"]["ok"] is True
    assert view["last_error"] is None


async def test_what_an_engine_does_is_shown_while_it_does_it(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await engine.order(delay_s=30)
    upload = asyncio.create_task(router.upload(field("model", MODEL), file(silence(2.5))))
    fleet = router.router.dispatcher.fleet
    await until(lambda: any(e.in_flight for e in fleet.engines()))
    [view] = await router.engines()
    assert (view["in_flight"], view["audio_s_in_flight"]) == (1, 2.5)
    upload.cancel()


async def test_a_failed_probe_is_shown_with_its_reason(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await engine.order(health_status=500)
    await until(lambda: not router.router.dispatcher.fleet.is_ready())
    [view] = await router.engines()
    assert view["state"] == "probing"
    assert view["last_probe"]["ok"] is False
    assert "500" in view["last_error"]


async def test_the_version_is_told(router: RunningRouter) -> None:
    assert (await router.client.get("/version")).json() == {"version": __version__}


async def test_the_docs_need_no_internet(router: RunningRouter) -> None:
    page = await router.client.get("/docs")
    assert page.status_code == 200
    assert "https://" not in page.text.replace("https://fastapi.tiangolo.com", "")
    sources = [part.split('"')[1] for part in page.text.split("src=")[1:]]
    assert sources
    for source in sources:
        assert (await router.client.get(source)).status_code == 200


async def test_the_document_describes_the_uploads(router: RunningRouter) -> None:
    document = (await router.client.get("/openapi.json")).json()
    for path in (TRANSCRIPTIONS, TRANSLATIONS):
        form = document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]
        assert form["schema"]["properties"]["file"]["format"] == "binary"
    assert "/engines" in document["paths"]


async def test_everything_is_served_under_a_root_path_too(engine: SimulatedHandle) -> None:
    async with running_router(engine, root_path="/asr") as router:
        assert (await router.upload(path="/asr" + TRANSCRIPTIONS)).status_code == 200
        assert (await router.upload()).status_code == 200
        for path in ("/health", "/v1/models", "/engines", "/openapi.json"):
            assert (await router.client.get("/asr" + path)).status_code == 200
        document = (await router.client.get("/asr/openapi.json")).json()
        assert document["servers"] == [{"url": "/asr"}]
        page = (await router.client.get("/asr/docs")).text
        assert "/asr/openapi.json" in page
        assert page.count("/static-offline-docs") == page.count("/asr/static-offline-docs")


async def test_models_are_asked_of_each_engine_and_kept_fresh(
    router: RunningRouter, engine: SimulatedHandle
) -> None:
    await engine.order(models=["a/new-one", "another"])
    fleet = router.router.dispatcher.fleet
    await until(lambda: set(fleet.models()) == {"a/new-one", "another"})
    assert (await router.upload()).status_code == 404
    names = [one["id"] for one in (await router.client.get("/v1/models")).json()["data"]]
    assert sorted(names) == ["a/new-one", "another"]


async def test_given_models_stand_whatever_an_engine_says(engine: SimulatedHandle) -> None:
    async with running_router(engine, static_models="named/here") as router:
        # Its models are asked for once, to learn whether it lets the router in.
        assert [one.path for one in engine.log].count("/v1/models") == 1
        assert [view["models"] for view in await router.engines()] == [["named/here"]]


@pytest.mark.parametrize(
    "path",
    [
        "/health",
        "/ready",
        "/v1/models",
        f"/v1/models/{MODEL}",
        "/engines",
        "/version",
        "/docs",
        "/openapi.json",
        "/static-offline-docs/swagger-ui.css",
        "/nothing",
        TRANSCRIPTIONS,
    ],
)
@pytest.mark.parametrize("slash", ["", "/"])
async def test_head_and_a_slash_at_the_end_are_taken_wherever_get_is(
    router: RunningRouter, path: str, slash: str
) -> None:
    def told(answer: httpx.Response) -> tuple[int, list[tuple[str, str]]]:
        # Seconds pass, figures change, and an id is given to each request.
        has_figures = path in ("/health", "/engines")
        varying = ("date", "x-request-id", "content-length" if has_figures else "")
        assert len(answer.headers.get_list("date")) == 1
        assert int(answer.headers["content-length"]) > 0
        return answer.status_code, [i for i in answer.headers.multi_items() if i[0] not in varying]

    get = await router.client.get(path)
    for answer in (await router.client.head(path + slash), await router.client.get(path + slash)):
        assert told(answer) == told(get)
        assert bool(answer.content) == (answer.request.method == "GET")
    # What follows on the same connection is not out of step.
    assert (await router.client.get("/version")).json() == {"version": __version__}


async def test_an_upload_may_come_to_a_route_with_a_slash(engine: SimulatedHandle) -> None:
    async with running_router(engine, root_path="/asr") as router:
        for path in (TRANSCRIPTIONS + "/", "/asr" + TRANSLATIONS + "/"):
            answer = await router.upload(path=path)
            assert answer.status_code == 200
            assert answer.headers.get_list("date")
        logged = [one.path for one in engine.log.audio()]
        assert logged == [TRANSCRIPTIONS, TRANSLATIONS]


async def test_metrics_answer_head(router: RunningRouter) -> None:
    answer = await router.client.head("/metrics")
    assert (answer.status_code, answer.content) == (200, b"")
    assert int(answer.headers["content-length"]) > 1000

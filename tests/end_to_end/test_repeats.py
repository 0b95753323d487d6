"""What one engine fails at goes to another, as long as the client has seen nothing."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import (
    MODEL,
    PATIENCE_S,
    RunningRouter,
    field,
    file,
    running_router,
    until,
)

from vllm_router.audio.wav import silence
from vllm_router.formats.sse import EventReader


@pytest.fixture
async def engines() -> AsyncIterator[list[SimulatedHandle]]:
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
        serve_simulated(MODEL, time_scale=1000) as c,
        serve_simulated(MODEL, time_scale=1000) as d,
    ):
        yield [a, b, c, d]


@pytest.fixture
async def router(engines: list[SimulatedHandle]) -> AsyncIterator[RunningRouter]:
    async with running_router(*engines, routing_logic="roundrobin") as router:
        yield router


def tried(engines: list[SimulatedHandle]) -> int:
    return sum(len(engine.log.audio()) for engine in engines)


async def attempts(router: RunningRouter, outcome: str) -> float:
    metrics = await router.metrics()
    return sum(
        value
        for name, value in metrics.items()
        if name.startswith("vllm_router_attempts_total") and f'outcome="{outcome}"' in name
    )


@pytest.mark.parametrize(
    ("fault", "outcome", "bad"),
    [
        # Two engines that end before they answer are as many as one upload may end.
        ({"reset_upload_at": 0}, "reset", 1),
        ({"reset_upload_at": 1000}, "reset", 1),
        ({"cut_answer_at": 0}, "reset", 1),
        ({"cut_answer_at": 10}, "reset", 1),
        ({"cut_answer_at": 150, "cut_by": "close"}, "reset", 2),
        ({"garbage": True}, "reset", 2),
        ({"bad_body": True}, "reset", 2),
        ({"status": 502}, "bad_status", 2),
        ({"status": 503}, "bad_status", 2),
        ({"status": 504}, "bad_status", 2),
    ],
)
async def test_another_engine_takes_what_one_fails_at(
    router: RunningRouter,
    engines: list[SimulatedHandle],
    fault: dict[str, object],
    outcome: str,
    bad: int,
) -> None:
    for engine in engines[:bad]:
        await engine.order(**fault)
    answers = [await router.upload() for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200] * 4
    good = {engine.url for engine in engines[bad:]}
    assert {answer.headers["x-engine-id"] for answer in answers} <= good
    assert await attempts(router, outcome) > 0
    assert (await router.metrics())["vllm_router_retries_total"] > 0


async def test_another_engine_takes_what_one_refuses(engines: list[SimulatedHandle]) -> None:
    settings = {"routing_logic": "roundrobin", "static_backend_health_check_interval": 3600}
    async with running_router(*engines, **settings) as router:
        for bad in engines[:2]:
            await bad.order(refuse=True)
        answers = [await router.upload() for _ in range(4)]
        assert [answer.status_code for answer in answers] == [200] * 4
        assert await attempts(router, "unreachable") > 0


async def test_an_upload_waits_for_an_engine_that_was_here_a_moment_ago(
    engines: list[SimulatedHandle],
) -> None:
    [engine, *_] = engines
    async with running_router(engine, engine_wait_s=PATIENCE_S) as router:
        fleet = router.router.dispatcher.fleet
        await engine.order(refuse=True)
        await until(lambda: not fleet.is_ready())
        uploads = [asyncio.create_task(router.upload()) for _ in range(3)]
        long = [field("model", MODEL), file(silence(90.0))]
        uploads.append(asyncio.create_task(router.upload(*long)))
        await asyncio.sleep(0.3)
        assert not any(upload.done() for upload in uploads)
        await engine.restart()
        assert [(await upload).status_code for upload in uploads] == [200] * 4


async def test_what_the_last_engine_drops_waits_for_another_that_is_coming_back(
    engines: list[SimulatedHandle],
) -> None:
    there, away = engines[:2]
    async with running_router(there, away, engine_wait_s=PATIENCE_S) as router:
        fleet = router.router.dispatcher.fleet
        await away.order(refuse=True)
        await until(lambda: sum(e.state.value == "ready" for e in fleet.engines()) == 1)
        await there.order(reset_upload_at=0)
        upload = asyncio.create_task(router.upload())
        await until(lambda: len(there.log.audio()) == 1)
        await away.restart()
        answer = await upload
        assert (answer.status_code, answer.headers["x-engine-id"]) == (200, away.url)


async def test_where_every_engine_stays_away_the_wait_ends_in_a_503(
    engines: list[SimulatedHandle],
) -> None:
    [engine, *_] = engines
    async with running_router(engine, engine_wait_s=0.2) as router:
        fleet = router.router.dispatcher.fleet
        await engine.order(refuse=True)
        await until(lambda: not fleet.is_ready())
        answer = await router.upload()
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_engine_ready"
        assert int(answer.headers["retry-after"]) >= 1


async def test_three_engines_are_tried_and_no_fourth(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    for bad in engines:
        await bad.order(status=503)
    answer = await router.upload()
    assert answer.status_code == 502
    assert tried(engines) == 3


async def test_a_refusal_is_confirmed_by_one_more_engine(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    for engine in engines:
        await engine.order(status=400)
    answer = await router.upload()
    assert answer.status_code == 400
    assert tried(engines) == 2


async def test_a_500_is_tried_once_elsewhere(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    for bad in engines[:3]:
        await bad.order(status=500, times=1)
    answers = [await router.upload() for _ in range(4)]
    assert 200 in {answer.status_code for answer in answers}
    assert await attempts(router, "undecided") > 0


async def test_a_second_500_is_shown_and_no_engine_blamed(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    for engine in engines:
        await engine.order(poison="a poisonous upload")
    for _ in range(4):
        audio = silence(1.0) + b"a poisonous upload"
        answer = await router.upload(field("model", MODEL), file(audio))
        assert answer.status_code == 500
        assert answer.json()["error"]["message"] == "a fault was ordered"
    assert tried(engines) == 8
    assert {view["state"] for view in await router.engines()} == {"ready"}
    assert (await router.upload()).status_code == 200


async def test_an_engine_that_alone_says_500_is_taken_out(
    router: RunningRouter, engines: list[SimulatedHandle]
) -> None:
    await engines[0].order(status=500)
    for _ in range(16):
        assert (await router.upload()).status_code == 200
    views = {view["engine_id"]: view["state"] for view in await router.engines()}
    assert views[engines[0].url] == "ejected"


STREAMED = [field("model", MODEL), field("stream", "true"), file(silence(20.0))]


@pytest.mark.parametrize("cut_at", [0, 300, 520, 640, 700, 900, 1100])
async def test_where_a_stream_breaks_off_another_engine_goes_on(
    engines: list[SimulatedHandle], cut_at: int
) -> None:
    """The client is told nothing twice and nothing less, wherever the engine broke off."""
    async with running_router(*engines[:2], routing_logic="roundrobin") as router:
        await engines[0].order(cut_answer_at=cut_at, times=1)
        answers = [await router.upload(*STREAMED) for _ in range(2)]
        for answer in answers:
            assert answer.status_code == 200
            events = [json.loads(event.data) for event in EventReader().feed(answer.content)]
            assert events[-1]["type"] == "transcript.text.done"
            assert "".join(event.get("delta", "") for event in events) == events[-1]["text"]
        assert tried(engines) == 3
        assert await attempts(router, "reset") == 1
        assert (await router.metrics())["vllm_router_retries_total"] == 1


async def test_a_stream_that_breaks_off_everywhere_ends_in_an_error_event(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(*engines) as router:
        for engine in engines:
            # Past the head and the first event.
            await engine.order(cut_answer_at=700)
        answer = await router.upload(*STREAMED)
        assert answer.status_code == 200
        events = [json.loads(event.data) for event in EventReader().feed(answer.content)]
        assert events[0]["type"] == "transcript.text.delta"
        assert events[-1]["error"]["code"] == "engine_failed"
        assert "Two engines crashed" in events[-1]["error"]["message"]
        # As many as any upload may end.
        assert tried(engines) == 2


async def test_a_stream_that_breaks_off_on_the_only_engine_says_so(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(engines[0]) as router:
        await engines[0].order(cut_answer_at=700)
        answer = await router.upload(*STREAMED)
        last = [json.loads(event.data) for event in EventReader().feed(answer.content)][-1]
        assert "The engine's response broke off" in last["error"]["message"]


@pytest.mark.parametrize("cut_at", [520, 600, 640, 700, 750])
async def test_an_answer_cut_off_is_cut_off_for_the_client_too(
    engines: list[SimulatedHandle], cut_at: int
) -> None:
    """The engine's own stream passed on raw says in its last event that it is not whole, wherever
    in an event the engine broke off: each event can still be read.
    """
    async with running_router(engines[0]) as router:
        await engines[0].order(cut_answer_at=cut_at)
        parts = [field("model", MODEL), field("stream", "true"), file(silence(1.0))]
        answer = await router.upload(*parts, X_Stream_Format="vllm")
        assert answer.status_code == 200
        events = [json.loads(event.data) for event in EventReader().feed(answer.content)]
        assert events[-1]["error"]["code"] == "engine_failed"
        assert {event["object"] for event in events[:-1]} == {"transcription.chunk"}


async def test_three_strikes_by_live_traffic_take_an_engine_out_and_one_good_answer_brings_it_back(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(*engines[:3], routing_logic="roundrobin") as router:
        bad = engines[0]
        await bad.order(status=503)
        for _ in range(9):
            assert (await router.upload()).status_code == 200
        states = {view["engine_id"]: view["state"] for view in await router.engines()}
        assert states[bad.url] == "ejected"
        assert (await router.metrics())[f'vllm_router_ejections_total{{engine="{bad.url}"}}'] == 1
        await bad.restart()
        fleet = router.router.dispatcher.fleet
        await until(lambda: all(e.state.value == "ready" for e in fleet.engines()))


async def test_a_pooled_connection_that_the_engine_has_left_is_no_failure(
    engines: list[SimulatedHandle],
) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000, keep_alive_s=0.05) as engine,
        running_router(engine) as router,
    ):
        for _ in range(5):
            assert (await router.upload()).status_code == 200
            await until(lambda: engine.open_connections == 0)
        assert await attempts(router, "reset") == 0
        assert await attempts(router, "ok") == 5


async def test_an_upload_on_disk_can_be_repeated_too(
    engines: list[SimulatedHandle],
) -> None:
    async with running_router(*engines[:2], spool_memory_mb=1, split="off") as router:
        for engine in engines[:2]:
            await engine.order(status=503, times=1)
        answer: httpx.Response = await router.upload(
            field("model", MODEL), file(silence(50.0)), field("tail", "end")
        )
        assert answer.status_code in (200, 502)
        logged = [one for engine in engines[:2] for one in engine.log.audio()]
        assert len(logged) == 2
        assert len({one.file.sha256 for one in logged if one.file}) == 1

"""An upload that ends the engines that work on it ends two of them and no more."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest
from tests.end_to_end.test_long import talk
from tests.requests.parrots import Dies, Heard, Reply, parrot, verbose
from tests.routers import MODEL, file, running_router, until
from tests.routers import field as text_field

from vllm_router.audio.wav import silence

DEADLY = silence(1.25)


@dataclass(slots=True)
class Fleet:
    """Engines that end when they get a certain audio.

    Attributes:
        deadly: That audio.
        urls: The engines'.
        dead: How many have ended.
    """

    deadly: bytes = DEADLY
    urls: list[str] = field(default_factory=list)
    dead: int = 0

    async def says(self, heard: Heard) -> Reply:
        if heard.audio == self.deadly:
            self.dead += 1
            raise Dies
        return 200, verbose("words")


@contextlib.asynccontextmanager
async def fleet_of(count: int, deadly: bytes = DEADLY) -> AsyncIterator[Fleet]:
    fleet = Fleet(deadly)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(count):
            fleet.urls.append(await stack.enter_async_context(parrot(fleet.says)))
        yield fleet


def model() -> bytes:
    return text_field("model", MODEL)


@pytest.mark.parametrize("are_warm", [False, True], ids=["cold", "warm"])
@pytest.mark.parametrize("stream", ["false", "true"])
async def test_two_engines_end_and_the_client_is_told(are_warm: bool, stream: str) -> None:
    """Warm: on a connection that was used before, which might have been closed for its age."""
    async with fleet_of(4) as fleet, running_router(*fleet.urls, hedge_after=0.2) as router:
        if are_warm:
            for _ in range(12):
                assert (await router.upload(model(), file(silence(1.0)))).status_code == 200
        parts = [model(), text_field("stream", stream), file(DEADLY)]
        answer = await router.upload(*parts)
        assert answer.status_code == 502
        error = answer.json()["error"]
        assert error["code"] == "engine_failed"
        assert "crashed while they worked on this upload" in error["message"]
        # The official SDKs repeat a 502 by themselves, but for this.
        assert answer.headers["x-should-retry"] == "false"
        assert fleet.dead == 2
        engines = router.router.dispatcher.fleet.engines()
        await until(lambda: sum(engine.state.value == "ready" for engine in engines) == 2)
        assert (await router.upload(model(), file(silence(1.0)))).status_code == 200


async def test_an_engine_that_ends_for_reasons_of_its_own_costs_nothing() -> None:
    async def dies(heard: Heard) -> Reply:
        raise Dies

    async with (
        parrot(dies) as weak,
        fleet_of(2) as fleet,
        running_router(weak, *fleet.urls) as router,
    ):
        answers = [await router.upload(model(), file(silence(1.0))) for _ in range(4)]
        assert {answer.status_code for answer in answers} == {200}


async def test_uploads_beside_a_deadly_one_are_all_answered() -> None:
    """They lose one engine with it, and then no second."""
    fleet = Fleet()
    innocent = silence(1.0)

    async def says(heard: Heard) -> Reply:
        await asyncio.sleep(0.2 if heard.audio == fleet.deadly else 0.3)
        return await fleet.says(heard)

    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            fleet.urls.append(await stack.enter_async_context(parrot(says)))
        router = await stack.enter_async_context(running_router(*fleet.urls))
        uploads = [router.upload(model(), file(innocent)) for _ in range(18)]
        deadly, *answers = await asyncio.gather(router.upload(model(), file(DEADLY)), *uploads)
        assert deadly.status_code == 502
        assert [answer.status_code for answer in answers] == [200] * 18
        assert fleet.dead == 2


@pytest.mark.parametrize("partial_ok", [False, True])
async def test_a_piece_of_long_audio_ends_two_engines_and_no_more(partial_ok: bool) -> None:
    audio = talk(100.0)
    pieces: list[bytes] = []

    async def notes(heard: Heard) -> Reply:
        pieces.append(heard.audio)
        return 200, verbose("words")

    async with parrot(notes) as url, running_router(url) as router:
        await router.upload(model(), file(audio))
    async with fleet_of(5, pieces[1]) as fleet:
        async with running_router(*fleet.urls, partial_ok=partial_ok) as router:
            answer = await router.upload(model(), file(audio))
        assert fleet.dead == 2
        if partial_ok:
            assert answer.status_code == 200
            assert answer.headers["x-missing-seconds"]
        else:
            assert answer.status_code == 502
            assert "crashed while they worked on this upload" in answer.json()["error"]["message"]

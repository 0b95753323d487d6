"""Following engines as they come, change and go; probing itself is tested end to end."""

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, running_router, until
from tests.upstream.raw_engine import Peer, raw_engine

from vllm_router.app.build import Router
from vllm_router.scheduling.engine_metrics import EngineStats
from vllm_router.upstream.engine_watch import SPREAD_FROM, EngineWatch, WatchSettings
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.probe import EngineInquiry, Probe


async def test_who_comes_is_watched_and_who_goes_no_more(tmp_path: Path) -> None:
    listing = tmp_path / "engines.yaml"
    async with (
        serve_simulated(MODEL) as a,
        serve_simulated(MODEL) as b,
    ):
        listing.write_text(f"- url: {a.url}\n")
        settings = {"service_discovery": "file", "discovery_file": str(listing), "is_ready": False}
        async with running_router(**settings) as running:
            fleet = running.router.dispatcher.fleet
            await until(fleet.is_ready)
            listing.write_text(f"- url: {b.url}\n")
            await until(lambda: [e.spec.url for e in fleet.engines()] == [b.url])
            await until(fleet.is_ready)
            asked = len(a.log)
            count = len(b.log)
            await until(lambda: len(b.log) > count + 6)
            assert len(a.log) == asked


async def test_an_engine_just_taken_out_is_looked_at_at_once() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
    ):
        hour = {"static_backend_health_check_interval": 3600}
        async with running_router(a, b, routing_logic="roundrobin", **hour) as running:
            await a.order(status=503, times=3)
            fleet = running.router.dispatcher.fleet
            for _ in range(8):
                assert (await running.upload()).status_code == 200
            # Its hour is not over, yet it is back: it was asked and answered.
            await until(lambda: len([one for one in a.log if one.path == "/health"]) > 1)
            await until(lambda: all(e.state.value == "ready" for e in fleet.engines()))


async def test_an_engine_without_models_is_not_probed_by_transcribing() -> None:
    async with serve_simulated(MODEL) as engine:
        await engine.order(models=[])
        settings = {"static_backend_health_checks": True, "is_ready": False}
        async with running_router(engine, **settings) as running:
            [one] = running.router.dispatcher.fleet.engines()
            await until(lambda: one.last_error)
            assert one.last_error == "probe failed: it serves no model" or one.last_error == (
                "it serves no model"
            )
            assert engine.log.audio() == []


async def test_an_engine_that_passes_its_probes_without_a_model_says_what_is_missing() -> None:
    async with serve_simulated(MODEL) as engine:
        await engine.order(models=[])
        async with running_router(engine) as running:
            [one] = running.router.dispatcher.fleet.engines()
            assert one.last_error == "its /v1/models lists no model"
            assert (await running.client.get("/ready")).status_code == 503


async def test_a_drained_engine_is_left_alone() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as running:
        fleet = running.router.dispatcher.fleet
        [one] = fleet.engines()
        fleet.drain(one.engine_id, running.router.now())
        await asyncio.sleep(0.4)
        count = len([each for each in engine.log if each.path == "/health"])
        await asyncio.sleep(0.6)
        assert len([each for each in engine.log if each.path == "/health"]) == count


async def test_a_large_fleets_questions_are_spread() -> None:
    count = SPREAD_FROM + 4
    urls = [f"http://127.0.0.1:9/{number}" for number in range(count)]
    hour = {"static_backend_health_check_interval": 3600, "is_ready": False}
    async with running_router(*urls, static_models=[MODEL] * count, **hour) as running:
        fleet = running.router.dispatcher.fleet
        await until(lambda: all(engine.last_probe for engine in fleet.engines()))
        times = sorted(e.last_probe.at for e in fleet.engines() if e.last_probe)
        assert times[-1] - times[0] > 0.2


METRICS = b"vllm:num_requests_running 3\nvllm:num_requests_waiting 0\n"


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body


async def test_a_probe_and_a_reading_that_are_due_are_asked_on_one_connection() -> None:
    asked: list[list[bytes]] = []

    async def script(peer: Peer) -> None:
        paths: list[bytes] = []
        asked.append(paths)
        while True:
            head, _ = await peer.request()
            paths.append(head.split(b" ")[1])
            models = b'{"data": [{"id": "m"}]}'
            bodies = {b"/v1/models": models, b"/metrics": METRICS}
            await peer.say(answer(bodies.get(paths[-1], b"")))

    visit = [b"/v1/models", b"/health", b"/metrics"]
    async with raw_engine(script) as engine:
        # Longer between two visits than an idle connection is kept.
        settings = {"static_backend_health_check_interval": 3600, "engine_stats_interval": 3600}
        async with running_router(f"http://127.0.0.1:{engine.port}", **settings) as running:
            [one] = running.router.dispatcher.fleet.engines()
            await until(lambda: one.stats is not None)
            assert asked == [visit]


async def test_an_engine_whose_metrics_hang_is_probed_all_the_same() -> None:
    probes = 0

    async def script(peer: Peer) -> None:
        nonlocal probes
        while True:
            head, _ = await peer.request()
            if b"/metrics" in head:
                await peer.left()
                return
            probes += b"/health" in head
            await peer.say(answer(b'{"data": [{"id": "m"}]}'))

    async with raw_engine(script) as engine:
        url = f"http://127.0.0.1:{engine.port}"
        async with running_router(url, static_backend_health_check_timeout_seconds=3600):
            await until(lambda: probes > 3)


async def test_an_engine_that_takes_its_time_to_transcribe_is_read_meanwhile() -> None:
    readings = 0

    async def script(peer: Peer) -> None:
        nonlocal readings
        while True:
            head, _ = await peer.request()
            if head.startswith(b"POST"):
                await peer.left()
                return
            readings += b"/metrics" in head
            await peer.say(answer(METRICS))

    async with raw_engine(script) as engine:
        settings = {
            "static_backend_health_checks": True,
            "static_backend_health_check_timeout_seconds": 3600,
            "static_models": [MODEL],
            "is_ready": False,
        }
        async with running_router(f"http://127.0.0.1:{engine.port}", **settings):
            await until(lambda: readings > 3)


@pytest.mark.parametrize(("waiting", "least", "most"), [(5, 3, 6), (0, 1, 1)])
async def test_an_engine_that_lets_windows_wait_is_read_every_second_and_another_is_not(
    waiting: int, least: int, most: int
) -> None:
    readings = 0

    async def script(peer: Peer) -> None:
        nonlocal readings
        while True:
            head, _ = await peer.request()
            readings += b"/metrics" in head
            page = b"vllm:num_requests_running 3\nvllm:num_requests_waiting %d\n" % waiting
            await peer.say(answer(page if b"/metrics" in head else b"{}"))

    async with raw_engine(script) as engine:
        hour = {"static_backend_health_check_interval": 3600, "engine_stats_interval": 3600}
        url = f"http://127.0.0.1:{engine.port}"
        async with running_router(url, static_models=[MODEL], **hour):
            await until(lambda: readings > 0)
            await asyncio.sleep(3.5)
    assert least <= readings <= most


async def test_each_engine_of_a_large_fleet_is_probed_when_it_is_read() -> None:
    """After its first probe, which does not wait for the reading."""
    visits: Counter[bytes] = Counter()

    async def script(peer: Peer) -> None:
        paths = []
        with contextlib.suppress(TimeoutError):
            while True:
                # Half the interval: a busy machine shall not cut one visit in two.
                head, _ = await asyncio.wait_for(peer.request(), 0.5)
                paths.append(head.split(b" ")[1])
                await peer.say(answer(METRICS))
        visits[b" ".join(paths)] += 1

    async with contextlib.AsyncExitStack() as stack:
        engines = [
            await stack.enter_async_context(raw_engine(script)) for _ in range(SPREAD_FROM + 4)
        ]
        urls = [f"http://127.0.0.1:{engine.port}" for engine in engines]
        settings = {"static_backend_health_check_interval": 1.0, "engine_stats_interval": 1.0}
        async with running_router(*urls, **settings, static_models=[MODEL] * len(urls)):
            await until(lambda: visits[b"/health /metrics"] >= 2 * len(urls))
        assert visits[b"/health"] < visits[b"/health /metrics"]


async def test_an_engine_that_goes_while_it_is_asked_is_forgotten(tmp_path: Path) -> None:
    hung = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.request()
        hung.set()
        await peer.left()

    listing = tmp_path / "engines.yaml"
    async with raw_engine(script) as engine, serve_simulated(MODEL) as other:
        listing.write_text(f"- url: http://127.0.0.1:{engine.port}\n")
        settings = {"service_discovery": "file", "discovery_file": str(listing), "is_ready": False}
        async with running_router(**settings):
            await hung.wait()
            listing.write_text(f"- url: {other.url}\n")
            await until(lambda: engine.gone == engine.connections)


async def test_an_engine_that_is_listed_again_after_it_has_emptied_is_watched_again(
    tmp_path: Path,
) -> None:
    listing = tmp_path / "engines.yaml"
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        listing.write_text(f"- url: {engine.url}\n")
        settings = {"service_discovery": "file", "discovery_file": str(listing)}
        async with running_router(**settings) as running:
            fleet = running.router.dispatcher.fleet
            await until(fleet.is_ready)
            await engine.order(delay_s=3.0)
            upload = asyncio.create_task(running.upload())
            await until(engine.log.audio)
            listing.write_text("[]\n")
            await until(lambda: [e.state.value for e in fleet.engines()] == ["draining"])
            assert (await upload).status_code == 200
            await until(lambda: not list(fleet.engines()))
            listing.write_text(f"- url: {engine.url}\n")
            await until(fleet.is_ready)


async def test_a_router_that_stops_asks_no_more() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as running:
        watch = running.router.watch
        watch.stop()
        watch.follow()
        await asyncio.sleep(0.1)
        count = len(engine.log)
        await asyncio.sleep(0.5)
        assert len(engine.log) == count


class BrokenInquiry(EngineInquiry):
    """Breaks in what is to break, the first times."""

    def __init__(self, client: HttpClient, breaks: str, times: int) -> None:
        super().__init__(client, None, 20.0)
        self._breaks = breaks
        self._left = times

    def _break(self, what: str) -> None:
        if what == self._breaks and self._left:
            self._left -= 1
            raise RuntimeError(f"{what} break")

    async def health(self, url: str) -> Probe:
        self._break("probes")
        return await super().health(url)

    async def stats(self, url: str) -> EngineStats:
        self._break("readings")
        return await super().stats(url)


@pytest.mark.parametrize("loop", ["probes", "readings"])
async def test_a_visit_that_fails_for_a_fault_of_our_own_is_counted_and_the_next_one_comes(
    loop: str,
) -> None:
    def altered(router: Router) -> Router:
        inquiry = BrokenInquiry(router.clients[1], loop, 2)
        settings = WatchSettings(0.1, 0.1, False)
        dispatcher = router.dispatcher
        told = (dispatcher.slots.engines_changed, lambda engine_id, seconds: None)
        parts = (*told, router.background, settings, router.now, Random(1))
        return replace(router, watch=EngineWatch(dispatcher.fleet, inquiry, *parts))

    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, altered=altered) as running,
    ):
        registry = running.router.metrics.registry
        name = "vllm_router_loop_failures_total"
        await until(lambda: registry.get_sample_value(name, {"loop": loop}) == 2)
        [one] = running.router.dispatcher.fleet.engines()
        await until(lambda: one.last_probe is not None and one.stats is not None)
        assert (await running.upload()).status_code == 200

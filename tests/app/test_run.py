"""Binding, draining and what runs beside answering; the whole process is tested end to end."""

import asyncio
import logging
import socket
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, RunningRouter, running_router, until

from vllm_router.app.build import Router
from vllm_router.app.run import CannotStart, bind, drain
from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.observability.stats_table import RequestStats
from vllm_router.requests.access import KeyFile, KeyRing
from vllm_router.scheduling.changes import Change, Listing, Withdrawn
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.upstream.http_client import HttpClient


def test_port_0_is_a_free_one() -> None:
    with bind("127.0.0.1", 0) as listening:
        assert listening.getsockname()[1] > 0
        assert not listening.getblocking()


def test_ipv6_addresses_are_told_by_their_colons() -> None:
    with bind("::1", 0) as listening:
        assert listening.family == socket.AF_INET6


@pytest.mark.parametrize(
    ("host", "port"), [("192.0.2.1", 0), ("no such host", 0), ("127.0.0.1", 70_000)]
)
def test_an_address_that_is_not_ours_names_both_flags(host: str, port: int) -> None:
    with pytest.raises(CannotStart, match=f"--host {host} --port {port}: cannot listen"):
        bind(host, port)


def test_a_port_may_be_shared_by_those_who_say_so_only() -> None:
    with bind("127.0.0.1", 0, is_shared=True) as first:
        first.listen()
        port = first.getsockname()[1]
        with bind("127.0.0.1", port, is_shared=True):
            pass
        with pytest.raises(CannotStart):
            bind("127.0.0.1", port)


async def test_draining_waits_for_uploads_and_no_longer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine) as running,
    ):
        await engine.order(delay_s=0.5)
        upload = asyncio.create_task(running.upload())
        await until(lambda: engine.log.audio())
        await drain(running.router, asyncio.Event(), 60)
        assert (await upload).status_code == 200
        metrics = running.router.metrics.registry
        assert metrics.get_sample_value("vllm_router_draining") == 1
        assert "cut off" not in caplog.text


async def test_draining_ends_when_hurried(caplog: pytest.LogCaptureFixture) -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as running:
        await engine.order(hang="answer")
        upload = asyncio.create_task(running.upload())
        await until(lambda: engine.log.audio())
        hurry = asyncio.Event()
        hurry.set()
        with caplog.at_level(logging.WARNING):
            await drain(running.router, hurry, 3600)
        assert "1 uploads in flight are cut off" in caplog.text
        upload.cancel()


async def test_the_loops_lag_is_measured_and_the_table_printed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = {"log_stats": True, "log_stats_interval": 0.2}
    with caplog.at_level(logging.INFO, "vllm_router"):
        async with serve_simulated(MODEL) as engine, running_router(engine, **settings) as running:
            lag = "vllm_router_event_loop_lag_seconds_count"
            registry = running.router.metrics.registry
            await until(lambda: registry.get_sample_value(lag))
            await until(lambda: "waiting in the router's queue: 0" in caplog.text)
            assert engine.url in caplog.text


def failures(running: RunningRouter, loop: str) -> float:
    registry = running.router.metrics.registry
    value = registry.get_sample_value("vllm_router_loop_failures_total", {"loop": loop})
    assert value is not None, "every loop is there from the start"
    return value


async def require_serving(running: RunningRouter) -> None:
    assert (await running.upload()).status_code == 200
    assert (await running.client.get("/ready")).status_code == 200


class BrokenSource:
    """A source of engines that breaks after its list, the first times."""

    def __init__(self, url: str, times: int) -> None:
        self.status = DiscoveryStatus("a source", 0.0)
        self.begun = 0
        self._url = url
        self._times = times

    async def changes(self) -> AsyncGenerator[Change]:
        self.begun += 1
        yield Listing((EngineSpec(EngineId(self._url), self._url, (MODEL,)),))
        if self.begun <= self._times:
            raise ZeroDivisionError("division by zero")
        await asyncio.Event().wait()


async def test_a_source_of_engines_that_breaks_begins_anew_and_its_last_list_stays() -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        source = BrokenSource(engine.url, 2)
        settings: dict[str, Any] = {"static_backends": "http://127.0.0.1:9", "is_ready": False}
        async with running_router(
            altered=lambda router: replace(router, discovery=source), **settings
        ) as running:
            await until(lambda: running.router.dispatcher.fleet.is_ready(MODEL))
            # On a busy machine the second one may have come before anyone looks.
            await until(lambda: failures(running, "discovery") >= 1)
            assert source.status.last_error == (
                "a fault of the router: ZeroDivisionError: division by zero"
            )
            await require_serving(running)
            await until(lambda: source.begun == 3)
            await require_serving(running)
            assert failures(running, "discovery") == 2


class Unhashable(BrokenSource):
    """Names an engine whose id has no bytes: what a reader should never let through."""

    async def changes(self) -> AsyncGenerator[Change]:
        self.begun += 1
        good = EngineSpec(EngineId(self._url), self._url, (MODEL,))
        yield Listing((good,))
        yield Listing((good, EngineSpec(EngineId("\ud800"), "http://127.0.0.1:9")))
        yield Withdrawn(good.engine_id)


async def test_a_change_that_cannot_be_carried_out_costs_that_change() -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        source = Unhashable(engine.url, 0)
        settings: dict[str, Any] = {"static_backends": "http://127.0.0.1:9", "is_ready": False}
        async with running_router(
            altered=lambda router: replace(router, discovery=source), **settings
        ) as running:
            await until(lambda: failures(running, "discovery") >= 2)
            await until(lambda: running.router.dispatcher.fleet.is_ready(MODEL))
            await require_serving(running)


class BrokenClient(HttpClient):
    sweeps = 0

    def sweep(self) -> None:
        self.sweeps += 1
        raise RuntimeError("a sweep that fails")


class BrokenStats(RequestStats):
    def figures(self, engine_id: EngineId) -> tuple[float, float | None, float | None]:
        raise RuntimeError("figures that fail")


class BrokenKeys(KeyFile):
    async def look(self) -> None:
        raise RuntimeError("a look that fails")


@pytest.mark.parametrize("loop", ["sweep", "stats_table", "key_file"])
async def test_a_loop_that_fails_again_and_again_leaves_the_router_serving(
    loop: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys = tmp_path / "keys"
    keys.write_text("key")

    def altered(router: Router) -> Router:
        parts: dict[str, Any] = {
            "sweep": {"clients": (*router.clients, BrokenClient())},
            "stats_table": {"stats": BrokenStats(60.0, router.now)},
            "key_file": {"key_file": BrokenKeys(keys, KeyRing([]), ())},
        }
        return replace(router, **parts[loop])

    settings = {"log_stats": True, "log_stats_interval": 0.1}
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, altered=altered, **settings) as running,
    ):
        await until(lambda: failures(running, loop) >= 2)
        await require_serving(running)
        told = [each for each in caplog.records if f"loop {loop} failed" in each.getMessage()]
        assert len(told) == 1
        assert told[0].exc_info is not None


async def test_a_callback_that_fails_is_counted_and_the_router_serves_on() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine) as running,
    ):
        asyncio.get_running_loop().call_later(0.01, [].pop)
        await until(lambda: failures(running, "callbacks") == 1)
        await require_serving(running)


@pytest.mark.parametrize("weight", ["1.0e+308", "5e-324", "1e-320"])
async def test_one_number_in_the_engines_file_stops_nothing(tmp_path: Path, weight: str) -> None:
    listing = tmp_path / "engines.yaml"
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        listing.write_text(f"- url: {engine.url}\n")
        settings = {"service_discovery": "file", "discovery_file": str(listing), "is_ready": False}
        async with running_router(**settings) as running:
            await until(running.router.dispatcher.fleet.is_ready)
            listing.write_text(f"- url: {engine.url}\n  weight: {weight}\n")
            status = running.router.discovery.status
            await until(lambda: status.last_error is not None)
            await require_serving(running)
            assert failures(running, "discovery") == 0
            [view] = await running.engines()
            assert view["state"] == "ready"

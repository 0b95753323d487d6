"""Binding, draining and what runs beside answering; the whole process is tested end to end."""

import asyncio
import logging
import socket

import pytest
from tests.routers import MODEL, running_router, until

from vllm_router.app.run import CannotStart, bind, drain
from vllm_router.local.serving import serve_simulated


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

"""Every metric that the README lists is served, with values that are true."""

import asyncio
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from tests.fake_engine.serving import serve_simulated
from tests.routers import MODEL, field, file, form, request, running_router, until

from vllm_router.audio.wav import silence

README = Path(__file__).parents[2] / "README.md"


async def test_what_the_readme_lists_is_served_and_nothing_else() -> None:
    listed = set(re.findall(r"^\| `(vllm_router_\w+)` \|", README.read_text(), re.MULTILINE))
    async with serve_simulated(MODEL) as engine, running_router(engine) as router:
        families = text_string_to_metric_families((await router.client.get("/metrics")).text)
        served = {f.name + ("_total" if f.type == "counter" else "") for f in families}
    assert len(listed) > 30
    # Besides prometheus_client's own figures of the process.
    assert {name for name in served if not name.startswith("process_")} == listed


async def test_figures_are_true() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, api_key="k") as router,
    ):
        for _ in range(3):
            answer = await router.upload(
                field("model", MODEL), file(silence(2.0)), Authorization="Bearer k"
            )
            assert answer.status_code == 200
        await router.upload(field("model", "nobody"), file(silence(2.0)), Authorization="Bearer k")
        await until(lambda: all(e.stats for e in router.router.dispatcher.fleet.engines()))
        metrics = await router.metrics()
        model, at = f'model="{MODEL}"', f'engine="{engine.url}"'
        size = len(form(field("model", MODEL), file(silence(2.0))))
        other = len(form(field("model", "nobody"), file(silence(2.0))))
        expected = {
            f'requests_total{{{model},route="transcriptions",status="200"}}': 3,
            'requests_total{model="",route="transcriptions",status="404"}': 1,
            f"audio_seconds_total{{{model}}}": 6,
            f"engine_audio_seconds_total{{{at}}}": 6,
            "upload_bytes_total": 3 * size + other,
            f"in_flight{{{at}}}": 0,
            f"audio_seconds_in_flight{{{at}}}": 0,
            f"windows_in_flight{{{at}}}": 0,
            f'engine_state{{{at},state="ready"}}': 1,
            f'engine_state{{{at},state="ejected"}}': 0,
            f"engine_running{{{at}}}": 0,
            f"engine_waiting{{{at}}}": 0,
            f'attempts_total{{{at},outcome="ok"}}': 3,
            f'request_seconds_count{{length="30s",{model}}}': 3,
            f'request_seconds_bucket{{le="3600.0",length="30s",{model}}}': 3,
            f"first_byte_seconds_count{{{model}}}": 3,
            f"seconds_per_audio_second_count{{{model}}}": 3,
            'key_requests_total{key="key-1",status="200"}': 3,
            'key_audio_seconds_total{key="key-1"}': 6,
            'spool_bytes{where="disk"}': 0,
            'spool_bytes{where="memory"}': 0,
            "open_uploads": 0,
            "draining": 0,
            "retries_total": 0,
        }
        got = {name: metrics.get("vllm_router_" + name) for name in expected}
        # Labels are written in an order of their own.
        for name, value in expected.items():
            if got[name] is None:
                head, _, labels = name.rstrip("}").partition("{")
                wanted = set(labels.split(","))
                got[name] = next(
                    number
                    for key, number in metrics.items()
                    if key.startswith(f"vllm_router_{head}{{")
                    and set(key.partition("{")[2].rstrip("}").split(",")) == wanted
                )
            assert got[name] == value, name
        assert metrics[f"vllm_router_probe_seconds_count{{{at}}}"] > 0
        assert metrics[f"vllm_router_engine_limit_windows{{{at}}}"] >= 1
        assert metrics["vllm_router_connections"] >= 1


async def test_an_unknown_model_is_no_label() -> None:
    async with serve_simulated(MODEL, time_scale=1000) as engine, running_router(engine) as router:
        for number in range(5):
            await router.upload(field("model", f"made-up-{number}"), file(silence(1.0)))
        assert "made-up" not in (await router.client.get("/metrics")).text


async def test_the_series_of_an_engine_that_is_gone_are_gone(tmp_path: Path) -> None:
    listing = tmp_path / "engines.yaml"
    async with (
        serve_simulated(MODEL, time_scale=1000) as a,
        serve_simulated(MODEL, time_scale=1000) as b,
    ):
        listing.write_text(f"- url: {a.url}\n- url: {b.url}\n")
        async with running_router(
            service_discovery="file",
            discovery_file=str(listing),
            is_ready=False,
            routing_logic="roundrobin",
        ) as router:
            fleet = router.router.dispatcher.fleet
            await until(lambda: [e.state.value for e in fleet.engines()] == ["ready"] * 2)
            for _ in range(4):
                assert (await router.upload()).status_code == 200
            assert b.url in (await router.client.get("/metrics")).text
            listing.write_text(f"- url: {a.url}\n")
            await until(lambda: len(list(fleet.engines())) == 1)
            assert b.url not in (await router.client.get("/metrics")).text
            assert (await router.upload()).status_code == 200


async def test_openmetrics_is_served_to_those_who_ask_for_it() -> None:
    async with serve_simulated(MODEL) as engine, running_router(engine) as router:
        accept = {"accept": "application/openmetrics-text; version=1.0.0"}
        answer = await router.client.get("/metrics", headers=accept)
        assert answer.headers["content-type"].startswith("application/openmetrics-text")
        assert answer.text.endswith("# EOF\n")


async def test_an_upload_that_ends_early_is_counted() -> None:
    """Whether its client has left or only closed its sending side cannot be told apart."""
    async with serve_simulated(MODEL) as engine, running_router(engine) as router:
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(request(form(field("model", MODEL))[:-20], length=1000))
        spools = router.router.spools
        await until(lambda: sum(s.open_uploads for s in spools) == 1)
        writer.close()
        await until(lambda: sum(s.open_uploads for s in spools) == 0)
        metrics = await router.metrics()
        kinds = [
            f'vllm_router_requests_total{{model="",route="transcriptions",status="{status}"}}'
            for status in (400, 499)
        ]
        assert sum(metrics.get(kind, 0) for kind in kinds) == 1

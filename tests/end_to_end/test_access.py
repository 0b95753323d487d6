"""Who may ask, how much, and what is never written down."""

import asyncio
import json
from pathlib import Path

import httpx
import pytest
from tests.calls import call, wav
from tests.end_to_end.engines import engines_beside
from tests.end_to_end.processes import router_process
from tests.end_to_end.test_channels import TURNS, encoded
from tests.fake_engine.serving import serve_simulated
from tests.requests.parrots import Heard, Reply, parrot, verbose
from tests.routers import MODEL, TRANSCRIPTIONS, field, file, running_router, until

from vllm_router.audio.wav import silence


async def test_a_key_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("# who may ask\nann:first\nsecond\n")
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, api_key_file=str(keys), api_key="by-flag") as router,
    ):

        async def status(key: str) -> int:
            return (await router.upload(Authorization=f"Bearer {key}")).status_code

        assert [await status(key) for key in ("first", "second", "by-flag")] == [200] * 3
        assert await status("third") == 401
        keys.write_text("ann:third\n")
        async with asyncio.timeout(20):
            while await status("third") != 200:
                await asyncio.sleep(0.1)
        assert await status("first") == 401
        assert await status("by-flag") == 200
        # A broken edit keeps the keys that were good.
        keys.write_text("no one: has a key\n")
        await asyncio.sleep(1.3)
        assert await status("third") == 200
        metrics = await router.metrics()
        assert metrics['vllm_router_key_requests_total{key="ann",status="200"}'] >= 3
        assert metrics['vllm_router_key_requests_total{key="key-1",status="200"}'] == 2
        assert metrics['vllm_router_key_audio_seconds_total{key="ann"}'] >= 3


async def test_a_key_has_its_share_of_audio_per_minute() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, api_key=["a", "b"], key_audio_s_per_minute=10) as router,
    ):

        async def upload(key: str, seconds: float) -> httpx.Response:
            return await router.upload(
                field("model", MODEL), file(silence(seconds)), Authorization=f"Bearer {key}"
            )

        assert (await upload("a", 8)).status_code == 200
        refused = await upload("a", 8)
        assert refused.status_code == 429
        assert refused.json()["error"]["code"] == "rate_limit_exceeded"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert (await upload("b", 8)).status_code == 200


@pytest.mark.parametrize("response_format", ["json", "verbose_json", "srt"])
async def test_a_charge_is_corrected_by_what_the_engine_has_heard(response_format: str) -> None:
    """From its bytes alone it would pass for 40 s."""
    said = {**verbose("words", end_s=18.8), "usage": {"type": "duration", "seconds": 19}}

    async def says(heard: Heard) -> Reply:
        return 200, said

    async with (
        parrot(says) as url,
        running_router(url, api_key="a", key_audio_s_per_minute=60, split="off") as router,
    ):

        async def upload() -> int:
            parts = [
                field("model", MODEL),
                field("response_format", response_format),
                file(b"nothing known" * 25_000, "a.xyz"),
            ]
            return (await router.upload(*parts, Authorization="Bearer a")).status_code

        assert [await upload() for _ in range(3)] == [200, 200, 429]
        metrics = await router.metrics()
        assert 37 < metrics['vllm_router_key_audio_seconds_total{key="key-1"}'] < 39


async def test_a_key_has_its_share_of_audio_in_flight() -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, api_key="a", key_max_audio_s=10) as router,
    ):
        await engine.order(delay_s=30, times=1)
        parts = [field("model", MODEL), file(silence(8.0))]
        first = asyncio.create_task(router.upload(*parts, Authorization="Bearer a"))
        await until(lambda: engine.log.audio())
        assert (await router.upload(*parts, Authorization="Bearer a")).status_code == 429
        first.cancel()
        async with asyncio.timeout(20):
            while (await router.upload(*parts, Authorization="Bearer a")).status_code != 200:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize("extension", ["wav", "flac"])
async def test_each_channel_is_reserved_while_it_is_in_flight(
    extension: str, tmp_path: Path
) -> None:
    stereo = call(TURNS, 12.0)
    data = wav(stereo) if extension == "wav" else encoded(tmp_path, stereo, extension)
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, api_key="a", key_max_audio_s=20) as router,
    ):
        await engine.order(delay_s=30, times=2)
        parts = [field("model", MODEL), field("channels", "each"), file(data)]
        first = asyncio.create_task(router.upload(*parts, Authorization="Bearer a"))
        await until(lambda: len(engine.log.audio()) == 2)
        mono = [field("model", MODEL), file(silence(4.0))]
        # 24 s are in flight, not 12.
        assert (await router.upload(*mono, Authorization="Bearer a")).status_code == 429
        first.cancel()
        async with asyncio.timeout(20):
            while (await router.upload(*mono, Authorization="Bearer a")).status_code != 200:
                await asyncio.sleep(0.05)


SECRETS = ("clients-s3cret", "engines-s3cret", "admins-s3cret", "a prompt of mine", "wrong-s3cret")


def test_no_secret_and_no_content_is_ever_logged(tmp_path: Path) -> None:
    """With everything logged that can be, requests that go well and requests that fail."""
    with engines_beside(1, time_scale=1000, api_key="engines-s3cret") as engines:
        arguments = [
            *("--static-backends", engines.urls, "--host", "127.0.0.1", "--port", "0"),
            *("--api-key", "clients-s3cret", "--engine-api-key", "engines-s3cret"),
            *("--admin-key", "admins-s3cret", "--log-level", "debug", "--log-format", "json"),
        ]
        with router_process(tmp_path / "log", arguments) as process:
            [said] = process.wait_for(r"listens on http://[^:]+:(\d+)")
            process.wait_for("-> ready")
            url = f"http://127.0.0.1:{said[1]}"
            files = {"file": ("a.wav", silence(1.0))}
            data = {"model": MODEL, "prompt": "a prompt of mine"}

            def post(key: str) -> httpx.Response:
                headers = {"authorization": f"Bearer {key}", "x-request-id": f"by-{key[:5]}"}
                return httpx.post(url + TRANSCRIPTIONS, data=data, files=files, headers=headers)

            heard = post("clients-s3cret")
            assert heard.status_code == 200
            assert post("wrong-s3cret").status_code == 401
            engines.order(status=500)
            # Nobody speaks in it, so that there is nothing to be lost.
            assert post("clients-s3cret").status_code == 200
            engines.order(garbage=True)
            assert post("clients-s3cret").status_code == 502
            assert process.stop() == 0
        log = (tmp_path / "log").read_text()
        for secret in (*SECRETS, heard.json()["text"].strip()):
            assert secret not in log
        lines = [json.loads(line) for line in log.splitlines()]
        requests = [line for line in lines if line["logger"] == "vllm_router.access"]
        assert [line["status"] for line in requests][:2] == [200, 401]
        assert len(requests) == 4
        first, second = requests[:2]
        assert first["request_id"] == "by-clien"
        assert first["route"] == "transcriptions"
        assert first["model"] == MODEL
        assert first["audio_s"] == 1.0
        assert first["engines"] == [engines.handles[0].url]
        assert first["queue_s"] >= 0
        assert 0 < first["first_byte_s"] <= first["total_s"]
        assert first["key"] == "key-1"
        assert first["client"] == "127.0.0.1"
        assert first["bytes"] > 32_000
        assert not first.get("error")
        assert second["error"] == "invalid_api_key"
        assert {"time", "level", "logger", "message"} <= set(lines[0])


async def test_no_access_log_if_none_is_wanted(capfd: pytest.CaptureFixture[str]) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, access_log=False) as router,
    ):
        assert (await router.upload()).status_code == 200
        assert " request " not in capfd.readouterr().err

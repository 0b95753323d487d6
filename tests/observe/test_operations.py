"""What docs/operations.md tells operators to do has been tried."""

import asyncio
import re
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trustme
import yaml
from tests.clients.servers import ROOT, free_port
from tests.fake_engine.serving import serve_simulated
from tests.observe.test_dashboards import DASHBOARDS, read
from tests.observe.test_prometheus import rules
from tests.routers import (
    MODEL,
    RunningRouter,
    field,
    file,
    form,
    named,
    running_router,
    until,
)

from vllm_router.audio.wav import silence
from vllm_router.cli import flag_of, read_settings
from vllm_router.settings import Settings

TEXT = (ROOT / "docs" / "operations.md").read_text()
#: Flags of others that the text names.
OTHERS = {"--otlp-traces-endpoint", "--config"}


def test_every_alert_leads_to_its_paragraph() -> None:
    anchors = {heading.lower() for heading in re.findall(r"^### (\w+)$", TEXT, re.M)}
    alerts = [rule for rule in rules() if "alert" in rule]
    assert anchors == {rule["alert"].lower() for rule in alerts}
    for rule in alerts:
        url = rule["annotations"]["runbook_url"]
        assert url == f"docs/operations.md#{rule['alert'].lower()}"


def test_every_flag_that_is_named_exists() -> None:
    known = {flag_of(name) for name in Settings.model_fields} | OTHERS
    known |= {"--no-" + flag[2:] for flag in known}
    # Not those within a fence: they are other programs'.
    assert set(re.findall(r"`(--[a-z][a-z-]*)", TEXT)) <= known


def test_every_panel_that_is_named_exists() -> None:
    titles = {panel["title"] for path in DASHBOARDS for panel in read(path)["panels"]}
    runbook = TEXT[TEXT.index("## Runbook") :]
    found = {" ".join(name.split()) for name in re.findall(r"\*([A-Z][^*]+)\*", runbook)}
    assert len(found) > 4
    assert found - {"Empty"} <= titles


def test_the_configuration_file_is_read(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(# /etc/vllm-router.yaml.*?)```", TEXT, re.S)
    keys = tmp_path / "keys"
    keys.write_text("me:secret\n")
    config = tmp_path / "config.yaml"
    config.write_text(
        block.replace("/etc/vllm-router.keys", str(keys)).replace(
            "/var/lib/vllm-router", str(tmp_path)
        )
    )
    settings = read_settings(["--config", str(config)], {})
    assert settings.static_aliases == (("whisper-1", "openai/whisper-large-v3"),)
    assert settings.static_backend_health_checks
    assert settings.spool_dir == tmp_path


def test_the_scrape_configuration_is_one(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", TEXT, re.S)
    config = tmp_path / "prometheus.yml"
    config.write_text(block)
    shutil.copy(ROOT / "helm" / "rules" / "vllm-router.yaml", tmp_path)
    done = subprocess.run(
        ["promtool", "check", "config", str(config)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert yaml.safe_load(block)["scrape_configs"]


@asynccontextmanager
async def nginx_before(router: RunningRouter, folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """Run nginx with the text's configuration in front of a router; yield a client of it."""
    (block,) = re.findall(r"<!-- tried: nginx -->\n```nginx\n(.*?)```", TEXT, re.S)
    authority = trustme.CA()
    certificate = authority.issue_cert("asr.example.com")
    certificate.cert_chain_pems[0].write_to_path(folder / "asr.pem")
    certificate.private_key_pem.write_to_path(folder / "asr.key")
    authority.cert_pem.write_to_path(folder / "ca.pem")
    port = free_port()
    for ours, its in {
        "127.0.0.1:8001": f"127.0.0.1:{router.port}",
        "listen 443": f"listen 127.0.0.1:{port}",
        "/etc/ssl/": f"{folder}/",
    }.items():
        assert ours in block
        block = block.replace(ours, its)
    temporary = "\n".join(
        f"{name}_temp_path {folder / name};"
        for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = folder / "nginx.conf"
    config.write_text(
        f"daemon off; master_process off; pid {folder / 'pid'}; error_log stderr;\n"
        f"events {{}}\nhttp {{\naccess_log off;\n{temporary}\n{block}}}\n"
    )
    nginx = shutil.which("nginx", path="/usr/sbin:/usr/bin")
    assert nginx is not None, "scripts/install --dev installs it"
    process = await asyncio.create_subprocess_exec(
        nginx, "-e", "stderr", "-p", str(folder), "-c", str(config)
    )
    try:
        context = ssl.create_default_context(cafile=folder / "ca.pem")
        # The certificate is for the name, not for the address.
        context.check_hostname = False
        async with httpx.AsyncClient(
            base_url=f"https://127.0.0.1:{port}",
            headers={"Host": "asr.example.com"},
            verify=context,
            timeout=20,
        ) as client:
            for _ in range(200):
                try:
                    await client.get("/v1/models")
                    break
                except httpx.ConnectError:
                    await asyncio.sleep(0.05)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def test_nginx_in_front_takes_large_uploads_and_hides_the_rest(tmp_path: Path) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, split="off") as router,
        nginx_before(router, tmp_path) as client,
    ):
        body = form(field("model", MODEL), file(silence(300.0)))
        answer = await client.post("/v1/audio/transcriptions", content=body, headers=named({}))
        assert (answer.status_code, answer.json()["usage"]["seconds"]) == (200, 300)
        assert (await client.get("/v1/models")).status_code == 200
        for path in ("/metrics", "/engines", "/health"):
            assert (await client.get(path)).status_code == 404


async def test_nginx_in_front_passes_events_and_uploads_on_as_they_come(tmp_path: Path) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine) as router,
        nginx_before(router, tmp_path) as client,
    ):
        # The engine says something and then nothing for ever: whoever buffers shows nothing.
        await engine.order(hang="body")
        body = form(field("model", MODEL), field("stream", "true"), file(silence(20.0)))

        async def halves() -> AsyncIterator[bytes]:
            yield body[: len(body) // 2]
            await until(lambda: router.router.service.in_flight == 1, "the upload was buffered")
            yield body[len(body) // 2 :]

        headers = {**named({}), "content-length": str(len(body))}
        async with client.stream(
            "POST", "/v1/audio/transcriptions", content=halves(), headers=headers
        ) as answer:
            assert answer.status_code == 200
            assert await anext(answer.aiter_bytes())
        # And who leaves is gone for the router, too.
        await until(lambda: router.router.service.in_flight == 0, "the client's leaving was lost")


@pytest.mark.parametrize("path", ["/v1/models", "/asr/v1/models"])
async def test_a_path_in_front_may_be_stripped_or_not(path: str) -> None:
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, root_path="/asr") as router,
    ):
        assert (await router.client.get(path)).json()["data"][0]["id"] == MODEL
        upload = path.replace("models", "audio/transcriptions")
        assert (await router.upload(path=upload)).status_code == 200


async def test_an_engine_is_drained_and_taken_back_as_told() -> None:
    (line,) = re.findall(r"curl -X POST.*localhost:8001(/engines/\S+)", TEXT)
    async with (
        serve_simulated(MODEL, time_scale=1000) as engine,
        running_router(engine, admin_key="open") as router,
    ):
        drain = line.replace("http://10.0.0.2:8000", engine.url)
        key = {"Authorization": "Bearer open"}
        answer = await router.client.post(drain, headers=key)
        assert answer.json()["state"] == "draining"
        assert (await router.upload()).status_code == 503
        await router.client.post(drain.replace("/drain", "/resume"), headers=key)
        fleet = router.router.dispatcher.fleet
        await until(lambda: fleet.is_ready(MODEL))
        assert (await router.upload()).status_code == 200

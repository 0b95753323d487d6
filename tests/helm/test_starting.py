"""The rendered command line starts the real router, and what is probed and scraped answers.

The router's volumes are laid out in a folder as the kubelet would; addresses and mount points in
the arguments are replaced by local ones. Where discovery would leave the machine (DNS, the API
server) it is pointed at something that refuses.
"""

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import yaml
from tests.clients.servers import ROOT, Server, free_port, running
from tests.helm.chart import (
    Object,
    container,
    deployments,
    names,
    of_kind,
    render,
    rendered_notes,
)

from vllm_router.cli import read_settings

KUBECONFIG = """\
apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: "http://127.0.0.1:%d"}}]
users: [{name: u, user: {token: none}}]
contexts: [{name: x, context: {cluster: c, user: u, namespace: ns}}]
current-context: x
"""


def lay_out(objects: tuple[Object, ...], pod: Object, folder: Path) -> dict[str, Path]:
    """Write the volumes of a pod's first container; return where each mount point is."""
    contents = {}
    for each in objects:
        if each["kind"] == "ConfigMap":
            contents[each["metadata"]["name"]] = each["data"]
        elif each["kind"] == "Secret":
            contents[each["metadata"]["name"]] = {
                key: base64.b64decode(value).decode() for key, value in each["data"].items()
            }
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    places = {}
    for mount in pod["spec"]["containers"][0]["volumeMounts"]:
        place = folder / mount["name"]
        place.mkdir()
        places[mount["mountPath"]] = place
        volume = volumes[mount["name"]]
        source = volume.get("configMap", {}).get("name") or volume.get("secret", {}).get(
            "secretName"
        )
        # What is not rendered is an operator's own Secret.
        data = contents.get(source, {"api-keys": "own-key"}) if source else {}
        for key, text in data.items():
            (place / key).write_text(text)
    return places


def local_arguments(arguments: list[str], places: dict[str, Path], **changed: str) -> list[str]:
    """Return the arguments with mount points and the named flags replaced."""
    local = []
    for argument in arguments:
        flag, equals, value = argument.removeprefix("--").partition("=")
        for mount, place in places.items():
            if value == mount or value.startswith(mount + "/"):
                value = str(place) + value.removeprefix(mount)
        local.append(f"--{flag}{equals}{changed.get(flag.replace('-', '_'), value)}")
    return local


@contextmanager
def rendered_router(name: str, folder: Path, *settings: str, **changed: str) -> Iterator[Server]:
    """Run the router of a value file; it answers /health inside the block."""
    objects = render(name, *settings)
    pod = deployments(objects, "router")[0]["spec"]["template"]
    main = container(pod, "router")
    places = lay_out(objects, pod, folder)
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(KUBECONFIG % free_port())
    environment = {"KUBECONFIG": str(kubeconfig), "PYTHONPATH": str(ROOT / "src")}
    for variable in main["env"]:
        if "valueFrom" in variable:
            environment[variable["name"]] = "a-key"

    def command(port: int) -> list[str]:
        local = local_arguments(main["args"], places, host="127.0.0.1", port=str(port), **changed)
        return [sys.executable, "-m", "vllm_router.app", *local]

    probe = main["livenessProbe"]["httpGet"]["path"]
    router = Server(command, folder / "log", probe, free_port(), environment)
    with running([router], timeout_s=60):
        yield router


@pytest.mark.parametrize("name", names())
def test_the_rendered_flags_start_the_router(name, tmp_path):
    # A name server is not ours to ask; its flags are checked, then an engine is named instead.
    changed = {"service_discovery": "static"} if name == "nodeport" else {}
    extra = ("router.extraArgs[0]=--static-backends=http://127.0.0.1:9",) if changed else ()
    with rendered_router(name, tmp_path, *extra, **changed) as router:
        main = container(deployments(render(name), "router")[0]["spec"]["template"], "router")
        for probe in ("startupProbe", "livenessProbe"):
            assert httpx.get(router.url + main[probe]["httpGet"]["path"]).status_code == 200
        # No engine is there, which is what readiness is about.
        ready = main["readinessProbe"]["httpGet"]["path"]
        assert httpx.get(router.url + ready).status_code == 503
        for monitor in of_kind(render("everything"), "ServiceMonitor"):
            path = monitor["spec"]["endpoints"][0]["path"]
            assert "vllm_router_" in httpx.get(router.url + path).text
        assert router.stop() == 0, router.log_end()


@pytest.mark.parametrize("name", names())
def test_every_rendered_flag_means_what_it_says(name, tmp_path):
    objects = render(name)
    pod = deployments(objects, "router")[0]["spec"]["template"]
    arguments = container(pod, "router")["args"]
    settings = read_settings(local_arguments(arguments, lay_out(objects, pod, tmp_path)), {})
    assert settings.host == "0.0.0.0"
    assert settings.port == container(pod, "router")["ports"][0]["containerPort"]
    assert settings.static_backend_health_checks
    if name == "static":
        assert settings.static_backends == ("http://10.0.0.1:8000", "http://10.0.0.2:8000/asr")
        assert settings.static_model_labels == ("a", "b")
        assert settings.static_aliases == (("whisper-1", "openai/whisper-large-v3"),)
    if name == "everything":
        assert settings.connect_timeout_s == 2
        assert settings.split == "always"
        assert settings.split_longer_than_s == 90
        assert settings.skip_silence is False
        assert settings.max_queue_audio_s == 7_200_000
        assert settings.engine_max_windows == 128
        assert settings.session_key == "x-user-id"


def test_every_metric_that_is_scaled_or_alerted_on_is_there(tmp_path):
    named = {
        metric
        for each in render("everything")
        if each["kind"] in ("HorizontalPodAutoscaler", "ScaledObject", "PrometheusRule")
        # Behind a colon is what the rules themselves record.
        for metric in re.findall(r"(?<!:)vllm_router_[a-z_]+", json.dumps(each))
    }
    assert {"vllm_router_queue_audio_seconds", "vllm_router_audio_seconds_in_flight"} <= named
    with rendered_router("static", tmp_path) as router:
        page = httpx.get(router.url + "/metrics").text
    there = set(re.findall(r"^# HELP (\S+)", page, re.M))
    for metric in named:
        family = re.sub(r"_(bucket|sum|count)$", "", metric)
        assert metric in there or family in there, metric


def test_a_key_of_the_rendered_secret_opens_the_api(tmp_path):
    with rendered_router("ingress", tmp_path) as router:
        url = router.url + "/v1/models"
        assert httpx.get(url).status_code == 401
        key = {"Authorization": "Bearer not-a-real-key-1"}
        assert httpx.get(url, headers=key).status_code == 200


def test_the_images_health_check_asks_the_running_router(tmp_path):
    # The CMD of HEALTHCHECK, as the Dockerfile has it.
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    (line,) = [each for each in text.splitlines() if each.startswith("HEALTHCHECK")]
    _, code_flag, code = yaml.safe_load(line.partition("CMD ")[2])
    with rendered_router("static", tmp_path) as router:
        for port, status in ((router.port, 0), (free_port(), 1)):
            done = subprocess.run(
                [sys.executable, code_flag, code],
                env={"VLLM_ROUTER_PORT": str(port)},
                capture_output=True,
                check=False,
            )
            assert done.returncode == status, done.stderr


def test_the_commands_of_the_notes_transcribe_through_the_rendered_router(tmp_path):
    def engine_command(port: int) -> list[str]:
        engine = [sys.executable, "-m", "tests.fake_engine", "--port", str(port)]
        return [*engine, "--served-model-name", "openai/whisper-large-v3"]

    source = {"PYTHONPATH": str(ROOT / "src")}
    engine = Server(engine_command, tmp_path / "engine.log", "/health", free_port(), source)
    settings = (
        "router.auth.apiKeys[0]=me:secret",
        f"router.discovery.static.engines[0].url={engine.url}",
        f"router.discovery.static.engines[1].url=http://127.0.0.1:{free_port()}",
    )
    with (
        running([engine], timeout_s=60),
        rendered_router("static", tmp_path, *settings, static_aliases="") as router,
    ):
        router.ready_path = "/ready"
        router.wait_until_ready(60)
        # What the cluster would say: nothing but the Secret is asked for.
        secret = base64.b64encode(b"me:secret").decode()
        kubectl = tmp_path / "bin" / "kubectl"
        kubectl.parent.mkdir()
        kubectl.write_text(f"#!/bin/sh\necho {secret}\n")
        kubectl.chmod(0o755)
        recording = ROOT / "speech_model" / "samples" / "00.wav"
        (tmp_path / "recording.wav").write_bytes(recording.read_bytes())
        lines = [
            line
            for line in rendered_notes(tmp_path, "static", *settings).splitlines()
            if line.startswith(("  KEY=", "  MODEL=", "  curl "))
        ]
        assert len(lines) == 3
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", "\n".join(lines)],
            cwd=tmp_path,
            env={**os.environ, "PATH": f"{kubectl.parent}:{os.environ['PATH']}", "URL": router.url},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["text"]

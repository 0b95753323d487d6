"""The commands start as they stand, and a wrong one ends in one plain sentence."""

import logging
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import httpx
import pytest
from tests.end_to_end.engines import engines_beside
from tests.end_to_end.processes import environment, fails, router_process
from tests.routers import MODEL, TRANSCRIPTIONS

from vllm_router import __version__
from vllm_router.app.compiled import how_it_runs
from vllm_router.audio.wav import silence
from vllm_router.cli import main

BACKEND = ("--static-backends", "http://127.0.0.1:9")
K8S = ("--service-discovery", "k8s", "--k8s-label-selector", "app=whisper")


class Refuses(Protocol):
    """Runs the command in this process, which must refuse, and returns its one sentence."""

    def __call__(self, arguments: Sequence[str], **env: str) -> str: ...


@pytest.fixture
def refuses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Refuses]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(arguments: Sequence[str], **env: str) -> str:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as refusal:
            main(arguments)
        assert refusal.value.code == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        [line] = printed.err.splitlines()
        assert line.startswith("vllm-router: ")
        assert line.endswith(".")
        assert not line.endswith("..")
        return line.removeprefix("vllm-router: ")

    yield run
    root.handlers[:], root.level = handlers, level


def transcribe(url: str, model: str = MODEL) -> httpx.Response:
    files = {"file": ("a.wav", silence(1.0))}
    return httpx.post(url + TRANSCRIPTIONS, data={"model": model}, files=files, timeout=30)


def test_the_short_command(tmp_path: Path) -> None:
    """`python -m vllm_router.app --static-backends URL,URL`."""
    with (
        engines_beside(2, time_scale=1000) as engines,
        router_process(
            tmp_path / "log", ["--static-backends", engines.urls, "--port", "0"]
        ) as process,
    ):
        assert transcribe(process.wait_until_ready()).status_code == 200
        assert process.stop() == 0
        assert "Traceback" not in "\n".join(process.lines)


def test_the_vllm_worlds_command(tmp_path: Path) -> None:
    with engines_beside(1, time_scale=1000) as engines:
        arguments = [
            *("--host", "0.0.0.0", "--port", "0", "--service-discovery", "static"),
            *("--static-backends", engines.urls.replace("127.0.0.1", "0.0.0.0")),
            *("--static-models", "openai/whisper-small", "--static-model-types", "transcription"),
            *("--routing-logic", "roundrobin", "--log-stats", "--engine-stats-interval", "10"),
            *("--request-stats-window", "10", "--static-backend-health-checks"),
            # Not of the command, so that the test need not wait for ten seconds.
            *("--log-stats-interval", "0.5"),
        ]
        with router_process(tmp_path / "log", arguments) as process:
            url = process.wait_until_ready()
            assert transcribe(url, "openai/whisper-small").status_code == 200
            process.wait_for(r"engine +models +state +running +queued +in flight", 2)
            [row] = process.wait_for(
                r"http://0\.0\.0\.0:\d+ +openai/whisper-small +ready +\d+ +\d+ +0 +0\.1 +\d"
            )
            assert row
            assert process.stop() == 0


def test_the_console_script_is_the_same_command() -> None:
    script = shutil.which("vllm-router", path=str(Path(sys.executable).parent))
    assert script is not None
    for command in ([script], [sys.executable, "-m", "vllm_router.app"]):
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
        assert done.stdout == f"vllm-router {__version__} ({how_it_runs()})\n"


def test_the_command_line_beats_the_environment_and_that_the_file(tmp_path: Path) -> None:
    config = tmp_path / "router.yaml"
    with engines_beside(1, time_scale=1000) as engines:
        config.write_text(
            f"static-backends: {engines.urls}\n"
            "port: 1\n"
            "log-format: json\n"
            "--static-aliases: {from-file: openai/whisper-small}\n"
        )
        env = {
            "VLLM_ROUTER_PORT": "0",
            "VLLM_ROUTER_STATIC_ALIASES": f"from-environment:{MODEL}",
            "VLLM_ROUTER_CONFIG": str(config),
        }
        with router_process(tmp_path / "a", [], **env) as process:
            [said] = process.wait_for(
                r'"message": "vllm-router \S+ \(\w+\) listens on http://\S+:(\d+)"'
            )
            port = said[1]
            process.wait_for("-> ready")
            names = httpx.get(f"http://127.0.0.1:{port}/v1/models").json()["data"]
            assert [one["id"] for one in names] == [MODEL, "from-environment"]
        arguments = ["--static-aliases", f"from-flags:{MODEL}", "--log-format", "text"]
        with router_process(tmp_path / "b", arguments, **env) as process:
            url = process.wait_until_ready()
            names = httpx.get(url + "/v1/models").json()["data"]
            assert [one["id"] for one in names] == [MODEL, "from-flags"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "--static-backends names no engine"),
        (["--static-backend", "http://a"], "--static-backend"),
        ([*BACKEND, "--nonsense"], "--nonsense"),
        ([*BACKEND, "--port", "http"], "--port: 'http' is not usable"),
        ([*BACKEND, "--port", "70000"], "--port: '70000' is not usable"),
        ([*BACKEND, "--port"], "--port"),
        ([*BACKEND, "--routing-logic", "best"], "--routing-logic: 'best' is not usable"),
        ([*BACKEND, "--read-timeout-s", "-1"], "--read-timeout-s: '-1' is not usable"),
        ([*BACKEND, "--read-timeout-s", "nan"], "--read-timeout-s: 'nan' is not usable"),
        ([*BACKEND, "--max-upload-mb", "0"], "--max-upload-mb: '0' is not usable"),
        (["--static-backends", "localhost:8002"], "--static-backends"),
        (["--static-backends", "ftp://localhost"], "--static-backends"),
        (["--static-backends", "http://localhost:x"], "--static-backends"),
        (["--static-backends", "http://a,http://a"], "--static-backends names http://a twice"),
        ([*BACKEND, "--static-models", "a,b"], "--static-models has 2 values but"),
        ([*BACKEND, "--static-model-labels", "a,b"], "--static-model-labels has 2 values but"),
        ([*BACKEND, "--static-model-types", "chat"], '-types: "chat" is not supported'),
        ([*BACKEND, "--static-aliases", "whisper-1"], "--static-aliases: 'whisper-1' is not of"),
        ([*BACKEND, "--config", "/no/such.yaml"], "--config: '/no/such.yaml' cannot be read"),
        ([*BACKEND, "--spool-dir", "/no/such"], "--spool-dir '/no/such' is not a folder"),
        ([*BACKEND, "--api-key-file", "/no/such"], "--api-key-file '/no/such' is not a file"),
        ([*BACKEND, "--engine-ca-file", "/no/such"], "--engine-ca-file '/no/such' is not a file"),
        ([*BACKEND, "--engine-ca-file", __file__], "--engine-ca-file"),
        ([*BACKEND, "--routing-logic", "session"], "--session-key is needed"),
        (["--service-discovery", "file"], "--discovery-file is needed"),
        (["--service-discovery", "dns"], "--dns-name is needed"),
        (["--service-discovery", "k8s"], "--k8s-label-selector is needed"),
        ([*K8S, "--k8s-port", "0"], '--k8s-port: "0" is neither'),
        ([*K8S, "--k8s-kubeconfig", "/no/such"], "--k8s-kubeconfig"),
        (["--service-discovery", "dns", "--dns-name", "a..b"], '--dns-name: "a..b" is not a DNS'),
        ([*BACKEND, "--host", "999.1.2.3"], "--host"),
        ([*BACKEND, "--host", "192.0.2.1", "--port", "0"], "--host 192.0.2.1"),
    ],
)
def test_a_wrong_start_names_its_flag_in_one_sentence(
    arguments: list[str], says: str, refuses: Refuses
) -> None:
    assert says in refuses(arguments)


def test_a_port_that_is_taken_is_told_so(refuses: Refuses) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        said = refuses([*BACKEND, "--host", "127.0.0.1", "--port", port])
        assert f"--port {port}: cannot listen" in said
        assert refuses([*BACKEND, "--host", "127.0.0.1", "--port", port, "--workers", "2"]) == said


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("- a\n- b\n", "must be a mapping"),
        ("port: [", "is not YAML"),
        ("prot: 8001\n", "names a setting that does not exist: prot"),
        ("port: many\nstatic-backends: http://a\n", "--port: 'many' is not usable"),
    ],
)
def test_a_wrong_file_of_settings_is_told_so(
    text: str, says: str, tmp_path: Path, refuses: Refuses
) -> None:
    config = tmp_path / "router.yaml"
    config.write_text(text)
    assert says in refuses(["--config", str(config)])


def test_a_wrong_environment_names_the_flag(refuses: Refuses) -> None:
    said = refuses([*BACKEND], VLLM_ROUTER_LOG_LEVEL="loud")
    assert said.startswith("--log-level: 'loud' is not usable")


def test_a_process_that_cannot_start_ends_with_code_2_and_no_traceback() -> None:
    assert "--nonsense" in fails("--nonsense")
    assert "--static-models has 2 values" in fails(*BACKEND, "--static-models", "a,b")


def test_a_key_is_never_shown(refuses: Refuses) -> None:
    said = refuses([*BACKEND, "--key-max-audio-s", "0", "--api-key", "s3cret"])
    assert "s3cret" not in said


def test_help_names_every_flag() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "vllm_router.app", "--help"],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    flags = re.findall(r"^\| `(--[a-z0-9-]+)` \|", readme, re.MULTILINE)
    assert len(flags) > 50
    for flag in flags:
        assert flag in done.stdout

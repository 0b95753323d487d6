"""The command line: the engine as a process, stopped as a service manager stops it."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from tests.local.recordings import SPEECH_MODEL, samples, word_errors
from tests.local.serving import TRANSCRIPTIONS

from vllm_router.local.__main__ import main

ROOT = SPEECH_MODEL.parent
COMMAND = [sys.executable, "-m", "vllm_router.local"]


def test_a_model_is_served_until_the_engine_is_told_to_stop() -> None:
    sample = samples()[0]
    arguments = ["--model", str(SPEECH_MODEL / "ct2"), "--served-model-name", "mine", "--port", "0"]
    with subprocess.Popen([*COMMAND, *arguments], stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            started = (re.search(r"running on (http://\S+)", line) for line in process.stderr)
            url = next(each[1] for each in started if each)
            with httpx.Client(base_url=url, timeout=60) as client:
                assert client.get("/v1/models").json()["data"][0]["id"] == "mine"
                answer = client.post(TRANSCRIPTIONS, files={"file": sample.path.read_bytes()})
            assert word_errors(answer.json()["text"], sample.text) == 0
        finally:
            process.terminate()
            process.communicate()
    assert process.returncode in (0, -signal.SIGTERM)


def test_a_model_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main([])
    assert caught.value.code == 2
    assert "--model" in capsys.readouterr().err


def test_a_missing_model_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--model", "nowhere"]) == 2
    assert "vllm_router.local: --model nowhere: no such folder" in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["ctranslate2", "uvicorn"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = (
        "import sys; from vllm_router.local.__main__ import main; "
        f"sys.modules['{missing}'] = None; sys.exit(main(['--model', 'x']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"{missing} is missing: pip install 'vllm-whisper-router[local]'" in done.stderr


def test_simulate_runs_the_fake_engine_of_the_checkout(tmp_path: Path) -> None:
    arguments = ["--simulate", "--peak-windows-per-s", "120", "--half-at", "8", "--port", "0"]
    # From elsewhere too, as long as the installation is editable.
    for folder in (ROOT, tmp_path):
        with subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                url = process.stdout.readline().split()[-1]
                assert httpx.get(f"{url}/simulate/faults").json() == {}
            finally:
                process.terminate()
        assert process.returncode == 0


def test_simulate_without_a_checkout_says_where_the_fake_engine_is(tmp_path: Path) -> None:
    copy = tmp_path / "vllm_router" / "local"
    copy.mkdir(parents=True)
    for name in ("__init__.py", "__main__.py"):
        (copy / name).write_text((ROOT / "src" / "vllm_router" / "local" / name).read_text())
    (copy.parent / "__init__.py").touch()
    done = subprocess.run(
        [*COMMAND, "--simulate"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "python -m tests.fake_engine" in done.stderr

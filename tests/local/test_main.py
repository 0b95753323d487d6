"""The command line, as a process."""

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE, Process

import httpx
import pytest
from tests.local.recordings import SPEECH_MODEL, samples, word_errors

from vllm_router.local.__main__ import main

PATH = "/v1/audio/transcriptions"


async def start(*arguments: str) -> tuple[Process, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "vllm_router.local", "--port", "0", *arguments, stdout=PIPE
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    assert "ready on http://" in line
    return process, line.split()[-1]


async def stop(process: Process) -> int:
    process.send_signal(signal.SIGTERM)
    return await process.wait()


async def test_a_model_is_served_until_the_engine_is_told_to_stop() -> None:
    process, url = await start("--model", str(SPEECH_MODEL / "ct2"), "--served-model-name", "mine")
    sample = samples()[0]
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == "mine"
        answer = await client.post(PATH, files={"file": sample.path.read_bytes()})
    assert word_errors(answer.json()["text"], sample.text) == 0
    assert await stop(process) == 0


async def test_a_simulated_engine_takes_its_curve_and_faults() -> None:
    process, url = await start(
        "--simulate",
        "--curve",
        "t4",
        "--time-scale",
        "100",
        "--half-at",
        "0",
        "--peak-windows-per-s",
        "30",
        "--faults",
        "status=503,times=1",
        "--api-key",
        "k",
    )
    sample = samples()[0].path.read_bytes()
    async with httpx.AsyncClient(base_url=url, headers={"Authorization": "Bearer k"}) as client:
        answers = [await client.post(PATH, files={"file": sample}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [503, 200]
    assert await stop(process) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--simulate", "--faults", "nonsense=1"], "unknown fault 'nonsense'"),
        (["--simulate", "--model", "x"], "not allowed with"),
        ([], "required"),
    ],
)
def test_a_wrong_flag_ends_with_a_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--model", "nowhere"], "--model nowhere: no such folder"),
        (["--simulate", "--host", "256.1.1.1"], "vllm_router.local: "),
    ],
)
def test_what_cannot_be_had_ends_with_a_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_missing_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("vllm_router.local.real", "vllm_router.local.whisper"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "ctranslate2", None)
    assert main(["--model", "x"]) == 2
    assert "ctranslate2: pip install 'vllm-whisper-router[local]'" in capsys.readouterr().err

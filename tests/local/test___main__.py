"""The command line: a server in this very process, stopped as a service manager stops it."""

import contextlib
import io
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable

import httpx
import pytest
from tests.local.recordings import SPEECH_MODEL, samples, word_errors

from vllm_router.audio.wav import silence
from vllm_router.local.__main__ import main

PATH = "/v1/audio/transcriptions"


class Lines(io.TextIOBase):
    """Standard output as a queue of what was written."""

    def __init__(self) -> None:
        self.written: queue.Queue[str] = queue.Queue()

    def write(self, text: str) -> int:
        self.written.put(text)
        return len(text)


def run(arguments: list[str], use: Callable[[httpx.Client], None]) -> int:
    """Run main, use the engine once it is ready, tell it to stop; return the exit code."""
    out = Lines()
    failures: list[BaseException] = []

    def client() -> None:
        try:
            url = out.written.get(timeout=60).split()[-1]
            with httpx.Client(base_url=url, timeout=60) as one:
                use(one)
        except BaseException as error:
            failures.append(error)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=client)
    with contextlib.redirect_stdout(out):
        thread.start()
        code = main([*arguments, "--port", "0"])
    thread.join()
    if failures:
        raise failures[0]
    return code


def test_a_model_is_served_until_the_engine_is_told_to_stop() -> None:
    sample = samples()[0]

    def use(client: httpx.Client) -> None:
        assert client.get("/v1/models").json()["data"][0]["id"] == "mine"
        answer = client.post(PATH, files={"file": sample.path.read_bytes()})
        assert word_errors(answer.json()["text"], sample.text) == 0

    model = str(SPEECH_MODEL / "ct2")
    assert run(["--model", model, "--served-model-name", "mine"], use) == 0


def test_a_simulated_engine_takes_its_curve_and_faults() -> None:
    def use(client: httpx.Client) -> None:
        upload = {"file": samples()[0].path.read_bytes()}
        headers = {"Authorization": "Bearer k"}
        answers = [client.post(PATH, files=upload, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 200]

    faults = ["--faults", "status=503,times=1", "--api-key", "k"]
    curve = ["--curve", "t4", "--time-scale", "100", "--half-at", "0", "--peak-windows-per-s", "30"]
    assert run(["--simulate", *curve, *faults], use) == 0


def test_a_simulated_engine_takes_audio_as_long_as_it_is_told_to() -> None:
    def use(client: httpx.Client) -> None:
        audio = (silence(length_s, rate_hz=1000) for length_s in (700.0, 710.0))
        answers = [client.post(PATH, files={"file": ("a.wav", each)}) for each in audio]
        assert [answer.status_code for answer in answers] == [200, 400]
        assert "maximum allowed duration of 705s" in answers[1].text

    assert run(["--simulate", "--time-scale", "1000", "--max-audio-s", "705"], use) == 0


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

"""The command line: a server in this very process, stopped as a service manager stops it."""

import contextlib
import io
import os
import queue
import signal
import threading
from collections.abc import Callable

import httpx
import pytest
from tests.fake_engine.__main__ import main

from vllm_router.audio.wav import silence

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


def test_a_simulated_engine_takes_its_curve_and_faults() -> None:
    def use(client: httpx.Client) -> None:
        upload = {"file": silence(1.0)}
        headers = {"Authorization": "Bearer k"}
        answers = [client.post(PATH, files=upload, headers=headers) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [503, 200]

    faults = ["--faults", "status=503,times=1", "--api-key", "k"]
    curve = ["--curve", "t4", "--time-scale", "100", "--half-at", "0", "--peak-windows-per-s", "30"]
    assert run([*curve, *faults], use) == 0


def test_a_simulated_engine_takes_audio_as_long_as_it_is_told_to() -> None:
    def use(client: httpx.Client) -> None:
        audio = (silence(length_s, rate_hz=1000) for length_s in (700.0, 710.0))
        answers = [client.post(PATH, files={"file": ("a.wav", each)}) for each in audio]
        assert [answer.status_code for answer in answers] == [200, 400]
        assert "maximum allowed duration of 705s" in answers[1].text

    assert run(["--time-scale", "1000", "--max-audio-s", "705"], use) == 0


def test_an_unknown_fault_ends_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--faults", "nonsense=1"])
    assert caught.value.code == 2
    assert "unknown fault 'nonsense'" in capsys.readouterr().err


def test_an_address_that_cannot_be_bound_ends_with_a_sentence(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--host", "256.1.1.1"]) == 2
    assert "fake_engine: " in capsys.readouterr().err

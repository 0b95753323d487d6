import json
import subprocess
from pathlib import Path

import pytest
from tests.speech.recordings import Recording, saved
from tests.speech.words import word_errors


def curl(router_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [
            *("curl", "--silent", "--show-error", "--fail-with-body", "--max-time", "110"),
            *arguments,
            f"{router_url}/v1/audio/transcriptions",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


@pytest.fixture(scope="module")
def file(recording: Recording, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(recording, tmp_path_factory.mktemp("curl"))


def form(file: Path, *fields: str) -> list[str]:
    """The file first, as in the API's own documentation."""
    parts = [f"file=@{file}", "model=whisper-1", *fields]
    return [argument for part in parts for argument in ("-F", part)]


def test_a_file_before_its_model(router_url: str, recording: Recording, file: Path) -> None:
    answer = curl(router_url, *form(file)).stdout
    assert word_errors(recording.text, json.loads(answer)["text"]).wrong == 0


def test_an_upload_of_unknown_length(router_url: str, recording: Recording, file: Path) -> None:
    answer = curl(router_url, "-H", "Transfer-Encoding: chunked", *form(file)).stdout
    assert word_errors(recording.text, json.loads(answer)["text"]).wrong == 0


def test_an_upload_that_waits_to_be_asked_for(
    router_url: str, recording: Recording, file: Path
) -> None:
    # Without an answer to its question, curl would wait for longer than it may take.
    patient = ("--expect100-timeout", "1000", "-H", "Expect: 100-continue", "--verbose")
    done = curl(router_url, *patient, *form(file))
    assert "< HTTP/1.1 100 Continue" in done.stderr
    assert word_errors(recording.text, json.loads(done.stdout)["text"]).wrong == 0


def test_text_is_words_alone(router_url: str, recording: Recording, file: Path) -> None:
    answer = curl(router_url, "--include", *form(file, "response_format=text")).stdout
    headers, _, body = answer.replace("\r\n", "\n").rpartition("\n\n")
    assert "content-type: text/plain; charset=utf-8" in headers.lower()
    assert word_errors(recording.text, body).wrong == 0
    assert "{" not in body


def test_a_stream_prints_events(router_url: str, recording: Recording, file: Path) -> None:
    answer = curl(router_url, "--no-buffer", *form(file, "stream=true")).stdout
    data = [line.removeprefix("data: ") for line in answer.splitlines() if line[:6] == "data: "]
    events = [json.loads(each) for each in data if each != "[DONE]"]
    assert events[-1]["type"] == "transcript.text.done"
    assert word_errors(recording.text, events[-1]["text"]).wrong == 0

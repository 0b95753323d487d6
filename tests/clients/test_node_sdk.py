import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.clients.node_packages import SOURCE, installed_packages, node_environment, node_program
from tests.speech.recordings import Recording, saved
from tests.speech.words import word_errors

MODEL = "openai/whisper-base"


@pytest.fixture(scope="module")
def answers(
    router_url: str, recording: Recording, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    folder: Path = tmp_path_factory.mktemp("node")
    # Node looks for packages beside the program.
    (folder / "node_modules").symlink_to(installed_packages())
    program = shutil.copy(SOURCE / "client.mjs", folder)
    done = subprocess.run(
        [node_program("node"), program, f"{router_url}/v1", MODEL, saved(recording, folder)],
        env=node_environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answered: dict[str, Any] = json.loads(done.stdout)
    return answered


def test_the_words_come_back(answers: dict[str, Any], recording: Recording) -> None:
    assert word_errors(recording.text, answers["json"]["text"]).wrong == 0
    assert word_errors(recording.text, answers["verbose_json"]["text"]).wrong == 0
    assert word_errors(recording.text, answers["translation"]["text"]).wrong == 0


def test_text_is_a_string(answers: dict[str, Any], recording: Recording) -> None:
    assert isinstance(answers["text"], str)
    assert word_errors(recording.text, answers["text"]).wrong == 0


def test_a_stream_gives_the_text_as_it_comes(answers: dict[str, Any], recording: Recording) -> None:
    *deltas, done = answers["events"]
    assert len(deltas) > 1
    assert {event["type"] for event in deltas} == {"transcript.text.delta"}
    assert done["type"] == "transcript.text.done"
    assert "".join(event["delta"] for event in deltas) == done["text"]
    assert word_errors(recording.text, done["text"]).wrong == 0


def test_the_list_of_models_has_the_alias(answers: dict[str, Any]) -> None:
    assert {MODEL, "whisper-1"} <= set(answers["models"])


def test_an_unknown_model_is_not_found_in_the_clients_own_terms(answers: dict[str, Any]) -> None:
    assert answers["unknown_model"]["param"] == "model"
    assert answers["unknown_model"]["type"]
    assert answers["unknown_model"]["code"]

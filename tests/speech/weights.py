"""OpenAI's Whisper weights for tests: fetched once by scripts/fetch-model, or a reason to skip."""

import subprocess
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def model_folder(name: str = "base", *, hf: bool = False) -> Path:
    """Return the folder of a model, fetched if it is not there yet; skip the test without it.

    Args:
        name: As scripts/fetch-model knows it.
        hf: The folder for vLLM rather than the one for vllm_router.local.
    """
    folder, reason = _fetched(name, hf)
    if folder is None:
        pytest.skip(reason)
    return folder


@cache
def _fetched(name: str, hf: bool) -> tuple[Path | None, str]:
    command = [str(ROOT / "scripts" / "fetch-model"), name, *(["--hf"] if hf else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.splitlines() or ["fetch-model ended without a word"]
        return None, lines[-1]
    return Path(done.stdout.strip()), ""

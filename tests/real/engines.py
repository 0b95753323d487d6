"""The real vLLM engines of this suite: what they serve and how long they may take to start."""

from pathlib import Path

from tests.clients.conftest import MODEL
from tests.clients.servers import ROOT, Server, free_port
from tests.speech.weights import model_folder

__all__ = ["MODEL", "START_S", "engine"]

# Two and a half minutes on two idle cores; two at once on busy ones take several times that.
START_S = 900.0


def engine(log: Path) -> Server:
    """Describe a vLLM engine with OpenAI's Whisper base, on a free port; skip without weights."""
    folder = model_folder("base", hf=True)
    return Server(
        command=lambda port: [
            *(str(ROOT / "scripts" / "serve-vllm"), str(folder), str(port)),
            *("--served-model-name", MODEL),
        ],
        log=log,
        ready_path="/health",
        port=free_port(),
    )

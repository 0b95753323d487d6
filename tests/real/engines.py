"""The real vLLM engines of this suite: what they serve and how long they may take to start."""

from pathlib import Path

from tests.clients.servers import ROOT, Server, free_port

MODEL = "openai/whisper-small"
# 40 to 60 s on two idle cores; two at once on busy ones take several times that.
START_S = 600.0


def engine(log: Path) -> Server:
    """Describe a vLLM engine with the speech model, on a free port."""
    return Server(
        command=lambda port: [
            *(str(ROOT / "scripts" / "serve-vllm"), "speech_model/hf", str(port)),
            *("--served-model-name", MODEL),
        ],
        log=log,
        ready_path="/health",
        port=free_port(),
    )

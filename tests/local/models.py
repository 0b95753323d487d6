"""Stand-ins for a model, for tests of everything around it."""

import threading
from typing import Any

from vllm_router.local.responses import Chunk
from vllm_router.local.whisper import Options


class QuickModel:
    """Transcribes each chunk at once, as its options and where it starts."""

    languages = frozenset(("en", "de"))

    def encode(self, samples: Any) -> int:
        return len(samples)

    def detect_language(self, encoded: int) -> str:
        return "de"

    def transcribe(self, encoded: int, start_s: float, length_s: float, options: Options) -> Chunk:
        text = f" {options.task} {options.language} {options.prompt} at {start_s:.0f}"
        return Chunk(start_s, text, (), 4)


class BrokenModel(QuickModel):
    """Fails in the second chunk, and at once if asked for German."""

    def transcribe(self, encoded: int, start_s: float, length_s: float, options: Options) -> Chunk:
        if start_s or options.language == "de":
            raise RuntimeError("the model broke")
        return Chunk(start_s, " one", (), 1)


class HeldModel(QuickModel):
    """Transcribes a chunk only when `release` is set."""

    def __init__(self) -> None:
        self.release = threading.Event()

    def transcribe(self, encoded: int, start_s: float, length_s: float, options: Options) -> Chunk:
        assert self.release.wait(60)
        return super().transcribe(encoded, start_s, length_s, options)

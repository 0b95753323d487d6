"""faster-whisper on the same recordings; runs in an environment of its own, as a program.

    python faster.py MODEL_FOLDER WAV...

Prints a JSON line for each file and mode: the text, the segments' times and the seconds it took.
Nothing but faster-whisper is imported, and no language is given: what is compared is what a user
gets who sets nothing.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

from faster_whisper import BatchedInferencePipeline, WhisperModel

# As many as the machine for the measurement has; vLLM's CPU build takes all there are.
THREADS = 2
# The default of faster-whisper's own documentation.
BATCH = 8


def main(folder: str, files: list[str]) -> None:
    """Transcribe each file in each mode."""
    model = WhisperModel(folder, device="cpu", compute_type="float32", cpu_threads=THREADS)
    batched = BatchedInferencePipeline(model)
    modes: dict[str, Callable[[str], Any]] = {
        "sequential": model.transcribe,
        "with VAD": lambda file: model.transcribe(file, vad_filter=True),
        "batched": lambda file: batched.transcribe(file, batch_size=BATCH),
    }
    for file in files:
        for mode, transcribe in modes.items():
            began = time.monotonic()
            segments = [(s.start, s.end, s.text) for s in transcribe(file)[0]]
            line = {
                "file": file,
                "mode": mode,
                "text": " ".join(text for _, _, text in segments),
                "segments": segments,
                "seconds": time.monotonic() - began,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])

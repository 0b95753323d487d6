"""The speech model and its recordings, as the tests use them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

SPEECH_MODEL = Path(__file__).parents[2] / "speech_model"


@dataclass(frozen=True, slots=True)
class Sample:
    path: Path
    duration_s: float
    text: str
    segments: tuple[tuple[float, float, str], ...]


def samples() -> list[Sample]:
    folder = SPEECH_MODEL / "samples"
    return [
        Sample(
            folder / one["file"],
            one["duration_s"],
            one["text"],
            tuple((s["start"], s["end"], s["text"]) for s in one["segments"]),
        )
        for one in json.loads((folder / "index.json").read_text())
    ]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z']+", text.lower())


def word_errors(heard: str, expected: str) -> int:
    """Return the least number of words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(words(expected)) + 1))
    for i, word in enumerate(words(heard), 1):
        previous, row[0] = row[0], i
        for j, other in enumerate(words(expected), 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (word != other))
    return row[-1]

"""Bounds of what people and machines may say of an engine: its weight, its names, its models.

Promises: a value that passes cannot break the arithmetic or the texts built from it (metrics, logs,
headers, JSON), whatever wrote it: a file, an annotation, a DNS answer, an engine.

Refuses to know: who said it, and what becomes of an engine whose values do not pass. A value that a
person wrote deserves a sentence; one that a machine made is left out.
"""

import math
from collections.abc import Iterable
from typing import Final

#: A weight is a speed relative to an H200 with large-v3, and only a first guess: a hundred answers
#: later the speed is measured. No GPU that runs Whisper is a hundred times slower or faster, and a
#: CPU, which is, is known for it after its first answers. Far outside, the arithmetic of the
#: service curve has no result: 1e308 makes the time of a window 0, and 5e-324 infinite.
LEAST_WEIGHT: Final = 0.01
MOST_WEIGHT: Final = 100.0
#: Names are paths on a hub, or in a file system at the longest; they become labels and log fields.
MAX_NAME_CHARS: Final = 500
#: Adapters count as models, and vLLM keeps some dozens of them; each model has series of its own.
MAX_MODELS: Final = 1000
#: What one source may name: ten times the largest fleet this router was measured with.
MAX_ENGINES: Final = 10_000


def read_weight(value: object) -> float:
    """Return a weight that a person wrote, as a number or as text.

    Raises:
        ValueError: The end of a sentence that says what a weight must be.
    """
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            weight = float(value)
        except (ValueError, OverflowError):
            weight = math.nan
        if LEAST_WEIGHT <= weight <= MOST_WEIGHT:
            return weight
    raise ValueError(f"should be a number from {LEAST_WEIGHT:g} to {MOST_WEIGHT:g}")


def bounded_weight(value: float) -> float:
    """Return the weight nearest to a machine's number; 1 for NaN."""
    if math.isnan(value):
        return 1.0
    return min(max(value, LEAST_WEIGHT), MOST_WEIGHT)


def is_name(value: object) -> bool:
    """Whether this is text that can stand in headers, labels, logs and JSON.

    What cannot be printed cannot: a line break would forge a log line, and half of a surrogate pair
    has no bytes.
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def are_models(values: Iterable[object]) -> bool:
    """Whether these are the models of one engine: names, and not too many."""
    names = list(values)
    return len(names) <= MAX_MODELS and all(map(is_name, names))

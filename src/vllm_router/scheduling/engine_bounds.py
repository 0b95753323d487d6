"""Bounds for an engine's weight, names and models, whatever their source.

Promises: a value that passes cannot break the arithmetic or the texts built from it (metrics, logs,
headers, JSON), whether it came from a file, an annotation, a DNS answer or an engine.

Refuses to know: the source, and what happens to an engine whose values do not pass. A value that a
person wrote gets an error message; one that a machine produced is dropped.
"""

import math
from collections.abc import Iterable
from typing import Final

#: A weight is a speed relative to an H200 with large-v3, and only a first guess: after a hundred
#: responses the speed is measured. No GPU that runs Whisper is a hundred times slower or faster. A
#: CPU is slower, but its first responses show it. Far outside this range the arithmetic of the
#: service curve fails: 1e308 makes the time of a window 0, and 5e-324 makes it infinite.
LEAST_WEIGHT: Final = 0.01
MOST_WEIGHT: Final = 100.0
#: Names are hub paths or, at the longest, file system paths; they become labels and log fields.
MAX_NAME_CHARS: Final = 500
#: Adapters count as models, and vLLM keeps a few dozen. Each model has its own metric series.
MAX_MODELS: Final = 1000
#: Engines per source: ten times the largest fleet that this router was measured with.
MAX_ENGINES: Final = 10_000


def read_weight(value: object) -> float:
    """Return a weight that a person wrote as a number or as text.

    Raises:
        ValueError: The message completes a sentence that says what a weight must be.
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
    """Clamp a machine-produced weight to the allowed range; NaN gives 1."""
    if math.isnan(value):
        return 1.0
    return min(max(value, LEAST_WEIGHT), MOST_WEIGHT)


def is_name(value: object) -> bool:
    """Whether this is text that is safe in headers, labels, logs and JSON.

    Unprintable text is not: a line break would forge a log line, and a lone surrogate cannot be
    encoded.
    """
    return isinstance(value, str) and 0 < len(value) <= MAX_NAME_CHARS and value.isprintable()


def are_models(values: Iterable[object]) -> bool:
    """Whether these are valid model names for one engine, and not too many."""
    names = list(values)
    return len(names) <= MAX_MODELS and all(map(is_name, names))

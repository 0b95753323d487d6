"""Finds the audio's duration in an engine's JSON response without parsing it.

Promises: for vLLM's responses, the same value as from a parser, while reading only their first and
last bytes. JSON escapes quotes within strings, so text that looks like a field is not mistaken for
one. Refuses to know: whether the engine is right.
"""

import re
from typing import Final

from vllm_router.audio.length import LengthHint, MeasuredSeconds
from vllm_router.formats.usage_seconds import whole_seconds

# vLLM's verbose_json begins with task, language and duration; its json ends with usage.
_ENDS_BYTES: Final = 256
# A string in older releases.
_DURATION: Final = re.compile(rb'"duration"\s*:\s*"?([0-9]{1,7}(?:\.[0-9]{1,12})?)"?\s*[,}]')
_SECONDS: Final = re.compile(rb'"seconds"\s*:\s*([0-9]{1,7}(?:\.[0-9]{1,12})?)\s*[,}]')


def told_seconds(body: bytes) -> float | None:
    """Return the seconds of audio that an engine's JSON response reports; None if it reports none.

    Args:
        body: The complete response, as `json` or `verbose_json`.

    Returns:
        0 to 10,000,000; exact from `duration`, whole seconds rounded up from `usage`.
    """
    found = _DURATION.search(body[:_ENDS_BYTES]) or _SECONDS.search(body[-_ENDS_BYTES:])
    return None if found is None else float(found[1])


def confirmed_seconds(hint: LengthHint, told_s: float) -> MeasuredSeconds | None:
    """Return an audio's duration if its container and an engine agree on it; else None.

    They agree if both are the same in whole seconds, rounded up, as every format reports them.
    Engines count the samples that they decode and skip gaps in a container's clock, so an engine
    that reports less than the container is not necessarily right.

    Args:
        hint: From the container; the more precise of the two, because engines round up.
        told_s: From the engine's response.
    """
    if hint.doubt is not None or whole_seconds(hint.seconds) != whole_seconds(told_s):
        return None
    return MeasuredSeconds(hint.seconds)

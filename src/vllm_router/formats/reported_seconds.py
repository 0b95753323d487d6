"""The audio's length as an engine's JSON answer tells it, found without parsing the answer.

Promises: the same as a parser would find in vLLM's answers, at the cost of looking at their first
and last bytes. In JSON a quote within a string is escaped, so words that look like a field are not
taken for one. Refuses to know: whether the engine is right.
"""

import re
from typing import Final

from vllm_router.audio.length import LengthHint, MeasuredSeconds
from vllm_router.formats.usage_seconds import whole_seconds

# vLLM's verbose_json begins with task, language and duration; its json ends with usage.
_ENDS_BYTES: Final = 256
# As text in older releases.
_DURATION: Final = re.compile(rb'"duration"\s*:\s*"?([0-9]{1,7}(?:\.[0-9]{1,12})?)"?\s*[,}]')
_SECONDS: Final = re.compile(rb'"seconds"\s*:\s*([0-9]{1,7}(?:\.[0-9]{1,12})?)\s*[,}]')


def told_seconds(body: bytes) -> float | None:
    """Return the seconds of audio that an engine's JSON answer tells; None if it tells none.

    Args:
        body: The whole answer, as `json` or `verbose_json`.

    Returns:
        0 to 10,000,000; exact from `duration`, whole seconds rounded up from `usage`.
    """
    found = _DURATION.search(body[:_ENDS_BYTES]) or _SECONDS.search(body[-_ENDS_BYTES:])
    return None if found is None else float(found[1])


def confirmed_seconds(hint: LengthHint, told_s: float) -> MeasuredSeconds | None:
    """Return an audio's length where its container and an engine agree on it; else None.

    They agree if both are the same in whole seconds, rounded up, as every format tells them.
    Engines count the samples that they decode and skip gaps in a container's clock, so that one
    that tells less than the container is not necessarily right.

    Args:
        hint: By the container; the more exact of the two, as engines round up to whole seconds.
        told_s: From the engine's answer.
    """
    if hint.doubt is not None or whole_seconds(hint.seconds) != whole_seconds(told_s):
        return None
    return MeasuredSeconds(hint.seconds)

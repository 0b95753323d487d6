"""The audio's length as an engine's JSON answer tells it, found without parsing the answer.

Promises: the same as a parser would find in vLLM's answers, at the cost of looking at their first
and last bytes. In JSON a quote within a string is escaped, so words that look like a field are not
taken for one. Refuses to know: whether the engine is right.
"""

import re
from typing import Final

from vllm_router.audio.length import LengthHint, MeasuredSeconds

# vLLM's verbose_json begins with task, language and duration; its json ends with usage.
_ENDS_BYTES: Final = 256
# As text in older releases.
_DURATION: Final = re.compile(rb'"duration"\s*:\s*"?([0-9]{1,7}(?:\.[0-9]{1,12})?)"?\s*[,}]')
_SECONDS: Final = re.compile(rb'"seconds"\s*:\s*([0-9]{1,7}(?:\.[0-9]{1,12})?)\s*[,}]')
#: vLLM's usage counts whole seconds, rounded up. What agrees to a second is no news.
ROUNDING_S: Final = 1.0


def told_seconds(body: bytes) -> float | None:
    """Return the seconds of audio that an engine's JSON answer tells; None if it tells none.

    Args:
        body: The whole answer, as `json` or `verbose_json`.

    Returns:
        0 to 10,000,000; exact from `duration`, whole seconds rounded up from `usage`.
    """
    found = _DURATION.search(body[:_ENDS_BYTES]) or _SECONDS.search(body[-_ENDS_BYTES:])
    return None if found is None else float(found[1])


def confirmed_seconds(hint: LengthHint, told_s: float) -> MeasuredSeconds:
    """Return an audio's length as an engine tells it.

    Args:
        hint: By the container. Where it has no doubt and agrees, it is the more exact of the two:
            engines round up to whole seconds.
        told_s: From the engine's answer.
    """
    agrees = hint.doubt is None and abs(told_s - hint.seconds) <= ROUNDING_S
    return MeasuredSeconds(hint.seconds if agrees else told_s)

"""The seconds in an engine's usage, as OpenAI counts them: whole, rounded up.

Promises: nothing else in a response changes. Refuses to know: the audio's length.
"""

import math
import re
from collections.abc import Mapping
from typing import Final

from vllm_router.formats.json_text import JsonObject

_NAME: Final = b'"seconds"'
_SECONDS: Final = re.compile(rb'("seconds"\s*:\s*)([0-9]{1,9}(?:\.[0-9]{1,18})?)(?=\s*[,}])')
_ENDS: Final = (b"}", b",")
_MILLISECONDS: Final = 3


def whole_seconds(seconds: float) -> int:
    """Return seconds rounded up; to the millisecond first, so that 3.0000000001 s become 3."""
    return math.ceil(round(seconds, _MILLISECONDS))


def with_whole_seconds(body: bytes, length_s: float | None) -> bytes:
    """Return a JSON response with whole seconds in its usage.

    Args:
        body: The complete response, with the usage at its end. Bytes that are not JSON are returned
            unchanged.
        length_s: The audio's length, which overrides the engine's; None rounds the engine's up.
    """
    at = body.rfind(_NAME)
    if at < 0:
        return body
    if length_s is None:
        if body.find(b".", at) < 0:
            return body
        return body[:at] + _SECONDS.sub(_rounded, body[at:], count=1)
    seconds = b"%d" % whole_seconds(length_s)
    # Nearly every response is already right, with or without a space after the colon.
    value = at + len(_NAME) + 1
    if body.startswith(b" ", value):
        value += 1
    end = value + len(seconds)
    if body.startswith(seconds, value) and body[end : end + 1] in _ENDS:
        return body
    found = _SECONDS.match(body, at)
    if found is None:
        return body
    value, end = found.end(1), found.end(2)
    return body[:value] + seconds + body[end:]


def _rounded(found: re.Match[bytes]) -> bytes:
    return found[1] + b"%d" % whole_seconds(float(found[2]))


def rounded_usage(usage: JsonObject) -> JsonObject:
    """Return a usage object with its seconds rounded up, if it has any."""
    seconds = usage.get("seconds")
    if isinstance(seconds, float) and math.isfinite(seconds) and seconds >= 0:
        return {**usage, "seconds": whole_seconds(seconds)}
    return usage


def usage_in(fields: JsonObject) -> JsonObject | None:
    """Return the usage of a response or event, its seconds rounded up; None if it has none."""
    usage = fields.get("usage")
    return rounded_usage(usage) if isinstance(usage, Mapping) else None

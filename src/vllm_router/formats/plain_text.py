"""Finds the text in an engine's JSON response without parsing it.

Promises: for vLLM's responses, the same text as from `read_transcript`, except for repeated spaces;
or none.

Bounds: linear in the text.

Refuses to know: whether the rest of the response is JSON, and whether a second "text" follows.
"""

import re
from typing import Final

_BEGINNING: Final = re.compile(rb'\{\s*"text"\s*:\s*"')


def plain_text(answer: bytes) -> str | None:
    """Return the text of a `json` response; None if a parser is needed.

    Args:
        answer: The complete body.
    """
    found = _BEGINNING.match(answer)
    if found is None:
        return None
    start = found.end()
    end = answer.find(b'"', start)
    text = answer[start:end].decode("utf-8", "replace")
    # Escapes, and Whisper's special tokens, which begin with "<", need a parser.
    return None if end < 0 or "\\" in text or "<" in text else text.strip()

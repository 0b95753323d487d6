"""The text of an engine's JSON answer, found without parsing the answer.

Promises: the same text as `read_transcript` finds in vLLM's answers, but for repeated spaces, or
none.

Bounds: linear in the text.

Refuses to know: whether the rest of the answer is JSON, and whether a second "text" follows.
"""

import re
from typing import Final

_BEGINNING: Final = re.compile(rb'\{\s*"text"\s*:\s*"')


def plain_text(answer: bytes) -> str | None:
    """Return the text of a `json` answer; None: it takes a parser to tell.

    Args:
        answer: The whole body.
    """
    found = _BEGINNING.match(answer)
    if found is None:
        return None
    start = found.end()
    end = answer.find(b'"', start)
    text = answer[start:end].decode("utf-8", "replace")
    # Escapes and Whisper's special tokens, which begin with "<", are a parser's business.
    return None if end < 0 or "\\" in text or "<" in text else text.strip()

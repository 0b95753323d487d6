"""Removes the white space at the beginning of an engine's text from its JSON without parsing it.

Whisper's first token includes the space before the first word. A parser would cost more than the
rest of a short response, so the bytes are edited. JSON escapes quotes within strings, so text that
looks like a field is not mistaken for one.

Promises: nothing else changes; white space within and after a text stays. Refuses to know: which
responses are edited, and their headers.
"""

import re
from typing import Final

# Literal and as JSON may escape it, including the ideographic and the non-breaking space.
_SPACE: Final = rb"(?: |\\[nrtf]|\\u(?:00(?:0[9a-dA-D]|20|[aA]0)|3000)|\xc2\xa0|\xe3\x80\x80)"
_USUAL: Final = b'{"text":" '
# Bytes that may continue the white space.
_MORE: Final = frozenset({b" ", b"\\", b"\xc2", b"\xe3"})
_TEXT: Final = re.compile(rb'("text"\s*:\s*")' + _SPACE + rb"+")
# vLLM's chunks have their text in "content", OpenAI's events in "delta".
_DELTA: Final = re.compile(rb'("(?:content|delta)"\s*:\s*")(' + _SPACE + rb'*)(")?')


def without_leading_space(body: bytes) -> bytes:
    """Return a JSON response without white space at the beginning of any `text`.

    Args:
        body: The complete response; bytes that are not JSON are returned unchanged.
    """
    if body.startswith(_USUAL) and body[10:11] not in _MORE and body.find(b'"text"', 10) < 0:
        # vLLM's own, with one text: nearly every response, at a quarter of the cost.
        return b'{"text":"' + body[10:]
    if _TEXT.search(body) is None:
        return body
    return _TEXT.sub(rb"\1", body)


class StreamStart:
    """Removes the white space before the first word of an event stream, and of its last text."""

    __slots__ = ("_is_over",)

    def __init__(self) -> None:
        self._is_over = False

    def edited(self, events: bytes) -> bytes:
        """Return the next events, which must be complete, in edited form."""
        if b'"transcript.text.done"' in events:
            # From an engine that sends OpenAI's events itself: the complete text.
            events = without_leading_space(events)
        if self._is_over:
            return events
        out: list[bytes] = []
        at = 0
        for found in _DELTA.finditer(events):
            before = found.end(1)
            out.append(events[at:before])
            at = found.end(2)
            if found[3] is None:
                # A non-space character follows: the first word.
                self._is_over = True
                break
        out.append(events[at:])
        return b"".join(out)

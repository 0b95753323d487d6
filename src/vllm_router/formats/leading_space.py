"""The white space with which engines begin a text, cut out of their JSON without parsing it.

Whisper's first token brings the space before the first word. A parser would cost more than all else
that a short answer costs, so the bytes are edited. In JSON a quote within a string is escaped, so
that words that look like a field are not taken for one.

Promises: nothing else changes; white space within and behind a text stays. Refuses to know: which
answers are edited, and their headers.
"""

import re
from typing import Final

# As it is and as JSON may escape it, with the wide space of East Asian text and the hard space.
_SPACE: Final = rb"(?: |\\[nrtf]|\\u(?:00(?:0[9a-dA-D]|20|[aA]0)|3000)|\xc2\xa0|\xe3\x80\x80)"
_USUAL: Final = b'{"text":" '
# What may go on with the space.
_MORE: Final = frozenset({b" ", b"\\", b"\xc2", b"\xe3"})
_TEXT: Final = re.compile(rb'("text"\s*:\s*")' + _SPACE + rb"+")
# vLLM's chunks have their text in "content", OpenAI's events in "delta".
_DELTA: Final = re.compile(rb'("(?:content|delta)"\s*:\s*")(' + _SPACE + rb'*)(")?')


def without_leading_space(body: bytes) -> bytes:
    """Return a JSON answer with no white space at the beginning of any `text`.

    Args:
        body: The whole answer; bytes that are no JSON come back unharmed.
    """
    if body.startswith(_USUAL) and body[10:11] not in _MORE and body.find(b'"text"', 10) < 0:
        # vLLM's own, with one text: nearly every answer, at a quarter of the cost.
        return b'{"text":"' + body[10:]
    if _TEXT.search(body) is None:
        return body
    return _TEXT.sub(rb"\1", body)


class StreamStart:
    """Cuts the white space before the first word of a stream of events, and of its last text."""

    __slots__ = ("_is_over",)

    def __init__(self) -> None:
        self._is_over = False

    def edited(self, events: bytes) -> bytes:
        """Return the next events, to be given whole, as they are to be sent on."""
        if b'"transcript.text.done"' in events:
            # Of an engine that sends OpenAI's events itself: all the words again.
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
                # A character follows that is no space: the first word.
                self._is_over = True
                break
        out.append(events[at:])
        return b"".join(out)

"""What was said in several channels of one audio, merged in the order of time.

Promises: everything that is added comes out once, in the order of time; at one time, in the order
of channels; items of one channel in the order in which they were added. What is still to come never
belongs before what has come out, so that a stream can be sent on.

Bounds: holds what is said in one channel while another one's piece is not there yet.

Refuses to know: samples, and how a transcript is shown.
"""

from collections.abc import Sequence
from dataclasses import replace
from heapq import heappop, heappush
from typing import Generic, TypeVar

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.alignment import aligned
from vllm_router.formats.transcript import Segment, Transcript

_Item = TypeVar("_Item")


class TimeMerge(Generic[_Item]):
    """Brings items of several channels into the order of time."""

    __slots__ = ("_count", "_heap", "_last_s")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, _Item]] = []
        self._count = 0
        # By channel: an item never goes before an earlier one of its channel.
        self._last_s: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<TimeMerge {len(self._heap)} held>"

    def add(self, channel: int, start_s: float, item: _Item) -> None:
        """Take the next item of a channel."""
        start_s = max(start_s, self._last_s.get(channel, 0.0))
        self._last_s[channel] = start_s
        heappush(self._heap, (start_s, channel, self._count, item))
        self._count += 1

    def before(self, frontier_s: float) -> list[_Item]:
        """Return the items that start before a time; none is added later that does."""
        out: list[_Item] = []
        while self._heap and self._heap[0][0] < frontier_s:
            out.append(heappop(self._heap)[3])
        return out


def with_channel(part: Transcript, channel: int, speech: Sequence[SpeechSpan]) -> Transcript:
    """Return what was said in a part of one channel, with all of its words in segments.

    Args:
        part: With times of the whole audio.
        channel: From 0.
        speech: Where somebody speaks in it.
    """
    segments = part.segments
    if " ".join(s.text for s in segments).split() != part.text.split():
        # Engines that give times of words lose some of their segments.
        whole = (
            SpeechSpan(segments[0].start_s, segments[-1].end_s)
            if segments
            else SpeechSpan(0.0, 0.0)
        )
        segments = aligned(part.text, speech or (whole,))
    words = part.words
    return replace(
        part,
        segments=tuple(replace(segment, channel=channel) for segment in segments),
        words=None
        if words is None
        else tuple(replace(w, extra={**w.extra, "channel": channel}) for w in words),
    )


def speaker_label(channel: int, names: Sequence[str] = ()) -> str:
    """Return what the speaker of a channel is called: by name if known, else "A", "B", and so on.

    Args:
        channel: From 0.
        names: Of the channels' speakers, in order; the last ones may be missing.
    """
    if channel < len(names) and names[channel]:
        return names[channel]
    return chr(ord("A") + channel) if channel < 26 else f"A{channel - 25}"


def spoken_by(segment: Segment, names: Sequence[str] = ()) -> str:
    """Return what the speaker of a segment is called."""
    return speaker_label(segment.channel or 0, names)

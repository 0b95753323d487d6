"""Merges the transcripts of several channels of one audio in order of time.

Promises: every added item is returned once, in order of time; for equal times, in order of
channels; items of one channel in the order in which they were added. No later item precedes a
returned one, so that a stream can be forwarded.

Bounds: holds one channel's items while another channel's piece is missing.

Refuses to know: samples, and how a transcript is formatted.
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
    """Sorts items of several channels by time."""

    __slots__ = ("_count", "_heap", "_last_s")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, int, _Item]] = []
        self._count = 0
        # By channel: an item never precedes an earlier one of its channel.
        self._last_s: dict[int, float] = {}

    def __repr__(self) -> str:
        return f"<TimeMerge {len(self._heap)} held>"

    def add(self, channel: int, start_s: float, item: _Item) -> None:
        """Add the next item of a channel."""
        start_s = max(start_s, self._last_s.get(channel, 0.0))
        self._last_s[channel] = start_s
        heappush(self._heap, (start_s, channel, self._count, item))
        self._count += 1

    def before(self, frontier_s: float) -> list[_Item]:
        """Return the items that start before a time; no such item may be added later."""
        out: list[_Item] = []
        while self._heap and self._heap[0][0] < frontier_s:
            out.append(heappop(self._heap)[3])
        return out


def with_channel(part: Transcript, channel: int, speech: Sequence[SpeechSpan]) -> Transcript:
    """Return the transcript of a part of one channel, with all of its words in segments.

    Args:
        part: With times of the whole audio.
        channel: From 0.
        speech: The channel's speech spans.
    """
    segments = part.segments
    if " ".join(s.text for s in segments).split() != part.text.split():
        # Engines that return word times lose some of their segments.
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
    """Return the label of a channel's speaker: the name if known, else "A", "B", and so on.

    Args:
        channel: From 0.
        names: Speakers' names in the order of channels; the last ones may be missing.
    """
    if channel < len(names) and names[channel]:
        return names[channel]
    return chr(ord("A") + channel) if channel < 26 else f"A{channel - 25}"


def spoken_by(segment: Segment, names: Sequence[str] = ()) -> str:
    """Return the label of a segment's speaker."""
    return speaker_label(segment.channel or 0, names)

"""Merge the channels of one audio into turns: as a whole, or as a stream of events.

Promises: chronological order; no word lost or duplicated. A turn is sent as soon as no other
channel can have an earlier one. Does not know engines or samples.
"""

from __future__ import annotations

from dataclasses import replace

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.channel_merge import TimeMerge, with_channel
from vllm_router.formats.formats import SubtitleWriter
from vllm_router.formats.subtitles import Cue
from vllm_router.formats.transcript import Segment, Transcript, Word, join_texts, joined
from vllm_router.requests.event_rendering import EventRendering
from vllm_router.requests.pieces import PieceResult

_EVER = float("inf")


class Turns:
    """Merges pieces of several channels into one transcript.

    Attributes:
        speech: Stretches of speech in each channel.
    """

    __slots__ = ("_parts", "speech")

    def __init__(self) -> None:
        self._parts: list[tuple[int, Transcript]] = []
        self.speech: dict[int, list[SpeechSpan]] = {}

    def __repr__(self) -> str:
        return f"<Turns {len(self._parts)} pieces>"

    def __len__(self) -> int:
        return len(self._parts)

    def add(self, part: Transcript, channel: int, speech: tuple[SpeechSpan, ...]) -> None:
        """Add the transcript of a channel's next piece."""
        self._parts.append((channel, with_channel(part, channel, speech)))
        self.speech.setdefault(channel, []).extend(speech)

    def joined(self, length_s: float) -> Transcript:
        """Return all pieces as one transcript.

        Args:
            length_s: The audio's length in seconds.
        """
        segments: TimeMerge[Segment] = TimeMerge()
        words: TimeMerge[Word] = TimeMerge()
        for channel, part in self._parts:
            for segment in part.segments:
                segments.add(channel, segment.start_s, segment)
            for word in part.words or ():
                words.add(channel, word.start_s, word)
        has_words = any(part.words is not None for _, part in self._parts)
        # Everything except segments and words is joined as for a single channel.
        whole = joined((replace(part, segments=()) for _, part in self._parts), length_s)
        merged = tuple(segments.before(_EVER))
        return replace(
            whole,
            text=join_texts(segment.text for segment in merged),
            segments=merged,
            words=tuple(words.before(_EVER)) if has_words else None,
        )


class TurnEvents:
    """Sends the transcripts of several channels as events, in turns.

    Args:
        rendering: Renders the events.
    """

    __slots__ = ("_cues", "_rendering", "_segments")

    def __init__(self, rendering: EventRendering) -> None:
        self._rendering = rendering
        self._segments: TimeMerge[Segment] = TimeMerge()
        self._cues: TimeMerge[Cue] = TimeMerge()

    def __repr__(self) -> str:
        return f"<TurnEvents {self._segments} {self._cues}>"

    def add(self, part: Transcript | None, heard: PieceResult) -> bytes:
        """Return the events that are final after the next piece.

        Args:
            part: The piece's transcript; None: it has none.
            heard: The piece's result.
        """
        if part is not None and heard.channel is not None:
            part = with_channel(part, heard.channel, heard.speech)
            for segment in part.segments:
                self._take(segment, heard.channel, heard.speech)
        return self._until(heard.frontier_s)

    def _take(self, segment: Segment, channel: int, speech: tuple[SpeechSpan, ...]) -> None:
        writer: SubtitleWriter | None = self._rendering.subtitles
        if writer is None:
            self._segments.add(channel, segment.start_s, segment)
            return
        # Another channel's cue may begin inside a segment that has several cues.
        for cue in writer.cues(segment, speech):
            self._cues.add(channel, cue.start_ms / 1000, cue)

    def rest(self) -> bytes:
        """Return the remaining events, when the audio has ended."""
        return self._until(_EVER)

    def _until(self, frontier_s: float) -> bytes:
        cues = map(self._rendering.write_cue, self._cues.before(frontier_s))
        segments = map(self._rendering.write_segment, self._segments.before(frontier_s))
        return b"".join((*cues, *segments))

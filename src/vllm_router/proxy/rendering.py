"""Transcripts to events, piece after piece, in whichever way the client asked for. Pure.

Whatever the format, the deltas of a stream, joined, are the text of its last event: for SRT and VTT
that text is the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_router.proxy.wish import StreamFormat, Wish
from vllm_router.wire.formats import ResponseFormat, SubtitleWriter
from vllm_router.wire.json_text import JsonObject
from vllm_router.wire.speech import Span
from vllm_router.wire.sse import DONE, encode
from vllm_router.wire.stream_events import (
    delta_event,
    done_event,
    engine_chunk,
    segment_event,
)
from vllm_router.wire.subtitles import SubtitleStyle
from vllm_router.wire.transcript import Transcript, separator

#: Makes the event for a little more text.
Delta = Callable[[str], JsonObject]


class EventRendering:
    """Writes one answer's events.

    Args:
        wish: What is asked for.
        style: Of subtitles.
        request_id: For vLLM's events.
        model: For vLLM's events, as the client named it.
        created: For vLLM's events, Unix seconds.
        task: "transcribe" or "translate".
    """

    def __init__(
        self,
        wish: Wish,
        style: SubtitleStyle,
        *,
        request_id: str,
        model: str,
        created: int,
        task: str,
    ) -> None:
        self._is_vllm = wish.stream_format is StreamFormat.VLLM
        self._with_segments = (
            wish.format is ResponseFormat.VERBOSE_JSON or wish.wants_segments
        ) and not self._is_vllm
        self._subtitles: SubtitleWriter | None = None
        if wish.format is ResponseFormat.SRT or wish.format is ResponseFormat.VTT:
            self._subtitles = SubtitleWriter(wish.format, style)
        self._request_id = request_id
        self._model = model
        self._created = created
        self._task = task
        self._text: list[str] = []
        self._segments = 0

    @property
    def text(self) -> str:
        """All deltas so far, joined."""
        return "".join(self._text)

    def add(self, part: Transcript, speech: Sequence[Span] | None = None) -> bytes:
        """Return the events of the next piece, whose times are the whole audio's."""
        if self._subtitles is not None:
            return self._cues(self._subtitles, part, speech)
        if self._with_segments and part.segments:
            return b"".join(self._segment_events(part))
        return self._delta(part.text, is_joined=True)

    def _cues(
        self, writer: SubtitleWriter, part: Transcript, speech: Sequence[Span] | None
    ) -> bytes:
        out = []
        for segment in part.segments:
            for cue in writer.write(segment, speech):
                head = "" if self._text else writer.header
                out.append(self._delta(head + cue, is_joined=False))
        return b"".join(out)

    def _segment_events(self, part: Transcript) -> list[bytes]:
        out = []
        for segment in part.segments:
            out.append(self._delta(segment.text.strip(), is_joined=True))
            event = segment_event(
                self._segments, segment.start_s, segment.end_s, segment.text.strip()
            )
            out.append(encode(event))
            self._segments += 1
        return out

    def _delta(self, text: str, *, is_joined: bool) -> bytes:
        if not text:
            return b""
        if is_joined and self._text:
            text = separator(self._text[-1], text) + text
        self._text.append(text)
        return encode(self._chunk(text) if self._is_vllm else delta_event(text))

    def _chunk(self, text: str, finish_reason: str | None = None) -> JsonObject:
        return engine_chunk(
            text,
            request_id=self._request_id,
            model=self._model,
            created=self._created,
            task=self._task,
            finish_reason=finish_reason,
        )

    def end(self, usage: JsonObject | None, missing: Sequence[tuple[float, float]] = ()) -> bytes:
        """Return the last events.

        Args:
            usage: As far as known.
            missing: (start, end) in seconds of what could not be had, where that is allowed.
        """
        head = b""
        if self._subtitles is not None and not self._text and self._subtitles.header:
            head = self._delta(self._subtitles.header, is_joined=False)
        if self._is_vllm:
            return head + encode(self._chunk("", "stop")) + DONE
        done = done_event(self.text, usage)
        if missing:
            done = {**done, "missing": [{"start": a, "end": b} for a, b in missing]}
        return head + encode(done)

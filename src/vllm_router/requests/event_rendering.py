"""Render transcripts as events, piece by piece, in the requested format. Pure.

In every format, the concatenated deltas of a stream equal the text of its last event; for SRT and
VTT that text is the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vllm_router.audio.speech_spans import SpeechSpan
from vllm_router.formats.formats import (
    ResponseFormat,
    SubtitleWriter,
    diarized_id,
    diarized_segment,
)
from vllm_router.formats.json_text import JsonObject
from vllm_router.formats.sse import DONE, encode
from vllm_router.formats.stream_events import (
    delta_event,
    done_event,
    engine_chunk,
    segment_event,
    with_warning,
)
from vllm_router.formats.subtitles import Cue, SubtitleStyle
from vllm_router.formats.transcript import Segment, Transcript, separator
from vllm_router.requests.options import ResponseOptions, StreamFormat

#: Returns the event for a text delta.
Delta = Callable[[str], JsonObject]


class EventRendering:
    """Renders one answer's events.

    Args:
        options: The requested response.
        style: Subtitle style.
        request_id: For vLLM's events.
        model: For vLLM's events, as the client named it.
        created: For vLLM's events, Unix seconds.
        task: "transcribe" or "translate".
    """

    def __init__(
        self,
        options: ResponseOptions,
        style: SubtitleStyle,
        *,
        request_id: str,
        model: str,
        created: int,
        task: str,
    ) -> None:
        self._is_vllm = options.stream_format is StreamFormat.VLLM
        self._is_diarized = options.format is ResponseFormat.DIARIZED_JSON
        self._names = options.names
        self._with_segments = (
            options.format is ResponseFormat.VERBOSE_JSON
            or options.wants_segments
            or self._is_diarized
        ) and not self._is_vllm
        #: Writes cues if the format is SRT or VTT.
        self.subtitles: SubtitleWriter | None = None
        if options.format is ResponseFormat.SRT or options.format is ResponseFormat.VTT:
            self.subtitles = SubtitleWriter(options.format, style)
        self._request_id = request_id
        self._model = model
        self._created = created
        self._task = task
        self._text: list[str] = []
        self._segments = 0

    @property
    def text(self) -> str:
        """All deltas so far, concatenated."""
        return "".join(self._text)

    def add(self, part: Transcript, speech: Sequence[SpeechSpan] | None = None) -> bytes:
        """Return the events of the next piece; its times count from the start of the audio."""
        writer = self.subtitles
        if writer is not None:
            cues = [cue for segment in part.segments for cue in writer.cues(segment, speech)]
            return b"".join(map(self.write_cue, cues))
        if self._with_segments and part.segments:
            return b"".join(map(self.write_segment, part.segments))
        return self._delta(part.text, is_joined=True)

    def write_cue(self, cue: Cue) -> bytes:
        """Return the event of the next cue; only for SRT and VTT."""
        assert self.subtitles is not None
        head = "" if self._text else self.subtitles.header
        return self._delta(head + self.subtitles.written(cue), is_joined=False)

    def write_segment(self, segment: Segment) -> bytes:
        """Return the events of the next segment; not for SRT or VTT."""
        text = segment.text.strip()
        if not self._with_segments:
            return self._delta(text, is_joined=True)
        at, self._segments = self._segments, self._segments + 1
        if self._is_diarized:
            delta = self._delta(text, is_joined=True, segment_id=diarized_id(at))
            return delta + encode(diarized_segment(segment, at, self._names))
        delta = self._delta(text, is_joined=True)
        return delta + encode(segment_event(at, segment.start_s, segment.end_s, text))

    def _delta(self, text: str, *, is_joined: bool, segment_id: str | None = None) -> bytes:
        if not text:
            return b""
        if is_joined and self._text:
            text = separator(self._text[-1], text) + text
        self._text.append(text)
        if self._is_vllm:
            return encode(self._chunk(text))
        event = delta_event(text)
        return encode(event if segment_id is None else {**event, "segment_id": segment_id})

    def _chunk(self, text: str, finish_reason: str | None = None) -> JsonObject:
        return engine_chunk(
            text,
            request_id=self._request_id,
            model=self._model,
            created=self._created,
            task=self._task,
            finish_reason=finish_reason,
        )

    def end(
        self,
        usage: JsonObject | None,
        missing: Sequence[tuple[float, float]] = (),
        warning: str | None = None,
    ) -> bytes:
        """Return the last events.

        Args:
            usage: As far as known.
            missing: (start, end) in seconds of audio that could not be transcribed, where gaps are
                allowed.
            warning: How the audio file is damaged; None: no damage is known. Most damage is
                detected only once everything is decoded, long after the headers were sent.
        """
        head = b""
        if self.subtitles is not None and not self._text and self.subtitles.header:
            head = self._delta(self.subtitles.header, is_joined=False)
        if self._is_vllm:
            return head + encode(with_warning(self._chunk("", "stop"), warning)) + DONE
        done = done_event(self.text, usage)
        if missing:
            done = {**done, "missing": [{"start": a, "end": b} for a, b in missing]}
        return head + encode(with_warning(done, warning))

"""What every kind of response needs: shared services, rules, and rendering.

Nothing here makes decisions about a single request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vllm_router.audio.channels import Channels
from vllm_router.errors import no_word_times
from vllm_router.formats.formats import (
    ResponseFormat,
    Speech,
    to_diarized_json,
    to_json,
    to_srt,
    to_text,
    to_verbose_json,
    to_vtt,
)
from vllm_router.formats.subtitles import SubtitleStyle
from vllm_router.formats.transcript import (
    Transcript,
)
from vllm_router.observability.request_record import RequestRecord, Task
from vllm_router.requests.attempts import AttemptRunner
from vllm_router.requests.event_rendering import EventRendering
from vllm_router.requests.fanout import Fanout
from vllm_router.requests.language_votes import LanguageFinder
from vllm_router.requests.measured_length import Lengths
from vllm_router.requests.options import ResponseOptions, StreamFormat
from vllm_router.requests.relay import Relay
from vllm_router.requests.transcription_request import TranscriptionRequest
from vllm_router.requests.word_counts import WordCounts
from vllm_router.scheduling.work import Urgency
from vllm_router.server.exchange import Exchange
from vllm_router.upstream.model_capabilities import ModelCapabilities

#: Audio up to this length, in seconds, goes ahead of longer audio: people wait for it.
SHORT_S: Final = 60.0

_TASK_WORDS: Final[Mapping[Task, Literal["transcribe", "translate"]]] = {
    Task.TRANSCRIBE: "transcribe",
    Task.TRANSLATE: "translate",
}


@dataclass(frozen=True, slots=True)
class TranscriptionRules:
    """How uploads are answered.

    Attributes:
        split: "auto", "always" or "off".
        split_longer_than_s: With "auto", longer audio is split.
        skip_silence: Whether audio without speech is left out.
        verifies: Whether transcripts are checked against the speech in the audio.
        partial_ok: Whether pieces that cannot be transcribed may be missing.
        stream_format: Default format of events.
        style: Style of subtitles.
        channels: Channels transcribed by default.
        session_header: Lower-case name of the header that identifies a session; requests of one
            session go to one engine. None: there are no sessions.
    """

    split: str
    split_longer_than_s: float
    skip_silence: bool
    verifies: bool
    partial_ok: bool
    stream_format: StreamFormat
    style: SubtitleStyle
    session_header: bytes | None = None
    channels: Channels = Channels.MIX


@dataclass(frozen=True, slots=True)
class Services:
    """Services shared by all responses.

    Attributes:
        dispatcher: Runs work on engines.
        relay: Sends uploads to engines.
        fanout: Has long audio transcribed by all engines.
        rules: How uploads are answered.
        capabilities: Capabilities of the models' engines.
        counts: Counts words.
        languages: Identifies the languages of texts.
        lengths: Corrects the charges of short uploads.
        wall_clock: Unix seconds, for vLLM's events.
    """

    dispatcher: AttemptRunner
    relay: Relay
    fanout: Fanout
    rules: TranscriptionRules
    capabilities: ModelCapabilities
    counts: WordCounts
    languages: LanguageFinder
    lengths: Lengths
    wall_clock: Callable[[], float] = time.time

    def urgency(self, request: TranscriptionRequest, options: ResponseOptions) -> Urgency:
        """Return whether an upload is short or long work."""
        is_short = request.hint.seconds <= SHORT_S and not options.is_batch
        return Urgency.SHORT if is_short else Urgency.LONG

    def session_key(self, exchange: Exchange) -> str | None:
        """Return the key that requests of one session share; None: there is no session."""
        name = self.rules.session_header
        value = exchange.head.header(name) if name is not None else None
        return value.decode("latin-1") if value else None

    def rendering(
        self, request: TranscriptionRequest, options: ResponseOptions, record: RequestRecord
    ) -> EventRendering:
        """Return the renderer of a response's events."""
        return EventRendering(
            options,
            self.rules.style,
            request_id=record.request_id,
            model=request.asked_model or request.model,
            created=int(self.wall_clock()),
            task=_TASK_WORDS[request.task],
        )

    def written(
        self,
        transcript: Transcript,
        request: TranscriptionRequest,
        options: ResponseOptions,
        speech: Speech | None,
    ) -> bytes:
        """Return a transcript in the requested format."""
        match options.format:
            case ResponseFormat.TEXT:
                return to_text(transcript)
            case ResponseFormat.SRT:
                return to_srt(transcript, self.rules.style, speech)
            case ResponseFormat.VTT:
                return to_vtt(transcript, self.rules.style, speech)
            case ResponseFormat.VERBOSE_JSON:
                return to_verbose_json(transcript, _TASK_WORDS[request.task])
            case ResponseFormat.DIARIZED_JSON:
                return to_diarized_json(transcript, _TASK_WORDS[request.task], options.names)
            case _:
                return to_json(transcript)


def require_words(options: ResponseOptions, transcript: Transcript) -> None:
    """Check that a transcript has word timestamps if they are requested.

    Raises:
        UnsupportedValue: The engine provided none.
    """
    if options.wants_words and transcript.words is None:
        raise no_word_times()


def known_length(request: TranscriptionRequest) -> float | None:
    """Return the audio's length to the millisecond; None while it has not been measured."""
    return None if request.measured_s is None else round(request.measured_s, 3)

"""What every way of answering an upload needs: who does the work, by which rules, and the words.

Nothing here decides anything about one request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from vllm_router.engines.work import Urgency
from vllm_router.errors import no_word_times
from vllm_router.inbound.exchange import Exchange
from vllm_router.proxy.dispatch import Dispatcher
from vllm_router.proxy.facts import RequestFacts, Task
from vllm_router.proxy.fanout import Fanout
from vllm_router.proxy.language_votes import LanguageFinder
from vllm_router.proxy.lengths import Lengths
from vllm_router.proxy.model_capabilities import ModelCapabilities
from vllm_router.proxy.relay import Relay
from vllm_router.proxy.rendering import EventRendering
from vllm_router.proxy.story import Story
from vllm_router.proxy.wish import StreamFormat, Wish
from vllm_router.proxy.word_counts import WordCounts
from vllm_router.wire.channels import Channels
from vllm_router.wire.formats import (
    ResponseFormat,
    Speech,
    to_diarized_json,
    to_json,
    to_srt,
    to_text,
    to_verbose_json,
    to_vtt,
)
from vllm_router.wire.subtitles import SubtitleStyle
from vllm_router.wire.transcript import (
    Transcript,
)

#: Audio up to this goes ahead of longer audio, in seconds: what people wait for.
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
        split_longer_than_s: Longer audio is cut, with "auto".
        skip_silence: Whether audio without speech is left out.
        verifies: Whether answers are held against the speech in the audio.
        partial_ok: Whether pieces that cannot be had may be missing.
        stream_format: Of events, when a request does not say.
        style: Of subtitles.
        channels: Which channels are transcribed, when a request does not say.
        session_header: Lower-case name of the header whose value keeps to one engine; None: none.
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
class Means:
    """What answers are made with.

    Attributes:
        dispatcher: Brings work to engines.
        relay: Carries uploads.
        fanout: Has long audio heard by all engines.
        rules: How it is done.
        capabilities: What models' engines can do.
        counts: Where words are counted.
        languages: Tells the languages of texts.
        lengths: Corrects what short uploads were charged.
        wall_clock: Unix seconds, for vLLM's events.
    """

    dispatcher: Dispatcher
    relay: Relay
    fanout: Fanout
    rules: TranscriptionRules
    capabilities: ModelCapabilities
    counts: WordCounts
    languages: LanguageFinder
    lengths: Lengths
    wall_clock: Callable[[], float] = time.time

    def urgency(self, facts: RequestFacts, wish: Wish) -> Urgency:
        """Return whether an upload is short work."""
        is_short = facts.hint.seconds <= SHORT_S and not wish.is_batch
        return Urgency.SHORT if is_short else Urgency.LONG

    def session_key(self, exchange: Exchange) -> str | None:
        """Return what requests of one session have in common."""
        name = self.rules.session_header
        value = exchange.head.header(name) if name is not None else None
        return value.decode("latin-1") if value else None

    def rendering(self, facts: RequestFacts, wish: Wish, story: Story) -> EventRendering:
        """Return what writes an answer's events."""
        return EventRendering(
            wish,
            self.rules.style,
            request_id=story.request_id,
            model=facts.asked_model or facts.model,
            created=int(self.wall_clock()),
            task=_TASK_WORDS[facts.task],
        )

    def written(
        self, transcript: Transcript, facts: RequestFacts, wish: Wish, speech: Speech | None
    ) -> bytes:
        """Return a transcript in the format asked for."""
        match wish.format:
            case ResponseFormat.TEXT:
                return to_text(transcript)
            case ResponseFormat.SRT:
                return to_srt(transcript, self.rules.style, speech)
            case ResponseFormat.VTT:
                return to_vtt(transcript, self.rules.style, speech)
            case ResponseFormat.VERBOSE_JSON:
                return to_verbose_json(transcript, _TASK_WORDS[facts.task])
            case ResponseFormat.DIARIZED_JSON:
                return to_diarized_json(transcript, _TASK_WORDS[facts.task], wish.names)
            case _:
                return to_json(transcript)


def require_words(wish: Wish, transcript: Transcript) -> None:
    """Refuse to answer without times of words where they are asked for.

    Raises:
        UnsupportedValue: The engine gave none.
    """
    if wish.wants_words and transcript.words is None:
        raise no_word_times()


def known_length(facts: RequestFacts) -> float | None:
    """Return the audio's length to the millisecond, None where nobody has measured it yet."""
    return None if facts.measured_s is None else round(facts.measured_s, 3)

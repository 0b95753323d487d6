"""Counts of defects in transcripts: audio transcribed again, words dropped, empty transcripts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from vllm_router.observability.request_record import RequestRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WordCounts:
    """Callbacks that count defects in transcripts.

    Attributes:
        reheard: Called with (model, reason, seconds) of audio that is transcribed again.
        dropped: Called with (reason, words) for words dropped because there was no speech.
        empty: Called with the model of an empty transcript for audio with speech.
    """

    reheard: Callable[[str, str, float], None]
    dropped: Callable[[str, int], None]
    empty: Callable[[str], None]

    def note_empty(self, model: str, record: RequestRecord) -> None:
        """Count and log an empty transcript, which the client cannot distinguish from silence."""
        self.empty(model)
        log.warning(
            "request %s: empty transcript for %.1f s of speech, from %s",
            record.request_id,
            record.speech_s,
            ", ".join(record.engines[:16]),
        )

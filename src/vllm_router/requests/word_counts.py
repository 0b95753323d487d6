"""What is counted of words: asked for again, not said, missing altogether."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from vllm_router.observability.request_record import RequestRecord

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WordCounts:
    """Where it is counted.

    Attributes:
        reheard: Takes (model, reason, seconds) of audio that is asked for again.
        dropped: Takes (reason, words) of words that nobody said.
        empty: Takes the model of an answer without a word to audio with speech in it.
    """

    reheard: Callable[[str, str, float], None]
    dropped: Callable[[str, int], None]
    empty: Callable[[str], None]

    def note_empty(self, model: str, record: RequestRecord) -> None:
        """Count an answer without a word, and log it: the client cannot tell it from silence."""
        self.empty(model)
        log.warning(
            "request %s: no words for %.1f s of speech, from %s",
            record.request_id,
            record.speech_s,
            ", ".join(record.engines[:16]),
        )

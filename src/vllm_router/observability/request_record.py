"""What is remembered of an upload's request, for its metrics, its trace and its line in the log."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from vllm_router.audio.length import MeasuredSeconds
from vllm_router.scheduling.work import WorkTrace
from vllm_router.server.exchange import Exchange


class Task(StrEnum):
    """What is asked of Whisper; the value is the route's last word."""

    TRANSCRIBE = "transcriptions"
    TRANSLATE = "translations"


class PieceTrace(WorkTrace, Protocol):
    """Who follows one piece of a long audio."""

    def end(self, error: str | None) -> None:
        """It has been heard, or not: then with the error's code."""


class RequestTrace(Protocol):
    """Who follows one request.

    Attributes:
        trace_id: By which it is found; 32 hexadecimal digits.
    """

    trace_id: str

    def work(self) -> WorkTrace:
        """Return who follows the upload as a whole."""

    def piece(self, index: int, start_s: float, end_s: float) -> PieceTrace:
        """Return who follows a piece, by its place in the whole audio."""

    def end(self, exchange: Exchange, record: RequestRecord, status: int) -> None:
        """It is over."""


@dataclass(slots=True)
class RequestRecord:
    """One upload's request, as far as it has come.

    Attributes:
        request_id: The client's own, or made.
        task: By the route.
        model: As engines know it; "" while unknown.
        audio_s: Seconds of audio, as an engine or a decoder has found, or as a plain WAV's bytes
            measure it; None while nobody has.
        engines: Those that it was given to, each once.
        queue_s: Seconds that it, or its piece that waited longest, waited for engines.
        pieces: Pieces that it was cut into; 0: it went whole.
        channels: How many of its channels were transcribed, each for itself; 1 if they were mixed.
        windows: Windows of 30 s that engines were given, those asked for again included.
        speech_s: Seconds of speech that were found; 0 where nobody looked.
        covered_s: Seconds of it for which the words are plausible.
        is_verified: Whether words were held against the speech, so that `covered_s` says something.
        whole_at: When the upload had come whole, monotonic seconds.
        holder: Whose key was presented; None: none was asked for.
        charged_s: Audio seconds charged to that key; None: not yet.
        damage: How the file is damaged, in sentences.
        error: The code of the error answered, also of one told within a stream.
        trace: Follows the request; None: nobody does.
    """

    request_id: str
    task: Task
    model: str = ""
    audio_s: MeasuredSeconds | None = None
    engines: list[str] = field(default_factory=list)
    queue_s: float = 0.0
    pieces: int = 0
    channels: int = 1
    windows: int = 0
    speech_s: float = 0.0
    covered_s: float = 0.0
    is_verified: bool = False
    whole_at: float | None = None
    holder: str | None = None
    charged_s: float | None = None
    damage: tuple[str, ...] = ()
    error: str | None = None
    trace: RequestTrace | None = None

    def damaged(self, sentences: Iterable[str]) -> None:
        """Note how the file is damaged; what is noted already is not noted again."""
        self.damage = tuple(dict.fromkeys((*self.damage, *sentences)))

    @property
    def warning(self) -> str | None:
        """How the file is damaged, as clients are told; None: no damage is known."""
        return " ".join(self.damage) if self.damage else None

    def given_to(self, engine_id: str) -> None:
        """Note an engine that got the upload or a piece of it."""
        if engine_id not in self.engines:
            self.engines.append(engine_id)

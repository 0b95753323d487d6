"""The record of an upload's request, for its metrics, its trace and its access log line."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from vllm_router.audio.length import MeasuredSeconds
from vllm_router.scheduling.work import WorkTrace
from vllm_router.server.exchange import Exchange


class Task(StrEnum):
    """The requested task; the value is the last part of the route."""

    TRANSCRIBE = "transcriptions"
    TRANSLATE = "translations"


class PieceTrace(WorkTrace, Protocol):
    """Traces one piece of a long audio."""

    def end(self, error: str | None) -> None:
        """End the trace; with an error code if the piece was not transcribed."""


class RequestTrace(Protocol):
    """Traces one request.

    Attributes:
        trace_id: Identifies the trace; 32 hexadecimal digits.
    """

    trace_id: str

    def work(self) -> WorkTrace:
        """Return the trace of the upload as a whole."""

    def piece(self, index: int, start_s: float, end_s: float) -> PieceTrace:
        """Return the trace of a piece, by its position in the whole audio."""

    def end(self, exchange: Exchange, record: RequestRecord, status: int) -> None:
        """End the trace."""


@dataclass(slots=True)
class RequestRecord:
    """The state of one upload's request.

    Attributes:
        request_id: The client's, or generated.
        task: The route's task.
        model: The model's name on engines; "" while unknown.
        audio_s: Seconds of audio, as stated by an engine, or measured by decoding or from a plain
            WAV's size; None while unknown.
        engines: Engines that received it, without duplicates.
        queue_s: Seconds that it, or its longest-waiting piece, waited for engines.
        pieces: Number of pieces that it was split into; 0: it was sent as a whole.
        channels: Number of channels transcribed separately; 1 if they were mixed.
        windows: Windows of 30 s sent to engines, including those transcribed again.
        speech_s: Seconds of speech detected; 0 if detection did not run.
        covered_s: Seconds of that speech with a plausible transcript.
        is_verified: Whether the transcript was checked, so that `covered_s` is meaningful.
        whole_at: When the upload was complete, in monotonic seconds.
        holder: Name of the key presented; None: no key was required.
        charged_s: Seconds of audio charged to that key; None: not charged yet.
        damage: Damage to the file, in sentences.
        error: Code of the error returned, also within a stream.
        trace: Traces the request; None: no trace.
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
        """Add damage to the file, without duplicates."""
        self.damage = tuple(dict.fromkeys((*self.damage, *sentences)))

    @property
    def warning(self) -> str | None:
        """The damage to the file as clients see it; None: no damage is known."""
        return " ".join(self.damage) if self.damage else None

    def given_to(self, engine_id: str) -> None:
        """Record an engine that received the upload or a piece of it."""
        if engine_id not in self.engines:
            self.engines.append(engine_id)

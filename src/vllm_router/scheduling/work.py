"""Work waiting for an engine, work charged to one, and its outcome.

Refuses to know: sockets, uploads and clients. A ticket is all that the fleet sees of a request.
"""

import math
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work_queue import Urgency

if TYPE_CHECKING:
    from vllm_router.scheduling.engine import Engine

__all__ = [
    "AdmissionRefusal",
    "Assignment",
    "Charge",
    "Death",
    "Outcome",
    "OutcomeKind",
    "QueueFull",
    "Ticket",
    "Urgency",
    "WorkTrace",
    "windows_of",
]

# Whisper processes audio in windows of this length.
WINDOW_S: Final = 30.0
# For this long, work that has failed leaves engines on trial to other work.
_NO_TRIALS_S: Final = 3.0
# A suspect waits this long after its last crash for an engine without another suspect: long enough
# for several short clips, one after another, on each remaining engine.
_APART_S: Final = 3.0


def windows_of(audio_s: float) -> int:
    """Return the number of 30 s windows that audio takes, at least 1."""
    return max(1, math.ceil(audio_s / WINDOW_S))


@dataclass(frozen=True, slots=True)
class Death:
    """The crash of an engine that held an upload.

    Attributes:
        engine_id: The engine.
        at: Monotonic seconds.
        is_shared: Whether another suspect was on the engine at any time during the call.
    """

    engine_id: EngineId
    at: float
    is_shared: bool = False


@dataclass(slots=True, eq=False)
class Ticket:
    """One unit of work waiting for an engine; owned by the fleet from `submit` to assignment.

    Attributes:
        request_id: For the log.
        model: The model's name as the engines know it.
        audio_s: Seconds of audio; estimated if no header gives the length.
        windows: Windows of 30 s.
        urgency: Short requests go first.
        enqueued_at: When the request arrived, monotonic seconds; kept across retries.
        session_key: Requests with the same key prefer the same engine; None for no preference.
        excluded: Engines that have already failed on it.
        votes: Engines that must refuse it before the client is refused; None for the default.
        deaths: Crashes of engines that held it; shared by all tickets for the same audio. After
            one crash it is a suspect and goes to one engine at a time; after two it has failed.
        is_admitted: Whether it has passed the checks of the queue's length and its own wait.
        queued_at: When it last joined the queue, monotonic seconds.
        waited_s: Total time in the queue over all attempts, in seconds.
        expires_at: When it leaves the queue unserved, monotonic seconds; set on admission.
        place: The queue's own mark; 0 while the ticket is not queued.
        trace: Traces it from engine to engine; None if it is not traced.
        ahead: Windows of its audio that come before it.
        kind: Features that some engines may lack, such as "mp4+language"; empty if no engine of
            the model has been seen to refuse any of them alone.
    """

    request_id: str
    model: str
    audio_s: float
    windows: int
    urgency: Urgency
    enqueued_at: float
    session_key: str | None = None
    excluded: set[EngineId] = field(default_factory=set)
    deaths: list[Death] = field(default_factory=list)
    votes: int | None = None
    is_admitted: bool = False
    queued_at: float = 0.0
    waited_s: float = 0.0
    expires_at: float = math.inf
    place: int = 0
    trace: "WorkTrace | None" = None
    ahead: int = 0
    kind: str = ""

    def may_be_trial(self, now: float) -> bool:
        """Whether it may go to an engine on trial: it has not failed anywhere.

        Work that has failed may itself be the cause. It is allowed after a while, so that an engine
        on trial gets some work even if no other arrives.
        """
        has_failed = bool(self.deaths or self.excluded)
        return not has_failed or now - self.queued_at >= _NO_TRIALS_S

    def apart_until(self) -> float:
        """Return until when it waits for an engine without suspects, monotonic seconds.

        Minus infinity for a ticket that is not a suspect.
        """
        if not self.deaths:
            return -math.inf
        return min(self.deaths[-1].at + _APART_S, self.expires_at)


@dataclass(slots=True, eq=False)
class Charge:
    """A ticket's hold on an engine, released exactly once by `Fleet.finish`.

    Attributes:
        ticket: The work.
        engine_id: The engine.
        started_at: Monotonic seconds.
        windows: Windows charged.
        audio_s: Seconds of audio charged, from a header or estimated.
        measured_s: Seconds of audio found by decoding; None if unknown.
        engine: The engine until the release, then None.
        area_before: The engine's window-seconds when the charge began.
        is_suspect: Whether the upload has crashed an engine and counts as a suspect on this one.
    """

    ticket: Ticket
    engine_id: EngineId
    started_at: float
    windows: int
    audio_s: float
    engine: "Engine | None" = field(repr=False)
    area_before: float = field(repr=False, default=0.0)
    is_suspect: bool = False
    measured_s: float | None = None

    @property
    def is_released(self) -> bool:
        """Whether `Fleet.finish` has released it."""
        return self.engine is None


class OutcomeKind(StrEnum):
    """How an attempt ended, as far as it counts for or against the engine."""

    OK = "ok"
    CLIENT_FAULT = "client_fault"  # a refusal that was returned to the client
    UNDECIDED = "undecided"  # a refusal that another engine is asked to confirm
    BUSY = "busy"  # 429, or 503 with Retry-After: the engine asks for a rest
    UNREACHABLE = "unreachable"
    RESET = "reset"
    BAD_STATUS = "bad_status"  # 5xx except 500, or a refusal that another engine did not confirm
    DENIED = "denied"  # 401, 403 or a redirect: router and engine are not configured for each other
    TIMEOUT = "timeout"
    OVERTAKEN = "overtaken"  # overdue, and another engine that was asked later has answered
    CLIENT_LEFT = "client_left"
    CANCELLED = "cancelled"


class Outcome(NamedTuple):
    """The end of an attempt.

    Attributes:
        kind: How it ended.
        first_byte_s: Seconds from the start to the first byte of the response; None if none came.
        total_s: Seconds from the start to the end; None if the fleet should use its own clock.
        detail: One sentence for the log and the engines page.
        rest_s: Length of the rest that the engine asks for, in seconds; None if it gives none.
    """

    kind: OutcomeKind
    first_byte_s: float | None = None
    total_s: float | None = None
    detail: str | None = None
    rest_s: float | None = None


class WorkTrace(Protocol):
    """Traces one unit of work through the queue and from engine to engine."""

    def waited(self, since: float, until: float, end: str) -> None:
        """Record a finished wait in the queue; `end` says how it ended. Monotonic seconds."""

    def attempt(
        self, engine_id: EngineId, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """Record an attempt that is about to start; return the headers to send."""

    def finished(self, engine_id: EngineId, outcome: Outcome) -> None:
        """Record that an engine was released; it may never have been called."""


class AdmissionRefusal(Enum):
    """The reason why a ticket leaves the queue without an engine."""

    NO_ENGINE_LEFT = "it has failed on every engine"
    WAITED_TOO_LONG = "it has waited longer than allowed"
    NONE_IN_SERVICE = "no engine has been usable for as long as work may wait"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A decision: the ticket gets an engine (charge) or leaves the queue (refusal)."""

    ticket: Ticket
    charge: Charge | None
    refusal: AdmissionRefusal | None = None


class QueueFull(Exception):
    """The queue cannot accept this work.

    Attributes:
        retry_after_s: Time until the queue has drained enough at its current rate, in seconds.
        reason: One plain sentence.
    """

    def __init__(self, retry_after_s: float, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.reason = reason

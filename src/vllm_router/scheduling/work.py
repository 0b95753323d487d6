"""Work waiting for an engine, work charged to one, and how it ended.

Refuses to know: sockets, uploads, clients. A ticket is all that the fleet sees of a request.
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

# Whisper's quantum of work.
WINDOW_S: Final = 30.0
# Work that has failed on an engine leaves engines on trial to other work for so long.
_NO_TRIALS_S: Final = 3.0
# A suspect waits so long after its last death for an engine that holds no other suspect: several
# short clips, one after the other, on each engine that is left.
_APART_S: Final = 3.0


def windows_of(audio_s: float) -> int:
    """Return how many windows of 30 s an audio takes, at least 1."""
    return max(1, math.ceil(audio_s / WINDOW_S))


@dataclass(frozen=True, slots=True)
class Death:
    """The end of an engine that held an upload.

    Attributes:
        engine_id: The engine.
        at: Monotonic seconds.
        is_shared: Whether another suspect was on the engine at some time during the call.
    """

    engine_id: EngineId
    at: float
    is_shared: bool = False


@dataclass(slots=True, eq=False)
class Ticket:
    """One piece of work waiting for an engine; the fleet's from `submit` until it is assigned.

    Attributes:
        request_id: For the log.
        model: The model's name as the engines know it.
        audio_s: Seconds of audio, estimated when no header tells.
        windows: Windows of 30 s.
        urgency: Short requests go first.
        enqueued_at: Monotonic seconds at which the request came; kept over repeats.
        session_key: Requests of one key like to meet the same engine; None: no preference.
        excluded: Engines that it has already failed on.
        votes: Engines that must refuse it before its client is told so; None: as usual.
        deaths: Of engines that held it; shared by all tickets for the same audio. With one death
            it is a suspect, and on one engine at a time; with two it has failed for good.
        is_admitted: Past the door: neither refused for the queue's length nor for its own wait.
        queued_at: When it last joined the queue, monotonic seconds.
        waited_s: Seconds it has waited in the queue, over all its repeats.
        expires_at: When it leaves the queue unserved, monotonic seconds; set when it is admitted.
        place: The queue's own mark; 0 while the ticket does not wait.
        trace: Follows it from engine to engine; None: nobody does.
        ahead: Windows of its audio that come before it.
        kind: What it asks for that some engines may not do, such as "mp4+language"; empty: nothing
            that any engine of the model has been seen to refuse by itself.
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
        """Whether it may show whether an engine on trial works: it has failed on none.

        It might be what fails. Where no other work comes it may after a while, or nobody would.
        """
        has_failed = bool(self.deaths or self.excluded)
        return not has_failed or now - self.queued_at >= _NO_TRIALS_S

    def apart_until(self) -> float:
        """Return until when it waits for an engine without suspects, monotonic seconds.

        Minus infinity for a ticket that is no suspect.
        """
        if not self.deaths:
            return -math.inf
        return min(self.deaths[-1].at + _APART_S, self.expires_at)


@dataclass(slots=True, eq=False)
class Charge:
    """A ticket's hold on an engine, released exactly once by `Fleet.finish`.

    Attributes:
        ticket: What is being done.
        engine_id: Where.
        started_at: Monotonic seconds.
        windows: Windows charged.
        audio_s: Seconds of audio charged, by a header or estimated.
        measured_s: Seconds of audio as somebody found who decoded it; None: nobody told.
        engine: The engine until the release, then None.
        area_before: The engine's window-seconds when this began.
        is_suspect: Whether an engine has died on the upload, and this one counts it.
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
        """Whether `Fleet.finish` has seen it."""
        return self.engine is None


class OutcomeKind(StrEnum):
    """How an attempt ended, as far as it speaks for or against the engine."""

    OK = "ok"
    CLIENT_FAULT = "client_fault"  # a refusal that the client was shown
    UNDECIDED = "undecided"  # a refusal that another engine is asked to confirm
    BUSY = "busy"  # 429, or 503 with Retry-After: it asks for a rest
    UNREACHABLE = "unreachable"
    RESET = "reset"
    BAD_STATUS = "bad_status"  # 5xx but for a 500, or a refusal that another engine did not repeat
    DENIED = "denied"  # 401, 403, a redirect: the router is set up wrongly for it, or it for us
    TIMEOUT = "timeout"
    OVERTAKEN = "overtaken"  # overdue, and another engine that was asked later has answered
    CLIENT_LEFT = "client_left"
    CANCELLED = "cancelled"


class Outcome(NamedTuple):
    """The end of an attempt.

    Attributes:
        kind: How it ended.
        first_byte_s: Seconds from the start to the answer's first byte; None if none came.
        total_s: Seconds from the start to the end; None: the fleet takes it from its own clock.
        detail: One sentence for the log and the engines page.
        rest_s: How long the engine asks to be left alone, seconds; None: it does not say.
    """

    kind: OutcomeKind
    first_byte_s: float | None = None
    total_s: float | None = None
    detail: str | None = None
    rest_s: float | None = None


class WorkTrace(Protocol):
    """Who follows one piece of work through the queue and from engine to engine."""

    def waited(self, since: float, until: float, end: str) -> None:
        """A wait in the queue is over; `end` says how. Monotonic seconds."""

    def attempt(
        self, engine_id: EngineId, headers: list[tuple[bytes, bytes]]
    ) -> list[tuple[bytes, bytes]]:
        """An engine is about to be asked; return the headers to ask it with."""

    def finished(self, engine_id: EngineId, outcome: Outcome) -> None:
        """An engine has been released; it may never have been asked."""


class AdmissionRefusal(Enum):
    """Why a ticket leaves the queue without an engine."""

    NO_ENGINE_LEFT = "it has failed on every engine there is"
    WAITED_TOO_LONG = "it has waited longer than allowed"
    NONE_IN_SERVICE = "no engine has served anything well for as long as work may wait for one"


@dataclass(frozen=True, slots=True)
class Assignment:
    """A decision: the ticket runs (charge), or leaves the queue without (refusal)."""

    ticket: Ticket
    charge: Charge | None
    refusal: AdmissionRefusal | None = None


class QueueFull(Exception):
    """The queue may not take this work on.

    Attributes:
        retry_after_s: When the queue will have drained enough at its present rate.
        reason: One plain sentence.
    """

    def __init__(self, retry_after_s: float, reason: str) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s
        self.reason = reason

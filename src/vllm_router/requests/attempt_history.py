"""The attempts at one piece of work across all engines, and the error that the client gets if all
of them fail.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from vllm_router.errors import (
    EngineFailed,
    EnginesDied,
    EngineTooSlow,
    RouterError,
)
from vllm_router.requests.attempt import Attempt
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work import OutcomeKind, Ticket

#: Engines that one upload may crash. The first may have crashed for another reason; if the upload
#: is the cause, a third would be one too many.
DEADLY: Final = 2


@dataclass(frozen=True, slots=True)
class RefusedAttempt:
    """An engine's refusal of an upload.

    Attributes:
        engine_id: The engine.
        status: The status of its answer.
        lacks_model: Whether it answered that it does not serve the model.
        started_at: When the call began, in monotonic seconds.
    """

    engine_id: EngineId
    status: int
    lacks_model: bool
    started_at: float


class AttemptHistory:
    """The attempts at one piece of work, across all engines.

    Attributes:
        failures: A phrase for each call that failed.
        refusals: Refusals of the upload.
        votes: How many of these refusals count against the upload.
        shown: The last refusal, returned if no further engine accepts the upload; None: there is
            none.
        rest_s: The shortest pause that an engine has asked for, in seconds; None: none did.
        rested: Failed calls that were answered with a request for a pause.
        timeouts: Failed calls that timed out.
        spent: Failed calls that count as attempts. A call that was moved to another engine does
            not, nor does a call to an engine that fails on everything.
        started: Calls begun.
        running: Calls in flight.
        is_settled: Whether the outcome is decided; any call in flight has lost.
    """

    __slots__ = (
        "failures",
        "is_settled",
        "refusals",
        "rest_s",
        "rested",
        "running",
        "shown",
        "spent",
        "started",
        "timeouts",
        "votes",
    )

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.refusals: list[RefusedAttempt] = []
        self.votes = 0
        self.shown: Attempt | None = None
        self.rest_s: float | None = None
        self.rested = 0
        self.timeouts = 0
        self.spent = 0
        self.started = 0
        self.running = 0
        self.is_settled = False

    def note_rest(self, seconds: float) -> None:
        """Note that an eligible engine has asked for a pause of so many seconds."""
        self.rest_s = seconds if self.rest_s is None else min(self.rest_s, seconds)

    def cancelled_as(self) -> OutcomeKind:
        """Return the outcome of a call cancelled now: it lost a race, or the client left."""
        return OutcomeKind.CANCELLED if self.is_settled else OutcomeKind.CLIENT_LEFT


def attempts_failed(ticket: Ticket, tries: AttemptHistory) -> RouterError:
    """Return the error for work that failed on every engine tried."""
    words = "; ".join(tries.failures)
    if len(ticket.deaths) >= DEADLY:
        return upload_is_deadly(ticket)
    if tries.timeouts == len(tries.failures):
        return EngineTooSlow(f"No engine answered in time ({words}).")
    return EngineFailed(f"Every engine tried has failed ({words}).")


def upload_is_deadly(ticket: Ticket) -> EnginesDied:
    """Return the error for an upload during which two engines crashed."""
    deaths = ticket.deaths[:DEADLY]
    names = ", then ".join(death.engine_id for death in deaths)
    what = f"Two engines crashed while they worked on this upload ({names})."
    if deaths[-1].is_shared:
        # The second engine was also working on another upload that had survived a crash.
        return EnginesDied(
            f"{what} Another upload on the same engine may be the cause. The router does not retry "
            "this upload: send it again later; if it fails again, convert it to another format."
        )
    return EnginesDied(
        f"{what} The router does not retry it because it may be the cause. Convert the audio to "
        "another format."
    )

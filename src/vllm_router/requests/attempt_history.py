"""What has been tried for one piece of work on all engines together, and what the client is told
if nothing came of it.
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

#: Engines that one upload may end. One may have ended for reasons of its own; a third would be one
#: too many if it is the upload.
DEADLY: Final = 2


@dataclass(frozen=True, slots=True)
class RefusedAttempt:
    """An engine's refusal of an upload.

    Attributes:
        engine_id: The engine.
        status: What it answered.
        lacks_model: Whether it said that it does not have the model.
        started_at: When the call began, monotonic seconds.
    """

    engine_id: EngineId
    status: int
    lacks_model: bool
    started_at: float


class AttemptHistory:
    """What has been tried for one piece of work, on all engines together.

    Attributes:
        failures: What went wrong, a phrase for each call that failed.
        refusals: Engines that have refused the upload.
        votes: How many of these speak against the upload.
        shown: The last refusal, for a client whose upload no further engine takes; None: there is
            none.
        rest_s: The shortest rest that an engine has asked for; None: none did.
        rested: How many of the failed calls were answered with a request for a rest.
        timeouts: How many of them took too long.
        spent: How many of them count as attempts. A call that was moved to another engine does not,
            nor does one to an engine that fails on everything.
        started: Calls begun.
        running: Calls begun and not over.
        is_settled: Whether no call is needed any more: what is still running has lost.
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
        """Note that an engine that could take the work rests for so long."""
        self.rest_s = seconds if self.rest_s is None else min(self.rest_s, seconds)

    def cancelled_as(self) -> OutcomeKind:
        """How a call ends that is cancelled now: it has lost a race, or the client has left."""
        return OutcomeKind.CANCELLED if self.is_settled else OutcomeKind.CLIENT_LEFT


def attempts_failed(ticket: Ticket, tries: AttemptHistory) -> RouterError:
    """Return the error for work that failed wherever it was tried."""
    words = "; ".join(tries.failures)
    if len(ticket.deaths) >= DEADLY:
        return upload_is_deadly(ticket)
    if tries.timeouts == len(tries.failures):
        return EngineTooSlow(f"No engine answered in time ({words}).")
    return EngineFailed(f"Every engine that was tried failed ({words}).")


def upload_is_deadly(ticket: Ticket) -> EnginesDied:
    """Return the error for an upload during which two engines ended."""
    deaths = ticket.deaths[:DEADLY]
    names = ", then ".join(death.engine_id for death in deaths)
    what = f"An engine ended while it worked on this upload, and so did a second one ({names})."
    if deaths[-1].is_shared:
        # It shared the second engine too with an upload that had outlived an engine before.
        return EnginesDied(
            f"{what} Another upload on the same engine may be what ended it. This one is not tried "
            "again: send it once more later; if it fails again, convert it to another format."
        )
    return EnginesDied(
        f"{what} It is not tried again, for it may be what ended them. Convert the audio to "
        "another format."
    )

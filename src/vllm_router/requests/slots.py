"""Slots on engines: wait for one, use it, release it.

The fleet decides which engine takes which work; this module turns its decisions into awaits.

Promises: each charge is released exactly once, even if the waiting task is cancelled at the moment
the charge is assigned. Bounds: those of the fleet's queue.

Does not know what is sent to an engine, or what it answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from vllm_router.errors import EngineFailed, EnginesBusy, NoEngineReady, QueueIsFull, RouterError
from vllm_router.requests.engine_wait import EngineWait
from vllm_router.scheduling.engine import EngineId, EngineState, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import (
    AdmissionRefusal,
    Charge,
    Outcome,
    OutcomeKind,
    QueueFull,
    Ticket,
)

RETRY_AFTER_S: Final = 5.0
#: States in which waiting for an engine's answer alone is not worthwhile.
TAKEN_OUT: Final = frozenset({EngineState.EJECTED, EngineState.PROBING, EngineState.SLEEPING})


CancelledAs = Callable[[], OutcomeKind]


def _client_left() -> OutcomeKind:
    return OutcomeKind.CLIENT_LEFT


class AttemptObserver(Protocol):
    """Receives events about engines and work."""

    def attempted(self, charge: Charge, outcome: OutcomeKind, seconds: float) -> None:
        """Called when an attempt on an engine has ended, after so many seconds."""

    def waited(self, ticket: Ticket, seconds: float) -> None:
        """Called when a ticket has left the queue for an engine."""

    def repeated(self, ticket: Ticket) -> None:
        """Called when a ticket is retried on another engine."""

    def hedged(self, *, is_won: bool) -> None:
        """Called when the race of a hedged call is over; `is_won`: the second engine won."""

    def suspected(self, engine_id: EngineId) -> None:
        """Called when a call to an engine is overdue: the engine should be probed now."""

    def changed(self, transition: Transition) -> None:
        """Called when an engine's state has changed."""


class Slots:
    """Slots on the engines of one fleet.

    Args:
        fleet: Decides which engine takes which work.
        now: Monotonic seconds.
        observer: Receives events.
        engine_wait: Holds work while no engine is ready.
        on_taken_out: Called with an engine that has entered a state of `TAKEN_OUT`.
    """

    def __init__(
        self,
        fleet: Fleet,
        now: Callable[[], float],
        observer: AttemptObserver,
        engine_wait: EngineWait,
        on_taken_out: Callable[[EngineId], None],
    ) -> None:
        self.fleet = fleet
        self.now = now
        self._observer = observer
        self._engine_wait = engine_wait
        self._on_taken_out = on_taken_out
        # None until the caller awaits; a decision made before that is in `_decided`.
        self._waiting: dict[Ticket, asyncio.Future[Charge | AdmissionRefusal] | None] = {}
        self._decided: dict[Ticket, Charge | AdmissionRefusal] = {}
        self._wakeup: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Pieces of work in the queues, or waiting for an engine to recover."""
        return len(self._waiting) + len(self._engine_wait)

    async def admit(self, ticket: Ticket) -> None:
        """Admit a long audio as a whole, before its pieces are submitted one by one.

        Raises:
            QueueIsFull: The queue has no room for it.
            NoEngineReady: No engine can take it now.
        """
        await self._require_ready(ticket)
        try:
            self.fleet.admit(ticket, self.now())
        except QueueFull as e:
            raise QueueIsFull(e.reason, retry_after_s=e.retry_after_s) from e

    async def _require_ready(self, ticket: Ticket) -> None:
        if not await self._engine_wait.is_back(ticket, self._engine_wait.until()):
            raise NoEngineReady(
                f"No engine is ready for the model `{ticket.model}` now; try again soon.",
                retry_after_s=RETRY_AFTER_S,
            )

    async def acquire(self, ticket: Ticket, cancelled_as: CancelledAs = _client_left) -> Charge:
        """Wait for an engine.

        Args:
            ticket: The work.
            cancelled_as: Returns the outcome if the wait is cancelled.

        Returns:
            The charge, which the caller must pass to `release`.

        Raises:
            QueueIsFull: The queue has no room for it, or the wait was too long.
            NoEngineReady: No engine can take it now.
            EngineFailed: No engine is left that has not failed on it.
            EnginesBusy: The remaining engines have asked for a pause.
        """
        asked_at = now = self.now()
        if not self.fleet.is_ready(ticket.model):
            await self._require_ready(ticket)
            now = self.now()
        charge = self.fleet.take(ticket, now)
        if charge is None:
            rest_s = self.fleet.rest_s(ticket, now)
            if rest_s is not None:
                raise engines_busy(rest_s)
            charge = await self._queued(ticket, now, cancelled_as)
        if ticket.trace is not None:
            ticket.trace.waited(asked_at, charge.started_at, "given")
        self._observer.waited(ticket, charge.started_at - asked_at)
        return charge

    async def _queued(self, ticket: Ticket, now: float, cancelled_as: CancelledAs) -> Charge:
        try:
            self.fleet.submit(ticket, now)
        except QueueFull as e:
            raise QueueIsFull(e.reason, retry_after_s=e.retry_after_s) from e
        self._waiting[ticket] = None
        self.pump()
        decision = self._decided.pop(ticket, None) or await self._turn(ticket, cancelled_as)
        if isinstance(decision, AdmissionRefusal):
            if ticket.trace is not None:
                ticket.trace.waited(now, self.now(), decision.name.lower())
            raise self._refused(ticket, decision)
        return decision

    async def _turn(self, ticket: Ticket, cancelled_as: CancelledAs) -> Charge | AdmissionRefusal:
        future: asyncio.Future[Charge | AdmissionRefusal] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[ticket] = future
        try:
            return await future
        except asyncio.CancelledError:
            if ticket.trace is not None:
                ticket.trace.waited(ticket.queued_at, self.now(), "left")
            self._abandon(ticket, future, cancelled_as())
            raise

    def _abandon(
        self, ticket: Ticket, future: asyncio.Future[Charge | AdmissionRefusal], kind: OutcomeKind
    ) -> None:
        if self._waiting.pop(ticket, None) is not None:
            self.fleet.withdraw(ticket, self.now())
            self.pump()
            return
        # The charge was assigned at the moment of cancellation, just before it or after.
        decision = self._decided.pop(ticket, None) if future.cancelled() else future.result()
        if isinstance(decision, Charge):
            self.release(decision, Outcome(kind))

    def _refused(self, ticket: Ticket, refusal: AdmissionRefusal) -> RouterError:
        if refusal is AdmissionRefusal.NO_ENGINE_LEFT:
            return EngineFailed("No other engine is ready to take the upload.")
        if refusal is AdmissionRefusal.NONE_IN_SERVICE:
            return NoEngineReady(
                f"Every engine of the model `{ticket.model}` is failing; try again later.",
                retry_after_s=RETRY_AFTER_S,
            )
        return QueueIsFull(
            "The upload has waited longer than allowed for a free engine.",
            retry_after_s=RETRY_AFTER_S,
        )

    def pump(self) -> None:
        """Carry out every decision that is now possible; call it after any change."""
        now = self.now()
        for assignment in self.fleet.assign(now):
            future = self._waiting.pop(assignment.ticket)
            decision = assignment.charge or assignment.refusal or AdmissionRefusal.NO_ENGINE_LEFT
            if future is None or future.done():
                # The caller has yet to await, or was just cancelled: both look in `_decided`.
                self._decided[assignment.ticket] = decision
            else:
                future.set_result(decision)
        if self._wakeup is not None:
            self._wakeup.cancel()
            self._wakeup = None
        if self._waiting:
            at = self.fleet.next_wakeup(now)
            if at is not None:
                loop = asyncio.get_running_loop()
                self._wakeup = loop.call_later(max(0.001, at - now), self.pump)

    def pump_if_waiting(self) -> None:
        """Carry out the decisions that are now possible, if any work waits."""
        if self._waiting:
            self.pump()

    def release(self, charge: Charge, outcome: Outcome) -> None:
        """Release a charge once, notify the observer, and pass on the slot."""
        if charge.is_released:
            return
        now = self.now()
        kind = outcome.kind
        if kind is OutcomeKind.DENIED or kind is OutcomeKind.RESET:
            if kind is OutcomeKind.DENIED:
                self.fleet.suspect(charge, now)
            self._observer.suspected(charge.engine_id)
        self._observer.attempted(charge, outcome.kind, now - charge.started_at)
        if charge.ticket.trace is not None:
            charge.ticket.trace.finished(charge.engine_id, outcome)
        self.changed(self.fleet.finish(charge, outcome, now))
        if self._waiting:
            self.pump()

    def engines_changed(self, transitions: Iterable[Transition]) -> None:
        """Process transitions caused by an engine's answer, and start the work now possible."""
        self.changed(transitions)
        self.pump()

    def changed(self, transitions: Iterable[Transition]) -> None:
        """Process engines' transitions; they may free, strand or move work."""
        for transition in transitions:
            self._engine_wait.changed(transition)
            self._observer.changed(transition)
            if transition.after in TAKEN_OUT:
                self._on_taken_out(transition.engine_id)


def engines_busy(rest_s: float) -> EnginesBusy:
    """Return the error for work whose engines have all answered with Retry-After.

    Args:
        rest_s: The shortest pause asked for, in seconds.
    """
    words = "Every engine that could take the upload has asked for a pause; try again later."
    return EnginesBusy(words, retry_after_s=rest_s)

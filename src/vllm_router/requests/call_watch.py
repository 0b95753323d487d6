"""Calls in flight, and what happens when an engine does not answer.

An unanswered call gets a second call to another engine for the same work if its engine was taken
out, if it is overdue according to `scheduling.suspicion`, or if the operator's `--hedge-after` has
elapsed. The first answer wins. Time counts from the charge of each call, not from the upload's
arrival: time in the queue says nothing about an engine. The first call keeps running, so a slow
engine that works loses nothing.

An upload that was on an engine when it crashed is never on two engines at once. If its engine is
taken out, its call is recalled, and only then does the work go to another engine.

Bounds: O(1) for a call that is answered before it could be overdue, O(log n) for any other; one
timer for all. A call refers to an upload and its answer, so ended calls are dropped: at once, or
when their entries outnumber the others. Second calls share the limits of retries: a number of calls
per piece of work, and a budget for the whole router.

Does not know what is sent, or what an answer says.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from enum import Enum
from functools import partial
from typing import Any, Final, Protocol

from vllm_router.requests.attempt import Attempt
from vllm_router.requests.attempt_history import AttemptHistory
from vllm_router.requests.slots import TAKEN_OUT
from vllm_router.scheduling.engine import Engine, EngineId
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Charge, OutcomeKind, Ticket, Urgency
from vllm_router.upstream.answer import Answer

log = logging.getLogger(__name__)

#: Entries of ended calls that are not worth removing.
_FEW_LEFT: Final = 32
#: If the timer fires later than this, the process itself was stalled. Answers may be unread in the
#: sockets, so no call counts as overdue until they have been read.
LATE_S: Final = 0.5

Send = Callable[[Engine], Awaitable[Answer]]


class Reason(Enum):
    """Why work that is on one engine also goes to a second."""

    HEDGE = "--hedge-after has elapsed"
    OVERDUE = "it is overdue"
    OUT = "its engine was taken out"


class CallObserver(Protocol):
    """Receives events about overdue calls."""

    def suspected(self, engine_id: EngineId) -> None:
        """Called when a call to an engine is overdue: the engine should be probed now."""

    def repeated(self, ticket: Ticket) -> None:
        """Called when a ticket is retried on another engine."""


class Call:
    """One call to one engine, from the charge to the answer.

    Attributes:
        charge: The charge on the engine.
        send: Makes the call.
        tries: The work's attempts, shared with its other calls.
        task: The task that awaits the answer.
        hedge_at: When the call is hedged, in monotonic seconds; infinity: never.
        has_ended: Whether the call has ended, successfully or not.
        is_overdue: Whether the call was found overdue and its engine is suspected for it.
        second: The same work on another engine; None: there is none.
        reason: Why there is or was a second.
        recalled_as: The outcome if the router recalled the call; None: it did not.
    """

    __slots__ = (
        "charge",
        "has_ended",
        "hedge_at",
        "is_overdue",
        "reason",
        "recalled_as",
        "second",
        "send",
        "task",
        "tries",
    )

    def __init__(
        self,
        charge: Charge,
        send: Send,
        tries: AttemptHistory,
        task: asyncio.Task[Any],
        hedge_at: float,
    ) -> None:
        self.charge = charge
        self.send = send
        self.tries = tries
        self.task = task
        self.hedge_at = hedge_at
        self.has_ended = False
        self.is_overdue = False
        self.second: asyncio.Task[Attempt] | None = None
        self.reason = Reason.HEDGE
        self.recalled_as: OutcomeKind | None = None

    def recall(self, kind: OutcomeKind) -> None:
        """Cancel the call. Has no effect once the call has ended."""
        if not self.has_ended and self.recalled_as is None:
            self.recalled_as = kind
            self.task.cancel()

    def was_recalled(self) -> bool:
        """Return whether the cancellation that has just arrived came from `recall` alone.

        Only the task itself may call this, once. A simultaneous disconnect takes precedence.
        """
        return self.recalled_as is not None and self.task.uncancel() == 0


class CallWatch:
    """Watches the calls of one attempt runner.

    Args:
        fleet: Knows which engines are out, and the usual duration of calls.
        now: Monotonic seconds.
        observer: Receives events.
        max_calls: Maximum number of calls for one piece of work.
        attempt: Runs a piece of work on an engine that is not excluded.
    """

    def __init__(
        self,
        fleet: Fleet,
        now: Callable[[], float],
        observer: CallObserver,
        max_calls: int,
        attempt: Callable[[Ticket, Send, AttemptHistory], Coroutine[Any, Any, Attempt]],
    ) -> None:
        self._fleet = fleet
        self._now = now
        self._observer = observer
        self._max_calls = max_calls
        self._attempt = attempt
        self._floor_s = fleet.settings.suspicion.floor_s
        self._recheck_s = fleet.settings.suspicion.recheck_s
        # Nearly every call ends while young. Young calls await their first review in the order in
        # which they began; old calls are reviewed at individual times.
        self._young: dict[Call, None] = {}
        self._old: dict[Call, None] = {}
        self._due: list[tuple[float, int, Call]] = []
        self._pushed = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = math.inf

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def _running(self) -> list[Call]:
        return [*self._old, *self._young]

    def begin(self, charge: Charge, send: Send, tries: AttemptHistory) -> Call:
        """Register a call that the running task is about to make; `end` must follow."""
        # Before Python 3.12, looking up the running loop is a system call.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        task = asyncio.current_task(loop)
        assert task is not None
        hedge_at = math.inf
        if charge.ticket.urgency is Urgency.SHORT:
            delay_s = self._fleet.hedge_delay_s()
            if delay_s is not None:
                hedge_at = charge.started_at + delay_s
        call = Call(charge, send, tries, task, hedge_at)
        tries.started += 1
        tries.running += 1
        first_at = charge.started_at + self._floor_s
        if hedge_at < first_at:
            self._old[call] = None
            self._push(call, hedge_at)
        else:
            self._young[call] = None
            if first_at < self._timer_at:
                self._arm(first_at)
        return call

    def end(self, call: Call) -> None:
        """Register the end of a call; its second, if any, now belongs to the caller."""
        call.has_ended = True
        call.tries.running -= 1
        if call in self._young:
            del self._young[call]
            return
        del self._old[call]
        if len(self._due) > 2 * len(self) + _FEW_LEFT:
            self._due = [entry for entry in self._due if not entry[2].has_ended]
            heapq.heapify(self._due)

    def others(self, charge: Charge) -> list[Charge]:
        """Return the other current charges for the same audio as a call that has ended."""
        deaths = charge.ticket.deaths
        return [call.charge for call in self._running() if call.charge.ticket.deaths is deaths]

    def taken_out(self, engine_id: EngineId) -> None:
        """Move the calls of an engine that was taken out to other engines at once."""
        now = self._now()
        for call in self._running():
            if call.charge.engine_id == engine_id and call.second is None:
                self._push(call, now)

    def _push(self, call: Call, at: float) -> None:
        self._pushed += 1
        heapq.heappush(self._due, (at, self._pushed, call))
        if at < self._timer_at:
            self._arm(at)

    def _arm(self, at: float) -> None:
        assert self._loop is not None
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = at
        self._timer = self._loop.call_later(max(0.0, at - self._now()), self._look)

    def _look(self) -> None:
        """Review the calls that are due, and drop those that have ended."""
        self._timer = None
        now = self._now()
        is_late = now - self._timer_at > LATE_S
        self._timer_at = math.inf
        if is_late:
            self._arm(now + LATE_S)
            return
        grown: list[Call] = []
        for call in self._young:
            if call.charge.started_at + self._floor_s > now:
                break
            grown.append(call)
        for call in grown:
            del self._young[call]
            self._old[call] = None
            self._review(call, now)
        due = self._due
        while due:
            at, _, call = due[0]
            if not call.has_ended and at > now:
                break
            heapq.heappop(due)
            if not call.has_ended:
                self._review(call, now)
        at = due[0][0] if due else math.inf
        if self._young:
            at = min(at, next(iter(self._young)).charge.started_at + self._floor_s)
        if at < self._timer_at:
            self._arm(at)

    def _review(self, call: Call, now: float) -> None:
        charge = call.charge
        engine = charge.engine
        if engine is None or call.second is not None or call.recalled_as is not None:
            return
        is_trial = engine.is_on_trial and charge.started_at >= engine.trial_at
        if engine.state in TAKEN_OUT and not is_trial:
            self._move(call, Reason.OUT, now)
            return
        overdue_at = self._fleet.overdue_at(charge, now)
        if now >= overdue_at:
            if not call.is_overdue:
                # Once per call: an engine that is merely overloaded must not be probed endlessly.
                call.is_overdue = True
                self._fleet.suspect(charge, now)
                self._observer.suspected(charge.engine_id)
            self._move(call, Reason.OVERDUE, now)
        elif now >= call.hedge_at:
            call.hedge_at = math.inf
            if not self._start_second(call, Reason.HEDGE, now):
                self._push(call, overdue_at)
        else:
            self._push(call, min(overdue_at, call.hedge_at))

    def _move(self, call: Call, reason: Reason, now: float) -> None:
        if call.tries.started >= self._max_calls:
            return
        is_worth_it = reason is not Reason.OVERDUE or self._fleet.has_livelier(call.charge)
        if not is_worth_it or not self._start_second(call, reason, now):
            # Another engine may be ready soon, or the budget may allow it.
            self._push(call, now + self._recheck_s)

    def _start_second(self, call: Call, reason: Reason, now: float) -> bool:
        """Start the work on another engine too, or move it; False: not possible now."""
        ticket = call.charge.ticket
        tries = call.tries
        if tries.started >= self._max_calls:
            return False
        engine_id = call.charge.engine_id
        other = replace(ticket, excluded=ticket.excluded | {engine_id}, place=0)
        if not self._fleet.is_ready_for(other):
            return False
        if ticket.deaths:
            if reason is not Reason.OUT or tries.running > 1:
                return False
            call.recall(OutcomeKind.CANCELLED)
            return True
        fleet = self._fleet
        if not (fleet.may_hedge() if reason is Reason.HEDGE else fleet.may_retry(now)):
            return False
        log.info(
            "request %s sent to another engine in addition to %s: %s",
            ticket.request_id,
            engine_id,
            reason.value,
        )
        if reason is Reason.OUT:
            self._observer.repeated(ticket)
        assert self._loop is not None
        call.reason = reason
        call.second = self._loop.create_task(self._attempt(other, call.send, tries))
        call.second.add_done_callback(partial(self._second_is_done, call))
        return True

    def _second_is_done(self, call: Call, second: asyncio.Task[Attempt]) -> None:
        if call.has_ended or call.recalled_as is not None:
            # The task that made the call awaits the second, or has cancelled it.
            return
        if second.cancelled() or second.exception() is not None:
            # The first engine's answer decides, unless another engine can be tried.
            call.second = None
            if call.tries.started < self._max_calls:
                self._push(call, self._now() + self._recheck_s)
        elif call.reason is Reason.OVERDUE:
            call.recall(OutcomeKind.OVERTAKEN)
        else:
            call.recall(OutcomeKind.CANCELLED)

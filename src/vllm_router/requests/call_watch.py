"""Calls under way, and what becomes of them when their engine does not answer.

An unanswered call gets a second call to another engine for the same work, and the answer that comes
first counts, when its engine has been taken out, when it is overdue by `scheduling.suspicion`, or when
the operator's `--hedge-after` is over. The time counts from the charge of each call, not from the
upload's arrival: time in the queue says nothing of an engine. The first call is left running, so
that a slow engine that works loses nothing.

An upload on which an engine has died is never on two engines at once. When its engine is taken out
its call is recalled, and the work goes on elsewhere after that.

Bounds: O(1) for a call that is answered before it could be overdue, O(log n) for any other; one
timer for all. A call refers to an upload and its answer, so one that is over is let go: at once, or
when there are more entries of such calls than of others. Second calls are within the same bounds as
repeats: a number of calls, and a budget for the whole router.

Refuses to know: what is sent, and what an answer says.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import math
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

from vllm_router.scheduling.engine import Engine, EngineId, EngineState
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import Charge, OutcomeKind, Ticket, Urgency
from vllm_router.upstream.answer import Answer

if TYPE_CHECKING:
    from vllm_router.requests.attempts import Attempt

log = logging.getLogger(__name__)

#: In these states an engine gives no answer that is worth waiting for alone.
TAKEN_OUT: Final = frozenset({EngineState.EJECTED, EngineState.PROBING, EngineState.SLEEPING})
#: Entries of ended calls that are not worth the work of removing them.
_FEW_LEFT: Final = 32
#: When the timer fires later than this the process itself has stood still. Answers may lie unread
#: in the sockets, so nobody is overdue before they have been read.
LATE_S: Final = 0.5

Send = Callable[[Engine], Awaitable[Answer]]


class Reason(Enum):
    """Why work that is on one engine goes to a second."""

    HEDGE = "the operator asked for it"
    OVERDUE = "it takes far longer than usual"
    OUT = "its engine was taken out"


class CallObserver(Protocol):
    """Who wants to know of calls that are overdue."""

    def suspected(self, engine_id: EngineId) -> None:
        """A call to an engine is overdue: it should be probed now."""

    def repeated(self, ticket: Ticket) -> None:
        """A ticket goes to a further engine."""


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


class Call:
    """One call to one engine, from the charge to the answer.

    Attributes:
        charge: The hold on the engine.
        send: Makes the call.
        tries: Of the work, shared with its other calls.
        task: The task that awaits the answer.
        hedge_at: When it is hedged, monotonic seconds; infinity: never.
        has_ended: Whether it is over, well or not.
        is_overdue: Whether it was found to be, and its engine is suspected for it.
        second: The same work on another engine; None: there is none.
        reason: Why there is or was a second.
        recalled_as: How the call ends that was cut short from here; None: it was not.
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
        """Cut the call short. Nothing happens to one that is over."""
        if not self.has_ended and self.recalled_as is None:
            self.recalled_as = kind
            self.task.cancel()

    def was_recalled(self) -> bool:
        """Whether the cancellation that has just arrived was `recall` and nothing else.

        To be asked once, by the task itself. A client that left at the same time goes first.
        """
        return self.recalled_as is not None and self.task.uncancel() == 0


class CallWatch:
    """Looks after the calls of one dispatcher.

    Args:
        fleet: Knows which engines are out, and what is usual.
        now: Monotonic seconds.
        observer: Is told.
        max_calls: Calls that one piece of work may take.
        attempt: Does a piece of work on an engine that is not excluded.
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
        # Nearly every call ends among the young, which wait for their first review in the order in
        # which they began. The old are reviewed at times of their own.
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
        """Note a call that the running task is about to make; to be followed by `end`."""
        # To ask which loop runs is a system call before Python 3.12.
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
        """Note that a call is over; its second, if any, is the caller's business from now on."""
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
        """Return what else is charged now for the same audio as a call that is over."""
        deaths = charge.ticket.deaths
        return [call.charge for call in self._running() if call.charge.ticket.deaths is deaths]

    def taken_out(self, engine_id: EngineId) -> None:
        """Find other engines at once for what an engine works on that has been taken out."""
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
        """Review the calls that are due, and forget those that are over."""
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
                # Once for each: an engine that has only too much to do is not to be probed for it
                # without end.
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
            # Another engine may be ready soon, and the budget may allow it.
            self._push(call, now + self._recheck_s)

    def _start_second(self, call: Call, reason: Reason, now: float) -> bool:
        """Give the work to another engine too, or instead; False: it cannot be at present."""
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
            "request %s goes to another engine than %s too: %s",
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
            # The task that made the call awaits the second, or has given it up.
            return
        if second.cancelled() or second.exception() is not None:
            # What the first engine says decides, unless there is one more to ask.
            call.second = None
            if call.tries.started < self._max_calls:
                self._push(call, self._now() + self._recheck_s)
        elif call.reason is Reason.OVERDUE:
            call.recall(OutcomeKind.OVERTAKEN)
        else:
            call.recall(OutcomeKind.CANCELLED)

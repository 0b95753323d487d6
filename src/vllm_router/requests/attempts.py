"""Try engines until one answers.

A transcription has no side effects, so its POST may be retried until the first byte of a response
has reached the client. `slots` waits for engines, `call_watch` decides when unanswered work goes to
a second engine, and `refusal_votes` decides whether a refusal is accepted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Final

from vllm_router.errors import (
    EngineFailed,
    EnginesBusy,
    EnginesDied,
    NoEngineReady,
    RouterError,
    SpoolFull,
)
from vllm_router.requests.attempt import SILENCE_S, Attempt
from vllm_router.requests.attempt_history import DEADLY, AttemptHistory, upload_is_deadly
from vllm_router.requests.call_watch import Call, CallWatch, Reason, Send
from vllm_router.requests.classify import asked_rest_s, classify
from vllm_router.requests.engine_wait import EngineWait
from vllm_router.requests.refusal_votes import RefusalVotes
from vllm_router.requests.slots import RETRY_AFTER_S, AttemptObserver, Slots
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import (
    Charge,
    Outcome,
    OutcomeKind,
    Ticket,
)
from vllm_router.spool.upload import SpoolFailed
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import (
    BadAnswer,
    CallFailed,
    CallTimedOut,
    ConnectionBroke,
    NotConnected,
)

log = logging.getLogger(__name__)

#: A hung engine takes its full deadline, so work that timed out is retried once, not twice.
_MAX_TIMEOUTS: Final = 2
#: Outcomes of calls whose work was moved to another engine.
_MOVED: Final = frozenset({OutcomeKind.CANCELLED, OutcomeKind.OVERTAKEN, OutcomeKind.BUSY})
#: Calls per attempt: while the fleet is in trouble, moves must not use up the attempts.
MOVES: Final = 2

_KINDS: Final[dict[type[CallFailed], OutcomeKind]] = {
    NotConnected: OutcomeKind.UNREACHABLE,
    ConnectionBroke: OutcomeKind.RESET,
    BadAnswer: OutcomeKind.RESET,
    CallTimedOut: OutcomeKind.TIMEOUT,
}


class AttemptRunner:
    """Runs work on the fleet's engines.

    Args:
        fleet: Decides which engine takes which work.
        now: Monotonic seconds.
        observer: Receives events.
        max_attempts: Maximum number of engines for one piece of work.
        engine_wait: Holds work while no engine is ready.
    """

    def __init__(
        self,
        fleet: Fleet,
        now: Callable[[], float],
        observer: AttemptObserver,
        max_attempts: int,
        engine_wait: EngineWait,
    ) -> None:
        self.fleet = fleet
        self.now = now
        self.slots = Slots(fleet, now, observer, engine_wait, self._taken_out)
        self._observer = observer
        self._max_attempts = max_attempts
        self._engine_wait = engine_wait
        self._streams: dict[Attempt, None] = {}
        self._max_calls = max_attempts if max_attempts == 1 else MOVES * max_attempts
        self._calls = CallWatch(fleet, now, observer, self._max_calls, self._attempt)
        self._refusals = RefusalVotes(self.slots, self._streams)

    def _taken_out(self, engine_id: EngineId) -> None:
        """Move an engine's unanswered calls, and watch the streams that it has begun."""
        self._calls.taken_out(engine_id)
        for attempt in self._streams:
            if attempt.engine_id == engine_id:
                loop = asyncio.get_running_loop()
                loop.call_later(SILENCE_S, attempt.check_silence, attempt.answer.arrivals)

    async def attempt(self, ticket: Ticket, send: Send) -> Attempt:
        """Get an answer to a piece of work, trying other engines if one fails.

        Work that takes unusually long, or whose engine is taken out, also goes to a second engine
        (`call_watch`); the first answer wins.

        Args:
            ticket: The work.
            send: Makes the call to a given engine.

        Returns:
            The attempt with an answer for the client; the caller closes it.

        Raises:
            EnginesDied: Two engines crashed while they worked on it.
            RouterError: No engine answered it.
        """
        return await self._attempt(ticket, send, AttemptHistory())

    async def _attempt(self, ticket: Ticket, send: Send, tries: AttemptHistory) -> Attempt:
        waited_s = 0.0
        until: float | None = None
        while True:
            asked_at = self.now()
            try:
                charge = await self.slots.acquire(ticket, tries.cancelled_as)
            except (EngineFailed, EnginesBusy, NoEngineReady) as e:
                until = self._engine_wait.until() if until is None else until
                if isinstance(e, EnginesBusy) and e.retry_after_s is not None:
                    tries.note_rest(e.retry_after_s)
                has_answer = tries.shown is not None or tries.rest_s is not None
                may_wait = isinstance(e, EngineFailed) and not has_answer and self.now() < until
                if may_wait and await self._engine_wait.is_back(ticket, until):
                    continue
                if not tries.failures:
                    raise
                return self._refusals.last_word(ticket, tries)
            waited_s += charge.started_at - asked_at
            call = self._calls.begin(charge, send, tries)
            answer, kind, failure = await self._once(call)
            if answer is not None and not failure:
                if call.second is not None:
                    self._settle(call, is_won=False)
                if tries.refusals:
                    self._refusals.refute(ticket, tries)
                attempt = Attempt(self.slots, self._streams, charge, answer, waited_s)
                if answer.body is None:
                    self._streams[attempt] = None
                return attempt
            ticket.excluded.add(charge.engine_id)
            rest_s: float | None = None
            is_decided = False
            if answer is None:
                self._note(tries, charge, kind, failure)
            elif kind is OutcomeKind.UNDECIDED:
                is_decided = await self._refusals.weigh(
                    ticket, tries, charge, answer, failure, waited_s
                )
            else:
                self._note(tries, charge, kind, failure)
                if kind is OutcomeKind.BUSY:
                    rest_s = asked_rest_s(answer)
                    # An engine may ask for a year; the router retries it far sooner.
                    longest_s = self.fleet.settings.health.longest_rest_s
                    tries.note_rest(RETRY_AFTER_S if rest_s is None else min(rest_s, longest_s))
                    tries.rested += 1
                    # It has done no work, so any number of engines may be tried.
                    tries.started -= 1
                answer.close()
            if is_decided:
                kind = OutcomeKind.CLIENT_FAULT
            self.slots.release(charge, Outcome(kind, None, None, failure, rest_s))
            if is_decided:
                if call.second is not None:
                    self._settle(call, is_won=False)
                assert tries.shown is not None
                return tries.shown
            if call.second is not None:
                # Another engine has the work already: await its answer.
                second = await self._second(call)
                if second is not None:
                    second.waited_s += waited_s
                    return second
            if not self._may_repeat(ticket, tries, kind):
                return self._refusals.last_word(ticket, tries)
            self._repeat(ticket, tries)

    def _note(self, tries: AttemptHistory, charge: Charge, kind: OutcomeKind, failure: str) -> None:
        tries.failures.append(f"{charge.engine_id}: {failure}")
        tries.timeouts += kind is OutcomeKind.TIMEOUT
        # A call that was moved to another engine has not failed. A call to an engine that fails on
        # everything says nothing about the work.
        tries.spent += kind not in _MOVED and self.fleet.is_evidence(charge)

    def _may_repeat(self, ticket: Ticket, tries: AttemptHistory, kind: OutcomeKind) -> bool:
        may_more = self.fleet.may_retry
        if kind is OutcomeKind.UNDECIDED:
            may_more = self.fleet.may_ask_second
        return (
            tries.spent < self._max_attempts
            and tries.started < self._max_calls
            and tries.timeouts < _MAX_TIMEOUTS
            and len(ticket.deaths) < DEADLY
            # An upload that may crash engines waits for the outcome of its other call.
            and not (ticket.deaths and tries.running)
            and may_more(self.now())
        )

    def _repeat(self, ticket: Ticket, tries: AttemptHistory) -> None:
        log.info("request %s retried on another engine: %s", ticket.request_id, tries.failures[-1])
        self._observer.repeated(ticket)

    async def _second(self, call: Call) -> Attempt | None:
        """Return the attempt of a call's second; None: it has failed too.

        Raises:
            EnginesDied: The upload must not be retried.
        """
        second = call.second
        assert second is not None
        try:
            # Shielded: if the client leaves now, the second's resources must still be released.
            attempt = await asyncio.shield(second)
        except asyncio.CancelledError:
            _give_up(second)
            raise
        except EnginesDied:
            raise
        except RouterError:
            return None
        self._settle(call, is_won=True)
        return attempt

    def _settle(self, call: Call, *, is_won: bool) -> None:
        """End the race between a call and its second."""
        assert call.second is not None
        if not is_won:
            call.tries.is_settled = True
            _give_up(call.second)
        if call.reason is not Reason.OUT:
            self._observer.hedged(is_won=is_won)

    def _died(self, charge: Charge, others: Iterable[Charge] = ()) -> None:
        """Note that an engine crashed while it worked on something."""
        now = self.now()
        deaths = charge.ticket.deaths
        if self.fleet.died(charge, now, others) and len(deaths) == DEADLY:
            self.fleet.absolve(deaths, now)

    def may_go_on(self, attempt: Attempt, failures: int) -> bool:
        """Return whether work whose answer broke off may fail over to another engine; count it.

        If so, its ticket excludes the engine that broke off.

        Args:
            attempt: The attempt that broke off.
            failures: Engines that have broken off so far, including this one.

        Raises:
            EnginesDied: Two engines crashed while they worked on it.
        """
        if attempt.has_died:
            self._died(attempt.charge)
            if len(attempt.ticket.deaths) >= DEADLY:
                raise upload_is_deadly(attempt.ticket)
        if failures >= self._max_attempts or not self.fleet.may_retry(self.now()):
            return False
        ticket, engine_id = attempt.ticket, attempt.engine_id
        ticket.excluded.add(engine_id)
        log.info("request %s fails over from engine %s to another", ticket.request_id, engine_id)
        self._observer.repeated(ticket)
        return True

    async def _once(self, call: Call) -> tuple[Answer | None, OutcomeKind, str]:
        """Make one call; return its answer, outcome and failure; the failure is empty if none."""
        charge = call.charge
        engine = charge.engine
        assert engine is not None
        try:
            answer = await call.send(engine)
        except CallFailed as e:
            self._calls.end(call)
            if isinstance(e, ConnectionBroke) and e.is_at_work:
                self._died(charge, self._calls.others(charge))
            return None, _KINDS[type(e)], str(e)
        except asyncio.CancelledError:
            self._calls.end(call)
            if call.was_recalled():
                assert call.recalled_as is not None
                is_out = call.second is None
                words = "it was taken out" if is_out else "another engine answered first"
                return None, call.recalled_as, words
            if call.second is not None:
                _give_up(call.second)
            self.slots.release(charge, Outcome(call.tries.cancelled_as()))
            raise
        except SpoolFailed as e:
            self._abandon(call)
            words = f"The upload cannot be read back: {e}."
            raise SpoolFull(words, retry_after_s=1) from e
        except BaseException:
            self._abandon(call)
            raise
        self._calls.end(call)
        return answer, *classify(answer)

    def _abandon(self, call: Call) -> None:
        """End a call and its race for a fault that is not the engine's."""
        self._calls.end(call)
        call.tries.is_settled = True
        if call.second is not None:
            _give_up(call.second)
        self.slots.release(call.charge, Outcome(OutcomeKind.CANCELLED))


def _give_up(task: asyncio.Task[Attempt]) -> None:
    """Cancel a task, and release what it may have acquired at the same moment."""
    task.cancel()
    task.add_done_callback(_give_back)


def _give_back(task: asyncio.Task[Attempt]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close(OutcomeKind.CANCELLED)

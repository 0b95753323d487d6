"""One piece of work to an engine: wait for a slot, attempt, repeat elsewhere or fail.

The fleet decides who runs where; this module turns its decisions into awaits and what happened on
the wire into outcomes. A transcription has no side effect, so a POST may be repeated until the
first byte of an answer has gone to the client. An `Attempt` owns its charge and its connection and
releases both once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Final, Protocol

from vllm_router.errors import (
    EngineFailed,
    EngineSaid,
    EnginesBusy,
    EnginesDied,
    EngineTooSlow,
    NoEngineReady,
    QueueIsFull,
    RouterError,
    SpoolFull,
)
from vllm_router.formats.engine_error import lacks_model
from vllm_router.requests.call_watch import (
    TAKEN_OUT,
    AttemptHistory,
    Call,
    CallWatch,
    Reason,
    RefusedAttempt,
    Send,
)
from vllm_router.requests.classify import asked_rest_s, classify
from vllm_router.requests.engine_wait import EngineWait
from vllm_router.scheduling.engine import EngineId, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.work import (
    AdmissionRefusal,
    Charge,
    Outcome,
    OutcomeKind,
    QueueFull,
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

#: A refusal is a sentence or a few; what is longer is not read to its end.
MAX_REFUSAL_BYTES: Final = 256 * 1024
#: A hung engine takes its whole deadline each time: once more elsewhere, not twice.
_MAX_TIMEOUTS: Final = 2
#: Engines that one upload may end. One may have ended for reasons of its own; a third would be one
#: too many if it is the upload.
DEADLY: Final = 2
RETRY_AFTER_S: Final = 5.0
#: How a call ends that another engine took over.
_MOVED: Final = frozenset({OutcomeKind.CANCELLED, OutcomeKind.OVERTAKEN, OutcomeKind.BUSY})
#: Calls in all for each attempt: while the fleet is in trouble, moves must not use up the attempts.
MOVES: Final = 2
#: A stream that begins to stand still when its engine is taken out has stopped for good after this.
#: Between two events of a live one a segment is heard, a second or two on a full engine.
SILENCE_S: Final = 5.0

_KINDS: Final[dict[type[CallFailed], OutcomeKind]] = {
    NotConnected: OutcomeKind.UNREACHABLE,
    ConnectionBroke: OutcomeKind.RESET,
    BadAnswer: OutcomeKind.RESET,
    CallTimedOut: OutcomeKind.TIMEOUT,
}


class AttemptObserver(Protocol):
    """Who wants to know what happens to engines and work."""

    def attempted(self, charge: Charge, outcome: OutcomeKind, seconds: float) -> None:
        """One attempt on an engine has ended, after so many seconds."""

    def waited(self, ticket: Ticket, seconds: float) -> None:
        """A ticket has left the queue for an engine."""

    def repeated(self, ticket: Ticket) -> None:
        """A ticket goes to a further engine."""

    def hedged(self, *, is_won: bool) -> None:
        """Work was sent to a second engine too, which answered first or not."""

    def suspected(self, engine_id: EngineId) -> None:
        """A call to an engine is overdue: it should be probed now."""

    def changed(self, transition: Transition) -> None:
        """An engine has changed its state."""


class Attempt:
    """An engine at work on something: its answer, and what is to be released.

    Closed by hand, or by a `with` that closes it by how its block ends: well, by a CallFailed, or
    otherwise, which is the client's leaving.

    Attributes:
        charge: Its hold on the engine.
        engine_id: The engine.
        answer: Its answer; may still be streaming.
        first_byte_s: Seconds from the charge to the answer.
        has_died: Whether the engine ended in the midst of its answer.
        is_refusal: Whether it is shown though it may have no words.
        refused_by: Engines that gave the work this answer's status, its own included; empty where
            the answer is no refusal.
        waited_s: Seconds spent in the queue, for all attempts together.
    """

    __slots__ = (
        "_dispatcher",
        "answer",
        "charge",
        "engine_id",
        "first_byte_s",
        "has_died",
        "is_refusal",
        "refused_by",
        "waited_s",
    )

    def __init__(
        self, dispatcher: AttemptRunner, charge: Charge, answer: Answer, waited_s: float
    ) -> None:
        self._dispatcher = dispatcher
        self.charge = charge
        self.answer = answer
        self.engine_id = charge.engine_id
        self.waited_s = waited_s
        self.has_died = False
        self.is_refusal = False
        self.refused_by: tuple[EngineId, ...] = ()
        self.first_byte_s = dispatcher.now() - charge.started_at

    @property
    def kind(self) -> OutcomeKind:
        """How it ends if the answer can be passed on whole."""
        is_refusal = self.is_refusal or self.answer.status >= 400
        return OutcomeKind.CLIENT_FAULT if is_refusal else OutcomeKind.OK

    @property
    def ticket(self) -> Ticket:
        """The work."""
        return self.charge.ticket

    def __enter__(self) -> Attempt:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self.close(self.kind)
        elif isinstance(error, CallFailed):
            self.has_died = isinstance(error, ConnectionBroke) and error.is_at_work
            self.close(OutcomeKind.RESET, str(error))
        else:
            self.close(OutcomeKind.CLIENT_LEFT)

    async def refusal(self) -> EngineSaid:
        """Return what the engine answered in the place of words, and close.

        Raises:
            EngineFailed: It broke off.
        """
        try:
            with self:
                return EngineSaid(self.answer.status, await self.answer.read())
        except CallFailed as e:
            raise EngineFailed(f"The engine broke off in its answer: {e}.") from e

    def close(self, kind: OutcomeKind, detail: str | None = None) -> None:
        """Release the engine and the connection. Only the first call counts."""
        if self.charge.is_released:
            return
        self.answer.close()
        self._dispatcher.closed(self)
        self._dispatcher.finish(self.charge, Outcome(kind, self.first_byte_s, None, detail))

    def check_silence(self, arrivals: int) -> None:
        """Break a stream off that has stood still since so many arrivals, its engine being out.

        One that goes on is let be, and looked at again: it may be the engine's last words. So is
        one whose client is slow to take what has come.
        """
        engine, answer = self.charge.engine, self.answer
        if engine is None or engine.state not in TAKEN_OUT:
            return
        if answer.is_awaited and answer.arrivals == arrivals:
            answer.break_off("it was taken out and says nothing more")
            return
        loop = asyncio.get_running_loop()
        loop.call_later(SILENCE_S, self.check_silence, answer.arrivals)


class AttemptRunner:
    """Brings work and engines together.

    Args:
        fleet: Decides.
        now: Monotonic seconds.
        observer: Is told.
        max_attempts: Engines that one piece of work may be given to.
        engine_wait: Has work wait where no engine is ready.
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
        self._observer = observer
        self._max_attempts = max_attempts
        self._engine_wait = engine_wait
        self._streams: dict[Attempt, None] = {}
        self._max_calls = max_attempts if max_attempts == 1 else MOVES * max_attempts
        self._calls = CallWatch(fleet, now, observer, self._max_calls, self._attempt)
        # None: who asked has not begun to wait yet, and finds an immediate decision in the second.
        self._waiting: dict[Ticket, asyncio.Future[Charge | AdmissionRefusal] | None] = {}
        self._decided: dict[Ticket, Charge | AdmissionRefusal] = {}
        self._wakeup: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Pieces of work in the queues, or waiting for an engine to come back."""
        return len(self._waiting) + len(self._engine_wait)

    async def admit(self, ticket: Ticket) -> None:
        """Ask for a long audio as a whole, before its pieces are asked for one by one.

        Raises:
            QueueIsFull: The queue takes no more.
            NoEngineReady: Nothing can take it now.
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

    async def slot(self, ticket: Ticket, tries: AttemptHistory | None = None) -> Charge:
        """Wait for an engine.

        Args:
            ticket: The work.
            tries: Of the work, where other calls may settle it meanwhile.

        Returns:
            The charge, for the caller to hand to `finish`.

        Raises:
            QueueIsFull: The queue takes no more, or it took too long.
            NoEngineReady: Nothing can take it now.
            EngineFailed: No engine is left on which it has not failed.
            EnginesBusy: Those that are left ask to be left alone.
        """
        asked_at = now = self.now()
        if not self.fleet.is_ready(ticket.model):
            await self._require_ready(ticket)
            now = self.now()
        charge = self.fleet.take(ticket, now)
        if charge is None:
            rest_s = self.fleet.rest_s(ticket, now)
            if rest_s is not None:
                raise _busy(rest_s)
            charge = await self._queued(ticket, now, tries)
        if ticket.trace is not None:
            ticket.trace.waited(asked_at, charge.started_at, "given")
        self._observer.waited(ticket, charge.started_at - asked_at)
        return charge

    async def _queued(self, ticket: Ticket, now: float, tries: AttemptHistory | None) -> Charge:
        try:
            self.fleet.submit(ticket, now)
        except QueueFull as e:
            raise QueueIsFull(e.reason, retry_after_s=e.retry_after_s) from e
        self._waiting[ticket] = None
        self.pump()
        decision = self._decided.pop(ticket, None) or await self._turn(ticket, tries)
        if isinstance(decision, AdmissionRefusal):
            if ticket.trace is not None:
                ticket.trace.waited(now, self.now(), decision.name.lower())
            raise self._refused(ticket, decision)
        return decision

    async def _turn(
        self, ticket: Ticket, tries: AttemptHistory | None
    ) -> Charge | AdmissionRefusal:
        future: asyncio.Future[Charge | AdmissionRefusal] = (
            asyncio.get_running_loop().create_future()
        )
        self._waiting[ticket] = future
        try:
            return await future
        except asyncio.CancelledError:
            if ticket.trace is not None:
                ticket.trace.waited(ticket.queued_at, self.now(), "left")
            self._abandon(ticket, future, _why_cancelled(tries))
            raise

    def _abandon(
        self, ticket: Ticket, future: asyncio.Future[Charge | AdmissionRefusal], kind: OutcomeKind
    ) -> None:
        if self._waiting.pop(ticket, None) is not None:
            self.fleet.withdraw(ticket, self.now())
            self.pump()
            return
        # The engine was given in the same moment as the work was given up, just before or after.
        decision = self._decided.pop(ticket, None) if future.cancelled() else future.result()
        if isinstance(decision, Charge):
            self.finish(decision, Outcome(kind))

    def _refused(self, ticket: Ticket, refusal: AdmissionRefusal) -> RouterError:
        if refusal is AdmissionRefusal.NO_ENGINE_LEFT:
            return EngineFailed("No further engine is ready to take the upload.")
        if refusal is AdmissionRefusal.NONE_IN_SERVICE:
            return NoEngineReady(
                f"Every engine of the model `{ticket.model}` fails at present; try again later.",
                retry_after_s=RETRY_AFTER_S,
            )
        return QueueIsFull(
            "The upload has waited longer than allowed for a free engine.",
            retry_after_s=RETRY_AFTER_S,
        )

    def pump(self) -> None:
        """Carry out every decision that is possible now; to be called when anything has changed."""
        now = self.now()
        for assignment in self.fleet.assign(now):
            future = self._waiting.pop(assignment.ticket)
            decision = assignment.charge or assignment.refusal or AdmissionRefusal.NO_ENGINE_LEFT
            if future is None or future.done():
                # Who asked has yet to wait, or has just been cancelled: either looks here.
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

    def finish(self, charge: Charge, outcome: Outcome) -> None:
        """Release a charge, tell who wants to know, and give the slot to the next."""
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

    def closed(self, attempt: Attempt) -> None:
        """Note that an attempt's answer is over."""
        self._streams.pop(attempt, None)

    def changed(self, transitions: Iterable[Transition]) -> None:
        """Pass engines' changes of state on; a change may free, strand or move work."""
        for transition in transitions:
            self._engine_wait.changed(transition)
            self._observer.changed(transition)
            if transition.after in TAKEN_OUT:
                self._calls.taken_out(transition.engine_id)
                for attempt in self._streams:
                    if attempt.engine_id == transition.engine_id:
                        loop = asyncio.get_running_loop()
                        arrivals = attempt.answer.arrivals
                        loop.call_later(SILENCE_S, attempt.check_silence, arrivals)

    async def attempt(self, ticket: Ticket, send: Send) -> Attempt:
        """Get an engine's answer to a piece of work, from another engine where one fails.

        Work that takes unusually long, or whose engine is taken out, is given to a second engine as
        well (`call_watch`); the answer that comes first counts.

        Args:
            ticket: The work.
            send: Makes the call to the engine it is given.

        Returns:
            The attempt that got an answer for the client; the caller closes it.

        Raises:
            EnginesDied: Two engines ended while they worked on it.
            RouterError: It could not be had.
        """
        return await self._attempt(ticket, send, AttemptHistory())

    async def _attempt(self, ticket: Ticket, send: Send, tries: AttemptHistory) -> Attempt:
        waited_s = 0.0
        until: float | None = None
        while True:
            asked_at = self.now()
            try:
                charge = await self.slot(ticket, tries)
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
                return self._last_word(ticket, tries)
            waited_s += charge.started_at - asked_at
            call = self._calls.begin(charge, send, tries)
            answer, kind, failure = await self._once(call)
            if answer is not None and not failure:
                if call.second is not None:
                    self._settle(call, is_won=False)
                if tries.refusals:
                    self._refute(ticket, tries)
                attempt = Attempt(self, charge, answer, waited_s)
                if answer.body is None:
                    self._streams[attempt] = None
                return attempt
            ticket.excluded.add(charge.engine_id)
            rest_s: float | None = None
            is_decided = False
            if answer is None:
                self._note(tries, charge, kind, failure)
            elif kind is OutcomeKind.UNDECIDED:
                is_decided = await self._weigh(ticket, tries, charge, answer, failure, waited_s)
            else:
                self._note(tries, charge, kind, failure)
                if kind is OutcomeKind.BUSY:
                    rest_s = asked_rest_s(answer)
                    # An engine may ask for a year; it is asked again far sooner.
                    longest_s = self.fleet.settings.health.longest_rest_s
                    tries.note_rest(RETRY_AFTER_S if rest_s is None else min(rest_s, longest_s))
                    tries.rested += 1
                    # It has done nothing: each engine may be asked, however many there are.
                    tries.started -= 1
                answer.close()
            if is_decided:
                kind = OutcomeKind.CLIENT_FAULT
            self.finish(charge, Outcome(kind, None, None, failure, rest_s))
            if is_decided:
                if call.second is not None:
                    self._settle(call, is_won=False)
                assert tries.shown is not None
                return tries.shown
            if call.second is not None:
                # Another engine has the work already: its answer is this one's next.
                second = await self._second(call)
                if second is not None:
                    second.waited_s += waited_s
                    return second
            if not self._may_repeat(ticket, tries, kind):
                return self._last_word(ticket, tries)
            self._repeat(ticket, tries)

    async def _weigh(
        self,
        ticket: Ticket,
        tries: AttemptHistory,
        charge: Charge,
        answer: Answer,
        failure: str,
        waited_s: float,
    ) -> bool:
        """Take a refusal in; return whether the client is to be shown it now."""
        try:
            said = await answer.read(MAX_REFUSAL_BYTES)
        except CallFailed:
            # The status is known, and that it refuses; its words are not.
            said = b""
        answer.close()
        status = answer.status
        about_model = status == 404 and lacks_model(said)
        vote, needed = self.fleet.refused(charge, status, self.now())
        # The router names no model that the engine has not listed.
        vote = 0 if about_model else vote
        tries.refusals.append(
            RefusedAttempt(charge.engine_id, status, about_model, charge.started_at)
        )
        tries.failures.append(f"{charge.engine_id}: {failure}")
        tries.votes += vote
        tries.spent += vote
        tries.shown = Attempt(self, charge, answer, waited_s)
        tries.shown.is_refusal = True
        tries.shown.refused_by = tuple(
            refused.engine_id for refused in tries.refusals if refused.status == status
        )
        if ticket.votes is not None:
            needed = max(needed, ticket.votes)
        # Where another call runs still, its answer is waited for.
        is_last = not tries.running and not self.fleet.has_witness(ticket)
        if tries.votes == needed == 1:
            return True
        if tries.votes >= needed or (is_last and len(tries.refusals) > 1):
            self._agreed(ticket, tries)
            return True
        return is_last

    def _agreed(self, ticket: Ticket, tries: AttemptHistory) -> None:
        """Note that every engine that was asked has refused an upload."""
        engine_ids = [refused.engine_id for refused in tries.refusals]
        self.fleet.agreed(ticket.model, tries.refusals[-1].status, engine_ids, self.now())

    def _refute(self, ticket: Ticket, tries: AttemptHistory) -> None:
        """Blame the engines that have refused what another one serves."""
        now = self.now()
        for refused in tries.refusals:
            is_blamed = self.fleet.refuted(
                refused.engine_id, ticket, refused.status, now, lacks_model=refused.lacks_model
            )
            if is_blamed:
                words = f"{refused.status} where others had none"
                outcome = Outcome(OutcomeKind.BAD_STATUS, None, None, words)
                began_at = refused.started_at
                self.changed(self.fleet.blame(refused.engine_id, began_at, outcome, now))
        if self._waiting:
            self.pump()

    def _last_word(self, ticket: Ticket, tries: AttemptHistory) -> Attempt:
        """Return the refusal that is shown for want of a better answer.

        Raises:
            RouterError: There is none.
        """
        if tries.rest_s is not None and len(ticket.deaths) < DEADLY:
            if tries.rested == len(tries.failures):
                raise _busy(tries.rest_s)
            # Not all are busy: an engine that failed says nothing of its load. The upload may well
            # succeed once the others take work again, so it is no 502.
            words = "; ".join(tries.failures)
            raise NoEngineReady(
                f"No engine can take the upload now: some failed, the others ask to be left alone"
                f" ({words}).",
                retry_after_s=tries.rest_s,
            )
        # While another call for it runs, that one decides.
        if tries.shown is not None and not tries.running and len(ticket.deaths) < DEADLY:
            if len(tries.refusals) > 1:
                self._agreed(ticket, tries)
            return tries.shown
        raise _failed(ticket, tries)

    def _note(self, tries: AttemptHistory, charge: Charge, kind: OutcomeKind, failure: str) -> None:
        tries.failures.append(f"{charge.engine_id}: {failure}")
        tries.timeouts += kind is OutcomeKind.TIMEOUT
        # A call that was moved to another engine has not failed, nor does it say anything of the
        # work where the engine fails on everything.
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
            # An upload that may be deadly waits for what its other call comes to.
            and not (ticket.deaths and tries.running)
            and may_more(self.now())
        )

    def _repeat(self, ticket: Ticket, tries: AttemptHistory) -> None:
        log.info("request %s goes to another engine: %s", ticket.request_id, tries.failures[-1])
        self._observer.repeated(ticket)

    async def _second(self, call: Call) -> Attempt | None:
        """Return what came of a call's second; None: it has failed too.

        Raises:
            EnginesDied: The upload is on no account to be repeated.
        """
        second = call.second
        assert second is not None
        try:
            # Shielded: a client that leaves now must not lose what is to be given back.
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
        """End the race of a call with its second."""
        assert call.second is not None
        if not is_won:
            call.tries.is_settled = True
            _give_up(call.second)
        if call.reason is not Reason.OUT:
            self._observer.hedged(is_won=is_won)

    def _died(self, charge: Charge, others: Iterable[Charge] = ()) -> None:
        """Note that an engine ended while it worked on something."""
        now = self.now()
        deaths = charge.ticket.deaths
        if self.fleet.died(charge, now, others) and len(deaths) == DEADLY:
            self.fleet.absolve(deaths, now)

    def may_go_on(self, attempt: Attempt, failures: int) -> bool:
        """Whether work whose answer broke off midway may go to a further engine; counted if so.

        Its ticket is then kept from the engine that broke off.

        Args:
            attempt: The one that broke off.
            failures: Engines that broke off so far, this one included.

        Raises:
            EnginesDied: Two engines ended while they worked on it.
        """
        if attempt.has_died:
            self._died(attempt.charge)
            if len(attempt.ticket.deaths) >= DEADLY:
                raise _deadly(attempt.ticket)
        if failures >= self._max_attempts or not self.fleet.may_retry(self.now()):
            return False
        ticket, engine_id = attempt.ticket, attempt.engine_id
        ticket.excluded.add(engine_id)
        log.info("request %s goes on on another engine than %s", ticket.request_id, engine_id)
        self._observer.repeated(ticket)
        return True

    async def _once(self, call: Call) -> tuple[Answer | None, OutcomeKind, str]:
        """Make one call; return its answer, what it says of the engine, and its failure if any."""
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
                words = "it was taken out" if is_out else "another engine answered meanwhile"
                return None, call.recalled_as, words
            if call.second is not None:
                _give_up(call.second)
            self.finish(charge, Outcome(_why_cancelled(call.tries)))
            raise
        except SpoolFailed as e:
            self._calls.end(call)
            call.tries.is_settled = True
            if call.second is not None:
                _give_up(call.second)
            self.finish(charge, Outcome(OutcomeKind.CANCELLED))
            words = f"The upload cannot be read back: {e}."
            raise SpoolFull(words, retry_after_s=1) from e
        except BaseException:
            self._calls.end(call)
            call.tries.is_settled = True
            if call.second is not None:
                _give_up(call.second)
            self.finish(charge, Outcome(OutcomeKind.CANCELLED))
            raise
        self._calls.end(call)
        return answer, *classify(answer)


def _why_cancelled(tries: AttemptHistory | None) -> OutcomeKind:
    """Return how a cancelled call ends: it lost a race, or the client left."""
    is_settled = tries is not None and tries.is_settled
    return OutcomeKind.CANCELLED if is_settled else OutcomeKind.CLIENT_LEFT


def _give_up(task: asyncio.Task[Attempt]) -> None:
    """Cancel a task, and give back what it may have got in the same moment."""
    task.cancel()
    task.add_done_callback(_give_back)


def _give_back(task: asyncio.Task[Attempt]) -> None:
    if not task.cancelled() and task.exception() is None:
        task.result().close(OutcomeKind.CANCELLED)


def _busy(rest_s: float) -> EnginesBusy:
    words = "Every engine that could take the upload asks to be left alone; try again later."
    return EnginesBusy(words, retry_after_s=rest_s)


def _failed(ticket: Ticket, tries: AttemptHistory) -> RouterError:
    words = "; ".join(tries.failures)
    if len(ticket.deaths) >= DEADLY:
        return _deadly(ticket)
    if tries.timeouts == len(tries.failures):
        return EngineTooSlow(f"No engine answered in time ({words}).")
    return EngineFailed(f"Every engine that was tried failed ({words}).")


def _deadly(ticket: Ticket) -> EnginesDied:
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

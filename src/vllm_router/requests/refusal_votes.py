"""Decide whether a refused upload is at fault, or the engines that refused it."""

from __future__ import annotations

from vllm_router.errors import NoEngineReady
from vllm_router.formats.engine_error import lacks_model
from vllm_router.requests.attempt import MAX_REFUSAL_BYTES, Attempt
from vllm_router.requests.attempt_history import (
    DEADLY,
    AttemptHistory,
    RefusedAttempt,
    attempts_failed,
)
from vllm_router.requests.slots import Slots, engines_busy
from vllm_router.scheduling.work import Charge, Outcome, OutcomeKind, Ticket
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import CallFailed


class RefusalVotes:
    """Counts the refusals of one upload by several engines.

    Args:
        slots: Slots of the fleet that learns from the votes.
        streams: Attempts whose answers are still streaming.
    """

    def __init__(self, slots: Slots, streams: dict[Attempt, None]) -> None:
        self._slots = slots
        self._fleet = slots.fleet
        self._streams = streams

    async def weigh(
        self,
        ticket: Ticket,
        tries: AttemptHistory,
        charge: Charge,
        answer: Answer,
        failure: str,
        waited_s: float,
    ) -> bool:
        """Count a refusal; return whether to return it to the client now."""
        try:
            said = await answer.read(MAX_REFUSAL_BYTES)
        except CallFailed:
            # The status is known; the refusal's text is not.
            said = b""
        answer.close()
        status = answer.status
        about_model = status == 404 and lacks_model(said)
        vote, needed = self._fleet.refused(charge, status, self._slots.now())
        # The router sends an engine only models that the engine has listed.
        vote = 0 if about_model else vote
        tries.refusals.append(
            RefusedAttempt(charge.engine_id, status, about_model, charge.started_at)
        )
        tries.failures.append(f"{charge.engine_id}: {failure}")
        tries.votes += vote
        tries.spent += vote
        tries.shown = Attempt(self._slots, self._streams, charge, answer, waited_s)
        tries.shown.is_refusal = True
        tries.shown.refused_by = tuple(
            refused.engine_id for refused in tries.refusals if refused.status == status
        )
        if ticket.votes is not None:
            needed = max(needed, ticket.votes)
        # If another call is in flight, its answer is awaited.
        is_last = not tries.running and not self._fleet.has_witness(ticket)
        if tries.votes == needed == 1:
            return True
        if tries.votes >= needed or (is_last and len(tries.refusals) > 1):
            self.agreed(ticket, tries)
            return True
        return is_last

    def agreed(self, ticket: Ticket, tries: AttemptHistory) -> None:
        """Note that every engine tried has refused an upload."""
        engine_ids = [refused.engine_id for refused in tries.refusals]
        self._fleet.agreed(ticket.model, tries.refusals[-1].status, engine_ids, self._slots.now())

    def refute(self, ticket: Ticket, tries: AttemptHistory) -> None:
        """Blame the engines that have refused an upload that another engine served."""
        now = self._slots.now()
        for refused in tries.refusals:
            is_blamed = self._fleet.refuted(
                refused.engine_id, ticket, refused.status, now, lacks_model=refused.lacks_model
            )
            if is_blamed:
                words = f"{refused.status} for an upload that another engine served"
                outcome = Outcome(OutcomeKind.BAD_STATUS, None, None, words)
                began_at = refused.started_at
                self._slots.changed(self._fleet.blame(refused.engine_id, began_at, outcome, now))
        self._slots.pump_if_waiting()

    def last_word(self, ticket: Ticket, tries: AttemptHistory) -> Attempt:
        """Return the refusal to show for lack of a better answer.

        Raises:
            RouterError: There is none.
        """
        if tries.rest_s is not None and len(ticket.deaths) < DEADLY:
            if tries.rested == len(tries.failures):
                raise engines_busy(tries.rest_s)
            # Not all are busy: failed engines say nothing about load. The upload may succeed once
            # the others accept work again, so this is not a 502.
            words = "; ".join(tries.failures)
            raise NoEngineReady(
                f"No engine can take the upload now: some failed, the others asked for a pause"
                f" ({words}).",
                retry_after_s=tries.rest_s,
            )
        # If another call for it is in flight, that call decides.
        if tries.shown is not None and not tries.running and len(ticket.deaths) < DEADLY:
            if len(tries.refusals) > 1:
                self.agreed(ticket, tries)
            return tries.shown
        raise attempts_failed(ticket, tries)

"""One engine's answer to one piece of work, and what is released when it is over."""

from __future__ import annotations

import asyncio
from types import TracebackType
from typing import Final

from vllm_router.errors import EngineFailed
from vllm_router.formats.engine_error import EngineRefused
from vllm_router.requests.slots import TAKEN_OUT, Slots
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work import Charge, Outcome, OutcomeKind, Ticket
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import CallFailed, ConnectionBroke

#: A stream that begins to stand still when its engine is taken out has stopped for good after this.
#: Between two events of a live one a segment is heard, a second or two on a full engine.
SILENCE_S: Final = 5.0

#: A refusal is a sentence or a few; what is longer is not read to its end.
MAX_REFUSAL_BYTES: Final = 256 * 1024


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
        "_slots",
        "_streams",
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
        self,
        slots: Slots,
        streams: dict[Attempt, None],
        charge: Charge,
        answer: Answer,
        waited_s: float,
    ) -> None:
        self._slots = slots
        self._streams = streams
        self.charge = charge
        self.answer = answer
        self.engine_id = charge.engine_id
        self.waited_s = waited_s
        self.has_died = False
        self.is_refusal = False
        self.refused_by: tuple[EngineId, ...] = ()
        self.first_byte_s = slots.now() - charge.started_at

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

    async def refusal(self) -> EngineRefused:
        """Return what the engine answered in the place of words, and close.

        Raises:
            EngineFailed: It broke off.
        """
        try:
            with self:
                return EngineRefused(self.answer.status, await self.answer.read())
        except CallFailed as e:
            raise EngineFailed(f"The engine broke off in its answer: {e}.") from e

    def close(self, kind: OutcomeKind, detail: str | None = None) -> None:
        """Release the engine and the connection. Only the first call counts."""
        if self.charge.is_released:
            return
        self.answer.close()
        self._streams.pop(self, None)
        self._slots.release(self.charge, Outcome(kind, self.first_byte_s, None, detail))

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

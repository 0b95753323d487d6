"""One engine's answer to one piece of work, and the resources released when the attempt ends."""

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

#: A stream that stalls this long after its engine was taken out is presumed dead. A live stream
#: takes a second or two between two events on a busy engine: one segment's transcription.
SILENCE_S: Final = 5.0

#: A refusal is a few sentences; anything longer is not read to the end.
MAX_REFUSAL_BYTES: Final = 256 * 1024


class Attempt:
    """An engine's attempt at a piece of work: the answer, and what must be released.

    Close it explicitly or use `with`, which closes it according to how the block ends: normally, by
    CallFailed, or by any other exception, which counts as a client disconnect.

    Attributes:
        charge: The charge on the engine.
        engine_id: The engine.
        answer: The engine's answer; may still be streaming.
        first_byte_s: Seconds from the charge to the answer.
        has_died: Whether the engine crashed while it answered.
        is_refusal: Whether the answer is returned as a refusal, whatever its status.
        refused_by: Engines that refused the work with this answer's status, including this one;
            empty if the answer is not a refusal.
        waited_s: Seconds spent in the queue, summed over all attempts.
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
        """The outcome if the answer can be passed on completely."""
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
        """Return the engine's refusal, and close the attempt.

        Raises:
            EngineFailed: The answer broke off.
        """
        try:
            with self:
                return EngineRefused(self.answer.status, await self.answer.read())
        except CallFailed as e:
            raise EngineFailed(f"The engine's response broke off: {e}.") from e

    def close(self, kind: OutcomeKind, detail: str | None = None) -> None:
        """Release the engine and the connection. Only the first call has an effect."""
        if self.charge.is_released:
            return
        self.answer.close()
        self._streams.pop(self, None)
        self._slots.release(self.charge, Outcome(kind, self.first_byte_s, None, detail))

    def check_silence(self, arrivals: int) -> None:
        """Break off a stream that has received nothing since `arrivals`, if its engine is out.

        A stream that makes progress continues and is checked again later: it may be finishing. A
        stream whose client is slow to read also continues.
        """
        engine, answer = self.charge.engine, self.answer
        if engine is None or engine.state not in TAKEN_OUT:
            return
        if answer.is_awaited and answer.arrivals == arrivals:
            answer.break_off("it was taken out and its stream has stalled")
            return
        loop = asyncio.get_running_loop()
        loop.call_later(SILENCE_S, self.check_silence, answer.arrivals)

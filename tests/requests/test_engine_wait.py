import asyncio
import time

import pytest
from tests.requests.dispatching import (
    MODEL,
    Notes,
    answer,
    is_idle,
    ready_dispatcher,
    sending,
    ticket,
)

from vllm_router.errors import EngineFailed, NoEngineReady
from vllm_router.requests.attempts import AttemptRunner
from vllm_router.scheduling.changes import Appeared
from vllm_router.scheduling.engine import EngineId, EngineSpec, EngineState
from vllm_router.scheduling.work import Outcome, OutcomeKind
from vllm_router.upstream.call import ConnectionBroke

A, B = EngineId("a"), EngineId("b")
PROBES = 3


def probe(dispatcher: AttemptRunner, engine_id: EngineId, *, ok: bool, times: int = 1) -> None:
    for _ in range(times):
        error = None if ok else "refused"
        now = dispatcher.now()
        moves = dispatcher.fleet.observe_probe(engine_id, ok, 0.01, error, False, now)
        dispatcher.slots.changed(moves)
        dispatcher.slots.pump()


async def a_moment() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_work_waits_for_an_engine_that_has_just_gone() -> None:
    notes = Notes()
    dispatcher = ready_dispatcher(1, notes, wait_s=30.0)
    probe(dispatcher, A, ok=False, times=PROBES)
    slots = [asyncio.create_task(dispatcher.slots.acquire(ticket())) for _ in range(2)]
    await a_moment()
    assert not any(slot.done() for slot in slots)
    probe(dispatcher, A, ok=True)
    for slot in slots:
        dispatcher.slots.release(await slot, Outcome(OutcomeKind.OK))
    assert notes.waits == 2


async def test_a_long_audio_waits_at_the_door_as_well() -> None:
    dispatcher = ready_dispatcher(1, wait_s=30.0)
    probe(dispatcher, A, ok=False, times=PROBES)
    admitted = asyncio.create_task(dispatcher.slots.admit(ticket()))
    await a_moment()
    assert not admitted.done()
    probe(dispatcher, A, ok=True)
    await admitted


async def test_work_that_has_waited_long_enough_is_refused() -> None:
    dispatcher = ready_dispatcher(1, wait_s=0.05)
    probe(dispatcher, A, ok=False, times=PROBES)
    began = time.monotonic()
    with pytest.raises(NoEngineReady):
        await dispatcher.slots.acquire(ticket())
    assert time.monotonic() - began >= 0.05


async def test_nothing_waits_for_engines_that_were_never_there() -> None:
    dispatcher = ready_dispatcher(1, wait_s=3600.0)
    dispatcher.fleet.drain(A, dispatcher.now())
    new = EngineSpec(B, "http://b", (MODEL,))
    dispatcher.fleet.apply(Appeared(new), dispatcher.now())
    # The first probe is under way: it may be there.
    slot = asyncio.create_task(dispatcher.slots.acquire(ticket()))
    await a_moment()
    assert not slot.done()
    probe(dispatcher, B, ok=False)
    with pytest.raises(NoEngineReady):
        await slot


async def test_what_an_engine_broke_off_waits_for_another() -> None:
    """Two engines, one of them out: the other dies with the upload in its hands."""
    dispatcher = ready_dispatcher(2, wait_s=30.0)
    probe(dispatcher, B, ok=False, times=PROBES)
    send, called = sending(ConnectionBroke("reset"), answer())
    attempt = asyncio.create_task(dispatcher.attempt(ticket(), send))
    await a_moment()
    assert called == [A]
    assert not attempt.done()
    probe(dispatcher, B, ok=True)
    done = await attempt
    done.close(done.kind)
    assert called == [A, B]


async def test_what_no_other_engine_takes_in_time_has_failed() -> None:
    dispatcher = ready_dispatcher(2, wait_s=0.05)
    probe(dispatcher, B, ok=False, times=PROBES)
    with pytest.raises(EngineFailed, match="a: reset"):
        await dispatcher.attempt(ticket(), sending(ConnectionBroke("reset"))[0])


async def test_the_only_engines_failure_is_told_at_once() -> None:
    dispatcher = ready_dispatcher(1, wait_s=3600.0)
    with pytest.raises(EngineFailed):
        await dispatcher.attempt(ticket(), sending(ConnectionBroke("reset"))[0])


async def test_who_leaves_while_waiting_leaves_nothing() -> None:
    dispatcher = ready_dispatcher(1, wait_s=3600.0)
    probe(dispatcher, A, ok=False, times=PROBES)
    slot = asyncio.create_task(dispatcher.slots.acquire(ticket()))
    await a_moment()
    assert dispatcher.slots.waiting == 1
    slot.cancel()
    await asyncio.gather(slot, return_exceptions=True)
    probe(dispatcher, A, ok=True)
    await a_moment()
    (engine,) = dispatcher.fleet.engines()
    assert engine.state is EngineState.READY
    assert is_idle(dispatcher)

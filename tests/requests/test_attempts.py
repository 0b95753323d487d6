import asyncio

import pytest
from tests.requests.dispatching import (
    MODEL,
    Notes,
    answer,
    is_given_back,
    is_idle,
    ready_dispatcher,
    sending,
    ticket,
)

from vllm_router.errors import (
    EngineFailed,
    EnginesBusy,
    EnginesDied,
    EngineTooSlow,
    NoEngineReady,
    QueueIsFull,
    SpoolFull,
)
from vllm_router.scheduling.changes import Withdrawn
from vllm_router.scheduling.engine import Engine, EngineId, EngineState
from vllm_router.scheduling.work import Outcome, OutcomeKind
from vllm_router.spool.upload import SpoolFailed
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import (
    BadAnswer,
    CallFailed,
    CallTimedOut,
    ConnectionBroke,
    NotConnected,
)


@pytest.fixture
def notes() -> Notes:
    return Notes()


async def test_an_answer_is_held_until_its_attempt_is_closed_once(notes: Notes) -> None:
    dispatcher = ready_dispatcher(2, notes)
    given = answer()
    attempt = await dispatcher.attempt(ticket(), sending(given)[0])
    assert attempt.answer is given
    assert attempt.kind is OutcomeKind.OK
    assert not is_idle(dispatcher)
    attempt.close(attempt.kind)
    attempt.close(OutcomeKind.RESET)
    assert is_idle(dispatcher)
    assert notes.kinds == [OutcomeKind.OK]
    assert is_given_back(given)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [
        (NotConnected("a"), OutcomeKind.UNREACHABLE),
        (ConnectionBroke("a"), OutcomeKind.RESET),
        (BadAnswer("a"), OutcomeKind.RESET),
        (CallTimedOut("a"), OutcomeKind.TIMEOUT),
        (answer(502), OutcomeKind.BAD_STATUS),
        (answer(503), OutcomeKind.BAD_STATUS),
        (answer(504), OutcomeKind.BAD_STATUS),
    ],
)
async def test_what_fails_is_repeated_on_another_engine(
    notes: Notes, failure: Answer | CallFailed, kind: OutcomeKind
) -> None:
    dispatcher = ready_dispatcher(2, notes)
    send, called = sending(failure, answer())
    attempt = await dispatcher.attempt(ticket(), send)
    attempt.close(attempt.kind)
    assert len(set(called)) == 2
    assert notes.kinds == [kind, OutcomeKind.OK]
    assert notes.repeats == 1
    assert is_idle(dispatcher)


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422, 500])
async def test_a_refusal_is_shown_once_two_engines_agree(notes: Notes, status: int) -> None:
    dispatcher = ready_dispatcher(4, notes)
    first, second = answer(status), answer(status, b"the second")
    send, called = sending(first, second)
    attempt = await dispatcher.attempt(ticket(), send)
    assert attempt.answer is second
    attempt.close(attempt.kind)
    assert len(called) == 2
    assert notes.kinds == [OutcomeKind.UNDECIDED, OutcomeKind.CLIENT_FAULT]
    assert is_idle(dispatcher)


@pytest.mark.parametrize("status", [400, 404, 413, 415, 422, 500])
async def test_a_refusal_that_another_engine_does_not_repeat_is_not_shown(
    notes: Notes, status: int
) -> None:
    dispatcher = ready_dispatcher(4, notes)
    send, called = sending(answer(status), answer(200))
    attempt = await dispatcher.attempt(ticket(), send)
    assert attempt.answer.status == 200
    attempt.close(attempt.kind)
    refusing = dispatcher.fleet.engine(called[0])
    assert refusing is not None
    assert refusing.failed_answers == 1


async def test_refusals_that_are_refuted_late_take_an_engine_out_once(notes: Notes) -> None:
    """On slow engines the proof comes when the engine has been out for long, or is back."""
    dispatcher = ready_dispatcher(3, notes)
    gate = asyncio.Event()

    async def send(engine: Engine) -> Answer:
        if engine.engine_id == "a":
            await asyncio.sleep(0)
            return answer(400)
        await gate.wait()
        return answer(200)

    async def ask() -> int:
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
        return attempt.answer.status

    asked = asyncio.gather(*(ask() for _ in range(20)))
    await asyncio.sleep(0.05)
    gate.set()
    assert set(await asked) == {200}
    broken = dispatcher.fleet.engine(EngineId("a"))
    assert broken is not None
    assert notes.outcomes.count((EngineId("a"), OutcomeKind.UNDECIDED)) > 3
    assert (broken.state, broken.ejections) == (EngineState.EJECTED, 1)


async def test_engines_that_take_long_have_a_vote_although_they_answer_seldom(
    notes: Notes,
) -> None:
    """A CPU needs 20 s for a window."""
    now = 1000.0
    dispatcher = ready_dispatcher(8, notes, now=lambda: now)
    fleet = dispatcher.fleet
    charges = [fleet.take(ticket(), now) for _ in range(8)]
    now += 20.0
    for charge in charges:
        assert charge is not None
        fleet.finish(charge, Outcome(OutcomeKind.OK), now)
    now += 15.0
    for _ in range(4):
        calls = len(notes.kinds)
        send, _ = sending(*[answer(400) for _ in range(8)])
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
        assert len(notes.kinds) - calls == 2


async def test_engines_that_have_all_refused_an_upload_agree_whatever_their_word_counts(
    notes: Notes,
) -> None:
    """Or refusals that nobody contradicts would put one engine after the other on trial."""
    now = 1000.0
    dispatcher = ready_dispatcher(12, notes, now=lambda: now)
    for _ in range(12):
        send, _ = sending(answer(200))
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
    now += 60.0
    for _ in range(12):
        send, _ = sending(*[answer(400) for _ in range(12)])
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
    engines = list(dispatcher.fleet.engines())
    assert max(engine.record.unexplained for engine in engines) <= 1


async def test_an_engine_that_refuses_at_once_does_not_get_all_before_others_answer(
    notes: Notes,
) -> None:
    """With a single attempt for each upload, every client would be shown its refusal."""
    dispatcher = ready_dispatcher(3, notes, max_attempts=1, policy="least-loaded")
    gate = asyncio.Event()

    async def send(engine: Engine) -> Answer:
        if engine.engine_id == "a":
            await asyncio.sleep(0.001)
            return answer(400)
        await gate.wait()
        return answer(200)

    async def ask() -> int:
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
        return attempt.answer.status

    async def ask_again() -> None:
        while (await ask()) != 200:
            pass

    clients = [asyncio.create_task(ask_again()) for _ in range(12)]
    await asyncio.sleep(0.3)
    assert notes.kinds.count(OutcomeKind.UNDECIDED) < 24
    gate.set()
    await asyncio.gather(*clients)


async def test_an_engine_that_refuses_everything_has_no_vote(notes: Notes) -> None:
    """Two broken engines of four: only the first upload finds them credible."""
    dispatcher = ready_dispatcher(4, notes)
    broken: set[EngineId] = set()

    async def send(engine: Engine) -> Answer:
        await asyncio.sleep(0)
        if len(broken) < 2:
            broken.add(engine.engine_id)
        return answer(500 if engine.engine_id in broken else 200)

    statuses = []
    for _ in range(40):
        attempt = await dispatcher.attempt(ticket(), send)
        statuses.append(attempt.answer.status)
        attempt.close(attempt.kind)
    assert statuses.count(500) <= 2


async def test_when_all_engines_refuse_everything_one_of_them_is_asked(notes: Notes) -> None:
    dispatcher = ready_dispatcher(4, notes)
    calls = 0

    async def send(engine: Engine) -> Answer:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        return answer(400)

    for _ in range(60):
        attempt = await dispatcher.attempt(ticket(), send)
        assert attempt.answer.status == 400
        attempt.close(attempt.kind)
    assert calls <= 60 + 4 * 4
    assert all(engine.state is EngineState.READY for engine in dispatcher.fleet.engines())
    assert not any(engine.is_on_trial for engine in dispatcher.fleet.engines())


async def test_an_engine_that_asks_for_a_rest_gets_it_and_another_the_upload(notes: Notes) -> None:
    dispatcher = ready_dispatcher(2, notes)
    send, called = sending(answer(429, headers=[(b"retry-after", b"7")]), *[answer()] * 4)
    for _ in range(4):
        attempt = await dispatcher.attempt(ticket(), send)
        assert attempt.answer.status == 200
        attempt.close(attempt.kind)
    assert called.count(called[0]) == 1
    assert notes.kinds[0] is OutcomeKind.BUSY
    resting = dispatcher.fleet.engine(called[0])
    assert resting is not None
    assert 6.0 < resting.rests_until - dispatcher.now() <= 7.0
    assert resting.state is EngineState.READY


async def test_only_when_every_engine_asks_for_a_rest_is_the_client_told(notes: Notes) -> None:
    dispatcher = ready_dispatcher(9, notes)
    send, called = sending(*[answer(429, headers=[(b"retry-after", b"7")]) for _ in range(9)])
    with pytest.raises(EnginesBusy) as refused:
        await dispatcher.attempt(ticket(), send)
    assert refused.value.retry_after_s == 7.0
    assert len(set(called)) == 9
    # Nobody is asked before the time is over, and nobody is made to wait for it.
    with pytest.raises(EnginesBusy) as refused:
        await dispatcher.attempt(ticket(), send)
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s <= 7.0
    assert is_idle(dispatcher)


@pytest.mark.parametrize("rests_first", [True, False])
async def test_where_one_engine_fails_and_the_other_rests_the_client_is_told_when_to_return(
    notes: Notes, rests_first: bool
) -> None:
    dispatcher = ready_dispatcher(2, notes)
    busy = answer(429, headers=[(b"retry-after", b"7")])
    if rests_first:
        # Another upload was answered so: this one is not even offered to that engine.
        send, _ = sending(busy, answer())
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
        send, called = sending(answer(503))
    else:
        send, called = sending(answer(503), busy)
    with pytest.raises(NoEngineReady) as refused:
        await dispatcher.attempt(ticket(), send)
    assert len(called) == (1 if rests_first else 2)
    assert refused.value.status == 503
    assert refused.value.retry_after_s == pytest.approx(7.0, abs=0.5)
    assert is_idle(dispatcher)


@pytest.mark.parametrize(
    ("asked", "told_s"),
    [
        (b"999999999", 30.0),
        (b"9" * 40, 5.0),
        (b"-5", 5.0),
        (b"soon", 5.0),
        (b"Wed, 21 Oct 2099 07:28:00 GMT", 5.0),
        (b"0", 0.0),
    ],
)
async def test_a_client_is_not_kept_away_for_longer_than_an_engine_rests(
    notes: Notes, asked: bytes, told_s: float
) -> None:
    dispatcher = ready_dispatcher(1, notes)
    send, _ = sending(answer(429, headers=[(b"retry-after", asked)]))
    with pytest.raises(EnginesBusy) as refused:
        await dispatcher.attempt(ticket(), send)
    assert refused.value.retry_after_s == told_s
    with pytest.raises(EnginesBusy) as refused:
        await dispatcher.attempt(ticket(), send)
    assert refused.value.retry_after_s is not None
    assert refused.value.retry_after_s <= 30.0


async def test_an_engine_that_cannot_read_mp4_serves_the_rest_and_gets_no_more_mp4(
    notes: Notes,
) -> None:
    dispatcher = ready_dispatcher(2, notes)
    old = next(iter(dispatcher.fleet.engines())).engine_id
    refusals = 0

    async def upload(kind: str) -> None:
        async def send(engine: Engine) -> Answer:
            nonlocal refusals
            if kind == "mp4" and engine.engine_id == old:
                refusals += 1
                return answer(400)
            return answer()

        attempt = await dispatcher.attempt(ticket(kind=kind), send)
        assert attempt.answer.status == 200
        attempt.close(attempt.kind)

    for number in range(120):
        await upload("mp4" if number % 3 else "")
    assert 1 <= refusals <= 3
    engine = dispatcher.fleet.engine(old)
    assert engine is not None
    assert engine.state is EngineState.READY
    assert not engine.is_on_trial
    assert not engine.ejections
    assert is_idle(dispatcher)


async def test_where_no_other_engine_is_ready_a_withheld_kind_is_offered_again(
    notes: Notes,
) -> None:
    dispatcher = ready_dispatcher(2, notes)
    old, new = (engine.engine_id for engine in dispatcher.fleet.engines())

    async def upload(kind: str) -> int:
        async def send(engine: Engine) -> Answer:
            return answer(400 if kind == "mp4" and engine.engine_id == old else 200)

        attempt = await dispatcher.attempt(ticket(kind=kind), send)
        attempt.close(attempt.kind)
        return attempt.answer.status

    for number in range(40):
        assert await upload("mp4" if number % 3 else "") == 200
    dispatcher.fleet.apply(Withdrawn(new), dispatcher.now())
    assert await upload("mp4") == 400


async def test_an_engine_without_the_model_it_lists_gets_no_more_work_for_it(notes: Notes) -> None:
    dispatcher = ready_dispatcher(2, notes)
    words = b'{"error": {"message": "The model `whisper` does not exist.", "param": "model"}}'
    send, called = sending(answer(404, words), *[answer()] * 4)
    for _ in range(4):
        attempt = await dispatcher.attempt(ticket(), send)
        assert attempt.answer.status == 200
        attempt.close(attempt.kind)
    assert called.count(called[0]) == 1
    engine = dispatcher.fleet.engine(called[0])
    assert engine is not None
    assert engine.models == ()
    now = dispatcher.now()
    dispatcher.fleet.observe_models(called[0], (MODEL,), now)
    assert engine.models == (), "it lists it still"
    dispatcher.fleet.observe_models(called[0], (MODEL,), now + 30.0)
    assert engine.models == (MODEL,)
    assert engine.is_on_trial


async def test_an_engine_that_resets_all_its_calls_does_not_make_uploads_deadly(
    notes: Notes,
) -> None:
    """Two of four. Only the first upload may pass for one that ended both."""
    dispatcher = ready_dispatcher(4, notes)
    broken: set[EngineId] = set()

    async def send(engine: Engine) -> Answer:
        await asyncio.sleep(0.001)
        if len(broken) < 2:
            broken.add(engine.engine_id)
        if engine.engine_id in broken:
            raise ConnectionBroke("reset by peer", is_at_work=True)
        return answer()

    died = 0
    for _ in range(20):
        try:
            attempt = await dispatcher.attempt(ticket(), send)
        except EnginesDied:
            died += 1
        else:
            attempt.close(attempt.kind)
    assert died <= 1


@pytest.mark.parametrize("engines", [3, 9])
async def test_no_fourth_engine_is_tried(notes: Notes, engines: int) -> None:
    dispatcher = ready_dispatcher(engines, notes)
    send, called = sending(*[answer(503)] * 3)
    with pytest.raises(EngineFailed, match="answered 503"):
        await dispatcher.attempt(ticket(), send)
    assert len(set(called)) == 3
    assert is_idle(dispatcher)


async def test_nothing_is_left_to_try_when_all_have_failed(notes: Notes) -> None:
    dispatcher = ready_dispatcher(2, notes)
    with pytest.raises(EngineFailed, match=r"a: .*; b: |b: .*; a: "):
        await dispatcher.attempt(ticket(), sending(answer(503), answer(503))[0])
    assert is_idle(dispatcher)


async def test_two_timeouts_are_enough(notes: Notes) -> None:
    """Each takes a whole deadline; a third would make three."""
    dispatcher = ready_dispatcher(3, notes)
    send, called = sending(CallTimedOut("slow"), CallTimedOut("slow"))
    with pytest.raises(EngineTooSlow):
        await dispatcher.attempt(ticket(), send)
    assert len(called) == 2


async def test_a_second_500_is_shown_and_blames_nobody(notes: Notes) -> None:
    dispatcher = ready_dispatcher(3, notes)
    first, second = answer(500), answer(500, b"the second")
    send, called = sending(first, second)
    attempt = await dispatcher.attempt(ticket(), send)
    assert attempt.answer is second
    attempt.close(attempt.kind)
    assert len(called) == 2
    assert notes.kinds == [OutcomeKind.UNDECIDED, OutcomeKind.CLIENT_FAULT]
    assert all(not e.failed_answers for e in dispatcher.fleet.engines())
    assert is_given_back(first)
    assert is_idle(dispatcher)


async def test_a_500_that_others_do_not_repeat_is_the_engines_fault(notes: Notes) -> None:
    dispatcher = ready_dispatcher(2, notes)
    send, called = sending(answer(500), answer(200))
    attempt = await dispatcher.attempt(ticket(), send)
    attempt.close(attempt.kind)
    doubted = dispatcher.fleet.engine(called[0])
    assert doubted is not None
    assert doubted.failed_answers == 1
    assert doubted.last_error == "500 for an upload that another engine served"


async def test_the_only_engines_500_is_shown(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes)
    attempt = await dispatcher.attempt(ticket(), sending(answer(500, b"its words"))[0])
    assert (attempt.answer.status, attempt.answer.body) == (500, b"its words")
    attempt.close(attempt.kind)
    assert is_idle(dispatcher)


async def test_repeats_end_with_their_budget(notes: Notes) -> None:
    dispatcher = ready_dispatcher(3, notes, retry_share=0.0, retry_floor_per_s=0.0)
    send, called = sending(answer(503))
    with pytest.raises(EngineFailed):
        await dispatcher.attempt(ticket(), send)
    assert len(called) == 1


async def test_without_a_ready_engine_nothing_waits(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes)
    with pytest.raises(NoEngineReady) as refused:
        await dispatcher.slots.acquire(ticket(model="another"))
    assert refused.value.retry_after_s
    with pytest.raises(NoEngineReady):
        await dispatcher.slots.admit(ticket(model="another"))
    assert is_idle(dispatcher)


async def test_a_full_queue_refuses_with_a_time(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes, max_windows=1, max_queue_audio_s=5.0)
    held = await dispatcher.slots.acquire(ticket())
    waiting = asyncio.create_task(dispatcher.slots.acquire(ticket()))
    await asyncio.sleep(0)
    with pytest.raises(QueueIsFull) as refused:
        await dispatcher.slots.acquire(ticket())
    assert refused.value.retry_after_s
    with pytest.raises(QueueIsFull):
        await dispatcher.slots.admit(ticket())
    dispatcher.slots.release(held, Outcome(OutcomeKind.OK))
    dispatcher.slots.release(await waiting, Outcome(OutcomeKind.OK))
    assert is_idle(dispatcher)


async def test_who_waits_too_long_is_refused(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes, max_windows=1, max_queue_wait_s=0.1)
    held = await dispatcher.slots.acquire(ticket())
    with pytest.raises(QueueIsFull, match="longer than allowed"):
        await dispatcher.slots.acquire(ticket())
    dispatcher.slots.release(held, Outcome(OutcomeKind.OK))
    assert is_idle(dispatcher)


async def test_who_leaves_the_queue_leaves_no_trace(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes, max_windows=1)
    held = await dispatcher.slots.acquire(ticket())
    waiting = asyncio.create_task(dispatcher.slots.acquire(ticket()))
    await asyncio.sleep(0)
    assert dispatcher.slots.waiting == 1
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert dispatcher.slots.waiting == 0
    dispatcher.slots.release(held, Outcome(OutcomeKind.OK))
    assert is_idle(dispatcher)


async def test_who_leaves_in_the_moment_of_getting_a_slot_gives_it_back(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes, max_windows=1)
    held = await dispatcher.slots.acquire(ticket())
    waiting = asyncio.create_task(dispatcher.slots.acquire(ticket()))
    await asyncio.sleep(0)
    dispatcher.slots.release(held, Outcome(OutcomeKind.OK))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert is_idle(dispatcher)
    assert notes.kinds == [OutcomeKind.OK, OutcomeKind.CLIENT_LEFT]


async def test_who_leaves_during_a_call_frees_the_engine(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes)

    async def hang(engine: Engine) -> Answer:
        await asyncio.sleep(3600)
        raise AssertionError

    task = asyncio.create_task(dispatcher.attempt(ticket(), hang))
    await asyncio.sleep(0.01)
    assert not is_idle(dispatcher)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert is_idle(dispatcher)
    assert notes.kinds == [OutcomeKind.CLIENT_LEFT]


async def test_a_fault_of_our_own_frees_the_engine_and_does_not_blame_it(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes)

    async def fault(engine: Engine) -> Answer:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await dispatcher.attempt(ticket(), fault)
    assert is_idle(dispatcher)
    assert notes.kinds == [OutcomeKind.CANCELLED]


class TestHedging:
    """Short work that takes long is given to a second engine too."""

    async def hedge(self, notes: Notes, first_s: float, second_s: float) -> bytes:
        dispatcher = ready_dispatcher(2, notes, hedge_after_s=0.05)
        times = [first_s, second_s]

        async def send(engine: Engine) -> Answer:
            number = 2 - len(times)
            await asyncio.sleep(times.pop(0))
            return answer(200, b"%d" % number)

        # The hedge's allowance is a share of what has been asked for.
        for _ in range(40):
            quick = await dispatcher.attempt(ticket(), sending(answer())[0])
            quick.close(quick.kind)
        attempt = await dispatcher.attempt(ticket(), send)
        attempt.close(attempt.kind)
        async with asyncio.timeout(10):
            while not is_idle(dispatcher):
                await asyncio.sleep(0.01)
        return attempt.answer.body or b""

    async def test_the_second_may_win(self, notes: Notes) -> None:
        body = await self.hedge(notes, 5.0, 0.0)
        assert body == b"1"
        assert notes.hedges == [True]

    async def test_the_first_may_win_still(self, notes: Notes) -> None:
        body = await self.hedge(notes, 0.2, 5.0)
        assert body == b"0"
        assert notes.hedges == [False]

    async def test_quick_work_is_not_hedged(self, notes: Notes) -> None:
        body = await self.hedge(notes, 0.0, 0.0)
        assert body == b"0"
        assert notes.hedges == []


async def test_models_are_kept_apart(notes: Notes) -> None:
    dispatcher = ready_dispatcher(1, notes)
    charge = await dispatcher.slots.acquire(ticket())
    assert charge.ticket.model == MODEL
    dispatcher.slots.release(charge, Outcome(OutcomeKind.OK))
    dispatcher.slots.release(charge, Outcome(OutcomeKind.OK))
    assert notes.kinds == [OutcomeKind.OK]


async def test_a_disk_that_cannot_be_read_is_no_fault_of_the_engine(notes: Notes) -> None:
    dispatcher = ready_dispatcher(2, notes)
    send, called = sending(SpoolFailed("the disk is gone"))
    with pytest.raises(SpoolFull, match="cannot be read back: the disk is gone"):
        await dispatcher.attempt(ticket(), send)
    assert len(called) == 1
    assert is_idle(dispatcher)
    assert notes.kinds == [OutcomeKind.CANCELLED]

"""Calls that get no answer: whom their work goes to next, when, and what becomes of the first."""

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.requests.dispatching import Notes, answer, is_idle, ready_dispatcher, ticket

from vllm_router.errors import EnginesDied, RouterError
from vllm_router.requests.attempt import Attempt
from vllm_router.requests.attempt_history import AttemptHistory
from vllm_router.requests.attempts import MOVES, AttemptRunner
from vllm_router.requests.call_watch import LATE_S
from vllm_router.scheduling.engine import Engine, EngineId
from vllm_router.scheduling.suspicion import SuspicionRules
from vllm_router.scheduling.work import Death, Outcome, OutcomeKind
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import CallTimedOut, ConnectionBroke, NotConnected

#: The rule with everything a tenth or less of what it is, so that tests are quick.
QUICK = SuspicionRules(floor_s=0.2, unknown_floor_s=0.2, stall_s=0.4, recheck_s=0.05)
PATIENCE_S = 10.0


@pytest.fixture
def notes() -> Notes:
    return Notes()


def fleet_of(count: int, notes: Notes, **settings: object) -> AttemptRunner:
    return ready_dispatcher(count, notes, **{"suspicion": QUICK, **settings})


class Engines:
    """What engines do, in the order in which they are asked; the last again and again."""

    def __init__(self, *does: Callable[[], Awaitable[Answer]]) -> None:
        self._does = does
        self.asked: list[EngineId] = []
        self.left: list[EngineId] = []

    async def send(self, engine: Engine) -> Answer:
        does = self._does[min(len(self.asked), len(self._does) - 1)]
        self.asked.append(engine.engine_id)
        try:
            return await does()
        except asyncio.CancelledError:
            self.left.append(engine.engine_id)
            raise


async def hangs() -> Answer:
    await asyncio.sleep(PATIENCE_S)
    raise AssertionError("nobody came for it")


async def answers() -> Answer:
    await asyncio.sleep(0.01)
    return answer(200, b"{}")


async def answers_at_once() -> Answer:
    return answer(200, b"{}")


async def answers_late() -> Answer:
    await asyncio.sleep(0.6)
    return answer(200, b'{"late": 1}')


async def dies() -> Answer:
    await asyncio.sleep(0.01)
    raise ConnectionBroke("reset by peer", is_at_work=True)


async def dies_late() -> Answer:
    await asyncio.sleep(0.6)
    raise ConnectionBroke("reset by peer", is_at_work=True)


async def ask(dispatcher: AttemptRunner, engines: Engines, **more: Any) -> Attempt:
    async with asyncio.timeout(PATIENCE_S):
        attempt = await dispatcher.attempt(ticket(**more), engines.send)
    attempt.close(attempt.kind)
    return attempt


async def at_rest(dispatcher: AttemptRunner) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not is_idle(dispatcher):
            await asyncio.sleep(0.01)


async def learn(dispatcher: AttemptRunner) -> None:
    """Let every engine show how quick it is."""
    for _ in range(60):
        await ask(dispatcher, Engines(answers))


def fail_probes(dispatcher: AttemptRunner, engine_id: EngineId) -> None:
    for _ in range(3):
        now = dispatcher.now()
        moves = dispatcher.fleet.observe_probe(engine_id, False, 0.0, "no", False, now)
        dispatcher.slots.changed(moves)


async def test_an_overdue_call_is_answered_by_another_engine(notes: Notes) -> None:
    dispatcher = fleet_of(2, notes)
    await learn(dispatcher)
    engines = Engines(hangs, answers)
    attempt = await ask(dispatcher, engines)
    hung, well = engines.asked
    assert attempt.engine_id == well != hung
    assert engines.left == notes.suspects == [hung]
    assert notes.hedges == [True]
    assert (hung, OutcomeKind.OVERTAKEN) in notes.outcomes
    assert is_idle(dispatcher)


async def test_slow_engines_on_their_first_batch_are_not_given_each_others(notes: Notes) -> None:
    dispatcher = fleet_of(2, notes, suspicion=replace(QUICK, unknown_factor=0.1))
    engines = Engines(answers_late)
    await asyncio.gather(*(ask(dispatcher, engines) for _ in range(8)))
    assert len(engines.asked) == 8
    assert engines.left == notes.hedges == []


async def test_an_engine_that_takes_nothing_is_no_livelier_than_slow_ones(notes: Notes) -> None:
    dispatcher = fleet_of(3, notes, suspicion=replace(QUICK, unknown_factor=0.1))
    fail_probes(dispatcher, next(iter(dispatcher.fleet.engines())).engine_id)
    engines = Engines(answers_late)
    await asyncio.gather(*(ask(dispatcher, engines) for _ in range(8)))
    assert len(engines.asked) == 8


async def test_a_slow_engine_that_answers_first_after_all_is_heard(notes: Notes) -> None:
    dispatcher = fleet_of(2, notes)
    await learn(dispatcher)
    engines = Engines(answers_late, hangs)
    attempt = await ask(dispatcher, engines)
    assert attempt.engine_id == engines.asked[0]
    assert attempt.answer.body == b'{"late": 1}'
    assert notes.hedges == [False]
    await at_rest(dispatcher)
    assert engines.left == [engines.asked[1]]
    # It has lost the race, and no client left.
    assert notes.outcomes[-2:] == [
        (engines.asked[0], OutcomeKind.OK),
        (engines.asked[1], OutcomeKind.CANCELLED),
    ]


async def test_a_client_that_leaves_ends_both_calls_of_a_race(notes: Notes) -> None:
    dispatcher = fleet_of(2, notes)
    await learn(dispatcher)
    engines = Engines(hangs, hangs)
    waiting = asyncio.create_task(ask(dispatcher, engines))
    async with asyncio.timeout(PATIENCE_S):
        while len(engines.asked) < 2:
            await asyncio.sleep(0.01)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await at_rest(dispatcher)
    assert notes.kinds[-2:] == [OutcomeKind.CLIENT_LEFT] * 2


@pytest.mark.parametrize("is_given_before", [True, False])
async def test_a_second_that_loses_as_it_gets_its_engine_gives_it_back(
    notes: Notes, *, is_given_before: bool
) -> None:
    dispatcher = fleet_of(2, notes, max_windows=1)
    held = await dispatcher.slots.acquire(ticket())
    tries = AttemptHistory()
    other = ticket(excluded={held.engine_id})
    taken = await dispatcher.slots.acquire(ticket(excluded={held.engine_id}))
    assert taken.engine_id != held.engine_id
    waiting = asyncio.create_task(dispatcher.slots.acquire(other, tries.cancelled_as))
    await asyncio.sleep(0.01)
    tries.is_settled = True
    if is_given_before:
        dispatcher.slots.release(taken, Outcome(OutcomeKind.OK))
        waiting.cancel()
    else:
        waiting.cancel()
        dispatcher.slots.release(taken, Outcome(OutcomeKind.OK))
    await asyncio.gather(waiting, return_exceptions=True)
    assert notes.kinds == [OutcomeKind.OK, OutcomeKind.CANCELLED]
    dispatcher.slots.release(held, Outcome(OutcomeKind.OK))
    assert is_idle(dispatcher)


async def test_a_second_that_fails_leaves_the_first_its_time(notes: Notes) -> None:
    dispatcher = fleet_of(2, notes)
    await learn(dispatcher)

    async def fails() -> Answer:
        raise CallTimedOut("slow")

    attempt = await ask(dispatcher, Engines(answers_late, fails))
    assert attempt.answer.body == b'{"late": 1}'
    assert is_idle(dispatcher)


async def test_nothing_is_asked_twice_where_there_is_no_other_engine(notes: Notes) -> None:
    dispatcher = fleet_of(1, notes)
    await learn(dispatcher)
    engines = Engines(answers_late)
    await ask(dispatcher, engines)
    assert len(engines.asked) == 1
    # It was looked at again and again, and probed once.
    assert notes.suspects == engines.asked
    assert notes.hedges == []


async def test_second_calls_end_with_the_budget_of_repeats(notes: Notes) -> None:
    dispatcher = fleet_of(3, notes, retry_share=0.0, retry_floor_per_s=0.0)
    await learn(dispatcher)
    engines = Engines(answers_late)
    await ask(dispatcher, engines)
    assert len(engines.asked) == 1


async def test_no_more_engines_are_asked_than_attempts_are_allowed(notes: Notes) -> None:
    dispatcher = fleet_of(5, notes)
    await learn(dispatcher)
    engines = Engines(hangs)
    waiting = asyncio.create_task(ask(dispatcher, engines))
    await asyncio.sleep(1.2)
    assert len(set(engines.asked)) == len(engines.asked) == 3
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    await at_rest(dispatcher)
    assert sorted(engines.left) == sorted(engines.asked)


async def test_an_engine_that_has_answered_nothing_yet_may_be_cold(notes: Notes) -> None:
    """While nobody answers, everything is slow, and more work would make it slower."""
    dispatcher = fleet_of(2, notes, suspicion=replace(QUICK, stall_s=5.0))
    engines = Engines(answers_late)
    await ask(dispatcher, engines)
    assert len(engines.asked) == 1
    assert notes.suspects == []


async def test_work_leaves_an_engine_at_once_that_fails_its_probes(notes: Notes) -> None:
    dispatcher = fleet_of(2, notes, suspicion=SuspicionRules())
    engines = Engines(hangs, answers)
    waiting = asyncio.create_task(ask(dispatcher, engines))
    await asyncio.sleep(0.02)
    began = dispatcher.now()
    fail_probes(dispatcher, engines.asked[0])
    attempt = await waiting
    assert dispatcher.now() - began < 1.0
    assert attempt.engine_id == engines.asked[1]
    assert notes.repeats == 1
    assert is_idle(dispatcher)


async def test_work_of_an_engine_that_is_out_waits_there_for_another(notes: Notes) -> None:
    dispatcher = fleet_of(1, notes)
    engines = Engines(answers_late)
    waiting = asyncio.create_task(ask(dispatcher, engines))
    await asyncio.sleep(0.02)
    fail_probes(dispatcher, engines.asked[0])
    assert (await waiting).answer.body == b'{"late": 1}'


async def test_the_time_to_hedge_counts_from_the_charge(notes: Notes) -> None:
    """Not from when the work was handed in: it may have waited for an engine since."""
    dispatcher = fleet_of(2, notes, suspicion=SuspicionRules(), hedge_after_s=0.3, max_windows=1)
    held = [await dispatcher.slots.acquire(ticket()) for _ in range(2)]
    engines = Engines(hangs, answers)
    waiting = asyncio.create_task(ask(dispatcher, engines))
    # Longer than the delay: what queues is not hedged, and is not forgotten either.
    await asyncio.sleep(0.5)
    assert engines.asked == []
    began = dispatcher.now()
    for charge in held:
        dispatcher.slots.release(charge, Outcome(OutcomeKind.OK))
    await waiting
    assert 0.25 < dispatcher.now() - began < 2.0
    assert notes.hedges == [True]
    await at_rest(dispatcher)


async def test_a_repeat_is_hedged_like_a_first_attempt(notes: Notes) -> None:
    dispatcher = fleet_of(3, notes, suspicion=SuspicionRules(), hedge_after_s=0.1)

    async def refuses() -> Answer:
        return answer(503)

    began = dispatcher.now()
    await ask(dispatcher, Engines(refuses, hangs, answers))
    assert dispatcher.now() - began < 2.0
    assert notes.hedges == [True]
    await at_rest(dispatcher)


async def test_what_stood_still_itself_suspects_nobody(notes: Notes) -> None:
    """Answers that came while the router was stopped lie unread: they are read first."""
    dispatcher = fleet_of(2, notes)
    await learn(dispatcher)
    engines = Engines(answers_late)
    waiting = asyncio.create_task(ask(dispatcher, engines))
    await asyncio.sleep(0.02)
    time.sleep(0.2 + 2 * LATE_S)  # noqa: ASYNC251
    await waiting
    assert notes.suspects == []
    assert len(engines.asked) == 1


@pytest.mark.parametrize("hedge_after_s", [None, 2.0])
async def test_a_call_that_is_over_is_let_go(notes: Notes, hedge_after_s: float | None) -> None:
    """It refers to the upload and the answer, and long before it could be overdue it is over."""
    dispatcher = fleet_of(2, notes, suspicion=SuspicionRules(), hedge_after_s=hedge_after_s)
    held = []
    for _ in range(200):
        engines = Engines(answers_at_once)
        await ask(dispatcher, engines)
        held.append(weakref.ref(engines))
    del engines
    gc.collect()
    alive = sum(engines() is not None for engines in held)
    # With a time to hedge, each call has one of its own; then a few are tidied up at a time.
    assert alive <= (0 if hedge_after_s is None else 40)


async def test_calls_are_reviewed_in_the_order_in_which_they_are_due(notes: Notes) -> None:
    dispatcher = fleet_of(4, notes)
    await learn(dispatcher)
    first, quick, last = Engines(hangs, answers), Engines(answers), Engines(hangs, answers)
    began = dispatcher.now()

    async def took(engines: Engines, after_s: float) -> float:
        await asyncio.sleep(after_s)
        await ask(dispatcher, engines)
        return dispatcher.now() - began

    times = await asyncio.gather(took(first, 0.0), took(quick, 0.0), took(last, 0.15))
    assert times[1] < 0.2 <= times[0] < times[2]
    assert times[2] >= 0.35
    assert [len(each.asked) for each in (first, quick, last)] == [2, 1, 2]
    await at_rest(dispatcher)


class TestDeadlyUploads:
    """An engine that ends with an upload in its hands makes that upload suspect."""

    async def test_a_second_death_is_the_last(self, notes: Notes) -> None:
        dispatcher = fleet_of(5, notes)
        engines = Engines(dies)
        with pytest.raises(EnginesDied, match="crashed while they worked on this upload") as error:
            await ask(dispatcher, engines)
        assert error.value.status == 502
        assert error.value.code == "engine_failed"
        assert (b"x-should-retry", b"false") in error.value.headers()
        assert len(engines.asked) == 2
        assert all(engine_id in error.value.message for engine_id in engines.asked)
        assert is_idle(dispatcher)

    async def test_a_file_that_was_not_alone_is_not_blamed_with_certainty(
        self, notes: Notes
    ) -> None:
        dispatcher = fleet_of(2, notes)
        # Long ago: they wait apart no longer.
        deaths = [[Death(EngineId("another"), dispatcher.now() - 60.0)] for _ in range(2)]
        asked = [
            ask(dispatcher, Engines(dies), deaths=each, excluded={EngineId("b")}) for each in deaths
        ]
        for error in await asyncio.gather(*asked, return_exceptions=True):
            assert isinstance(error, EnginesDied)
            assert "Another upload on the same engine may be the cause" in error.message
        alone = Death(EngineId("another"), dispatcher.now())
        with pytest.raises(EnginesDied) as raised:
            await ask(dispatcher, Engines(dies), deaths=[alone])
        assert "Another upload" not in raised.value.message

    async def test_suspects_of_one_engine_do_not_share_the_next(self, notes: Notes) -> None:
        """Else the one that is deadly would take the others with it."""
        dispatcher = fleet_of(3, notes, max_windows=64)
        gone: set[EngineId] = set()
        working: dict[EngineId, list[asyncio.Future[None]]] = {}

        def sending(*, is_deadly: bool) -> Callable[[Engine], Awaitable[Answer]]:
            async def send(engine: Engine) -> Answer:
                name = engine.engine_id
                if name in gone:
                    raise NotConnected("refused")
                ends: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                working.setdefault(name, []).append(ends)
                await asyncio.wait([ends], timeout=0.1 if is_deadly else 0.2)
                working[name].remove(ends)
                if is_deadly and not ends.done():
                    gone.add(name)
                    for each in working[name]:
                        each.set_result(None)
                if name in gone:
                    raise ConnectionBroke("reset by peer", is_at_work=True)
                return answer(200, b"{}")

            return send

        async with asyncio.timeout(PATIENCE_S):
            innocent = sending(is_deadly=False)
            asked = [dispatcher.attempt(ticket(), innocent) for _ in range(15)]
            asked.append(dispatcher.attempt(ticket(), sending(is_deadly=True)))
            *attempts, error = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(error, EnginesDied)
        assert "Another upload" not in error.message
        for attempt in attempts:
            assert isinstance(attempt, Attempt), attempt
            attempt.close(attempt.kind)
        assert len(gone) == 2
        assert is_idle(dispatcher)

    async def test_one_death_is_repeated(self, notes: Notes) -> None:
        dispatcher = fleet_of(3, notes)
        attempt = await ask(dispatcher, Engines(dies, answers))
        assert attempt.answer.status == 200

    async def test_deaths_are_remembered_with_the_audio(self, notes: Notes) -> None:
        """As of a piece that is tried again later."""
        dispatcher = fleet_of(5, notes)
        with pytest.raises(EnginesDied):
            await ask(
                dispatcher, Engines(dies), deaths=[Death(EngineId("another"), dispatcher.now())]
            )
        assert notes.kinds == [OutcomeKind.RESET]

    @pytest.mark.parametrize("hedge_after_s", [None, 0.05])
    async def test_a_suspect_is_on_one_engine_at_a_time(
        self, notes: Notes, hedge_after_s: float | None
    ) -> None:
        dispatcher = fleet_of(4, notes, hedge_after_s=hedge_after_s)
        await learn(dispatcher)
        engines = Engines(dies, answers_late)
        await ask(dispatcher, engines)
        assert len(engines.asked) == 2
        assert notes.hedges == []

    async def test_a_death_during_a_race_is_not_repeated(self, notes: Notes) -> None:
        dispatcher = fleet_of(4, notes)
        await learn(dispatcher)
        engines = Engines(answers_late, dies)
        attempt = await ask(dispatcher, engines)
        assert attempt.answer.body == b'{"late": 1}'
        assert len(engines.asked) == 2

    async def test_both_deaths_of_a_race_count(self, notes: Notes) -> None:
        dispatcher = fleet_of(5, notes)
        await learn(dispatcher)
        engines = Engines(dies_late, dies_late)
        with pytest.raises(EnginesDied):
            await ask(dispatcher, engines)
        assert len(engines.asked) == 2
        await at_rest(dispatcher)

    async def test_a_suspect_leaves_an_engine_that_is_taken_out_and_goes_to_another(
        self, notes: Notes
    ) -> None:
        dispatcher = fleet_of(4, notes)
        engines = Engines(dies, hangs, answers)
        waiting = asyncio.create_task(ask(dispatcher, engines))
        async with asyncio.timeout(PATIENCE_S):
            while len(engines.asked) < 2:
                await asyncio.sleep(0.01)
        fail_probes(dispatcher, engines.asked[1])
        attempt = await waiting
        assert attempt.engine_id == engines.asked[2]
        assert engines.left == [engines.asked[1]]
        assert is_idle(dispatcher)

    async def test_what_never_reached_an_engine_did_not_end_it(self, notes: Notes) -> None:
        dispatcher = fleet_of(4, notes)

        async def breaks_early() -> Answer:
            raise ConnectionBroke("reset by peer", is_at_work=False)

        attempt = await ask(dispatcher, Engines(breaks_early, breaks_early, answers))
        assert attempt.answer.status == 200


@given(st.lists(st.sampled_from(["hangs", "late", "dies", "fails", "500"]), max_size=5), st.data())
@settings(max_examples=40, deadline=None)
def test_whatever_engines_do_each_is_asked_once_and_nothing_is_left(
    does: list[str], data: st.DataObject
) -> None:
    leaves_after_s = data.draw(st.sampled_from([None, 0.0, 0.03, 0.1]))
    taken_out_after_s = data.draw(st.sampled_from([None, 0.02, 0.06]))

    async def too_slow() -> Answer:
        await asyncio.sleep(0.3)
        raise CallTimedOut("no answer")

    async def late() -> Answer:
        await asyncio.sleep(0.06)
        return answer(200, b"{}")

    async def fails() -> Answer:
        raise CallTimedOut("slow")

    async def says_500() -> Answer:
        return answer(500, b"no")

    known = {"hangs": too_slow, "late": late, "dies": dies, "fails": fails, "500": says_500}

    async def run() -> None:
        notes = Notes()
        rules = SuspicionRules(floor_s=0.03, unknown_floor_s=0.03, stall_s=0.05, recheck_s=0.01)
        dispatcher = ready_dispatcher(5, notes, suspicion=rules, hedge_after_s=0.02)
        engines = Engines(*(known[name] for name in does), answers)
        waiting = asyncio.create_task(ask(dispatcher, engines))
        if taken_out_after_s is not None:
            await asyncio.sleep(taken_out_after_s)
            for engine_id in engines.asked[:1]:
                fail_probes(dispatcher, engine_id)
        if leaves_after_s is not None:
            await asyncio.sleep(leaves_after_s)
            waiting.cancel()
        with contextlib.suppress(RouterError, asyncio.CancelledError):
            await waiting
        await at_rest(dispatcher)
        # Three attempts, and as many moves.
        assert len(set(engines.asked)) == len(engines.asked) <= MOVES * 3
        assert len(notes.outcomes) == len(engines.asked)

    asyncio.run(run())

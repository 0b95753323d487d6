from collections import Counter
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, lone_engine, ready_registry, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.balance import POLICIES
from vllm_router.scheduling.engine import Engine, EngineState
from vllm_router.scheduling.pool import Pool, fits
from vllm_router.scheduling.work import Ticket
from vllm_router.scheduling.work_queue import WorkQueue

POLICY_NAMES = sorted(POLICIES)
# An engine's windows in flight, its cap and the part of it for long work.
FIGURES = st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(0, 12))


def empty_pool(policy: str = "least-loaded") -> Pool:
    queue: WorkQueue[Ticket] = WorkQueue()
    return Pool(MODEL, POLICIES[policy], queue, Random(4).random)


def give(engine: Engine, windows: int, cap: float, long_cap: float) -> None:
    engine.windows_in_flight = engine.in_flight = windows
    engine.load = float(windows)
    engine.next_window_s = engine.curve.window_s(windows + 1.0)
    engine.cap, engine.long_cap = float(cap), float(min(cap, long_cap))


def pool_of(*figures: tuple[int, float, float], policy: str = "least-loaded") -> Pool:
    """Make a pool of ready engines e0, e1, ..., each with windows in flight, cap and long cap."""
    pool = empty_pool(policy)
    for number, (windows, cap, long_cap) in enumerate(figures):
        engine = lone_engine(number)
        engine.state = EngineState.READY
        give(engine, windows, cap, long_cap)
        pool.add(engine)
        pool.place(engine)
    return pool


def name_of(engine: Engine | None) -> str | None:
    return None if engine is None else str(engine.engine_id)


def test_an_empty_pool_has_room_for_nothing() -> None:
    pool = empty_pool()
    assert not pool.with_room
    assert pool.best() is None
    assert pool.pick(ticket()) is None
    assert pool.pick_long(ticket()) is None


def test_a_pool_counts_its_members_their_states_and_their_load() -> None:
    pool = pool_of((3, 9, 9), (4, 9, 9))
    sleeper = lone_engine(7)
    sleeper.state = EngineState.SLEEPING
    pool.add(sleeper)
    assert list(pool.members) == ["e0", "e1", "e7"]
    assert pool.states == Counter({EngineState.READY: 2, EngineState.SLEEPING: 1})
    assert pool.load == 7.0
    pool.discard(sleeper)
    pool.discard(pool.members["e0"])
    assert (list(pool.members), pool.load) == (["e1"], 4.0)
    assert len(pool.with_room) == 1


def test_letting_go_of_a_stranger_changes_nothing() -> None:
    pool = pool_of((3, 9, 9))
    pool.discard(lone_engine(5))
    assert (pool.load, pool.states[EngineState.READY]) == (3.0, 1)


def test_an_engine_that_is_let_go_is_held_for_nobody() -> None:
    pool = pool_of((0, 9, 9), (0, 9, 9))
    pool.held = pool.members["e0"]
    pool.discard(pool.members["e1"])
    assert pool.held is pool.members["e0"]
    pool.discard(pool.members["e0"])
    assert pool.held is None


def test_an_engine_at_its_cap_is_not_among_those_with_room() -> None:
    pool = pool_of((4, 4, 4), (5, 9, 9))
    assert len(pool.with_room) == 1
    assert name_of(pool.best()) == "e1"
    assert name_of(pool.with_room[0]) == "e1"


def test_an_engine_is_found_where_its_new_rank_wants_it() -> None:
    pool = pool_of((1, 9, 9), (2, 9, 9), (3, 9, 9))
    first = pool.members["e0"]
    give(first, 8, 9, 9)
    pool.place(first)
    assert [name_of(each) for each in pool.with_room[:3]] == ["e1", "e2", "e0"]


def test_engines_of_equal_rank_are_all_first_at_some_time() -> None:
    pool = pool_of(*[(0, 9, 9)] * 4)
    seen = set()
    for _ in range(200):
        best = pool.best()
        assert best is not None
        seen.add(best.engine_id)
        pool.place(best)
    assert len(seen) == 4


def test_engines_of_the_very_same_rank_are_told_apart_when_one_is_taken_out() -> None:
    queue: WorkQueue[Ticket] = WorkQueue()
    pool = Pool(MODEL, POLICIES["least-loaded"], queue, lambda: 0.0)
    engines = [lone_engine(number) for number in range(3)]
    for engine in engines:
        give(engine, 0, 9, 9)
        pool.add(engine)
        pool.place(engine)
    for left, engine in ((2, engines[1]), (1, engines[0]), (0, engines[2])):
        pool.discard(engine)
        assert len(pool.with_room) == left
        assert pool.best() is not engine


def test_work_goes_to_no_engine_that_it_has_failed_on() -> None:
    pool = pool_of((0, 9, 9), (5, 9, 9))
    assert name_of(pool.pick(ticket())) == "e0"
    assert name_of(pool.pick(ticket(excluded=frozenset(["e0"])))) == "e1"
    assert pool.pick(ticket(excluded=frozenset(["e0", "e1"]))) is None


def test_work_of_many_windows_goes_where_all_of_them_fit() -> None:
    pool = pool_of((3, 8, 8), (5, 20, 20))
    assert name_of(pool.pick(ticket(windows=5))) == "e0"
    assert name_of(pool.pick(ticket(windows=9))) == "e1"
    assert pool.pick(ticket(windows=16)) is None


def test_long_work_leaves_short_work_its_room() -> None:
    pool = pool_of((4, 8, 4), (6, 8, 7))
    assert name_of(pool.pick(ticket())) == "e0"
    assert name_of(pool.pick_long(ticket())) == "e1"


def test_the_one_engine_with_room_for_long_work_is_found_behind_many_without() -> None:
    pool = pool_of(*[(4, 8, 4)] * 500, (5, 8, 8))
    found = pool.pick_long(ticket())
    assert name_of(found) == "e500"


def test_three_engines_of_eight_are_kept_quiet_and_the_same_ones_in_any_order() -> None:
    engines = [lone_engine(number) for number in range(8)]
    first, second = (
        Pool(MODEL, POLICIES["least-loaded"], WorkQueue(), Random(4).random, 0.375)
        for _ in range(2)
    )
    for each in engines:
        first.add(each)
    for each in reversed(engines):
        second.add(each)
    quiet = [each for each in engines if first.is_quiet(each)]
    assert len(quiet) == 3
    assert quiet == [each for each in engines if second.is_quiet(each)]
    for gone in quiet:
        first.discard(gone)
    assert sum(first.is_quiet(each) for each in engines if each not in quiet) == 1


@pytest.mark.parametrize(("count", "quiet"), [(1, 0), (2, 1), (3, 1)])
def test_of_two_engines_one_is_kept_quiet_and_none_that_is_alone(count: int, quiet: int) -> None:
    pool = Pool(MODEL, POLICIES["least-loaded"], WorkQueue(), Random(4).random, 0.375)
    engines = [lone_engine(number) for number in range(count)]
    for each in engines:
        pool.add(each)
    assert sum(map(pool.is_quiet, engines)) == quiet


def test_a_random_draw_that_misses_falls_back_to_the_order() -> None:
    pool = pool_of(*[(8, 9, 0)] * 20, (8, 9, 9), policy="two-choices")
    assert {name_of(pool.pick_long(ticket())) for _ in range(20)} == {"e20"}


def test_a_key_meets_the_same_engine_and_moves_on_when_that_is_full() -> None:
    pool = pool_of(*[(0, 9, 9)] * 6, policy="session")
    chosen = pool.pick(ticket(key="caller"))
    assert chosen is not None
    assert all(pool.pick(ticket(key="caller")) is chosen for _ in range(10))
    give(chosen, 9, 9, 9)
    pool.place(chosen)
    assert pool.pick(ticket(key="caller")) is next(
        engine for engine in pool.clockwise("caller") if engine is not chosen
    )


@pytest.mark.parametrize("load", [0, 3])
def test_a_key_leaves_an_engine_that_carries_more_than_its_share(load: int) -> None:
    pool = pool_of(*[(load, 90, 90)] * 6, policy="session")
    first = next(pool.clockwise("caller"))
    assert pool.pick(ticket(key="caller")) is first
    pool.load += 30 - first.load
    give(first, 30, 90, 90)
    pool.place(first)
    assert pool.pick(ticket(key="caller")) is not first


@pytest.mark.parametrize("policy", POLICY_NAMES)
@given(
    st.lists(FIGURES, max_size=8),
    st.integers(1, 14),
    st.sets(st.sampled_from(["e0", "e1", "e2", "e3"])),
    st.booleans(),
    st.sampled_from([None, "key"]),
)
def test_an_engine_is_found_whenever_one_may_take_the_work_and_only_then(
    policy: str,
    figures: list[tuple[int, int, int]],
    windows: int,
    excluded: set[str],
    is_long: bool,
    key: str | None,
) -> None:
    pool = pool_of(*figures, policy=policy)
    work = ticket(windows, key=key, excluded=frozenset(excluded))
    able = [
        engine
        for engine in pool.members.values()
        if engine.engine_id not in excluded
        and fits(engine, work, engine.long_cap if is_long else engine.cap)
    ]
    chosen = pool.pick_long(work) if is_long else pool.pick(work)
    assert chosen in able if able else chosen is None


@given(st.lists(st.tuples(st.integers(0, 5), FIGURES), max_size=40))
def test_those_with_room_stand_in_the_order_of_their_ranks_after_any_changes(
    changes: list[tuple[int, tuple[int, int, int]]],
) -> None:
    pool = pool_of(*[(0, 5, 5)] * 6)
    for number, figures in changes:
        engine = pool.members[f"e{number}"]
        give(engine, *figures)
        pool.place(engine)
        stand = list(pool.with_room)
        ranks = [each.next_window_s for each in stand]
        assert ranks == sorted(ranks)
        assert {each.index for each in stand} == {
            each.index for each in pool.members.values() if each.windows_in_flight < each.cap
        }


@pytest.mark.parametrize(
    ("held", "windows", "cap", "is_fit"),
    [
        (0, 1, 1.0, True),
        (0, 1, 0.0, False),
        (3, 1, 4.0, True),
        (4, 1, 4.0, False),
        (3, 2, 4.0, False),
        (0, 40, 4.0, True),
        (1, 40, 4.0, False),
    ],
)
def test_work_fits_under_the_cap_or_runs_alone(
    held: int, windows: int, cap: float, is_fit: bool
) -> None:
    engine = lone_engine()
    engine.windows_in_flight = held
    assert fits(engine, ticket(windows), cap) is is_fit


def stranded(*states: EngineState, excluded: str, ejected_until: float = 0.0) -> bool:
    pool = empty_pool()
    for number, state in enumerate(states):
        engine = lone_engine(number)
        engine.state, engine.ejected_until = state, ejected_until
        pool.add(engine)
    names = frozenset(f"e{number}" for number in excluded)
    return pool.is_stranded(ticket(excluded=names), now=100.0)


READY, EJECTED, PROBING = EngineState.READY, EngineState.EJECTED, EngineState.PROBING


def test_work_that_has_failed_nowhere_is_never_stranded() -> None:
    assert not stranded(excluded="")
    assert not stranded(PROBING, excluded="")


def test_work_is_stranded_when_every_ready_engine_has_failed_on_it() -> None:
    assert stranded(READY, READY, excluded="01")
    assert not stranded(READY, READY, excluded="0")


def test_work_waits_for_an_ejected_engine_that_is_back_soon() -> None:
    assert not stranded(READY, EJECTED, excluded="0", ejected_until=104.0)
    assert not stranded(EJECTED, PROBING, excluded="1", ejected_until=104.0)
    assert stranded(PROBING, EJECTED, READY, excluded="02", ejected_until=106.0)


def test_an_engine_it_failed_on_that_left_meanwhile_is_no_engine_left_to_try() -> None:
    assert not stranded(READY, excluded="5")
    assert stranded(PROBING, excluded="5")


@pytest.mark.parametrize("step", [1, 1000])
def test_an_idle_engine_that_looks_slow_is_tried_after_so_many_decisions(step: int) -> None:
    """However many decisions fall on other models meanwhile."""
    registry, (quick, slow) = ready_registry(2)
    pool = registry.pools[MODEL]
    slow.curve.seen = quick.curve.seen = 100
    slow.intercept_s = 100.0
    registry.refresh(slow, 0.0)
    taken = []
    for turn in range(1, 600):
        engine = pool.pick(ticket())
        assert engine is not None
        taken.append(engine)
        load.release(load.charge(engine, ticket(), turn * step, 0.0), engine, 0.0)
        pool.place(engine)
    assert 1 <= taken.count(slow) <= 3
    slow.cap = 0.0
    pool.place(slow)
    assert slow not in [pool.pick(ticket()) for _ in range(600)], "not where it may take nothing"

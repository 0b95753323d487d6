import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, lone_engine, ready_registry, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling import other_routers as others
from vllm_router.scheduling.concurrency_limit import LimitRules
from vllm_router.scheduling.fleet_settings import FleetSettings

# Which of three engines is scraped, its windows in all (None: the scrape fails), its new charge.
#: None is kept quiet, so that all are of one kind.
ALIKE = FleetSettings(limits=LimitRules(quiet_share=0.0))
SCRAPES = st.lists(
    st.tuples(st.integers(0, 2), st.none() | st.floats(0, 400), st.integers(0, 30)), max_size=40
)


def test_where_only_this_routers_work_runs_nobody_else_is_assumed() -> None:
    _, (engine,) = ready_registry(1)
    load.charge(engine, ticket(windows=8), 1, 0.0)
    others.scraped(engine, 8.0)
    assert engine.elsewhere == 0.0
    assert engine.part == 1.0
    assert engine.load == 8.0


def test_a_scrape_older_than_the_last_charge_does_not_make_others_negative() -> None:
    _, (engine,) = ready_registry(1)
    load.charge(engine, ticket(windows=8), 1, 0.0)
    others.scraped(engine, 3.0)
    assert engine.elsewhere == 0.0


def test_what_is_not_this_routers_own_is_the_others() -> None:
    registry, (engine,) = ready_registry(1)
    load.charge(engine, ticket(windows=8), 1, 0.0)
    others.scraped(engine, 20.0)
    assert engine.elsewhere == 12.0
    assert engine.load == registry.pools[MODEL].load == 20.0


def test_a_request_that_comes_or_goes_while_the_scrape_does_is_no_other_router() -> None:
    _, (engine,) = ready_registry(1)
    others.scraped(engine, 0.9)
    assert engine.elsewhere == 0.0


def test_one_odd_scrape_moves_the_mean_by_a_fifth() -> None:
    _, (engine,) = ready_registry(1)
    for _ in range(10):
        others.scraped(engine, 10.0)
    others.scraped(engine, 60.0)
    assert engine.elsewhere == pytest.approx(20.0)


def test_others_seen_on_one_engine_are_expected_in_half_on_the_rest() -> None:
    _, (busy, quiet) = ready_registry(2, ALIKE)
    for _ in range(50):
        others.scraped(busy, 40.0)
        others.scraped(quiet, 0.0)
    assert busy.elsewhere == pytest.approx(30.0, rel=0.1), "its own 40, the fleet's 20"
    assert quiet.elsewhere == pytest.approx(10.0, rel=0.1)


def test_a_faster_engine_is_expected_to_hold_more_of_others_work() -> None:
    _, (slow, fast) = ready_registry(2, ALIKE)
    fast.slope_s /= 4.0
    for _ in range(50):
        others.scraped(slow, 10.0)
    others.scraped(fast, 0.0)
    assert fast.elsewhere > 1.5 * slow.elsewhere


def test_each_routers_part_is_its_own_share_of_the_work_and_some_slack() -> None:
    _, (engine,) = ready_registry(1)
    load.charge(engine, ticket(windows=10), 1, 0.0)
    for _ in range(20):
        others.scraped(engine, 20.0)
    assert engine.part == pytest.approx(0.6)


def test_a_router_that_has_been_idle_may_take_a_quarter() -> None:
    _, (engine,) = ready_registry(1)
    for _ in range(20):
        others.scraped(engine, 90.0)
    assert engine.part == 0.25


def test_an_engine_that_cannot_be_scraped_is_assumed_free_of_others() -> None:
    registry, (engine, _) = ready_registry(2)
    load.charge(engine, ticket(windows=3), 1, 0.0)
    others.scraped(engine, 50.0)
    others.forget(engine)
    assert (engine.elsewhere, engine.part, engine.load) == (0.0, 1.0, 3.0)
    assert registry.pools[MODEL].load == pytest.approx(3.0)
    others.scraped(engine, 13.0)
    assert engine.others == 10.0, "what was seen before is forgotten"


def test_an_engine_of_no_pool_is_known_by_its_own_scrapes() -> None:
    engine = lone_engine()
    others.scraped(engine, 10.0)
    assert engine.elsewhere == 5.0
    assert engine.part == 1.0


@given(SCRAPES)
def test_loads_add_up_and_parts_are_parts_whatever_the_scrapes_say(
    scrapes: list[tuple[int, float | None, int]],
) -> None:
    registry, engines = ready_registry(3)
    pool = registry.pools[MODEL]
    for number, windows, own in scrapes:
        engine = engines[number]
        if own:
            load.charge(engine, ticket(own), 1, 0.0)
        if windows is None:
            others.forget(engine)
        else:
            others.scraped(engine, windows)
        assert engine.elsewhere == 0.0 or engine.elsewhere >= 1.0
        assert 0.25 <= engine.part <= 1.0
        assert engine.load == engine.windows_in_flight + engine.elsewhere
        total = sum(each.load for each in engines)
        assert math.isclose(pool.load, total, rel_tol=1e-9, abs_tol=1e-6)

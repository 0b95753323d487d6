import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import MODEL, add_ready, empty_registry, ready_registry, spec

from vllm_router.scheduling import peer_priors as peers
from vllm_router.scheduling.engine import Engine, EngineSpec
from vllm_router.scheduling.pool import Pool
from vllm_router.scheduling.registry import Registry


def teach(engine: Engine, peak_per_s: float, half_at: float, answers: int = 40) -> None:
    for number in range(answers):
        windows = 1.0 + number % 8
        engine.curve.learn(windows, (windows + half_at) / peak_per_s, 1.0 + number / 100.0)


def settle(registry: Registry, now: float = 2.0) -> None:
    for engine in registry.engines.values():
        registry.relearned(engine, now, is_at_once=True)


def on(gpu: str, name: str, weight: float = 1.0) -> EngineSpec:
    given = spec(name, weight=weight)
    return EngineSpec(given.engine_id, given.url, given.models, weight=weight, gpu=gpu)


def test_engines_that_differ_by_noise_are_expected_to_be_equally_fast() -> None:
    registry, engines = ready_registry(3)
    for engine, peak in zip(engines, (95.0, 100.0, 110.0), strict=True):
        teach(engine, peak, 10.0)
    settle(registry)
    assert len({(engine.intercept_s, engine.slope_s) for engine in engines}) == 1
    assert engines[0].speed == pytest.approx(101.0, rel=0.05)


def test_engines_that_differ_are_expected_to_be_what_they_have_shown() -> None:
    registry, engines = ready_registry(4)
    for engine, peak in zip(engines, (25.0, 26.0, 100.0, 101.0), strict=True):
        teach(engine, peak, 10.0)
    settle(registry)
    speeds = [engine.speed for engine in engines]
    assert speeds == pytest.approx([25.5, 25.5, 100.5, 100.5], rel=0.05)


def test_an_engine_without_answers_is_what_the_middle_one_of_its_peers_is() -> None:
    registry, engines = ready_registry(4)
    for engine, peak in zip(engines, (10.0, 120.0, 130.0), strict=False):
        teach(engine, peak, 8.0)
    settle(registry)
    assert engines[3].speed == pytest.approx(120.0, rel=0.1)
    assert engines[3].half_at == pytest.approx(8.0, rel=0.2)


def test_an_engine_that_is_added_is_what_its_peers_are_at_once() -> None:
    registry, (known,) = ready_registry(1)
    teach(known, 120.0, 8.0)
    settle(registry)
    new = add_ready(registry, spec("new"), now=3.0)
    assert new.next_window_s == pytest.approx(known.next_window_s, rel=0.01)


def test_an_engine_without_answers_is_like_those_on_its_kind_of_gpu() -> None:
    registry = empty_registry()
    slow = add_ready(registry, on("l4", "slow"))
    for name in ("a", "b", "c"):
        teach(add_ready(registry, on("h200", name)), 57.0, 18.0)
    teach(slow, 5.0, 3.0)
    settle(registry)
    assert add_ready(registry, on("l4", "new")).speed == pytest.approx(5.0, rel=0.1)
    assert add_ready(registry, on("h100", "other")).speed == pytest.approx(57.0, rel=0.1)


def test_a_weight_is_relative_to_a_peers() -> None:
    registry = empty_registry()
    known = add_ready(registry, spec("known", weight=2.0))
    teach(known, 40.0, 8.0)
    settle(registry)
    assert add_ready(registry, spec("new", weight=1.0)).speed == pytest.approx(20.0, rel=0.1)


def test_a_first_answer_that_came_late_is_hardly_believed() -> None:
    registry, (cold, *others) = ready_registry(3)
    for engine in others:
        teach(engine, 120.0, 8.0)
    cold.curve.learn(1.0, 5.0, 2.0)
    settle(registry)
    usual_s = others[0].next_window_s
    assert cold.next_window_s < 4.0 * usual_s
    for number in range(8):
        cold.curve.learn(1.0, usual_s, 3.0 + number)
    settle(registry)
    assert cold.next_window_s == pytest.approx(usual_s, rel=0.3)


def test_a_pool_nobody_has_answered_in_expects_nothing() -> None:
    registry, _ = ready_registry(3)
    assert peers.settle(registry.pools[MODEL]) == []


def sums(pool: Pool) -> tuple[float, float]:
    ready = [each for each in pool.members.values() if each.state.value == "ready"]
    return sum(each.speed for each in ready), sum(each.half_at for each in ready)


@given(
    st.lists(
        st.tuples(st.floats(0.3, 2000.0), st.floats(0.1, 200.0), st.integers(0, 20)),
        min_size=1,
        max_size=8,
    )
)
def test_whatever_is_learned_a_pools_sums_are_those_of_its_engines(
    curves: list[tuple[float, float, int]],
) -> None:
    registry, engines = ready_registry(len(curves))
    for engine, (peak, half_at, answers) in zip(engines, curves, strict=True):
        teach(engine, peak, half_at, answers)
        registry.relearned(engine, 2.0)
    settle(registry)
    pool = registry.pools[MODEL]
    assert (pool.peak_per_s, pool.half_at) == pytest.approx(sums(pool))
    assert all(engine.intercept_s >= 0.0 and engine.slope_s > 0.0 for engine in engines)

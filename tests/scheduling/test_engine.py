import math

import pytest
from tests.scheduling.parts import lone_engine, spec

from vllm_router.scheduling.engine import Engine, EngineState
from vllm_router.scheduling.service_curve import PRIOR_PEAK_PER_S


def test_a_new_engine_is_discovered_empty_and_takes_nothing() -> None:
    engine = lone_engine()
    assert engine.state is EngineState.DISCOVERED
    assert (engine.in_flight, engine.windows_in_flight, engine.audio_s_in_flight) == (0, 0, 0.0)
    assert engine.cap == engine.long_cap == 0.0
    assert engine.pools == ()


def test_what_has_not_happened_is_unknown() -> None:
    engine = lone_engine()
    assert engine.stats is None
    assert engine.last_probe is None
    assert engine.last_error is None
    assert engine.ready_since is None


@pytest.mark.parametrize(("named", "known"), [(("a", "b"), ("a", "b")), ((), ()), (None, ())])
def test_an_engine_whose_models_nobody_named_serves_none_yet(
    named: tuple[str, ...] | None, known: tuple[str, ...]
) -> None:
    assert Engine(spec("e", models=named), 1).models == known


def test_until_it_is_measured_an_engine_is_as_fast_as_its_weight_says() -> None:
    assert math.isclose(lone_engine(weight=2.0).speed, 2.0 * PRIOR_PEAK_PER_S)
    assert lone_engine(weight=2.0).next_window_s < lone_engine(weight=1.0).next_window_s


def test_an_engine_shows_who_it_is_how_it_is_and_how_much_it_holds() -> None:
    engine = lone_engine(3)
    engine.limit, engine.in_flight, engine.windows_in_flight = 18.4, 2, 7
    assert repr(engine) == "<Engine e3 discovered in_flight=2 windows=7/18>"


def test_an_engine_takes_no_attribute_that_is_not_its_own() -> None:
    with pytest.raises(AttributeError):
        lone_engine().windows = 3  # type: ignore[attr-defined]

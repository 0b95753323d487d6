import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.engine_bounds import (
    LEAST_WEIGHT,
    MAX_MODELS,
    MAX_NAME_CHARS,
    MOST_WEIGHT,
    are_models,
    bounded_weight,
    is_name,
    read_weight,
)

ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.sampled_from([1e308, 5e-324, 1e-320, 10**400, "1e308", "9" * 5000, "1_0", "٣"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@pytest.mark.parametrize(
    ("written", "weight"), [(1, 1.0), (0.01, 0.01), ("100", 100.0), (" 2.5 ", 2.5), ("5e-1", 0.5)]
)
def test_a_weight_within_its_bounds_is_taken_as_it_is(written: object, weight: float) -> None:
    assert read_weight(written) == weight


@given(ANYTHING)
def test_any_value_is_a_bounded_weight_or_refused(value: Any) -> None:
    try:
        weight = read_weight(value)
    except ValueError as error:
        said = str(error)
    else:
        assert LEAST_WEIGHT <= weight <= MOST_WEIGHT
        return
    assert said == "should be a number from 0.01 to 100"


@given(st.floats())
def test_a_machines_weight_is_brought_within_the_bounds(value: float) -> None:
    weight = bounded_weight(value)
    assert LEAST_WEIGHT <= weight <= MOST_WEIGHT
    assert weight == value or math.isnan(value) or not LEAST_WEIGHT <= value <= MOST_WEIGHT


@given(ANYTHING)
def test_a_name_can_stand_in_any_text(value: Any) -> None:
    if is_name(value):
        assert 0 < len(value) <= MAX_NAME_CHARS
        assert value.encode().decode().splitlines() == [value]


@pytest.mark.parametrize(
    "value", ["", "a\nb", "\ud800", "\x00", "x" * (MAX_NAME_CHARS + 1), b"a", 7]
)
def test_what_would_break_a_line_or_an_encoding_is_no_name(value: object) -> None:
    assert not is_name(value)


def test_models_are_names_and_not_too_many() -> None:
    assert are_models([])
    assert are_models(["openai/whisper-small"] * MAX_MODELS)
    assert not are_models(["m"] * (MAX_MODELS + 1))
    assert not are_models(["m", None])

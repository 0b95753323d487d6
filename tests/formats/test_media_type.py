import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.media_type import is_type

EVENTS = b"text/event-stream"


@pytest.mark.parametrize(
    "value",
    [EVENTS, b"Text/Event-Stream", b"TEXT/EVENT-STREAM; charset=utf-8", EVENTS + b" ;q=1"],
)
def test_case_and_parameters_do_not_matter(value: bytes) -> None:
    assert is_type(value, EVENTS)


@pytest.mark.parametrize("value", [b"", b"text", b"text/event-streams", b"x" + EVENTS, b"*/*"])
def test_another_type_is_another(value: bytes) -> None:
    assert not is_type(value, EVENTS)


@given(st.binary(max_size=30))
def test_any_bytes_are_of_a_type_or_not(value: bytes) -> None:
    first = re.split(rb"[; \t]", value, maxsplit=1)[0]
    assert is_type(value, EVENTS) == (first.lower() == EVENTS)

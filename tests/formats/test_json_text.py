import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.json_text import BadJson, read_object, write_object

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_is_written_is_read_back(value):
    written = write_object(value)
    assert b"\n" not in written
    assert json.loads(written) == value
    assert read_object(written) == value


@given(st.binary(max_size=100))
def test_any_bytes_are_an_object_or_the_one_error(text):
    with contextlib.suppress(BadJson):
        assert isinstance(read_object(text), dict)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"3", b"null", b'"x"', b'{"a":', b"\xff\xfe", b'{"a":' * 200_000]
)
def test_anything_else_than_one_object_is_refused(text):
    with pytest.raises(BadJson):
        read_object(text)


def test_nan_and_the_infinities_are_read_as_null():
    assert read_object(b'{"a":[NaN,Infinity,-Infinity]}') == {"a": [None, None, None]}


def test_nan_is_never_written():
    with pytest.raises(ValueError, match="JSON"):
        write_object({"a": float("nan")})


def test_half_of_a_surrogate_pair_becomes_a_question_mark():
    assert write_object(read_object(b'{"a":"\\ud800"}')) == b'{"a":"?"}'

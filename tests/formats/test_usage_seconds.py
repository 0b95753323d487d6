import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.formats.usage_seconds import (
    rounded_usage,
    usage_in,
    whole_seconds,
    with_whole_seconds,
)


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (
            b'{"text":"Hi.","usage":{"type":"duration","seconds":2.35}}',
            b'{"text":"Hi.","usage":{"type":"duration","seconds":3}}',
        ),
        (b'{"usage":{"seconds": 3.0, "x": 1.5}}', b'{"usage":{"seconds": 3, "x": 1.5}}'),
        (b'{"usage":{"seconds":3}}', b'{"usage":{"seconds":3}}'),
        (b'{"text":"\\"seconds\\": 1.5"}', b'{"text":"\\"seconds\\": 1.5"}'),
        (b'{"text":"1.5 \\"seconds\\""}', b'{"text":"1.5 \\"seconds\\""}'),
        (b'["seconds", 1.5]', b'["seconds", 1.5]'),
        (b'{"usage":{"seconds":"1.5"}}', b'{"usage":{"seconds":"1.5"}}'),
        (b"", b""),
    ],
)
def test_the_bytes_of_an_answer(body, edited):
    assert with_whole_seconds(body, None) == edited


@pytest.mark.parametrize(
    ("body", "edited"),
    [
        (b'{"usage":{"seconds":2.35}}', b'{"usage":{"seconds":8}}'),
        (b'{"usage":{"seconds": 7, "x": 1}}', b'{"usage":{"seconds": 8, "x": 1}}'),
        (b'{"usage":{"seconds" : 80}}', b'{"usage":{"seconds" : 8}}'),
        (b'{"usage":{"seconds":8.5}}', b'{"usage":{"seconds":8}}'),
        (b'{"text":"\\"seconds\\": 1.5"}', b'{"text":"\\"seconds\\": 1.5"}'),
        (b'["seconds", 1.5]', b'["seconds", 1.5]'),
        (b'{"usage":{"seconds":"1.5"}}', b'{"usage":{"seconds":"1.5"}}'),
        (b'{"usage":{"seconds":', b'{"usage":{"seconds":'),
        (b"", b""),
    ],
)
def test_a_known_length_goes_before_the_engines(body, edited):
    assert with_whole_seconds(body, 7.25) == edited


@pytest.mark.parametrize("body", [b'{"usage":{"seconds":8}}', b'{"usage": {"seconds": 8, "x": 1}}'])
def test_what_is_right_already_is_the_same_object(body):
    assert with_whole_seconds(body, 7.25) is body
    assert with_whole_seconds(body, None) is body


@given(st.text(max_size=20), st.floats(0, 1e8), st.booleans())
def test_only_the_seconds_change(text, seconds, is_ascii):
    value = {"text": text, "usage": {"type": "duration", "seconds": round(seconds, 6)}}
    body = json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "replace")
    if b"e" in body[-20:].split(b":")[-1]:
        return
    read = json.loads(with_whole_seconds(body, None))
    before = json.loads(body)
    assert read["text"] == before["text"]
    assert isinstance(read["usage"]["seconds"], int)
    assert -0.001 < read["usage"]["seconds"] - seconds < 1.001
    assert rounded_usage(before["usage"]) == read["usage"]
    assert json.loads(with_whole_seconds(body, seconds))["usage"] == {
        "type": "duration",
        "seconds": whole_seconds(seconds),
    }


def test_what_is_whole_or_of_another_kind_stays():
    for usage in ({"seconds": 3}, {"type": "tokens", "input_tokens": 3}, {"seconds": "3.5"}, {}):
        assert rounded_usage(usage) == usage
    assert rounded_usage({"seconds": float("inf")}) == {"seconds": float("inf")}
    assert usage_in({"usage": {"seconds": 1.25, "type": "duration"}}) == {
        "seconds": 2,
        "type": "duration",
    }
    assert usage_in({"usage": 3}) is usage_in({}) is None


def test_arithmetic_is_no_further_second():
    assert [whole_seconds(s) for s in (3.0000000001, 3.001, 2.9996, 0)] == [3, 4, 3, 0]

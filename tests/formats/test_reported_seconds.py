import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.audio.length import LengthHint
from vllm_router.formats.reported_seconds import confirmed_seconds, told_seconds

SECONDS = st.floats(0, 9e6).map(lambda value: round(value, 3))


@given(st.text(), SECONDS, st.booleans())
def test_the_duration_of_verbose_json_is_found(text: str, seconds: float, as_text: bool) -> None:
    duration = str(seconds) if as_text else seconds
    answer = {"task": "transcribe", "language": "en", "duration": duration, "text": text}
    assert told_seconds(json.dumps(answer).encode()) == seconds


@given(st.text(), st.integers(0, 9_000_000))
def test_the_usage_of_json_is_found(text: str, seconds: int) -> None:
    answer = {"text": text, "usage": {"type": "duration", "seconds": seconds}}
    plain = json.dumps(answer, ensure_ascii=False).encode("utf-8", "replace")
    assert told_seconds(plain) == seconds
    assert told_seconds(json.dumps(answer, separators=(",", ":")).encode()) == seconds


@given(st.binary())
def test_any_bytes_are_looked_at(body: bytes) -> None:
    told = told_seconds(body)
    assert told is None or 0 <= told < 1e7


@pytest.mark.parametrize("words", ['"seconds": 5,', '"duration": 7.5,', '", "seconds": 5}'])
def test_words_that_look_like_a_field_are_words(words: str) -> None:
    assert told_seconds(json.dumps({"text": words}).encode()) is None
    assert told_seconds(json.dumps({"text": words, "usage": {"seconds": 3}}).encode()) == 3


def test_nonsense_tells_nothing() -> None:
    for value in ("-1", "1e999", "NaN", "[]", "12345678901"):
        assert told_seconds(b'{"usage": {"seconds": %b}}' % value.encode()) is None


def test_where_container_and_engine_agree_the_container_is_more_exact() -> None:
    assert confirmed_seconds(LengthHint(18.3), 19.0) == 18.3
    assert confirmed_seconds(LengthHint(18.3), 18.2) == 18.3


@pytest.mark.parametrize(
    ("hint_s", "told_s"), [(415.0, 19.0), (0.04, 85.0), (18.3, 18.0), (18.0, 18.2)]
)
def test_where_they_differ_in_whole_seconds_none_is_believed(hint_s: float, told_s: float) -> None:
    assert confirmed_seconds(LengthHint(hint_s), told_s) is None


def test_a_doubtful_hint_confirms_nothing() -> None:
    assert confirmed_seconds(LengthHint(18.3, "its header is missing"), 19.0) is None

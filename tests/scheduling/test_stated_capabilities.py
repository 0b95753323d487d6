"""What people state that engines can do."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.capabilities import ALSO_CALLED, CONTAINERS, UNKNOWN, Capabilities
from vllm_router.scheduling.stated_capabilities import NAMES, read_items, read_mapping


def test_items_belong_to_the_model_named_last() -> None:
    items = [
        "org/a:tag:verbose_json=no",
        "language=YES",
        " max_audio_s = 600",
        "b:max_file_mb=25",
        "containers=m4a+mp3",
    ]
    assert read_items(items) == {
        "org/a:tag": Capabilities(verbose_json=False, language=True, max_audio_s=600.0),
        "b": Capabilities(max_file_bytes=25 * 2**20, containers=frozenset({"wav", "mp4", "mp3"})),
    }
    assert read_items([]) == {}


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["language=no"], "'language=no' names no model; write MODEL:language=no"),
        (["a:language"], "'a:language' is not of the form MODEL:NAME=VALUE"),
        (["a:=no"], "'a:=no' is not of the form MODEL:NAME=VALUE"),
        (["a:speed=1"], "'speed' is not a capability; allowed: verbose_json, language"),
        (["a:language=perhaps"], "'language' should be yes or no"),
        (["a:max_audio_s=5"], "'max_audio_s' should be a number from 30 to"),
        (["a:max_audio_s=nan"], "'max_audio_s' should be a number from 30 to"),
        (["a:max_file_mb=0"], "'max_file_mb' should be a number from 1 to"),
        (["a:max_file_mb=inf"], "'max_file_mb' should be a number from 1 to"),
        (["a:containers=wav+mp5"], "'containers' should be some of wav, flac, mp3"),
        (["a:containers="], "'containers' should be some of wav, flac, mp3"),
        (["a:language=no", "language=yes"], "'language' is stated twice for a"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(items: list[str], words: str) -> None:
    with pytest.raises(ValueError, match="'") as failure:
        read_items(items)
    assert str(failure.value).startswith(words)


def test_a_file_may_write_truths_numbers_and_lists() -> None:
    values = {"verbose_json": False, "max_audio_s": 600, "containers": ["WAV", "opus"]}
    assert read_mapping(values) == Capabilities(
        verbose_json=False, max_audio_s=600.0, containers=frozenset({"wav", "ogg"})
    )


@pytest.mark.parametrize("value", [{}, [], 5, None, [5]])
def test_no_containers_at_all_are_refused(value: object) -> None:
    with pytest.raises(ValueError, match="'containers' should"):
        read_mapping({"containers": value})


def test_names_that_people_know_are_of_containers_known_here() -> None:
    assert set(ALSO_CALLED.values()) <= set(CONTAINERS)
    assert not set(ALSO_CALLED) & set(CONTAINERS)


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    # No reader looks deeper than two levels; a hundred leaves take ten times as long to draw.
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(NAMES) | st.text(), VALUES))
def test_any_values_are_read_or_refused_in_a_sentence(values: dict[str, Any]) -> None:
    stated, said = UNKNOWN, ""
    try:
        stated = read_mapping(values)
    except ValueError as e:
        said = str(e)
    assert "\n" not in said
    assert len(said) < 300
    if stated.max_audio_s is not None:
        assert math.isfinite(stated.max_audio_s)
    if stated.containers is not None:
        assert stated.containers <= set(CONTAINERS)
        assert "wav" in stated.containers


@given(st.lists(st.text() | st.from_regex(r"[a-z]?:?(language|max_file_mb)=[a-z0-9]*")))
def test_any_items_are_read_or_refused_in_a_sentence(items: list[str]) -> None:
    stated, said = {"m": UNKNOWN}, ""
    try:
        stated = read_items(items)
    except ValueError as e:
        said = str(e)
    assert all(stated) or said

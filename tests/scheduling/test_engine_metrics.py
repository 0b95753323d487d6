import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from vllm_router.scheduling.engine_metrics import (
    MAX_PAGE_BYTES,
    BadExposition,
    EngineStats,
    read_engine_stats,
)

PAGE = b"""\
# HELP vllm:num_requests_running Number of requests in model execution batches.
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="openai/whisper-small"} 3.0
vllm:num_requests_running{engine="1",model_name="openai/whisper-small"} 4.0
# HELP vllm:num_requests_waiting Number of requests waiting; see vllm:num_requests_running 9
# TYPE vllm:num_requests_waiting gauge
vllm:num_requests_waiting{engine="0",model_name="openai/whisper-small"} 1.0
vllm:num_requests_waiting{engine="1",model_name="openai/whisper-small"} 0.0 1700000000000
# TYPE vllm:num_requests_waiting_by_reason gauge
vllm:num_requests_waiting_by_reason{engine="0",reason="capacity"} 77.0
# TYPE vllm:engine_sleep_state gauge
vllm:engine_sleep_state{engine="0",model_name="openai/whisper-small",sleep_state="awake"} 1.0
vllm:engine_sleep_state{engine="0",model_name="openai/whisper-small",sleep_state="discard_all"} 0.0
# TYPE vllm:kv_cache_usage_perc gauge
vllm:kv_cache_usage_perc{engine="0",model_name="openai/whisper-small"} 0.25
vllm:kv_cache_usage_perc{engine="1",model_name="openai/whisper-small"} 0.75
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="openai/whisper-small"} 1.234567e+06
# TYPE vllm:request_success_total counter
vllm:request_success_total{engine="0",finished_reason="stop",model_name="openai/whisper-small"} 5.0
vllm:request_success_total{engine="0",finished_reason="length",model_name="openai/whisper-small"} 2
"""

MINIMAL = b"vllm:num_requests_running 1\nvllm:num_requests_waiting 0\n"


def test_ranks_are_summed_and_look_alike_names_are_not_counted():
    assert read_engine_stats(PAGE) == EngineStats(
        running=7.0,
        waiting=1.0,
        cache_usage=0.5,
        is_sleeping=False,
    )


def test_the_page_of_a_real_vllm_is_read():
    page = (Path(__file__).parents[2] / "benchmarks/proxies/vllm_metrics.txt").read_bytes()
    assert read_engine_stats(page) == EngineStats(
        running=0.0, waiting=0.0, cache_usage=0.0, preempted=0.0
    )
    busy = page.replace(
        b'_running{engine="0",model_name="openai/whisper-small"} 0.0', b"_running 9"
    )
    assert read_engine_stats(busy).running == 9.0


def test_what_is_optional_may_be_absent():
    assert read_engine_stats(MINIMAL) == EngineStats(running=1.0, waiting=0.0)


@pytest.mark.parametrize("ending", [b"\n", b"\r\n", b"   \n"])
def test_line_endings_and_a_missing_last_one_are_tolerated(ending):
    page = PAGE.replace(b"\n", ending)
    assert read_engine_stats(page) == read_engine_stats(PAGE)
    assert read_engine_stats(page[: -len(ending)]) == read_engine_stats(PAGE)


def test_the_older_name_of_the_cache_is_read_and_the_newer_one_wins():
    older = b"vllm:gpu_cache_usage_perc 0.5\n"
    assert read_engine_stats(MINIMAL + older).cache_usage == 0.5
    both = MINIMAL + older + b"vllm:kv_cache_usage_perc 0.1\n"
    assert read_engine_stats(both).cache_usage == 0.1


def test_an_underscore_may_stand_for_the_colon():
    assert read_engine_stats(MINIMAL.replace(b"vllm:", b"vllm_")).running == 1.0
    assert read_engine_stats(b"x 1\n" + PAGE.replace(b"vllm:", b"vllm_")).running == 7.0


def test_another_programs_metric_is_not_vllms():
    with pytest.raises(BadExposition):
        read_engine_stats(MINIMAL.replace(b"vllm:", b"other:"))
    with pytest.raises(BadExposition):
        read_engine_stats(MINIMAL.replace(b"vllm:", b"my_vllm:"))
    with pytest.raises(BadExposition):
        read_engine_stats(b"num_requests_running 1\nnum_requests_waiting 1\n")


def test_only_the_asked_models_series_count():
    page = (
        b'vllm:num_requests_running{model_name="a"} 1\n'
        b'vllm:num_requests_running{model_name="b \\"\\\\\\n"} 2\n'
        b'vllm:num_requests_running{x=",model_name=",model_name="a"} 4\n'
        b"vllm:num_requests_running 8\n"
        b'vllm:num_requests_waiting{model_name="a"} 16\n'
        b'vllm:num_requests_waiting{model_name="b \\"\\\\\\n"} 32\n'
    )
    assert read_engine_stats(page, "a") == EngineStats(running=5.0, waiting=16.0)
    assert read_engine_stats(page, 'b "\\\n') == EngineStats(running=2.0, waiting=32.0)
    assert read_engine_stats(page).running == 15.0
    with pytest.raises(BadExposition, match="num_requests_running"):
        read_engine_stats(page, "c")
    with pytest.raises(BadExposition):
        read_engine_stats(page, "\ud800")


@pytest.mark.parametrize(
    ("states", "is_sleeping"),
    [
        ([("0", "awake", 1), ("0", "weights_offloaded", 0), ("0", "discard_all", 0)], False),
        ([("0", "awake", 0), ("0", "weights_offloaded", 1), ("0", "discard_all", 0)], True),
        ([("0", "awake", 0)], True),
        ([("0", "awake", 1), ("1", "awake", 0)], True),
        ([("0", "discard_all", 1)], True),
        ([], False),
    ],
)
def test_an_engine_sleeps_when_one_of_its_ranks_does(states, is_sleeping):
    lines = [
        f'vllm:engine_sleep_state{{engine="{rank}",sleep_state="{state}"}} {value}.0\n'
        for rank, state, value in states
    ]
    assert read_engine_stats(MINIMAL + "".join(lines).encode()).is_sleeping is is_sleeping


@pytest.mark.parametrize("value", [b"NaN", b"+Inf", b"-Inf", b"-1", b"inf", b"nan"])
def test_a_count_that_is_none_is_unknown_and_never_zero(value):
    page = MINIMAL + b"vllm:kv_cache_usage_perc " + value + b"\n"
    assert read_engine_stats(page).cache_usage is None
    for name in (b"running 1", b"waiting 0"):
        with pytest.raises(BadExposition):
            read_engine_stats(MINIMAL.replace(name, name[:-1] + value))


def test_a_sum_past_all_floats_is_unknown():
    page = MINIMAL + b"vllm:kv_cache_usage_perc 1.7e308\n" * 2
    assert read_engine_stats(page).cache_usage is None


@pytest.mark.parametrize(
    "page",
    [
        b"",
        b"<html>not found</html>",
        b'{"error": "vllm:num_requests_running"}',
        b"vllm:num_requests_running 1\n",
        b"vllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running",
        b"vllm:num_requests_running 1_0\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running one\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running 1 two\nvllm:num_requests_waiting 1\n",
        b"vllm:num_requests_running " + b"1" * 65 + b"\nvllm:num_requests_waiting 1\n",
        b'vllm:num_requests_running{a="b 1\nvllm:num_requests_waiting 1\n',
        b"vllm:num_requests_running{\nvllm:num_requests_waiting 1\n",
        b"x" * (MAX_PAGE_BYTES + 1),
    ],
)
def test_a_page_that_does_not_tell_is_refused(page):
    with pytest.raises(BadExposition):
        read_engine_stats(page)


@pytest.mark.parametrize(
    "page",
    [
        b'vllm:num_requests_running{a="' + b'\\"' * 500_000,
        b"vllm:num_requests_running " * 50_000,
        (b'vllm:num_requests_running{a="' + b'"' * 101 + b"\n") * 5_000,
        b" " * 1_000_000 + b"vllm:num_requests_running",
    ],
)
def test_a_hostile_page_ends_in_linear_time(page):
    with pytest.raises(BadExposition):
        read_engine_stats(page)


@given(st.binary(max_size=300), st.sampled_from([b"", MINIMAL, PAGE]), st.data())
def test_no_bytes_raise_anything_but_the_documented_error(junk, page, data):
    at = data.draw(st.integers(0, len(page)))
    cut = data.draw(st.integers(at, len(page)))
    try:
        stats = read_engine_stats(page[:at] + junk + page[cut:])
    except BadExposition:
        return
    assert stats.running >= 0
    assert math.isfinite(stats.waiting)


@given(st.integers(0, len(PAGE)))
def test_a_page_cut_short_never_shows_a_number_that_was_not_there(cut):
    try:
        stats = read_engine_stats(PAGE[:cut])
    except BadExposition:
        return
    assert stats.running in (7.0,)
    assert stats.waiting in (1.0,)


LABEL_VALUES = st.text(max_size=12).filter(lambda text: "\r" not in text)
REQUESTS = st.floats(0, 50_000)
NAMES = {
    "running": "vllm:num_requests_running",
    "waiting": "vllm:num_requests_waiting",
    "kv_cache": "vllm:kv_cache_usage_perc",
}


@given(
    models=st.lists(LABEL_VALUES, min_size=1, max_size=3, unique=True),
    ranks=st.integers(1, 3),
    data=st.data(),
)
def test_it_agrees_with_a_full_prometheus_parser(models, ranks, data):
    registry = CollectorRegistry()
    labels = ["model_name", "engine"]
    gauges = [Gauge(name, "A gauge.", labels, registry=registry) for name in NAMES.values()]
    seconds = Histogram("vllm:num_requests_running_seconds", "Alike.", labels, registry=registry)
    for model in models:
        for rank in range(ranks):
            for gauge in gauges:
                is_share = gauge is gauges[-1]
                drawn = data.draw(st.floats(0, 1) if is_share else REQUESTS)
                gauge.labels(model, str(rank)).set(drawn)
            seconds.labels(model, str(rank)).observe(1.0)
    page = generate_latest(registry)
    indented = re.sub(rb"(?m)^vllm:num", b" \tvllm:num", page)

    asked = data.draw(st.sampled_from([None, *models]))
    expected: dict[str, list[float]] = {}
    for family in text_string_to_metric_families(page.decode()):
        for sample in family.samples:
            if asked is None or sample.labels["model_name"] == asked:
                expected.setdefault(sample.name, []).append(sample.value)

    stats = read_engine_stats(page, asked)
    usage = expected["vllm:kv_cache_usage_perc"]
    assert stats.running == sum(expected["vllm:num_requests_running"])
    assert stats.waiting == sum(expected["vllm:num_requests_waiting"])
    assert stats.cache_usage == sum(usage) / len(usage)
    assert read_engine_stats(indented, asked) == stats


@pytest.mark.parametrize("count", ["1e308", "1000001"])
def test_more_requests_than_any_engine_has_are_not_believed(count: str) -> None:
    page = f"vllm:num_requests_running {count}\nvllm:num_requests_waiting {count}\n"
    with pytest.raises(BadExposition, match="more than any engine has"):
        read_engine_stats(page.encode())


@pytest.mark.parametrize("value", ["1e308", "1.02", "99"])
def test_a_share_above_1_is_no_share(value: str) -> None:
    page = MINIMAL + f"vllm:kv_cache_usage_perc {value}\n".encode()
    assert read_engine_stats(page).cache_usage is None


def test_a_share_that_rounding_left_above_1_is_one() -> None:
    assert read_engine_stats(MINIMAL + b"vllm:kv_cache_usage_perc 1.0000001\n").cache_usage == 1.0


@pytest.mark.parametrize("state", ["awake", "discard_all"])
@pytest.mark.parametrize("value", ["NaN", "+Inf", "-Inf", "-1", "0.5", "2", "1e308"])
def test_a_state_of_sleep_that_is_neither_yes_nor_no_says_nothing(state: str, value: str) -> None:
    line = f'vllm:engine_sleep_state{{engine="0",sleep_state="{state}"}} {value}\n'
    assert not read_engine_stats(MINIMAL + line.encode()).is_sleeping


def test_of_a_series_that_stands_twice_the_last_counts() -> None:
    again = b'vllm:num_requests_running{engine="0",model_name="openai/whisper-small"} 5.0\n'
    page = PAGE.replace(b"# HELP vllm:num_requests_waiting", again * 1000 + b"# HELP vllm:num_x")
    assert read_engine_stats(page).running == 9.0


NUMBERS = st.floats() | st.sampled_from([1e308, 5e-324, -0.0]) | st.integers(-(10**30), 10**30)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([*NAMES.values(), 'vllm:engine_sleep_state{sleep_state="awake"}']),
            NUMBERS,
        ),
        max_size=12,
    )
)
def test_any_numbers_give_bounded_figures_or_the_documented_error(
    samples: list[tuple[str, float]],
) -> None:
    page = "".join(f"{name} {value}\n" for name, value in samples)
    try:
        stats = read_engine_stats(page.encode())
    except BadExposition:
        return
    assert 0 <= stats.running + stats.waiting <= 1_000_000
    assert stats.cache_usage is None or 0 <= stats.cache_usage <= 1


def test_what_was_put_back_to_wait_is_summed_over_ranks() -> None:
    page = MINIMAL + b'\nvllm:num_preemptions_total{engine="0"} 3.0\n'
    page += b'vllm:num_preemptions_total{engine="1"} 4.0\n'
    assert read_engine_stats(page).preempted == 7.0

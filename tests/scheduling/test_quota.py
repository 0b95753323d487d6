from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.quota import QuotaRules, Quotas

AUDIO = st.floats(0.1, 100)
PAUSES = st.floats(0, 30)


def test_without_rules_everything_passes() -> None:
    quotas = Quotas(QuotaRules())
    assert all(quotas.take("a", 1e9, float(now)) is None for now in range(100))


def test_a_minutes_worth_passes_at_once_and_no_more() -> None:
    quotas = Quotas(QuotaRules(per_minute_s=60))
    assert quotas.take("a", 60, 0) is None
    assert quotas.take("a", 1, 0) == 1.0
    assert quotas.take("a", 1, 1.0) is None


def test_waiting_as_long_as_told_is_enough() -> None:
    quotas = Quotas(QuotaRules(per_minute_s=30))
    assert quotas.take("a", 25, 0) is None
    wait_s = quotas.take("a", 20, 0)
    assert wait_s == 30.0
    assert quotas.take("a", 20, wait_s) is None


def test_an_audio_larger_than_the_bound_passes_where_nothing_else_is() -> None:
    quotas = Quotas(QuotaRules(in_flight_s=10, per_minute_s=10))
    assert quotas.take("a", 100, 0) is None
    assert quotas.take("a", 1, 1) is not None


def test_what_is_in_flight_is_bounded_until_it_is_given_back() -> None:
    quotas = Quotas(QuotaRules(in_flight_s=10))
    assert quotas.take("a", 6, 0) is None
    assert quotas.take("a", 6, 0) == 1.0
    assert quotas.take("a", 4, 0) is None
    quotas.give_back("a", 6)
    assert quotas.take("a", 6, 0) is None


def test_one_keys_use_is_nothing_to_another() -> None:
    quotas = Quotas(QuotaRules(in_flight_s=10, per_minute_s=10))
    assert quotas.take("a", 10, 0) is None
    assert quotas.take("b", 10, 0) is None


def test_what_was_charged_too_much_may_be_sent_after_all() -> None:
    quotas = Quotas(QuotaRules(per_minute_s=600))
    assert quotas.take("a", 415, 0) is None
    assert quotas.take("a", 415, 1) is not None
    quotas.correct("a", 415, 18.8, 1)
    assert quotas.take("a", 415, 1) is None


def test_what_was_charged_too_little_is_owed() -> None:
    quotas = Quotas(QuotaRules(per_minute_s=60))
    assert quotas.take("a", 0.04, 0) is None
    quotas.correct("a", 0.04, 85, 1)
    wait_s = quotas.take("a", 30, 1)
    assert wait_s is not None
    assert 50 < wait_s < 60


@given(st.lists(st.tuples(PAUSES, AUDIO, AUDIO), max_size=60))
def test_true_lengths_are_held_to_the_rate_whatever_headers_say(
    asked: list[tuple[float, float, float]],
) -> None:
    """Each audio can exceed the bound once, for nobody knew; what comes after pays for it."""
    rate, now, taken, largest = 60.0, 0.0, 0.0, 0.0
    quotas = Quotas(QuotaRules(per_minute_s=rate))
    for pause_s, said_s, true_s in asked:
        now += pause_s
        if quotas.take("a", said_s, now) is None:
            quotas.correct("a", said_s, true_s, now)
            taken += true_s
            largest = max(largest, true_s)
    assert taken <= rate * now / 60 + rate + largest + 1e-6


@given(st.lists(st.tuples(PAUSES, AUDIO), max_size=60))
def test_over_any_time_no_more_passes_than_the_rate_and_one_burst(
    asked: list[tuple[float, float]],
) -> None:
    rate, now, taken, largest = 60.0, 0.0, 0.0, 0.0
    quotas = Quotas(QuotaRules(per_minute_s=rate))
    for pause_s, audio_s in asked:
        now += pause_s
        if quotas.take("a", audio_s, now) is None:
            taken += audio_s
            largest = max(largest, audio_s)
    assert taken <= rate * now / 60 + rate + largest + 1e-6


@given(st.lists(st.tuples(AUDIO, st.booleans()), max_size=60))
def test_what_is_in_flight_never_exceeds_the_bound_but_for_one_large_audio(
    asked: list[tuple[float, bool]],
) -> None:
    quotas = Quotas(QuotaRules(in_flight_s=50))
    held: list[float] = []
    for audio_s, gives_back in asked:
        if gives_back and held:
            quotas.give_back("a", held.pop())
        elif quotas.take("a", audio_s, 0.0) is None:
            held.append(audio_s)
        assert sum(held) <= 50 + 1e-6 or len(held) == 1

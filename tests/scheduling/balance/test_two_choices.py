from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.balance.candidates import FakeCandidates, FakeLoad

from vllm_router.scheduling.balance.two_choices import POLICY


def engines_with(*times: float) -> tuple[FakeLoad, ...]:
    return tuple(
        FakeLoad(str(number), next_window_s=seconds) for number, seconds in enumerate(times)
    )


class Drawn(FakeCandidates):
    """Draws the engines in the order given, again and again."""

    draws = 0

    def at_random(self) -> FakeLoad:
        self.draws += 1
        return self.engines[(self.draws - 1) % len(self.engines)]


@given(st.floats(0.01, 9), st.floats(0.01, 9))
def test_of_two_draws_the_one_that_would_be_done_first_is_taken(one: float, other: float) -> None:
    candidates = Drawn(engines_with(one, other), POLICY)
    chosen = POLICY.choose(candidates, None)
    assert chosen is not None
    assert chosen.next_window_s == min(one, other)
    assert candidates.draws == 2


def test_the_only_engine_is_drawn_twice_and_taken() -> None:
    (engine,) = engines_with(1.0)
    assert POLICY.choose(FakeCandidates((engine,), POLICY), "key") == engine


def test_without_an_engine_with_room_none_is_chosen() -> None:
    assert POLICY.choose(FakeCandidates((), POLICY), None) is None


def test_every_engine_but_the_worst_gets_work_however_old_the_picture_is() -> None:
    candidates = FakeCandidates(engines_with(1, 2, 3, 4), POLICY, rng=Random(5))
    counts = Counter(POLICY.choose(candidates, None) for _ in range(400))
    shares = [counts[engine] / 400 for engine in candidates.engines]
    assert shares == sorted(shares, reverse=True)
    assert shares[2] > 0.1
    assert shares[0] < 0.6, "least-loaded would send it everything"

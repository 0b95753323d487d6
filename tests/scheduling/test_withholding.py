"""Which kinds of upload an engine is not given."""

from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.withholding import MAX_KINDS, REFUSALS, WITHHELD_S, Withholding


def refusing_mp4() -> Withholding:
    unfit = Withholding()
    assert not unfit.refuted("mp4", 10.0, 9.0)
    assert unfit.refuted("mp4", 12.0, 11.0)
    return unfit


def test_a_kind_is_withheld_after_two_refuted_refusals() -> None:
    unfit = refusing_mp4()
    assert unfit.withholds("mp4", 13.0, 0.0)
    assert not unfit.withholds("flac", 13.0, 0.0)
    assert not unfit.withholds("mp4+language", 13.0, 0.0)


def test_nothing_is_withheld_from_an_engine_that_serves_nothing_else() -> None:
    unfit = Withholding()
    assert not any(unfit.refuted("mp4", 10.0 + at, 9.0) for at in range(10))
    assert not any(unfit.refuted("flac", 10.0 + at, None) for at in range(10))


def test_a_success_in_between_begins_anew() -> None:
    unfit = Withholding()
    unfit.refuted("mp4", 10.0, 9.0)
    unfit.served("mp4")
    assert not unfit.refuted("mp4", 12.0, 11.0)
    unfit.served("mp4")
    assert not unfit


def test_what_is_withheld_is_offered_again_after_a_while_and_after_a_restart() -> None:
    assert not refusing_mp4().withholds("mp4", 12.0 + WITHHELD_S + 1.0, 0.0)
    unfit = refusing_mp4()
    assert not unfit.withholds("mp4", 20.0, 15.0)
    assert not unfit.withholds("mp4", 20.0, 0.0)


@given(st.lists(st.tuples(st.text(min_size=1), st.booleans()), max_size=200))
def test_kinds_are_bounded_and_need_refusals_of_their_own(seen: list[tuple[str, bool]]) -> None:
    unfit = Withholding()
    streaks: dict[str, int] = {}
    for at, (kind, is_served) in enumerate(seen):
        if is_served:
            unfit.served(kind)
            streaks[kind] = 0
        else:
            streaks[kind] = streaks.get(kind, 0) + 1
            if unfit.refuted(kind, float(at), float(at)):
                assert streaks[kind] >= REFUSALS
    kinds = {kind for kind, _ in seen}
    assert sum(unfit.withholds(kind, float(len(seen)), 0.0) for kind in kinds) <= MAX_KINDS

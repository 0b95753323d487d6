from dataclasses import FrozenInstanceError

import pytest
from tests.scheduling.parts import spec

from vllm_router.scheduling.changes import Appeared, Listing, Withdrawn
from vllm_router.scheduling.engine import EngineId


def test_changes_that_say_the_same_are_equal_so_that_repeats_can_be_told() -> None:
    assert Listing((spec("a"), spec("b"))) == Listing((spec("a"), spec("b")))
    assert Appeared(spec("a")) != Appeared(spec("a", models=None))
    assert len({Withdrawn(EngineId("a")), Withdrawn(EngineId("a"))}) == 1


def test_a_listing_may_be_empty_and_then_still_is_a_word() -> None:
    assert Listing(()).specs == ()


@pytest.mark.parametrize("change", [Listing(()), Appeared(spec("a")), Withdrawn(EngineId("a"))])
def test_a_change_that_was_passed_on_stays_what_it_was(change: object) -> None:
    (name,) = change.__slots__
    with pytest.raises(FrozenInstanceError):
        setattr(change, name, None)

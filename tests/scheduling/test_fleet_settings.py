from dataclasses import FrozenInstanceError

import pytest

from vllm_router.scheduling.balance import POLICIES
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.fleet_settings import FleetSettings


def test_by_default_limits_are_learned_and_one_process_may_fill_them() -> None:
    settings = FleetSettings()
    assert settings.max_windows is None
    assert settings.limit_share == 1.0


def test_by_default_the_queue_is_bounded_in_audio_and_in_time() -> None:
    settings = FleetSettings()
    assert settings.max_queue_audio_s == 36_000.0
    assert settings.max_queue_wait_s == 120.0
    assert settings.ageing_s < settings.max_queue_wait_s, "aged work runs before it is refused"


def test_nothing_is_sent_twice_unless_the_operator_says_so() -> None:
    assert FleetSettings().hedge_after_s is None


def test_the_default_policy_is_in_the_table() -> None:
    assert FleetSettings().policy in POLICIES


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_every_policy_in_the_table_can_be_named(name: str) -> None:
    assert Fleet(FleetSettings(policy=name)).settings.policy == name


def test_a_policy_that_is_not_in_the_table_is_refused() -> None:
    with pytest.raises(KeyError, match="fastest"):
        Fleet(FleetSettings(policy="fastest"))


def test_settings_do_not_change_under_the_fleet() -> None:
    with pytest.raises(FrozenInstanceError):
        FleetSettings().ageing_s = 1.0  # type: ignore[misc]

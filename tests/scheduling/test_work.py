import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scheduling.parts import lone_engine, ticket

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.engine import EngineId
from vllm_router.scheduling.work import (
    AdmissionRefusal,
    Assignment,
    Death,
    Outcome,
    OutcomeKind,
    QueueFull,
    Ticket,
    Urgency,
    windows_of,
)


@pytest.mark.parametrize(
    ("audio_s", "windows"),
    [(0.0, 1), (0.1, 1), (29.9, 1), (30.0, 1), (30.1, 2), (60.0, 2), (3600.0, 120)],
)
def test_a_window_is_thirty_seconds_and_a_part_of_one_is_a_whole_one(
    audio_s: float, windows: int
) -> None:
    assert windows_of(audio_s) == windows


@given(st.floats(0, 1e6))
def test_the_windows_are_the_fewest_that_hold_the_audio(audio_s: float) -> None:
    windows = windows_of(audio_s)
    assert 30.0 * windows >= audio_s
    assert windows == 1 or 30.0 * (windows - 1) < audio_s


def test_a_new_ticket_has_failed_nowhere_and_never_expires() -> None:
    new = ticket()
    assert new.excluded == set()
    assert new.expires_at == math.inf
    assert not new.is_admitted
    assert new.place == 0


def test_two_tickets_that_say_the_same_are_two() -> None:
    one, other = ticket(), ticket()
    assert one != other
    assert len({one, other}) == 2
    one.excluded.add(lone_engine().engine_id)
    assert other.excluded == set()


def test_a_charge_is_released_when_its_engine_is_let_go() -> None:
    charge = load.charge(lone_engine(), ticket(), turn=1, now=0.0)
    assert not charge.is_released
    charge.engine = None
    assert charge.is_released


def test_a_charge_is_shown_without_its_engines_inside() -> None:
    charge = load.charge(lone_engine(4), ticket(), turn=1, now=0.0)
    assert "engine_id='e4'" in repr(charge)
    assert "<Engine" not in repr(charge)


def test_an_outcome_may_know_nothing_but_its_kind() -> None:
    outcome = Outcome(OutcomeKind.RESET)
    assert (outcome.first_byte_s, outcome.total_s, outcome.detail) == (None, None, None)


def test_an_assignment_without_a_charge_says_why() -> None:
    refused = Assignment(ticket(), None, AdmissionRefusal.WAITED_TOO_LONG)
    assert refused.refusal is not None
    assert refused.refusal.value == "it has waited longer than allowed"


def test_a_full_queue_says_its_reason_as_its_text() -> None:
    full = QueueFull(12.5, "Much waits.")
    assert (full.retry_after_s, full.reason, str(full)) == (12.5, "Much waits.", "Much waits.")


def test_a_suspect_waits_apart_for_three_seconds_after_its_last_death():
    waiting = Ticket("r", "m", 1.0, 1, Urgency.SHORT, 0.0)
    assert waiting.apart_until() == -math.inf
    waiting.deaths.append(Death(EngineId("a"), 10.0))
    assert waiting.apart_until() == 13.0
    waiting.expires_at = 11.0
    assert waiting.apart_until() == 11.0

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.scheduling.engine_states import (
    TRANSITIONS,
    EngineEvent,
    EngineState,
    state_diagram,
)

ALIVE = set(EngineState) - {EngineState.DRAINING, EngineState.GONE}


def run(
    events: list[EngineEvent], state: EngineState = EngineState.DISCOVERED
) -> list[EngineState]:
    """Return the states that events lead through; one without an entry changes nothing."""
    states = [state]
    for event in events:
        states.append(TRANSITIONS.get((states[-1], event), states[-1]))
    return states


def test_every_entry_leads_to_another_state() -> None:
    assert all(before is not after for (before, _), after in TRANSITIONS.items())


def test_every_event_happens_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(EngineEvent)


def test_nobody_comes_back_from_gone() -> None:
    assert not [event for state, event in TRANSITIONS if state is EngineState.GONE]


@pytest.mark.parametrize("state", sorted(ALIVE))
def test_whatever_is_alive_can_be_drained_and_withdrawn(state: EngineState) -> None:
    assert TRANSITIONS[state, EngineEvent.DRAIN] is EngineState.DRAINING
    assert TRANSITIONS[state, EngineEvent.WITHDRAWN] is EngineState.DRAINING


def test_only_draining_ends_in_gone() -> None:
    ends = [entry for entry, after in TRANSITIONS.items() if after is EngineState.GONE]
    assert ends == [(EngineState.DRAINING, EngineEvent.EMPTIED)]


def test_what_is_drained_sleeping_or_ejected_answers_no_probe_into_service() -> None:
    for state in (EngineState.DRAINING, EngineState.SLEEPING, EngineState.EJECTED):
        assert (state, EngineEvent.PROBE_PASSED) not in TRANSITIONS


def test_a_sleeping_engine_that_wakes_has_to_pass_a_probe_first() -> None:
    assert run([EngineEvent.WOKE, EngineEvent.PROBE_PASSED], EngineState.SLEEPING)[1:] == [
        EngineState.PROBING,
        EngineState.READY,
    ]


@given(st.lists(st.sampled_from(EngineEvent), max_size=40))
def test_work_is_given_only_after_a_probe_has_passed_or_trust_was_proved(
    events: list[EngineEvent],
) -> None:
    states = run(events)
    entered = [
        event
        for event, before, after in zip(events, states, states[1:], strict=False)
        if after is EngineState.READY and before is not EngineState.READY
    ]
    assert set(entered) <= {EngineEvent.PROBE_PASSED, EngineEvent.PROVED}


@given(st.lists(st.sampled_from(EngineEvent), max_size=40))
def test_from_wherever_an_engine_gets_it_can_become_ready_or_is_gone(
    events: list[EngineEvent],
) -> None:
    state = run(events)[-1]
    way_back = [EngineEvent.RESUME, EngineEvent.WOKE, EngineEvent.PROVED, EngineEvent.PROBE_PASSED]
    assert run(way_back, state)[-1] in (EngineState.READY, EngineState.GONE)


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[EngineState.GONE, EngineEvent.LISTED] = EngineState.READY  # type: ignore[index]


def test_the_diagram_shows_each_entry_of_the_table_and_no_other() -> None:
    drawn = set()
    for line in state_diagram().splitlines():
        found = re.fullmatch(r" {4}(\w+) --> (\w+): (.+)", line)
        if found is not None:
            before, after, events = found.groups()
            drawn |= {(before, event, after) for event in events.split(" / ")}
    assert drawn == {
        (before.value, event.value, after.value) for (before, event), after in TRANSITIONS.items()
    }


def test_the_diagram_begins_with_discovery_and_ends_with_gone() -> None:
    lines = state_diagram().splitlines()
    assert lines[:2] == ["stateDiagram-v2", "    [*] --> discovered"]
    assert lines[-1] == "    gone --> [*]"

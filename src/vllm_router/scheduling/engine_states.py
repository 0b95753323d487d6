"""An engine's states as one transition table; the diagram in the docs is generated from it.

Refuses to know: why an event happened, and what follows from a state.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Final


class EngineState(StrEnum):
    """The state of an engine."""

    DISCOVERED = "discovered"  # listed, no probe has ended yet
    PROBING = "probing"  # gets no work until a probe passes
    READY = "ready"  # gets work
    EJECTED = "ejected"  # removed because of its answers; returns automatically
    SLEEPING = "sleeping"  # put to sleep by its operator
    DRAINING = "draining"  # gets no new work; finishes what it has
    GONE = "gone"


class EngineEvent(StrEnum):
    """An event that may change an engine's state."""

    PROBE_PASSED = "probe passed"
    PROBE_FAILED = "probe failed"
    PROBES_FAILED = "three consecutive probes failed"
    ANSWERS_FAILED = "three consecutive answers failed, or five were far too slow"
    PROVED = "ejection time over, and a probe or trial passed"
    FELL_ASLEEP = "put to sleep"
    WOKE = "woken up"
    DRAIN = "drained by the operator"
    RESUME = "resumed by the operator"
    WITHDRAWN = "withdrawn by discovery"
    LISTED = "listed again by discovery"
    EMPTIED = "withdrawn, and nothing in flight"


#: Out of service, but not by an operator: the engine returns automatically or not at all.
OUT: Final = frozenset((EngineState.DISCOVERED, EngineState.PROBING, EngineState.EJECTED))

_ALIVE: Final = (
    EngineState.DISCOVERED,
    EngineState.PROBING,
    EngineState.READY,
    EngineState.EJECTED,
    EngineState.SLEEPING,
)

TRANSITIONS: Final[Mapping[tuple[EngineState, EngineEvent], EngineState]] = MappingProxyType(
    {
        (EngineState.DISCOVERED, EngineEvent.PROBE_PASSED): EngineState.READY,
        (EngineState.DISCOVERED, EngineEvent.PROBE_FAILED): EngineState.PROBING,
        (EngineState.PROBING, EngineEvent.PROBE_PASSED): EngineState.READY,
        (EngineState.READY, EngineEvent.PROBES_FAILED): EngineState.PROBING,
        (EngineState.READY, EngineEvent.ANSWERS_FAILED): EngineState.EJECTED,
        (EngineState.EJECTED, EngineEvent.PROVED): EngineState.READY,
        (EngineState.EJECTED, EngineEvent.PROBES_FAILED): EngineState.PROBING,
        **{
            (state, EngineEvent.FELL_ASLEEP): EngineState.SLEEPING
            for state in _ALIVE
            if state is not EngineState.SLEEPING
        },
        (EngineState.SLEEPING, EngineEvent.WOKE): EngineState.PROBING,
        **{(state, EngineEvent.DRAIN): EngineState.DRAINING for state in _ALIVE},
        **{(state, EngineEvent.WITHDRAWN): EngineState.DRAINING for state in _ALIVE},
        (EngineState.DRAINING, EngineEvent.RESUME): EngineState.PROBING,
        (EngineState.DRAINING, EngineEvent.LISTED): EngineState.PROBING,
        (EngineState.DRAINING, EngineEvent.EMPTIED): EngineState.GONE,
    }
)


def state_diagram() -> str:
    """Return the table as a Mermaid state diagram."""
    lines = ["stateDiagram-v2", "    [*] --> discovered"]
    labels: dict[tuple[EngineState, EngineState], list[str]] = {}
    for (before, event), after in TRANSITIONS.items():
        labels.setdefault((before, after), []).append(event.value)
    for (before, after), events in labels.items():
        lines.append(f"    {before.value} --> {after.value}: {' / '.join(events)}")
    lines.append("    gone --> [*]")
    return "\n".join(lines) + "\n"

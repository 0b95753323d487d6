"""Accounting for work in flight: charging an engine and releasing the charge."""

from typing import Final

from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.work import Charge, Ticket

# Over a shorter time, the mean is mostly rounding error: window-seconds add up over days.
_SHORTEST_S: Final = 0.001


def charge(engine: Engine, ticket: Ticket, turn: int, now: float) -> Charge:
    """Charge an engine with a ticket's windows."""
    engine.area += engine.windows_in_flight * (now - engine.area_at)
    engine.area_at = now
    windows = ticket.windows
    engine.in_flight += 1
    engine.windows_in_flight += windows
    engine.audio_s_in_flight += ticket.audio_s
    engine.load = load = engine.load + windows
    engine.turn = turn
    engine.next_window_s = engine.intercept_s + engine.slope_s * (load + 1.0)
    for pool in engine.pools:
        pool.load += windows
        pool.place(engine)
    made = Charge(ticket, engine.spec.engine_id, now, windows, ticket.audio_s, engine, engine.area)
    if ticket.deaths:
        suspect(made, now)
    return made


def suspect(held: Charge, now: float) -> None:
    """Count a charge as a suspect; do nothing if it already is one or was released."""
    engine = held.engine
    if engine is None or held.is_suspect:
        return
    held.is_suspect = True
    engine.suspects += 1
    if engine.suspects > 1:
        engine.crowded_at = now


def mean(held: Charge, engine: Engine, now: float) -> float:
    """Return the mean windows in service on an engine since a charge, other routers included."""
    lasted = now - held.started_at
    if lasted < _SHORTEST_S:
        return engine.load
    area = engine.area + engine.windows_in_flight * (now - engine.area_at)
    return (area - held.area_before) / lasted + engine.elsewhere


def release(held: Charge, engine: Engine, now: float, *, is_done: bool = True) -> float:
    """Release a charge's windows from its engine.

    Args:
        held: The charge.
        engine: Its engine.
        now: Monotonic seconds.
        is_done: Whether the work needs no further engine.

    Returns:
        This router's mean windows in service on the engine during the charge.
    """
    engine.area += engine.windows_in_flight * (now - engine.area_at)
    engine.area_at = now
    windows = held.windows
    if held.is_suspect:
        if engine.suspects > 1:
            engine.crowded_at = now
        engine.suspects -= 1
    engine.in_flight -= 1
    engine.windows_in_flight -= windows
    engine.audio_s_in_flight = engine.audio_s_in_flight - held.audio_s if engine.in_flight else 0.0
    engine.load = load = engine.windows_in_flight + engine.elsewhere
    engine.next_window_s = engine.intercept_s + engine.slope_s * (load + 1.0)
    for pool in engine.pools:
        pool.load -= windows
        if is_done:
            pool.drain.note(windows, now)
    lasted = now - held.started_at
    if lasted < _SHORTEST_S:
        return float(engine.windows_in_flight + windows)
    return (engine.area - held.area_before) / lasted

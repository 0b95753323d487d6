"""Charging an engine with work and releasing it: the arithmetic of what is in flight."""

from vllm_router.engines.engine import Engine
from vllm_router.engines.work import Charge, Ticket


def charge(engine: Engine, ticket: Ticket, turn: int, now: float) -> Charge:
    """Put a ticket's windows on an engine."""
    load = engine.load
    engine.area += load * (now - engine.area_at)
    engine.area_at = now
    windows = ticket.windows
    engine.in_flight += 1
    engine.windows_in_flight += windows
    engine.audio_s_in_flight += ticket.audio_s
    engine.load = load = load + windows
    engine.turn = turn
    engine.next_window_s = engine.curve.intercept_s + engine.curve.slope_s * (load + 1.0)
    for pool in engine.pools:
        pool.load += windows
        pool.place(engine)
    return Charge(ticket, engine.spec.engine_id, now, windows, ticket.audio_s, engine, engine.area)


def release(held: Charge, engine: Engine, now: float) -> float:
    """Take a charge's windows off its engine.

    Returns:
        Windows in service on the engine, the mean over the time of the charge.
    """
    load = engine.load
    engine.area += load * (now - engine.area_at)
    engine.area_at = now
    windows = held.windows
    engine.in_flight -= 1
    engine.windows_in_flight -= windows
    engine.audio_s_in_flight = engine.audio_s_in_flight - held.audio_s if engine.in_flight else 0.0
    engine.load = load = engine.windows_in_flight + engine.elsewhere
    engine.next_window_s = engine.curve.intercept_s + engine.curve.slope_s * (load + 1.0)
    for pool in engine.pools:
        pool.load -= windows
        pool.drain.note(windows, now)
    lasted = now - held.started_at
    return (engine.area - held.area_before) / lasted if lasted > 0.0 else load + windows


def see_elsewhere(engine: Engine, windows: float, now: float) -> None:
    """Set how many windows other routers have on an engine."""
    engine.area += engine.load * (now - engine.area_at)
    engine.area_at = now
    before = engine.load
    engine.elsewhere = windows
    engine.load = engine.windows_in_flight + windows
    for pool in engine.pools:
        pool.load += engine.load - before

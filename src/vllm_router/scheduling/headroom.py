"""An engine's current capacity, after reserving for other routers and short requests."""

import math
from typing import TYPE_CHECKING

from vllm_router.scheduling.concurrency_limit import LimitRules
from vllm_router.scheduling.engine import Engine
from vllm_router.scheduling.fleet_settings import FleetSettings

if TYPE_CHECKING:
    from vllm_router.scheduling.pool import Pool


def update_headroom(engine: Engine, settings: FleetSettings, warmth: float | None) -> None:
    """Set an engine's limits and caps.

    Args:
        engine: The engine.
        settings: The operator's settings.
        warmth: Share of its limit to which it has ramped up; None if it gets no work at present.
    """
    limits = settings.limits
    engine.limit = limits.limit(engine.half_at, settings.max_windows, engine.holding.ran)
    probed = 0.0
    if settings.max_windows is None:
        # A wrong limit would hold the engine at a load where the right one cannot be learned.
        probed = min(limits.probing * engine.curve.stuck_at, limits.most(engine.holding.ran))
        engine.limit = min(max(engine.limit, probed), engine.holding.most)
        # Approach untested load in steps: an engine that has not answered may be a CPU.
        tried = limits.further * engine.curve.reached
        engine.limit = min(engine.limit, max(limits.first_limit, tried))
    engine.cap = engine.long_cap = 0.0
    if warmth is None:
        return
    if engine.is_on_trial:
        engine.cap = engine.long_cap = 1.0 if engine.in_flight == 0 else 0.0
        return
    limit = engine.limit
    if warmth < 1.0:
        if settings.max_windows is None:
            # Twice its peers' load relative to their size: an idle fleet's limit is far higher.
            fills = [p.load / p.half_at for p in engine.pools if p.half_at > 0.0]
            usual = 2.0 * max(fills, default=0.0) * engine.half_at
            limit = min(limit, max(limits.first_limit, usual))
        limit = max(1.0, limit * warmth)
    # Short work gets the capacity that other routers leave, and always at least this router's part.
    free = max(limit - engine.elsewhere, engine.part * limit)
    engine.cap = max(1.0, min(math.ceil(limit * settings.limit_share), free))
    engine.long_limit = min((_long_limit(engine, limits, p) for p in engine.pools), default=1.0)
    engine.long_limit = max(engine.long_limit, min(probed, engine.limit))
    long = engine.long_limit
    if engine.elsewhere > 0.0:
        # Long work comes in bursts of many segments, and a scrape is too old to show another
        # router's burst, so each router keeps to its part.
        own = engine.part * long
        is_quiet = any(pool.is_quiet(engine) for pool in engine.pools)
        long = own if is_quiet else max(own, 0.5 * (long - engine.elsewhere))
    engine.long_cap = min(engine.cap, max(1.0, math.ceil(long * settings.limit_share)))


def _long_limit(engine: Engine, limits: LimitRules, pool: "Pool") -> float:
    fill = limits.for_a_file(pool.fill, pool.half_at)
    return limits.long_limit(
        engine.half_at,
        engine.speed,
        engine.limit,
        limits.quiet(fill) if pool.is_quiet(engine) else fill,
        pool.half_at,
        pool.peak_per_s,
    )

"""An estimate of other routers' load on the engines, without communication.

A scrape shows what runs and waits in an engine at one moment; anything that is not this router's
belongs to other routers. A window takes a second or two and scrapes come every ten, so a single
scrape soon expires, but the mean over several is useful. The estimate is half the engine's own
mean, which shows constant load, and half the mean of its kind in the fleet (quiet or not), which
rests on more scrapes and to which balancing routers return.

Each router also learns its own share of the work in the engines and limits its long work to that
share of every engine: three routers that each believe an engine half free would fill it thrice.
"""

from typing import Final

from vllm_router.scheduling.engine import Engine

# Scrapes of an engine over which the means are taken.
_SCRAPES: Final = 5.0
# Fewer windows than this are requests coming and going, not another router.
_LEAST: Final = 1.0
# Scrapes without other routers after which what was learned meanwhile is trusted.
_ALONE_SCRAPES: Final = 3
# Room above this router's share, so that it can grow when other routers' work ends.
_SLACK: Final = 1.2
# Minimum share of every router; without it, one that was idle would get no capacity.
_LEAST_PART: Final = 0.25


def scraped(engine: Engine, windows: float) -> None:
    """Record the windows that a scrape shows on an engine, this router's own included."""
    others = max(0.0, windows - engine.windows_in_flight)
    engine.scrapes += 1
    engine.others += (others - engine.others) / min(engine.scrapes, _SCRAPES)
    speed = engine.speed
    usual = own = 0.0
    for pool in engine.pools:
        seen = pool.seen(engine)
        seen.scrapes += 1
        weight = 1.0 / min(seen.scrapes, _SCRAPES * len(pool.members))
        seen.others += weight * (others / speed - seen.others)
        seen.own += weight * (engine.windows_in_flight / speed - seen.own)
        usual, own = max(usual, seen.others * speed), max(own, seen.own * speed)
    _set(engine, 0.5 * (usual + engine.others))
    if engine.elsewhere and usual:
        engine.part = min(1.0, max(_LEAST_PART, _SLACK * own / (own + usual)))
    else:
        engine.part = 1.0
        if engine.scrapes >= _ALONE_SCRAPES:
            engine.curve.trust()


def forget(engine: Engine) -> None:
    """Reset the estimate for an engine that cannot be scraped."""
    engine.scrapes = 0
    engine.others = 0.0
    engine.part = 1.0
    _set(engine, 0.0)


def _set(engine: Engine, windows: float) -> None:
    if windows < _LEAST:
        windows = 0.0
    before = engine.load
    engine.elsewhere = windows
    engine.load = engine.windows_in_flight + windows
    for pool in engine.pools:
        pool.load += engine.load - before

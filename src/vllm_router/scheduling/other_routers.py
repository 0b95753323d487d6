"""What other routers have on the engines, without asking them.

A scrape shows what runs and waits in an engine at one moment; what is not this router's own is the
others'. A window takes a second or two and scrapes come every ten, so one scrape is soon of no use;
the mean over several is. It is half the engine's own mean, which shows load that is always there,
and half that of its kind in the fleet (quiet or not), which has seen more scrapes and to which
routers that balance return.

Each router also learns what part of the work in the engines is its own, and keeps its long work to
that part of every engine: three routers that each believe an engine half free fill it thrice.
"""

from typing import Final

from vllm_router.scheduling.engine import Engine

# The means are over so many scrapes of an engine.
_SCRAPES: Final = 5.0
# Fewer windows on an engine than this are no other router but requests coming and going.
_LEAST: Final = 1.0
# So many scrapes without others before what was learned meanwhile is taken for the engine's own.
_ALONE_SCRAPES: Final = 3
# Room over one's part, so that it can grow when the others' work ends.
_SLACK: Final = 1.2
# The part that a router may always take, or one that has been idle would never get in.
_LEAST_PART: Final = 0.25


def scraped(engine: Engine, windows: float) -> None:
    """Note how many windows a scrape shows on an engine, this router's own included."""
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
    """Assume nothing of an engine that cannot be scraped."""
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

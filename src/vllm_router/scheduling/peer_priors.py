"""Estimates of an engine's speed from its peers.

The only evidence of an engine's speed is its own responses and its peers'. Engines of a pool with
similar speeds count as equally fast. Differences between their learned curves are mostly noise, and
an engine that looks slightly slower only because of noise would get no work unless it is needed,
and so would never be measured again. An engine without responses is assumed to be like its peers on
the same GPU type, or else like the median engine of its model.

Bounds: O(n log n) in a pool's engines, at most once per engine with a new curve.
"""

import math
from typing import Final

from vllm_router.scheduling.engine import Engine, EngineState
from vllm_router.scheduling.pool import Pool

# Engines are equally fast if their windows take at most this many times as long as the fastest's.
_SAME: Final = 1.3
# Tolerance while one of them has given few responses: curves say least about untested loads.
_SAME_AT_FIRST: Final = 2.0
_KNOWN: Final = 40
# An engine with fewer responses is estimated partly from its peers: its first response may be late
# because it was cold.
_TRUSTED: Final = 8.0
# Pools with few responses are settled again after this time, in seconds.
_SETTLED_S: Final = 1.0

#: An engine, the load-independent part of a window's time, and the part per window in service, both
#: in seconds.
Expected = tuple[Engine, float, float]


def learned(pool: Pool, now: float) -> bool:
    """Count a new curve; return True if the pool should be settled now."""
    pool.new_curves += 1
    is_due = 2 * pool.new_curves >= len(pool.members) or now - pool.settled_at >= _SETTLED_S
    if is_due:
        pool.new_curves = 0
        pool.settled_at = now
    return is_due


def settle(pool: Pool) -> list[Expected]:
    """Return new estimates for the engines whose estimates have changed."""
    known: list[Engine] = []
    unknown: list[Engine] = []
    for engine in pool.members.values():
        if engine.curve.seen:
            known.append(engine)
        else:
            unknown.append(engine)
    if not known:
        return []
    ready = max(1, pool.states[EngineState.READY])
    windows = max(1.0, pool.load / ready)
    times = sorted(engine.curve.window_s(windows) for engine in known)
    middle_s = times[len(times) // 2]
    expected: list[tuple[float, Engine]] = []
    for engine in known:
        own_s = engine.curve.window_s(windows)
        trust = min(1.0, (engine.curve.seen + 1) / _TRUSTED)
        expected.append((own_s**trust * middle_s ** (1.0 - trust), engine))
    expected.sort(key=_seconds)
    changed: list[Expected] = []
    first = 0
    for at in range(1, len(expected) + 1):
        if at < len(expected):
            least = min(expected[at][1].curve.seen, expected[first][1].curve.seen)
            same = _SAME if least >= _KNOWN else _SAME_AT_FIRST
            if expected[at][0] <= same * expected[first][0]:
                continue
        _expect(expected[first:at], windows, changed)
        first = at
    for engine in unknown:
        _inherit(engine, known, windows, changed)
    return changed


def _seconds(entry: tuple[float, Engine]) -> float:
    return entry[0]


def _expect(tier: list[tuple[float, Engine]], windows: float, changed: list[Expected]) -> None:
    """Expect the same of all engines of a tier: the mean of their measurements."""
    seconds = intercept = weights = 0.0
    for expected_s, engine in tier:
        weight = min(float(engine.curve.seen), 50.0)
        weights += weight
        seconds += weight * math.log(expected_s)
        intercept += weight * engine.curve.intercept_s / engine.curve.window_s(windows)
    # Their time at the current load, and the share of it that does not depend on the load.
    window_s = math.exp(seconds / weights)
    part = intercept / weights
    for _, engine in tier:
        _add(engine, part * window_s, (1.0 - part) * window_s / windows, changed)


def _inherit(engine: Engine, known: list[Engine], windows: float, changed: list[Expected]) -> None:
    """Estimate an engine without responses from its peers."""
    gpu = engine.spec.gpu
    alike = [peer for peer in known if peer.spec.gpu == gpu] if gpu is not None else known
    alike = alike or known
    order = sorted(
        (peer.curve.window_s(windows) * peer.spec.weight, peer.index, peer) for peer in alike
    )
    peer = order[len(order) // 2][2]
    speed = engine.spec.weight / peer.spec.weight
    engine.curve.assume(peer.curve.peak_per_s * speed, peer.curve.half_at)
    _add(engine, engine.curve.intercept_s, engine.curve.slope_s, changed)


def _add(engine: Engine, intercept_s: float, slope_s: float, changed: list[Expected]) -> None:
    if engine.intercept_s != intercept_s or engine.slope_s != slope_s:
        changed.append((engine, intercept_s, slope_s))

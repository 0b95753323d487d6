"""The engines that serve one model, indexed so that no decision has to scan all of them.

Engines with room are kept in lists sorted by the policy's rank and searched by bisection: one list
of engines with room for short work, and one of those with room for long work too.

Bounds: O(log n) comparisons and a few memory moves per change of an engine.
"""

import math
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from vllm_router.scheduling.balance import Policy
from vllm_router.scheduling.balance.view import first_in_order
from vllm_router.scheduling.blame import Agreements, BlameRules
from vllm_router.scheduling.drain_rate import DrainRate
from vllm_router.scheduling.engine import Engine, EngineId, EngineState
from vllm_router.scheduling.hash_ring import HashRing
from vllm_router.scheduling.isolation import IsolationQueue
from vllm_router.scheduling.work import Ticket, Urgency
from vllm_router.scheduling.work_queue import WorkQueue

# Among engines of equal rank, the one whose last turn is longest ago comes first. Each turn adds
# this much to the rank, far below any real difference.
_TIE: Final = 1e-12
# An idle engine gets an upload after this many decisions per engine of the pool, whatever its
# estimated speed: only responses show its real speed. The pairs apply while it has given fewer
# responses than the first number.
_TRIED_AFTER: Final = ((4, 8), (12, 24))
_TRIED_AFTER_KNOWN: Final = 128
# Time between two calculations of the engines' capacity at full load, in seconds.
_CAPACITY_S: Final = 0.5
# A segment that fits on none of this many engines waits; the next response changes the load anyway.
_MOST_TRIES: Final = 32
# An engine after a first ejection returns within about this time, or not soon.
_BACK_WITHIN_S: Final = 5.0


class PoolView:
    """Mean load of several engines in their scrapes, in windows per unit of the engine's speed.

    Attributes:
        others: Windows of other routers.
        own: Windows of this router.
        scrapes: Number of scrapes in the means.
    """

    __slots__ = ("others", "own", "scrapes")

    def __init__(self) -> None:
        self.others = 0.0
        self.own = 0.0
        self.scrapes = 0


class _Rota:
    """An engine's position in the rotation for idle engines.

    Attributes:
        engine: The engine.
        turn: Its last turn when it was last checked.
        rounds: Consecutive checks since without another turn.
    """

    __slots__ = ("engine", "rounds", "turn")

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.turn = engine.turn
        self.rounds = 0


class Pool:
    """One model's engines and its queue.

    Args:
        model: The model's name.
        policy: The balancing policy.
        queue: The work that waits for the engines.
        chance: Returns a random number in [0, 1).
        quiet_share: Share of the engines kept quiet for short work.
        blame: Rules for when refusals with a status are usual.

    Attributes:
        members: Every engine that serves the model and is not gone.
        states: Number of engines in each state.
        apart: Queued suspects that wait for an engine without another suspect.
        agreements: Refusals on which engines have recently agreed.
        now: When the queue was last served, monotonic seconds.
        hopeless_since: Since when no engine has been in service or about to be; None if one is, or
            if this was not checked.
        drain: Rate at which work finishes.
        busy_since: Since when the queue has been nonempty; None if it is empty.
        fill: Multiple of `half_at` up to which long work may fill an engine.
        fill_told: The fill with which the engines' limits were last calculated.
        fill_at: When `fill` was last set, monotonic seconds.
        peak_per_s: Combined throughput at full load of the engines in service, windows per second.
        half_at: Sum of their `half_at`.
        load: Windows in service on all members.
        held: The engine kept free for a ticket that fits nowhere else, if any.
        new_curves: Curves learned since the pool was last settled (see `peer_priors`).
        settled_at: When that was, monotonic seconds.
        usual_s: Median window time of the engines that have recently answered, in seconds; None if
            none has.
        usual_at: When that was last calculated, monotonic seconds.
    """

    __slots__ = (
        "_capacity_at",
        "_capacity_per_s",
        "_chance",
        "_lots",
        "_open",
        "_open_to_long",
        "_quiet_below",
        "_quiet_share",
        "_ring",
        "_rota",
        "_rota_at",
        "_seen",
        "agreements",
        "apart",
        "busy_since",
        "drain",
        "fill",
        "fill_at",
        "fill_told",
        "half_at",
        "held",
        "hopeless_since",
        "load",
        "members",
        "model",
        "new_curves",
        "now",
        "peak_per_s",
        "policy",
        "queue",
        "settled_at",
        "states",
        "usual_at",
        "usual_s",
    )

    def __init__(
        self,
        model: str,
        policy: Policy,
        queue: WorkQueue[Ticket],
        chance: Callable[[], float],
        quiet_share: float = 0.0,
        blame: BlameRules | None = None,
    ) -> None:
        self.model = model
        self.agreements = Agreements(blame or BlameRules())
        self.now = 0.0
        self.hopeless_since: float | None = None
        self.policy = policy
        self.queue = queue
        self.apart = IsolationQueue()
        self.members: dict[EngineId, Engine] = {}
        self.states: Counter[EngineState] = Counter()
        self.drain = DrainRate()
        self.busy_since: float | None = None
        self.fill = 0.0
        self.fill_told = 0.0
        self.fill_at = 0.0
        self.peak_per_s = 0.0
        self.half_at = 0.0
        self.load = 0.0
        self.held: Engine | None = None
        self.new_curves = 0
        self.settled_at = -math.inf
        self.usual_s: float | None = None
        self.usual_at = -math.inf
        self._chance = chance
        self._capacity_at = -math.inf
        self._capacity_per_s = 0.0
        self._open = _Order()
        self._open_to_long = _Order()
        self._ring = HashRing()
        self._rota: list[_Rota] = []
        self._rota_at = 0
        self._quiet_share = quiet_share
        self._quiet_below = 0
        self._lots: list[int] = []
        self._seen = (PoolView(), PoolView())

    def add(self, engine: Engine) -> None:
        """Add an engine."""
        self.members[engine.engine_id] = engine
        self._capacity_at = -math.inf
        self._rota.append(_Rota(engine))
        self.states[engine.state] += 1
        self.load += engine.load
        self._ring.add(engine)
        insort(self._lots, engine.lot)
        self._draw_quiet()

    def discard(self, engine: Engine) -> None:
        """Remove an engine."""
        if self.members.pop(engine.engine_id, None) is None:
            return
        self._capacity_at = -math.inf
        self._rota = [entry for entry in self._rota if entry.engine is not engine]
        self.states[engine.state] -= 1
        self.load -= engine.load
        self._close(engine)
        self._ring.discard(engine)
        del self._lots[bisect_left(self._lots, engine.lot)]
        self._draw_quiet()
        if self.held is engine:
            self.held = engine.held_for = None

    def _draw_quiet(self) -> None:
        count = int(self._quiet_share * len(self._lots))
        if not count and self._quiet_share and len(self._lots) == 2:
            count = 1
        self._quiet_below = self._lots[count] if count else 0

    def is_quiet(self, engine: Engine) -> bool:
        """Whether an engine gets less long work, to keep it fast for short work.

        Every router selects the same ones, whatever the order of discovery.
        """
        return self._quiet_below > 0 and engine.lot < self._quiet_below

    def seen(self, engine: Engine) -> PoolView:
        """Return the scraped means for the engine's kind, quiet or not."""
        return self._seen[self.is_quiet(engine)]

    def place(self, engine: Engine) -> None:
        """Move an engine to its place in the sorted lists after a change of its rank or room."""
        held = engine.windows_in_flight
        if held >= engine.cap:
            self._close(engine)
            return
        key = self.policy.rank(engine) + (engine.turn + self._chance()) * _TIE
        self._open.put(engine, key)
        if held < engine.long_cap:
            self._open_to_long.put(engine, key)
        else:
            self._open_to_long.drop(engine)

    def _close(self, engine: Engine) -> None:
        self._open.drop(engine)
        self._open_to_long.drop(engine)

    @property
    def with_room(self) -> list[Engine]:
        """Engines with room for a short request, by rank; the pool's own list, do not modify."""
        return self._open.engines

    def best(self) -> Engine | None:
        """Return the engine with room that has the lowest rank."""
        return self.with_room[0] if self.with_room else None

    def pick(self, ticket: Ticket) -> Engine | None:
        """Return the engine that gets a ticket as short work, by policy; None if there is none."""
        engines = self.with_room
        if not engines:
            return None
        is_plain = ticket.windows == 1 and not ticket.excluded and not ticket.deaths
        if is_plain and self.policy.choose is first_in_order:
            # Other policies choose by chance or by key, and leave no engine idle forever.
            tried = self._to_be_tried()
            return engines[0] if tried is None else tried
        return self.policy.choose(_Choice(self, engines, ticket, is_long=False), ticket.session_key)

    def _to_be_tried(self) -> Engine | None:
        """Return an idle engine that has long been without work; each upload checks one engine.

        An engine is checked once per round of as many decisions as the pool has engines. Turns
        would not do, because they are numbered over all models, and another model's may be far more
        frequent.
        """
        rota = self._rota
        at = self._rota_at + 1
        self._rota_at = at = at if at < len(rota) else 0
        entry = rota[at]
        engine = entry.engine
        if engine.turn != entry.turn:
            entry.turn = engine.turn
            entry.rounds = 0
            return None
        entry.rounds = rounds = entry.rounds + 1
        if rounds < _TRIED_AFTER[0][1]:
            return None
        if engine.windows_in_flight or engine.cap < 1.0 or engine.suspected_at is not None:
            return None
        seen = engine.curve.seen
        for answers, after in _TRIED_AFTER:
            if seen < answers:
                return engine if rounds >= after else None
        return engine if rounds >= _TRIED_AFTER_KNOWN else None

    def pick_long(self, ticket: Ticket) -> Engine | None:
        """Return the engine that gets a ticket as long work; None if none has room for it."""
        engines = self._open_to_long.engines
        if not engines:
            return None
        return self.policy.choose(_Choice(self, engines, ticket, is_long=True), ticket.session_key)

    def pick_apart(self, ticket: Ticket) -> Engine | None:
        """Return the engine that gets a suspect and holds no other; None if none has room."""
        is_long = ticket.urgency is Urgency.LONG
        engines = self._open_to_long.engines if is_long else self.with_room
        if not engines:
            return None
        choice = _Choice(self, engines, ticket, is_long=is_long, is_apart=True)
        return self.policy.choose(choice, ticket.session_key)

    def is_stranded(self, ticket: Ticket, now: float) -> bool:
        """Whether every engine in service or back soon has already failed on a retry."""
        if not ticket.excluded:
            return False
        return not any(
            may_serve(engine, ticket) or _is_back_soon(engine, now)
            for engine in self.untried(ticket)
        )

    def has_hope(self) -> bool:
        """Whether an engine is in service, or on trial without a failure yet."""
        return any(
            engine.state is EngineState.READY
            and (not engine.is_on_trial or not engine.record.count)
            for engine in self.members.values()
        )

    def untried(self, ticket: Ticket) -> Iterator[Engine]:
        """Yield the members that have not yet failed on a ticket."""
        for engine_id, engine in self.members.items():
            if engine_id not in ticket.excluded:
                yield engine

    def capacity_per_s(self, now: float) -> float:
        """Return the throughput at full load of all engines in service, in windows per second.

        Scans all engines, so the result is cached for `_CAPACITY_S`.
        """
        if 0.0 <= now - self._capacity_at < _CAPACITY_S:
            return self._capacity_per_s
        total = 0.0
        for engine in self.members.values():
            if engine.state is EngineState.READY:
                most = max(1.0, engine.limit)
                total += most / (engine.intercept_s + engine.slope_s * most)
        self._capacity_at = now
        self._capacity_per_s = total
        return total

    def draw(self) -> float:
        """Return a random number in [0, 1)."""
        return self._chance()

    def clockwise(self, key: str) -> Iterator[Engine]:
        """Yield all members in ring order from a key's point."""
        return self._ring.clockwise(key)


class _Order:
    """Engines sorted by a key.

    Attributes:
        engines: The engines in order.
    """

    __slots__ = ("_key_of", "_keys", "engines")

    def __init__(self) -> None:
        self.engines: list[Engine] = []
        self._keys: list[float] = []
        self._key_of: dict[int, float] = {}

    def put(self, engine: Engine, key: float) -> None:
        """Insert an engine at its key, or move it there."""
        keys = self._keys
        before = self._key_of.get(engine.index)
        if before is not None:
            at = self._at(engine, before)
            is_above = at == 0 or keys[at - 1] <= key
            if is_above and (at + 1 == len(keys) or key <= keys[at + 1]):
                # Still between the same neighbors: nothing has to move.
                keys[at] = self._key_of[engine.index] = key
                return
            keys.pop(at)
            self.engines.pop(at)
        at = _first_not_below(keys, key)
        keys.insert(at, key)
        self.engines.insert(at, engine)
        self._key_of[engine.index] = key

    def drop(self, engine: Engine) -> None:
        """Remove an engine if it is present."""
        key = self._key_of.pop(engine.index, None)
        if key is None:
            return
        at = self._at(engine, key)
        self._keys.pop(at)
        self.engines.pop(at)

    def _at(self, engine: Engine, key: float) -> int:
        # Work goes to the first engine, so its key changes most often.
        if self.engines[0] is engine:
            return 0
        at = _first_not_below(self._keys, key)
        while self.engines[at] is not engine:
            at += 1
        return at


def _first_not_below(keys: list[float], key: float) -> int:
    """Like `bisect_left`, but four times as fast when compiled, because the type is known."""
    low, high = 0, len(keys)
    while low < high:
        middle = (low + high) // 2
        if keys[middle] < key:
            low = middle + 1
        else:
            high = middle
    return low


def may_serve(engine: Engine, ticket: Ticket) -> bool:
    """Whether an engine is ready and accepts this work, now or once it has room.

    A failing engine on trial gets only work that has not failed elsewhere: other work would use
    up its trials and might itself be the cause of a failure.
    """
    if engine.state is not EngineState.READY:
        return False
    is_failing = engine.is_on_trial and engine.record.count > 0
    return not is_failing or not (ticket.excluded or ticket.deaths)


def _is_back_soon(engine: Engine, now: float) -> bool:
    """Whether an engine is in a short first ejection; one that failed again is out for longer."""
    if engine.state is not EngineState.EJECTED or engine.ejections > 1:
        return False
    return now - _BACK_WITHIN_S <= engine.ejected_until <= now + _BACK_WITHIN_S


def fits(engine: Engine, ticket: Ticket, cap: float) -> bool:
    """Whether a ticket fits on an engine whose windows may reach `cap`.

    A ticket with more windows than `cap` runs when the engine has no other work.
    """
    held = engine.windows_in_flight
    return held < cap and (held == 0 or held + ticket.windows <= cap)


class _Choice:
    """The engines of a pool that have room for one ticket."""

    __slots__ = ("_engines", "_is_apart", "_is_long", "_pool", "_ticket")

    def __init__(
        self,
        pool: Pool,
        engines: list[Engine],
        ticket: Ticket,
        *,
        is_long: bool,
        is_apart: bool = False,
    ) -> None:
        self._pool = pool
        self._engines = engines
        self._ticket = ticket
        self._is_long = is_long
        self._is_apart = is_apart

    def _may_take(self, engine: Engine) -> bool:
        if self._is_apart and engine.suspects:
            return False
        if engine.is_on_trial and not self._ticket.may_be_trial(self._pool.now):
            return False
        cap = engine.long_cap if self._is_long else engine.cap
        return fits(engine, self._ticket, cap) and engine.engine_id not in self._ticket.excluded

    def in_order(self) -> Iterator[Engine]:
        for engine in self._engines[:_MOST_TRIES]:
            if self._may_take(engine):
                yield engine

    def at_random(self) -> Engine | None:
        engines = self._engines
        for _ in range(4):
            engine = engines[int(self._pool.draw() * len(engines))]
            if self._may_take(engine):
                return engine
        return next(self.in_order(), None)

    def clockwise(self, key: str) -> Iterator[Engine]:
        nearest = islice(self._pool.clockwise(key), _MOST_TRIES)
        return (engine for engine in nearest if self._may_take(engine))

    def fair_load(self) -> float:
        pool = self._pool
        return pool.load / max(1, pool.states[EngineState.READY])

"""Matches queued work to engines with room.

Short work goes first, then long work, except that one decision in four goes to long work that has
waited too long. For work with more windows than any engine has room for, one engine is kept free.
"""

from typing import Final

from vllm_router.scheduling import charges as load
from vllm_router.scheduling.engine import Engine, EngineState
from vllm_router.scheduling.pool import Pool, fits
from vllm_router.scheduling.registry import Registry
from vllm_router.scheduling.work import AdmissionRefusal, Assignment, Charge, Ticket, Urgency

# Retries whose remaining engines are full are set aside; at most this many per pass.
_MOST_ASIDE: Final = 16
# A retry that has found no engine is reconsidered after this time if nothing happens before.
_LOOK_AGAIN_S: Final = 0.5
# A segment that would fit once other work ends waits this long before an engine is kept free.
_PATIENCE_S: Final = 5.0
# Short work avoids an engine that is slower than usual by this share, until it has waited for as
# long as it would lose there.
_SLOWER: Final = 0.5
# Relative change of the long-work fill after which every engine is refreshed, at most once per base
# latency of the fleet. A refresh is the only step here whose cost grows with the number of engines.
_FILL_STEP: Final = 0.05


class Dispatcher:
    """Accepts tickets and returns assignments.

    Args:
        registry: The engines, and the pools with their queues.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._busy: dict[str, Pool] = {}
        self._turns = 0
        self._look_at = 0.0

    def add(self, pool: Pool, ticket: Ticket, now: float) -> None:
        """Queue a ticket."""
        ticket.queued_at = now
        if pool.peak_per_s > 0.0:
            pool.queue.long.pace_s = (
                self._registry.settings.limits.back_per_window / pool.peak_per_s
            )
        if ticket.urgency is Urgency.LONG and not pool.queue.long.count:
            # No long work was waiting until now.
            self._adjust_fill(pool, now)
        if ticket.deaths and (until := ticket.apart_until()) > now:
            pool.queue.add_aside(ticket)
            pool.apart.add(ticket, until)
        else:
            pool.queue.add(ticket)
        if pool.busy_since is None:
            pool.busy_since = now
            self._busy[pool.model] = pool

    def take(self, pool: Pool, ticket: Ticket, now: float) -> Charge | None:
        """Charge an engine with short work at once; return None if it must queue.

        With an empty queue, this is equivalent to `add` and `assign`.
        """
        if len(pool.queue) or pool.held is not None or ticket.excluded or ticket.deaths:
            return None
        timer = self._registry.next_timer()
        is_due = timer is not None and timer <= now
        if is_due or ticket.urgency is not Urgency.SHORT or ticket.expires_at <= now:
            return None
        engine = pool.pick(ticket)
        if engine is None:
            return None
        ticket.queued_at = now
        return self._charge(engine, ticket, now)

    def withdraw(self, ticket: Ticket, now: float) -> None:
        """Remove a ticket from wherever it waits."""
        pool = self._registry.pools.get(ticket.model)
        if pool is not None and pool.queue.remove(ticket):
            pool.apart.discard(ticket)
            self._let_go(pool, ticket, now)
            self._rest(pool)

    def assign(self, now: float) -> list[Assignment]:
        """Return every decision that is possible now."""
        registry = self._registry
        timer = registry.next_timer()
        if timer is not None and timer <= now:
            registry.run_timers(now)
        out: list[Assignment] = []
        if self._busy:
            for pool in tuple(self._busy.values()):
                self._serve(pool, now, out)
                self._rest(pool)
        return out

    def next_wakeup(self, now: float) -> float | None:
        """Return when the passage of time alone may allow a decision."""
        due = self._registry.next_timer()
        if self._look_at > now and (due is None or self._look_at < due):
            due = self._look_at
        wait_s = self._registry.settings.engine_wait_s
        for pool in self._busy.values():
            queue = pool.queue
            hopeless_since = pool.hopeless_since
            if hopeless_since is not None:
                for head in (queue.short.head(), queue.long.head()):
                    if head is not None:
                        at = max(now, max(hopeless_since, head.queued_at) + wait_s)
                        due = at if due is None or at < due else due
            until = pool.apart.until()
            if until is not None and (due is None or until < due):
                due = until
            for head in (queue.short.head(), queue.long.head()):
                if head is not None and (due is None or head.expires_at < due):
                    due = head.expires_at
            long = queue.long.head()
            if long is not None:
                for at in (long.enqueued_at + queue.ageing_s, long.enqueued_at + _PATIENCE_S):
                    if at > now and (due is None or at < due):
                        due = at
        return due if due is None or due != float("inf") else None

    def _rest(self, pool: Pool) -> None:
        if not len(pool.queue):
            self._busy.pop(pool.model, None)
            pool.busy_since = None
            if not pool.members:
                self._registry.pools.pop(pool.model, None)

    def _serve(self, pool: Pool, now: float, out: list[Assignment]) -> None:
        queue = pool.queue
        pool.now = now
        if len(pool.apart):
            self._serve_suspects(pool, now, out)
        if not queue.long.count and pool.held is None:
            # The common case: short requests, and room for them.
            while (head := queue.short.head()) is not None:
                if head.excluded or head.deaths or head.expires_at <= now:
                    break
                engine = pool.pick(head)
                if engine is None:
                    break
                self._give(pool, head, engine, now, out)
            if head is None:
                return
        self._expire(pool, now, out)
        if queue.long.count:
            self._adjust_fill(pool, now)
        aside: list[Ticket] = []
        while len(aside) < _MOST_ASIDE and self._serve_one(pool, now, out, aside):
            pass
        for ticket in aside:
            queue.add(ticket)
        if len(queue):
            self._despair(pool, now, out)

    def _serve_suspects(self, pool: Pool, now: float, out: list[Assignment]) -> None:
        """Assign suspects to engines without one. After the isolation time they queue normally."""
        for ticket in pool.apart.take_over(now):
            pool.queue.line_up(ticket)
        for ticket in pool.apart.first(_MOST_ASIDE):
            engine = pool.pick_apart(ticket)
            if engine is not None:
                pool.apart.discard(ticket)
                self._give(pool, ticket, engine, now, out)
            elif pool.is_stranded(ticket, now):
                pool.apart.discard(ticket)
                pool.queue.remove(ticket)
                out.append(Assignment(ticket, None, AdmissionRefusal.NO_ENGINE_LEFT))

    def _serve_one(
        self, pool: Pool, now: float, out: list[Assignment], aside: list[Ticket]
    ) -> bool:
        """Make one decision; return False when none is left."""
        queue = pool.queue
        aged = None
        if queue.long.count:
            aged = queue.aged(now)
            if aged is None and pool.peak_per_s > 0.0:
                aged = queue.outwaited(now, (pool.half_at + pool.load) / pool.peak_per_s)
        if aged is not None and (engine := pool.pick(aged)) is not None:
            queue.took_aged()
            return self._give(pool, aged, engine, now, out)
        short = queue.short.head()
        if short is not None:
            engine = pool.pick(short)
            if engine is not None and queue.long.count and self._is_slow(pool, engine, short, now):
                return self._give_long(pool, now, out)
            if engine is not None:
                queue.took_short()
                return self._give(pool, short, engine, now, out)
            if self._step_aside(pool, short, now, out, aside):
                return True
            if pool.held is None:
                return False
        long = queue.long.head()
        if long is None:
            return False
        engine = self._held_for(pool, long, now)
        if engine is None:
            engine = pool.pick_long(long)
        if engine is not None and fits_held(engine, long):
            return self._give(pool, long, engine, now, out)
        if self._step_aside(pool, long, now, out, aside):
            return True
        self._hold(pool, long, now)
        return False

    def _is_slow(self, pool: Pool, engine: Engine, short: Ticket, now: float) -> bool:
        """Whether short work should wait for a faster engine while long work fills this one."""
        if pool.peak_per_s <= 0.0 or short.excluded:
            return False
        usual_s = (pool.half_at + pool.load) / pool.peak_per_s
        slower_s = engine.next_window_s - usual_s
        return slower_s > _SLOWER * usual_s and now - short.enqueued_at < slower_s

    def _give_long(self, pool: Pool, now: float, out: list[Assignment]) -> bool:
        long = pool.queue.long.head()
        if long is None or pool.held is not None:
            return False
        engine = pool.pick_long(long)
        return engine is not None and self._give(pool, long, engine, now, out)

    def _give(
        self, pool: Pool, ticket: Ticket, engine: Engine, now: float, out: list[Assignment]
    ) -> bool:
        pool.queue.remove(ticket)
        self._let_go(pool, ticket, now)
        ticket.waited_s += now - ticket.queued_at
        out.append(Assignment(ticket, self._charge(engine, ticket, now)))
        return True

    def _charge(self, engine: Engine, ticket: Ticket, now: float) -> Charge:
        self._turns += 1
        charge = load.charge(engine, ticket, self._turns, now)
        if engine.is_on_trial:
            self._registry.refresh(engine, now)
        return charge

    def _step_aside(
        self, pool: Pool, ticket: Ticket, now: float, out: list[Assignment], aside: list[Ticket]
    ) -> bool:
        """Set aside a retry that finds no engine; refuse it if none is left."""
        if not ticket.excluded and not ticket.deaths:
            return False
        pool.queue.remove(ticket)
        self._let_go(pool, ticket, now)
        if pool.is_stranded(ticket, now):
            out.append(Assignment(ticket, None, AdmissionRefusal.NO_ENGINE_LEFT))
        else:
            aside.append(ticket)
            self._look_at = now + _LOOK_AGAIN_S
        return True

    def _expire(self, pool: Pool, now: float, out: list[Assignment]) -> None:
        for lane in (pool.queue.short, pool.queue.long):
            while (head := lane.head()) is not None and head.expires_at <= now:
                lane.remove(head)
                self._let_go(pool, head, now)
                out.append(Assignment(head, None, AdmissionRefusal.WAITED_TOO_LONG))

    def _despair(self, pool: Pool, now: float, out: list[Assignment]) -> None:
        """Refuse work that has waited long enough while no engine is in service or answers well."""
        if pool.has_hope():
            pool.hopeless_since = None
            return
        if pool.hopeless_since is None:
            pool.hopeless_since = now
        # Same order of additions as in `next_wakeup`: other rounding makes its timer fire early.
        wait_s = self._registry.settings.engine_wait_s
        if pool.hopeless_since + wait_s > now:
            return
        for lane in (pool.queue.short, pool.queue.long):
            while (head := lane.head()) is not None and head.queued_at + wait_s <= now:
                lane.remove(head)
                self._let_go(pool, head, now)
                out.append(Assignment(head, None, AdmissionRefusal.NONE_IN_SERVICE))

    def _adjust_fill(self, pool: Pool, now: float) -> None:
        """Raise the fill of long work when much of it waits, and lower it when little does."""
        if pool.peak_per_s <= 0.0 or pool.half_at <= 0.0:
            return
        base_s = pool.half_at / pool.peak_per_s
        passed = (now - pool.fill_at) / base_s
        if passed < 1.0:
            return
        waiting = pool.queue.long.windows / pool.half_at
        pool.fill = self._registry.settings.limits.fill(pool.fill, waiting, passed)
        pool.fill_at = now
        if abs(pool.fill - pool.fill_told) > _FILL_STEP * pool.fill_told:
            pool.fill_told = pool.fill
            for engine in pool.members.values():
                self._registry.refresh(engine, now)

    # Keeping an engine free for work that fits nowhere else.

    def _held_for(self, pool: Pool, ticket: Ticket, now: float) -> Engine | None:
        engine = pool.held
        if engine is None or engine.held_for is not ticket:
            return None
        if engine.state is EngineState.READY and not engine.is_on_trial:
            return engine
        self._let_go(pool, ticket, now)
        return None

    def _hold(self, pool: Pool, ticket: Ticket, now: float) -> None:
        """Keep the engine that will be free soonest for a ticket that fits nowhere."""
        if ticket.windows == 1 or pool.held is not None:
            return
        engine = pool.best()
        if engine is None or engine.is_on_trial or engine.engine_id in ticket.excluded:
            return
        if ticket.windows <= engine.long_limit and now - ticket.enqueued_at < _PATIENCE_S:
            return
        pool.held = engine
        engine.held_for = ticket
        self._registry.refresh(engine, now)

    def _let_go(self, pool: Pool, ticket: Ticket, now: float) -> None:
        engine = pool.held
        if engine is not None and engine.held_for is ticket:
            pool.held = engine.held_for = None
            self._registry.refresh(engine, now)


def fits_held(engine: Engine, ticket: Ticket) -> bool:
    """Whether a ticket may start on the engine that was picked or kept free for it."""
    if engine.held_for is None:
        return True
    return fits(engine, ticket, engine.long_limit) or engine.windows_in_flight == 0

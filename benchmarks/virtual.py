"""Engines and routers in virtual time: an event queue, processor sharing, the router's own fleet.

A simulated engine serves all its windows at once, each at an equal share of
`peak * c / (c + half_at)` windows per second. One number, the progress, tells how far every window
has come, so that an engine with a thousand windows costs no more per event than one with two.
"""

import heapq
import itertools
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import Protocol

from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.engine_metrics import EngineStats
from vllm_router.scheduling.engine_states import OUT
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.registry import FleetSettings
from vllm_router.scheduling.service_curve import ServiceCurve
from vllm_router.scheduling.work import (
    Charge,
    Outcome,
    OutcomeKind,
    QueueFull,
    Ticket,
    Urgency,
    windows_of,
)


class Clock:
    """Virtual time: calls things at their time, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = itertools.count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        """Have something happen later."""
        heapq.heappush(self._events, (when, next(self._count), what))

    def run(self, until: float) -> None:
        """Let time pass."""
        events = self._events
        while events and events[0][0] <= until:
            when, _, what = heapq.heappop(events)
            self.now = when
            what()
        self.now = until


# Engines that are out are probed this often.
_OUT_PROBE_S = 1.0
# How long an engine looks at an upload that ends it.
_DIES_AFTER_S = 0.2
# What black holes by status answer; engines that one upload may end; calls for one upload.
_STATUS = 400
_DEADLY = 2
_MOST_CALLS = 6


def _nobody(windows: int) -> None:
    """Hear of an upload's windows."""


@dataclass(slots=True)
class Job:
    """Windows of one attempt on one engine."""

    left: int
    done: Callable[[OutcomeKind], None]


class SimEngine:
    """A GPU with vLLM before it.

    Args:
        clock: The time.
        peak: Windows per second with very many in service.
        half_at: Windows in service at which half of that is reached.
        most: Windows that its KV cache holds; further ones wait inside, first come, first served.
        front_s: Seconds that the engine's CPU takes to prepare a window, one after the other.
        warmup_s: Seconds by which its first answer is late.
        gpu: What discovery says that it is.
    """

    def __init__(
        self,
        clock: Clock,
        peak: float = 57.5,
        half_at: float = 18.5,
        most: int = 100000,
        front_s: float = 0.0,
        warmup_s: float = 0.0,
        gpu: str | None = None,
    ) -> None:
        self.gpu = gpu
        self.told: Callable[[int], None] = _nobody
        self.fault: OutcomeKind | None = None
        self.down_s = 0.0
        self.peak, self.half_at, self.most, self.front_s = peak, half_at, most, front_s
        self.is_broken = False
        self.passes_probes = False
        self.running = 0
        self.preparing = 0
        self.waiting: deque[tuple[float, Job]] = deque()
        self._prepared_at = 0.0
        self._cold_s = warmup_s
        self.window_s = 0.0
        self.finished = 0
        self._clock = clock
        self._progress = 0.0
        self._at = 0.0
        self._ends: list[tuple[float, int, Job]] = []
        self._count = itertools.count()
        self._planned = 0

    @property
    def load(self) -> int:
        """Windows in service or waiting inside."""
        return self.running + len(self.waiting) + self.preparing

    def take(
        self, works: list[float], done: Callable[[OutcomeKind], None], *, is_poison: bool = False
    ) -> None:
        """Serve windows of the given work each; `done` is called when the last one ends."""
        self.told(len(works))
        if is_poison and not self.is_broken:
            self._clock.at(self._clock.now + _DIES_AFTER_S, self._crash)
        if self.fault is not None:
            fault = self.fault
            self._clock.at(self._clock.now + 0.002, lambda: done(fault))
            return
        if self.is_broken:
            self._clock.at(self._clock.now + 0.002, lambda: done(OutcomeKind.BAD_STATUS))
            return
        job = Job(len(works), done)
        if self._cold_s:
            self._prepared_at = self._clock.now + self._cold_s
            self._cold_s = 0.0
        if self.front_s or self._prepared_at > self._clock.now:
            self.preparing += len(works)
            at = max(self._clock.now, self._prepared_at)
            for work in works:
                at += self.front_s
                self._clock.at(at, partial(self._prepared, work, job))
            self._prepared_at = at
            return
        self._advance()
        self.waiting.extend((work, job) for work in works)
        self._plan()

    def _prepared(self, work: float, job: Job) -> None:
        self.preparing -= 1
        if job.left <= 0:
            return
        if self.is_broken:
            job.left = 0
            job.done(OutcomeKind.RESET)
            return
        self._advance()
        self.waiting.append((work, job))
        self._plan()

    def _crash(self) -> None:
        if not self.is_broken:
            self.die()
            self._clock.at(self._clock.now + self.down_s, self._restart)

    def _restart(self) -> None:
        self.is_broken = False

    def die(self) -> None:
        """Break off everything and answer errors from now on."""
        self._advance()
        self.is_broken = True
        jobs = {id(job): job for _, _, job in self._ends}
        jobs |= {id(job): job for _, job in self.waiting}
        self._ends.clear()
        self.waiting.clear()
        self.running = 0
        self._planned += 1
        for job in jobs.values():
            job.left = 0
            job.done(OutcomeKind.RESET)

    def set_speed(self, peak: float) -> None:
        """Become slower or faster from now on."""
        self._advance()
        self.peak = peak
        self._plan()

    def _advance(self) -> None:
        now = self._clock.now
        if self.running:
            self._progress += (now - self._at) * self.peak / (self.running + self.half_at)
            self.window_s += self.running * (now - self._at)
        self._at = now

    def _plan(self) -> None:
        while self.waiting and self.running < self.most:
            work, job = self.waiting.popleft()
            self.running += 1
            heapq.heappush(self._ends, (self._progress + work, next(self._count), job))
        self._planned += 1
        if self._ends:
            planned = self._planned
            rate = self.peak / (self.running + self.half_at)
            delay = max(0.0, (self._ends[0][0] - self._progress) / rate)
            self._clock.at(self._clock.now + delay, lambda: self._end(planned))

    def _end(self, planned: int) -> None:
        if planned != self._planned:
            return
        self._advance()
        over = []
        while self._ends and self._ends[0][0] <= self._progress + 1e-9:
            _, _, job = heapq.heappop(self._ends)
            self.running -= 1
            self.finished += 1
            job.left -= 1
            if not job.left:
                over.append(job)
        self._plan()
        for job in over:
            job.done(OutcomeKind.OK)


@dataclass(slots=True, eq=False)
class Request:
    """One upload and what became of it."""

    at: float
    audio_s: float
    works: list[float]
    done_at: float | None = None
    is_failed: bool = False
    is_refused: bool = False
    is_poison: bool = False
    left: int = 0
    attempts: int = 0

    @property
    def latency_s(self) -> float | None:
        """Seconds from upload to answer; None if there was no answer."""
        return None if self.done_at is None or self.is_failed else self.done_at - self.at


class Router(Protocol):
    """What takes requests and sends them to engines."""

    def take(self, request: Request) -> None:
        """Take a request now."""
        ...


class DirectRouter:
    """No queue: each request goes at once, whole, to the engine that a rule picks.

    Args:
        clock: The time.
        engines: All of them.
        rule: "round robin", "fewest requests", "fewest windows", "two choices" (the one of two with
            fewer requests) or "oracle" (the one that would be done first, by its true curve).
        rng: Breaks ties.
    """

    def __init__(self, clock: Clock, engines: list[SimEngine], rule: str, rng: Random) -> None:
        self._clock, self._engines, self._rule, self._rng = clock, engines, rule, rng
        self._turn = 0
        self._requests: dict[int, int] = {}
        self._windows: dict[int, int] = {}

    def list_engines(self, engines: list[SimEngine]) -> None:
        """Say which engines there are."""
        self._engines = engines

    def _choose(self, windows: int) -> SimEngine:
        engines = self._engines
        if self._rule == "round robin":
            self._turn += 1
            return engines[self._turn % len(engines)]
        if self._rule == "two choices":
            engines = [self._rng.choice(engines), self._rng.choice(engines)]
        return min(engines, key=lambda each: (self._cost(each, windows), self._rng.random()))

    def _cost(self, engine: SimEngine, windows: int) -> float:
        held = self._windows.get(id(engine), 0)
        if self._rule == "oracle":
            # What is beyond the cache waits for its turn.
            served = min(held + windows, engine.most)
            return (served + engine.half_at) / engine.peak * max(1.0, (held + windows) / served)
        return held if self._rule == "fewest windows" else self._requests.get(id(engine), 0)

    def take(self, request: Request) -> None:
        """Send a request on."""
        engine = self._choose(len(request.works))
        key = id(engine)
        self._requests[key] = self._requests.get(key, 0) + 1
        self._windows[key] = self._windows.get(key, 0) + len(request.works)

        def done(kind: OutcomeKind) -> None:
            self._requests[key] -= 1
            self._windows[key] -= len(request.works)
            request.done_at = self._clock.now
            request.is_failed = kind is not OutcomeKind.OK

        engine.take(request.works, done, is_poison=request.is_poison)


def known_curve(peak: float, half_at: float) -> ServiceCurve:
    """Return a curve that need not be learned."""

    # Here, so that the rest also runs where the fleet is compiled: compiled classes have no others.
    class Known(ServiceCurve):
        def learn(self, windows: float, seconds: float, now: float) -> bool:
            return False

    curve = Known()
    curve.assume(peak, half_at)
    curve.answers, curve.seen, curve.reached = 1e6, 1_000_000, 1e6
    return curve


class FleetRouter:
    """This project's fleet, driven as the real router drives it, but in virtual time.

    Args:
        clock: The time.
        engines: All of them.
        settings: The fleet's.
        rng: The fleet's.
        splits: Long audio goes in pieces of one window; otherwise each upload goes whole.
        scrape_s: Interval of scrapes; None: none.
        probe_s: Interval of probes.
        short_s: Audio up to so many seconds is short work.
        is_knowing: It knows all curves from the start and learns nothing.
        piece_work: What a piece of one window costs an engine, over a window of a whole upload.
    """

    def __init__(
        self,
        clock: Clock,
        engines: list[SimEngine],
        settings: FleetSettings,
        rng: Random,
        *,
        splits: bool = True,
        scrape_s: float | None = None,
        probe_s: float = 10.0,
        short_s: float = 30.0,
        piece_work: float = 1.0,
        is_knowing: bool = False,
    ) -> None:
        self.fleet = Fleet(settings, rng)
        self._is_knowing = is_knowing
        self._clock, self._splits, self._short_s = clock, splits, short_s
        self._piece_work = piece_work
        self._engines: dict[EngineId, SimEngine] = {}
        self._count = 0
        self._waiting: dict[int, tuple[Request, list[float]]] = {}
        self._refusals: dict[int, list[tuple[Charge, int]]] = {}
        self._woken_at: float | None = None
        self.list_engines(engines)
        clock.at(clock.now + probe_s, lambda: self._probe(probe_s))
        clock.at(clock.now + _OUT_PROBE_S, self._probe_those_out)
        if scrape_s is not None:
            # Not all routers at the same moment.
            clock.at(clock.now + rng.random() * scrape_s, lambda: self._scrape(scrape_s))

    def list_engines(self, engines: list[SimEngine]) -> None:
        """Say which engines there are; new ones are probed at once."""
        known = {id(each): engine_id for engine_id, each in self._engines.items()}
        new = []
        for engine in engines:
            if id(engine) not in known:
                self._count += 1
                engine_id = known[id(engine)] = EngineId(f"http://engine-{self._count}")
                self._engines[engine_id] = engine
                new.append(engine_id)
        specs = tuple(
            EngineSpec(known[id(each)], known[id(each)], ("whisper",), gpu=each.gpu)
            for each in engines
        )
        self.fleet.apply(Listing(specs), self._clock.now)
        for engine_id in new:
            if self._is_knowing:
                self._reveal(engine_id)
            self._probe_one(engine_id)
        self._assign()

    def _reveal(self, engine_id: EngineId) -> None:
        engine, sim = self.fleet.engine(engine_id), self._engines[engine_id]
        assert engine is not None
        engine.curve = known_curve(sim.peak, sim.half_at)
        engine.intercept_s, engine.slope_s = engine.curve.intercept_s, engine.curve.slope_s
        engine.holding.scraped(float(sim.most), 1.0, 1.0)

    def take(self, request: Request) -> None:
        """Queue a request, whole or in pieces."""
        urgency = Urgency.SHORT if request.audio_s <= self._short_s else Urgency.LONG
        if self._splits and urgency is Urgency.LONG:
            parts = [[work * self._piece_work] for work in request.works]
        else:
            parts = [request.works]
        request.left = len(parts)
        now = self._clock.now
        audio_s = request.audio_s / len(parts)
        whole = Ticket("", "whisper", request.audio_s, windows_of(request.audio_s), urgency, now)
        try:
            self.fleet.admit(whole, now)
        except QueueFull:
            request.is_refused = request.is_failed = True
            return
        for number, works in enumerate(parts):
            ticket = Ticket(
                "",
                "whisper",
                audio_s,
                len(works),
                urgency,
                now,
                is_admitted=len(parts) > 1,
                ahead=number,
            )
            self._submit(ticket, request, works)
        self._assign()

    def _submit(self, ticket: Ticket, request: Request, works: list[float]) -> None:
        self._waiting[id(ticket)] = (request, works)
        try:
            self.fleet.submit(ticket, self._clock.now)
        except QueueFull:
            del self._waiting[id(ticket)]
            request.is_refused = request.is_failed = True

    def _assign(self) -> None:
        now = self._clock.now
        for assignment in self.fleet.assign(now):
            request, works = self._waiting.pop(id(assignment.ticket))
            if assignment.charge is None:
                request.is_failed = True
                self._part_done(request)
            else:
                self._send(assignment.charge, request, works)
        wakeup = self.fleet.next_wakeup(now)
        if wakeup is not None and (self._woken_at is None or wakeup < self._woken_at):
            self._woken_at = max(wakeup, now)
            self._clock.at(self._woken_at, self._wake)

    def _wake(self) -> None:
        if self._woken_at is not None and self._clock.now >= self._woken_at:
            self._woken_at = None
            self._assign()

    def _send(self, charge: Charge, request: Request, works: list[float]) -> None:
        def done(kind: OutcomeKind) -> None:
            if self._is_over(charge, kind):
                request.is_failed |= kind is not OutcomeKind.OK
                self._part_done(request)
            else:
                self._submit(charge.ticket, request, works)
            self._assign()

        request.attempts += 1
        engine = self._engines[charge.engine_id]
        engine.take(works, done, is_poison=request.is_poison)

    def _is_over(self, charge: Charge, kind: OutcomeKind) -> bool:
        """Tell the fleet how a call ended; return whether the work goes to no further engine."""
        fleet, ticket, now = self.fleet, charge.ticket, self._clock.now
        refusals = self._refusals.setdefault(id(ticket), [])
        is_decided = False
        if kind is OutcomeKind.UNDECIDED:
            vote, needed = fleet.refused(charge, _STATUS, now)
            refusals.append((charge, vote))
            is_decided = sum(each for _, each in refusals) >= needed
        elif kind is OutcomeKind.RESET:
            if fleet.died(charge, now) and len(ticket.deaths) == _DEADLY:
                fleet.absolve(ticket.deaths, now)
            # As the real one does with whom it suspects.
            self._clock.at(now + 0.01, partial(self._probe_one, charge.engine_id))
        ticket.excluded.add(charge.engine_id)
        may_more = fleet.may_retry if kind is not OutcomeKind.UNDECIDED else fleet.may_ask_second
        if is_decided:
            fleet.agreed(ticket.model, _STATUS, [each.engine_id for each, _ in refusals], now)
        elif kind is OutcomeKind.OK:
            self._refute(charge, refusals)
        fleet.finish(charge, Outcome(OutcomeKind.CLIENT_FAULT if is_decided else kind), now)
        is_over = (
            is_decided
            or kind is OutcomeKind.OK
            or len(ticket.deaths) >= _DEADLY
            or len(ticket.excluded) >= (_MOST_CALLS if refusals else 3)
            or not may_more(now)
        )
        if is_over:
            del self._refusals[id(ticket)]
        return is_over

    def _refute(self, charge: Charge, refusals: list[tuple[Charge, int]]) -> None:
        now = self._clock.now
        bad = Outcome(OutcomeKind.BAD_STATUS)
        for each, _ in refusals:
            engine_id = each.engine_id
            if self.fleet.refuted(engine_id, charge.ticket, _STATUS, now, lacks_model=False):
                self.fleet.blame(engine_id, each.started_at, bad, now)

    def _part_done(self, request: Request) -> None:
        request.left -= 1
        if not request.left:
            request.done_at = self._clock.now

    def _probe(self, every_s: float) -> None:
        for engine_id in self._engines:
            self._probe_one(engine_id)
        self._assign()
        self._clock.at(self._clock.now + every_s, lambda: self._probe(every_s))

    def _probe_those_out(self) -> None:
        for engine_id in self._engines:
            engine = self.fleet.engine(engine_id)
            if engine is not None and engine.state in OUT:
                self._probe_one(engine_id)
        self._assign()
        self._clock.at(self._clock.now + _OUT_PROBE_S, self._probe_those_out)

    def _probe_one(self, engine_id: EngineId) -> None:
        engine = self._engines[engine_id]
        self.fleet.observe_probe(
            engine_id,
            engine.passes_probes or not engine.is_broken,
            0.01,
            "broken" if engine.is_broken else None,
            False,
            self._clock.now,
        )

    def _scrape(self, every_s: float) -> None:
        for engine_id, engine in self._engines.items():
            stats = EngineStats(
                float(engine.running), float(len(engine.waiting)), engine.running / engine.most
            )
            self.fleet.observe_stats(engine_id, stats, self._clock.now)
        self._assign()
        self._clock.at(self._clock.now + every_s, lambda: self._scrape(every_s))

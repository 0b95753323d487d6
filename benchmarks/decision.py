"""What the fleet's decisions cost: microseconds of CPU for one request, by engines and by queue.

    scripts/compiled .venv/bin/python -m benchmarks.decision [POLICY...]

Two figures for each number of engines. A request: take and finish, with its share of everything
that is done now and then. A decision: what one assignment costs while 10,000 tickets wait, whenever
an engine has finished something. The least of several rounds counts, because the machine may be
doing other things.
"""

import itertools
import sys
import time
from random import Random

from vllm_router.scheduling.balance import POLICIES
from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.work import Outcome, OutcomeKind, Ticket, Urgency

_OK = Outcome(OutcomeKind.OK)
_ROUNDS = 7
_REQUESTS = 4_000


def fleet_of(count: int, policy: str) -> Fleet:
    """Return a fleet of ready engines."""
    settings = FleetSettings(policy=policy, max_queue_audio_s=None, max_queue_wait_s=None)
    fleet = Fleet(settings, Random(1))
    ids = [EngineId(f"http://engine-{number}:8000") for number in range(count)]
    fleet.apply(Listing(tuple(EngineSpec(each, str(each), ("whisper",)) for each in ids)), 0.0)
    for each in ids:
        fleet.observe_probe(each, True, 0.1, None, False, 0.0)
    return fleet


def ticket(urgency: Urgency, now: float, number: int) -> Ticket:
    """Return a ticket of one window with one of a thousand session keys."""
    return Ticket("r", "whisper", 12.0, 1, urgency, now, f"client {number % 1000}")


def per_request_us(count: int, policy: str) -> float:
    """Return the CPU time of one request on a fleet that is not full, in microseconds."""
    fleet = fleet_of(count, policy)
    now, running = 1.0, []
    best = float("inf")
    for _ in range(_ROUNDS):
        started = time.process_time()
        for number in range(_REQUESTS):
            now += 0.002
            charge = fleet.take(ticket(Urgency.SHORT, now, number), now)
            if charge is not None:
                running.append(charge)
            if len(running) > 20:
                fleet.finish(running.pop(0), _OK, now)
        best = min(best, time.process_time() - started)
    return best / _REQUESTS * 1e6


def per_decision_us(count: int, policy: str, waiting: int = 10_000) -> float:
    """Return the CPU time of finishing one piece and assigning the next, in microseconds."""
    fleet = fleet_of(count, policy)
    now = 1.0
    numbers = itertools.count()
    running = []
    while fleet.waiting() < waiting:
        urgency = Urgency.SHORT if fleet.waiting() % 2 else Urgency.LONG
        fleet.submit(ticket(urgency, now, next(numbers)), now)
        running += [each.charge for each in fleet.assign(now) if each.charge is not None]
    best = float("inf")
    rng = Random(2)
    for _ in range(_ROUNDS):
        decisions = 0
        started = time.process_time()
        for _ in range(_REQUESTS):
            now += 0.002
            place = int(rng.random() * len(running))
            running[place], running[-1] = running[-1], running[place]
            fleet.finish(running.pop(), _OK, now)
            taken = [each.charge for each in fleet.assign(now) if each.charge is not None]
            decisions += len(taken)
            running += taken
            for _ in taken:
                fleet.submit(ticket(Urgency.LONG, now, next(numbers)), now)
        best = min(best, (time.process_time() - started) / max(1, decisions))
    return best * 1e6


def main() -> None:
    """Print the table."""
    counts = (1, 8, 1000)
    print("Microseconds of CPU.\n")
    print("| policy | " + " | ".join(f"a request, {count}" for count in counts), end=" | ")
    print(" | ".join(f"a decision, {count}, 10,000 waiting" for count in counts) + " |")
    print("| --- |" + " ---: |" * 2 * len(counts))
    for policy in sys.argv[1:] or POLICIES:
        cells = [f"{per_request_us(count, policy):.1f}" for count in counts]
        cells += [f"{per_decision_us(count, policy):.1f}" for count in counts]
        print(f"| {policy} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()

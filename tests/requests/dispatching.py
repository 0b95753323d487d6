"""A fleet whose engines answer what a test says, without sockets."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from random import Random
from typing import Any, cast

from vllm_router.requests.attempts import AttemptRunner
from vllm_router.requests.engine_wait import EngineWait
from vllm_router.scheduling.changes import Listing
from vllm_router.scheduling.engine import Engine, EngineId, EngineSpec, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.scheduling.fleet_settings import FleetSettings
from vllm_router.scheduling.work import Charge, OutcomeKind, Ticket, Urgency
from vllm_router.spool.upload import SpoolFailed
from vllm_router.upstream.answer import Answer
from vllm_router.upstream.call import CallFailed, Headers

MODEL = "whisper"

Send = Callable[[Engine], Awaitable[Answer]]


class Connection:
    """In the place of an engine's connection, which is given back once."""

    is_released = False

    def release(self) -> None:
        assert not self.is_released
        self.is_released = True


def answer(status: int = 200, body: bytes | None = b"{}", headers: Headers | None = None) -> Answer:
    """Return an answer that has come whole."""
    return Answer(cast(Any, Connection()), status, headers or [], body)


def is_given_back(given: Answer) -> bool:
    """Whether an answer's connection was given back; an answer lets go of it then."""
    return cast(Any, given)._connection is None


class Notes:
    """An observer that takes notes."""

    def __init__(self) -> None:
        self.outcomes: list[tuple[EngineId, OutcomeKind]] = []
        self.waits = 0
        self.repeats = 0
        self.hedges: list[bool] = []
        self.suspects: list[EngineId] = []
        self.transitions: list[Transition] = []

    def attempted(self, charge: Charge, outcome: OutcomeKind, seconds: float) -> None:
        self.outcomes.append((charge.engine_id, outcome))

    def waited(self, ticket: Ticket, seconds: float) -> None:
        self.waits += 1

    def repeated(self, ticket: Ticket) -> None:
        self.repeats += 1

    def hedged(self, *, is_won: bool) -> None:
        self.hedges.append(is_won)

    def suspected(self, engine_id: EngineId) -> None:
        self.suspects.append(engine_id)

    def changed(self, transition: Transition) -> None:
        self.transitions.append(transition)

    @property
    def kinds(self) -> list[OutcomeKind]:
        return [kind for _, kind in self.outcomes]


def ready_fleet(count: int, now: float | None = None, **settings: Any) -> Fleet:
    """Return a fleet of ready engines named a, b, c …"""
    at = time.monotonic() if now is None else now
    fleet = Fleet(FleetSettings(**{"policy": "roundrobin", **settings}), Random(0))
    ids = [EngineId(chr(ord("a") + number)) for number in range(count)]
    fleet.apply(Listing(tuple(EngineSpec(i, f"http://{i}", (MODEL,)) for i in ids)), at)
    for engine_id in ids:
        fleet.observe_probe(engine_id, True, 0.01, None, False, at)
    return fleet


def ready_dispatcher(
    count: int,
    notes: Notes | None = None,
    max_attempts: int = 3,
    now: Callable[[], float] = time.monotonic,
    wait_s: float = 0.0,
    **settings: Any,
) -> AttemptRunner:
    """Return a dispatcher over a fleet of ready engines."""
    fleet = ready_fleet(count, now(), **settings)
    engine_wait = EngineWait(fleet, now, wait_s)
    return AttemptRunner(fleet, now, notes or Notes(), max_attempts, engine_wait)


def ticket(audio_s: float = 3.0, **more: Any) -> Ticket:
    """Return a short piece of work."""
    model = more.pop("model", MODEL)
    return Ticket("r", model, audio_s, 1, Urgency.SHORT, time.monotonic(), **more)


def sending(*results: Answer | CallFailed | SpoolFailed) -> tuple[Send, list[EngineId]]:
    """Return what answers call after call, and the engines it was called for."""
    left = list(results)
    called: list[EngineId] = []

    async def send(engine: Engine) -> Answer:
        called.append(engine.engine_id)
        await asyncio.sleep(0)
        result = left.pop(0)
        if isinstance(result, Exception):
            raise result
        return result

    return send, called


def is_idle(dispatcher: AttemptRunner) -> bool:
    return all(not e.in_flight for e in dispatcher.fleet.engines()) and not dispatcher.slots.waiting

"""What operators see and control: engines, metrics, draining; across all worker processes if there
are several.

Does not depend on HTTP; `routes` exposes it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from vllm_router.app.siblings import Siblings
from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.observability.exposition import merge_expositions
from vllm_router.observability.inherited_counts import InheritedCounts
from vllm_router.requests.access import KeyRing
from vllm_router.scheduling.engine import Engine, EngineId, Transition
from vllm_router.scheduling.fleet import Fleet
from vllm_router.upstream.model_capabilities import ModelCapabilities

log = logging.getLogger("vllm_router")

#: Models of one engine whose capabilities are shown; adapters share their base model's.
MAX_SHOWN = 32


class DrainOrder(StrEnum):
    """An operator's order to an engine."""

    DRAIN = "drain"
    RESUME = "resume"


@dataclass(slots=True)
class Operations:
    """State and actions for operators.

    Attributes:
        fleet: The engines.
        aliases: Aliases of models.
        capabilities: Capabilities of the models' engines.
        keys: Keys that may list models.
        admin: Keys that may drain engines; if empty, those routes are closed.
        registry: The metrics.
        status: Status of discovery.
        is_draining: Whether the process is shutting down.
        now: Monotonic seconds.
        changed: Receives the transitions caused by an order.
        started_at: When the process started, in Unix seconds.
        siblings: Channel to the other worker processes; None: there are none.
        legacy: Counts of this worker's predecessors; None: there are no workers.
    """

    fleet: Fleet
    aliases: Mapping[str, str]
    capabilities: ModelCapabilities
    keys: KeyRing
    admin: KeyRing
    registry: CollectorRegistry
    status: DiscoveryStatus
    is_draining: Callable[[], bool]
    now: Callable[[], float]
    changed: Callable[[tuple[Transition, ...]], None]
    started_at: float
    siblings: Siblings | None = None
    legacy: InheritedCounts | None = None

    async def answer_sibling(self, question: dict[str, Any]) -> bytes:
        """Answer another worker's request."""
        match question.get("ask"):
            case "metrics":
                return self._own_page()
            case "engines":
                return json.dumps(self._own_views()).encode()
            case "order":
                engine_id = question.get("engine_id")
                if not isinstance(engine_id, str):
                    raise ValueError("an order names no engine")
                self._obey(DrainOrder(str(question.get("order"))), EngineId(engine_id))
        return b""

    def _own_views(self) -> list[dict[str, Any]]:
        now = self.now()
        known = {model: self.capabilities.view(model) for model in self.fleet.models()}
        views = []
        for engine in self.fleet.engines():
            models = [model for model in engine.models if known.get(model)]
            unreadable = {kind for model in models for kind in self.capabilities.unreadable(model)}
            capabilities = {model: known[model] for model in models[:MAX_SHOWN]}
            views.append(
                {
                    **engine_view(engine, now),
                    "unreadable_containers": sorted(unreadable),
                    "capabilities": capabilities,
                }
            )
        return views

    def _obey(self, order: DrainOrder, engine_id: EngineId) -> None:
        act = self.fleet.drain if order is DrainOrder.DRAIN else self.fleet.resume
        self.changed(act(engine_id, self.now()))

    async def give_order(self, order: DrainOrder, engine_id: EngineId) -> None:
        """Drain or resume an engine in every worker."""
        self._obey(order, engine_id)
        if self.siblings is not None:
            question = {"ask": "order", "order": order.value, "engine_id": engine_id}
            await self.siblings.ask_all(question)

    async def merged_metrics(self) -> bytes:
        """Return every worker's metrics as one page."""
        own = self._own_page()
        if self.siblings is None:
            return own
        pages = [own, *await self.siblings.ask_all({"ask": "metrics"})]
        # With a thousand engines it takes a second; uploads continue meanwhile.
        return await asyncio.to_thread(merge_expositions, [page.decode() for page in pages if page])

    def _own_page(self) -> bytes:
        page = generate_latest(self.registry)
        return page if self.legacy is None else self.legacy.add(page)

    async def engine_views(self) -> list[dict[str, Any]]:
        """Return all engines as `/engines` shows them, with every worker's load."""
        views = self._own_views()
        if self.siblings is None:
            return views
        by_id = {view["engine_id"]: view for view in views}
        for answer in await self.siblings.ask_all({"ask": "engines"}):
            for engine_id, load in _loads(answer).items():
                view = by_id.get(engine_id)
                if view is not None:
                    for field, value in load.items():
                        view[field] = round(view[field] + value, 3)
        return views


_SUMMED = ("in_flight", "audio_s_in_flight", "windows_in_flight")


def _loads(answer: bytes) -> dict[str, dict[str, float]]:
    """Return another worker's load on each engine; empty if its answer is unusable."""
    try:
        return {
            str(view["engine_id"]): {field: view[field] + 0 for field in _SUMMED}
            for view in json.loads(answer)
        }
    except (ValueError, LookupError, TypeError, RecursionError) as e:
        log.warning("cannot read a sibling's engines: %s", str(e)[:100])
        return {}


def engine_view(engine: Engine, now: float) -> dict[str, Any]:
    """Return an engine as `/engines` shows it."""
    probe = engine.last_probe
    stats = engine.stats
    last_probe = None
    if probe is not None:
        at = time.time() - now + probe.at
        last_probe = {"ok": probe.is_ok, "seconds": round(probe.seconds, 4), "at": round(at, 3)}
    return {
        "engine_id": engine.engine_id,
        "url": engine.spec.url,
        "models": list(engine.models),
        "label": engine.spec.label,
        "gpu": engine.spec.gpu,
        "state": engine.state.value,
        "in_flight": engine.in_flight,
        "audio_s_in_flight": round(engine.audio_s_in_flight, 3),
        "windows_in_flight": engine.windows_in_flight,
        "limit_windows": round(engine.limit, 1),
        "running": None if stats is None else stats.running,
        "waiting": None if stats is None else stats.waiting,
        "last_probe": last_probe,
        "last_error": engine.last_error,
    }

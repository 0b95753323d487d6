"""Engines from Kubernetes: the ready pods behind a label selector, or a Service's EndpointSlices.

Promises: an engine is identified by namespace, name and UID, so a pod recreated with its old name
and IP is a different engine. A pod that is terminating, unready or without an IP is withdrawn, and
so is one that a new list does not contain. While the API server is unavailable, the last known
engines stay, and the status says so.

Bounds: only the candidates of each object are kept, and at most 10,000 engines. A list of 5,000
pods of 6 KB costs 0.7 s of CPU in slices of at most 31 ms and occupies 11 MB of memory; see
kube_watch for timeouts and waits.
"""

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, Literal

from vllm_router.backoff import full_jitter
from vllm_router.discovery.kube_access import KubeAccess
from vllm_router.discovery.kube_client import KubeClient, KubeError
from vllm_router.discovery.kube_objects import Candidate, Port, Reading, read_pod
from vllm_router.discovery.kube_slices import EndpointBook, read_slice
from vllm_router.discovery.kube_watch import Altered, Collection, KubeWatch, Relisted
from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.scheduling.changes import Appeared, Change, Listing, Withdrawn
from vllm_router.scheduling.engine import EngineId, EngineSpec
from vllm_router.scheduling.engine_bounds import MAX_ENGINES

logger = logging.getLogger(__name__)

_DOUBTS_MAX = 10_000
_DOUBT_MAX_CHARS = 400

Kind = Literal["pod-ip", "endpoint-slice"]


class KubernetesDiscovery:
    """Engines of one namespace, for as long as the iterator is held.

    Args:
        access: Result of ``find_access``.
        namespace: None for the router's own.
        label_selector: As for ``kubectl -l``; of pods, or of EndpointSlices (they carry their
            Service's labels, and ``kubernetes.io/service-name=NAME``).
        port: The engine's port by number or name, unless the object specifies another.
        kind: The resource to watch.
        watch_timeout_s: Time after which a watch is reopened, 1 s or more; a dead connection is
            noticed within it.
        relist_s: Maximum time between lists, in seconds.
        clock: Monotonic seconds.
        rng: Randomness for waits.
        sleep: Waits; tests may replace it.
    """

    def __init__(
        self,
        access: KubeAccess,
        *,
        namespace: str | None = None,
        label_selector: str = "",
        port: Port = 8000,
        kind: Kind = "pod-ip",
        watch_timeout_s: float = 30.0,
        relist_s: float = 300.0,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._access = access
        self._namespace = namespace
        self._label_selector = label_selector
        self._port = port
        self._kind: Kind = kind
        self._watch_timeout_s = watch_timeout_s
        self._relist_s = relist_s
        self._clock = clock
        self._rng = rng or random.Random()  # noqa: S311 - spreads waits, guards nothing
        self._sleep = sleep
        self._book = EndpointBook()
        self._known: dict[str, EngineSpec] = {}
        self._doubted: set[str] = set()
        self.status = DiscoveryStatus("Kubernetes", clock())

    def __repr__(self) -> str:
        return f"<KubernetesDiscovery {self._kind} {self._access} engines={len(self._known)}>"

    async def changes(self) -> AsyncGenerator[Change]:
        """Yield changes forever, with a Listing first and after each new list."""
        client = KubeClient(self._access)
        try:
            collection = await self._collection(client)
            watch = KubeWatch(
                client,
                collection,
                self._read,
                self.status,
                watch_timeout_s=self._watch_timeout_s,
                relist_s=self._relist_s,
                clock=self._clock,
                rng=self._rng,
                sleep=self._sleep,
            )
            async with aclosing(watch.changes()) as news:
                async for each in news:
                    match each:
                        case Relisted(objects):
                            yield self._listing(objects)
                        case Altered(name, value):
                            for change in self._altered(name, value or Reading()):
                                yield change
        finally:
            await client.close()

    async def _collection(self, client: KubeClient) -> Collection:
        failures = 0
        namespace = self._namespace
        while namespace is None:
            try:
                namespace = await client.namespace()
            except KubeError as error:
                failures += 1
                if self.status.failed(str(error)):
                    logger.warning("%s: %s", self.status.source, error)
                await self._sleep(full_jitter(failures, self._rng, base_s=0.5, cap_s=30.0))
        resource = "pods" if self._kind == "pod-ip" else "endpointslices"
        group = "api/v1" if self._kind == "pod-ip" else "apis/discovery.k8s.io/v1"
        self.status.source = f"Kubernetes {resource} in {namespace}"
        path = f"/{group}/namespaces/{namespace}/{resource}"
        return Collection(path, resource, namespace, self._label_selector)

    def _read(self, item: Mapping[str, Any]) -> Reading:
        read = read_pod if self._kind == "pod-ip" else read_slice
        reading = read(item, self._port)
        for doubt in reading.doubts:
            self._doubt(str(item["metadata"]["name"]), doubt)
        return reading

    def _doubt(self, name: str, doubt: str) -> None:
        line = f"{name}: {doubt}"[:_DOUBT_MAX_CHARS]
        # Bounded: after this many warnings, more would not help.
        if line not in self._doubted and len(self._doubted) < _DOUBTS_MAX:
            self._doubted.add(line)
            logger.warning("%s: %s", self.status.source, line)

    def _listing(self, objects: Mapping[str, Reading]) -> Listing:
        self._book = EndpointBook()
        for name, reading in objects.items():
            self._book.put(name, reading.candidates)
        engines = self._book.engines()
        self._known = {engine.key: _spec(engine) for engine in engines[:MAX_ENGINES]}
        if len(engines) > MAX_ENGINES:
            self._doubt_count()
        return Listing(tuple(self._known.values()))

    def _doubt_count(self) -> None:
        self._doubt("the selector", f"it matches more than {MAX_ENGINES} engines; some are ignored")

    def _altered(self, name: str, reading: Reading) -> list[Change]:
        changes: list[Change] = []
        for key in self._book.put(name, reading.candidates):
            engine = self._book.engine(key)
            if engine is None:
                if self._known.pop(key, None) is not None:
                    changes.append(Withdrawn(EngineId(key)))
                continue
            if key not in self._known and len(self._known) >= MAX_ENGINES:
                self._doubt_count()
                continue
            spec = _spec(engine)
            if self._known.get(key) != spec:
                self._known[key] = spec
                changes.append(Appeared(spec))
        return changes


def _spec(engine: Candidate) -> EngineSpec:
    return EngineSpec(
        engine_id=EngineId(engine.key),
        url=engine.url,
        models=engine.models,
        label=engine.label,
        weight=engine.weight,
        gpu=engine.gpu,
    )

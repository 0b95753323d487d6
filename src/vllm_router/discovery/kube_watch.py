"""Keeps a collection of Kubernetes objects current: list, watch, list again.

Promises: the yielded changes add up to the API's state, whatever the connection does. A list is
consistent: it gives no resourceVersion, so it comes from etcd and is never older than what a watch
has already reported (resourceVersionMatch is meaningful only with a resourceVersion). It comes in
pages; if a page expires (410), one unpaged list follows, as in client-go. The watch continues from
the last version that it or a bookmark named. A lost version (410, as a status or an event) or any
other ERROR event causes a new list, and so does time (``relist_s``).

Bounds: a watch ends after ``watch_timeout_s`` on our side, and by request slightly earlier on the
server's, so a half-open connection is noticed within that time. The wait between failures has full
jitter, starts at 0.5 s and ends at 30 s. Only a watch that held resets it, so a 410 loop or a
server that drops every watch does not cause a stream of lists. Retry-After is respected up to two
minutes. Objects are reduced as they arrive, and only the result is kept.

Refuses to know: what the objects mean.
"""

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from vllm_router.backoff import full_jitter
from vllm_router.discovery.kube_client import (
    KubeAnswer,
    KubeClient,
    KubeError,
    KubeGarbled,
    KubeRefused,
    KubeSilent,
    event_refusal,
)
from vllm_router.discovery.kube_objects import MalformedObject, mapping, read_meta, text
from vllm_router.discovery.source import DiscoveryStatus

_LIST_TIMEOUT_S = 30.0
# A pod is 5 to 20 KB of JSON: a page of 100 blocks the event loop for some 10 ms, not 100.
_PAGE_LIMIT = 100
_BACKOFF_BASE_S = 0.5
_BACKOFF_CAP_S = 30.0
_RETRY_AFTER_MAX_S = 120.0
# A watch that lived this long shows that the server can hold one.
_STEADY_S = 5.0
# Some refusals would repeat forever (a version from before etcd was restored): list again then.
_FAILURES_BEFORE_LIST = 5
_PAGES_MAX = 10_000
# A 1.5 MB object may consist of a single invalid value.
_SAID_MAX_CHARS = 300
_GONE = 410

T = TypeVar("T")
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relisted(Generic[T]):
    """All objects by name; any other object is gone."""

    objects: Mapping[str, T]


@dataclass(frozen=True, slots=True)
class Altered(Generic[T]):
    """The new value of one object; None if it is gone or unreadable."""

    name: str
    value: T | None


@dataclass(frozen=True, slots=True)
class Collection:
    """The objects to watch: ``path`` ends in ``resource``, and both are in ``namespace``."""

    path: str
    resource: str
    namespace: str
    label_selector: str


class KubeWatch(Generic[T]):
    """One collection, with each object reduced to T."""

    def __init__(
        self,
        client: KubeClient,
        collection: Collection,
        reduce: Callable[[Mapping[str, Any]], T],
        status: DiscoveryStatus,
        *,
        watch_timeout_s: float,
        relist_s: float,
        clock: Callable[[], float],
        rng: random.Random,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._collection = collection
        self._reduce = reduce
        self._status = status
        self._watch_timeout_s = watch_timeout_s
        self._relist_s = relist_s
        self._clock = clock
        self._rng = rng
        self._sleep = sleep
        self._version: str | None = None
        self._relist_at = 0.0
        self._timeout_s = watch_timeout_s
        self._warned: set[str] = set()

    def __repr__(self) -> str:
        return f"<KubeWatch {self._collection.path} version={self._version}>"

    async def changes(self) -> AsyncGenerator[Relisted[T] | Altered[T]]:
        """Yield changes forever, beginning with a Relisted; failures are logged and retried."""
        failures = 0
        while True:
            error: KubeError | None = None
            watching_since: float | None = None
            try:
                if self._version is None or self._clock() >= self._relist_at:
                    yield await self._list()
                asked_at = self._clock()
                with closing(await self._open_watch()) as answer:
                    watching_since = asked_at
                    self._synced()
                    while (events := await answer.events()) is not None:
                        for event in events:
                            altered = self._digest(event)
                            if altered is not None:
                                yield altered
                        if events:
                            self._synced()
                self._synced()
            except KubeError as caught:
                error = caught
            if self._has_held(watching_since):
                failures = 0
                # Silence is either an idle collection or a dead connection: reconnect at once.
                if error is None or isinstance(error, KubeSilent):
                    continue
            failures += 1
            await self._sleep(self._wait_s(failures, error))

    def _has_held(self, watching_since: float | None) -> bool:
        if watching_since is None:
            return False
        return self._clock() - watching_since >= min(_STEADY_S, self._timeout_s / 2)

    def _wait_s(self, failures: int, error: KubeError | None) -> float:
        wait_s = full_jitter(failures, self._rng, base_s=_BACKOFF_BASE_S, cap_s=_BACKOFF_CAP_S)
        if isinstance(error, KubeRefused) and error.retry_after_s is not None:
            wait_s += min(error.retry_after_s, _RETRY_AFTER_MAX_S)
        if failures >= _FAILURES_BEFORE_LIST or (error is not None and _is_version_lost(error)):
            self._version = None
        if error is not None:
            why = self._explained(error)
            # An expired version is routine, unless lists fail too.
            is_usual = isinstance(error, KubeRefused) and error.status == _GONE
            if self._status.failed(why):
                level = logging.INFO if is_usual else logging.WARNING
                logger.log(level, "%s: %s; keeping known engines", self._status.source, why)
        return wait_s

    def _synced(self) -> None:
        self._status.synced(self._clock())
        failures = self._status.failures
        if self._status.recovered():
            logger.info("%s: current again after %d failures", self._status.source, failures)

    async def _list(self) -> Relisted[T]:
        try:
            objects, version = await self._pages(_PAGE_LIMIT)
        except KubeRefused as refused:
            if refused.status != _GONE:
                raise
            objects, version = await self._pages(None)
        self._version = version
        # The watch may still fail, but the list is current.
        self._status.synced(self._clock())
        self._relist_at = self._clock() + self._relist_s * self._rng.uniform(0.8, 1.0)
        self._warned &= objects.keys()
        return Relisted({name: value for name, value in objects.items() if value is not None})

    async def _pages(self, limit: int | None) -> tuple[dict[str, T | None], str]:
        objects: dict[str, T | None] = {}
        token: str | None = ""
        for _ in range(_PAGES_MAX):
            query = self._selection()
            if limit is not None:
                query.append(("limit", str(limit)))
            if token:
                query.append(("continue", token))
            page = await self._client.get(self._collection.path, query, _LIST_TIMEOUT_S)
            meta, items = mapping(page.get("metadata")), page.get("items")
            version = text(meta.get("resourceVersion"))
            # An empty collection may be null in JSON, because Go encodes a nil slice so.
            if not version or not isinstance(items, list | None):
                raise KubeGarbled(f"{self._collection.path}: the response is not a list of objects")
            for item in items or ():
                altered = self._reduced(item)
                if altered is not None:
                    objects[altered.name] = altered.value
            token = text(meta.get("continue"))
            if not token:
                return objects, version
        raise KubeGarbled(f"{self._collection.path}: more than {_PAGES_MAX} pages")

    async def _open_watch(self) -> KubeAnswer:
        left_s = max(1.0, self._relist_at - self._clock())
        self._timeout_s = timeout_s = min(self._watch_timeout_s, left_s)
        # The server ends first, so only a lost connection reaches our own deadline.
        server_s = max(1, int(timeout_s * self._rng.uniform(0.8, 0.9)))
        query = [
            *self._selection(),
            ("watch", "true"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", self._version or ""),
            ("timeoutSeconds", str(server_s)),
        ]
        return await self._client.watch(self._collection.path, query, timeout_s)

    def _selection(self) -> list[tuple[str, str]]:
        selector = self._collection.label_selector
        return [("labelSelector", selector)] if selector else []

    def _digest(self, event: Mapping[str, Any]) -> Altered[T] | None:
        kind, item = event.get("type"), mapping(event.get("object"))
        if kind == "ERROR":
            self._version = None
            raise event_refusal(item)
        version = text(mapping(item.get("metadata")).get("resourceVersion"))
        if version:
            self._version = version
        if kind in ("ADDED", "MODIFIED"):
            return self._reduced(item)
        if kind == "DELETED":
            altered = self._reduced(item)
            return None if altered is None else Altered(altered.name, None)
        return None

    def _reduced(self, item: Mapping[str, Any]) -> Altered[T] | None:
        name = ""
        try:
            name = read_meta(item).name
            return Altered(name, self._reduce(item))
        except MalformedObject as error:
            if name not in self._warned:
                self._warned.add(name)
                shown = name or "an object"
                said = str(error)[:_SAID_MAX_CHARS]
                logger.warning("%s: %s is skipped: %s", self._status.source, shown, said)
        return Altered(name, None) if name else None

    def _explained(self, error: KubeError) -> str:
        where = self._collection
        if not isinstance(error, KubeRefused):
            return str(error)
        if error.status == 403:
            return (
                f"{error}; a Role must allow the verbs get, list and watch on {where.resource} "
                f"in the namespace {where.namespace}"
            )
        if error.status == 401:
            return f"{error}; the API server does not accept these credentials"
        return str(error)


def _is_version_lost(error: KubeError) -> bool:
    """Return whether another request for the same version would fail again."""
    if isinstance(error, KubeGarbled):
        return True
    return (
        isinstance(error, KubeRefused)
        and error.status < 500
        and error.status not in (401, 403, 429)
    )

"""A small Kubernetes API server over a real socket: list and watch, and how they fail.

It keeps objects by collection ("pods", "endpointslices") with one resourceVersion for all, and a
log of events, so that a watch replays what it missed, and learns that it came too late (410).
"""

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]


@dataclass
class Refusal:
    status: int
    message: str = "no"
    headers: dict[str, str] = field(default_factory=dict)
    verb: str = "any"
    times: int = 1


@dataclass
class Watcher:
    resource: str
    selector: dict[str, str]
    has_bookmarks: bool
    writer: asyncio.StreamWriter
    queue: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)


class KubeApi:
    """The server; every knob is an attribute or a method; ``requests`` records what was asked."""

    def __init__(self) -> None:
        self.version = 100
        self.oldest = 0
        self.objects: dict[str, dict[str, Object]] = {"pods": {}, "endpointslices": {}}
        self.log: list[tuple[int, str, str, Object]] = []
        self.watchers: list[Watcher] = []
        self.requests: list[tuple[str, dict[str, str], dict[str, str]]] = []
        self.refusals: list[Refusal] = []
        self.list_bodies: list[Object] = []
        self.token: str | None = None
        self.are_watches_silent = False
        self.gone_by = "status"
        self.is_always_gone = False
        self.expired_tokens = 0
        self.tls: ssl.SSLContext | None = None
        self.port = 0
        self._snapshots: dict[int, list[Object]] = {}
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, asyncio.StreamReader] = {}

    # What a cluster does.

    def add(self, item: Object, resource: str = "pods") -> Object:
        return self._store("ADDED", item, resource)

    def modify(self, item: Object, resource: str = "pods") -> Object:
        return self._store("MODIFIED", item, resource)

    def delete(self, name: str, resource: str = "pods") -> None:
        item = self.objects[resource].pop(name)
        self._record("DELETED", item, resource)

    def bookmark(self) -> None:
        for watcher in self.watchers:
            if watcher.has_bookmarks:
                watcher.queue.put_nowait(self._bookmark())

    def _store(self, kind: str, item: Object, resource: str) -> Object:
        self.objects[resource][item["metadata"]["name"]] = item
        self._record(kind, item, resource)
        return item

    def _record(self, kind: str, item: Object, resource: str) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        copy = json.loads(json.dumps(item))
        self.log.append((self.version, resource, kind, copy))
        for watcher in self.watchers:
            if watcher.resource == resource and _matches(copy, watcher.selector):
                watcher.queue.put_nowait(_line(kind, copy))

    def _bookmark(self) -> bytes:
        return _line("BOOKMARK", {"metadata": {"resourceVersion": str(self.version)}})

    # What goes wrong.

    def compact(self) -> None:
        """Forget the log: a watch from before now is refused with 410."""
        self.version += 1
        self.oldest = self.version

    def drop(self) -> None:
        """Reset every connection."""
        for writer in list(self._open):
            writer.transport.abort()
        self.watchers.clear()

    def tell_watchers(self, line: bytes) -> None:
        """Send raw bytes to every watch."""
        for watcher in self.watchers:
            watcher.queue.put_nowait(line)

    def end_watches(self) -> None:
        for watcher in self.watchers:
            watcher.queue.put_nowait(None)

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, limit=2**20
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be gone: connections are reset and new ones refused, until ``start``."""
        if self._server is not None:
            self._server.close()
            self.drop()
            await self._server.wait_closed()
            self._server = None

    def lists(self) -> list[dict[str, str]]:
        return [query for _, query, _ in self.requests if "watch" not in query]

    def watches(self) -> list[dict[str, str]]:
        return [query for _, query, _ in self.requests if "watch" in query]

    @property
    def open_connections(self) -> int:
        return sum(not reader.at_eof() for reader in self._open.values())

    # HTTP.

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = reader
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                parts = urlsplit(head[0].split(" ")[1])
                query = {name: values[0] for name, values in parse_qs(parts.query).items()}
                pairs = [line.split(": ", 1) for line in head[1:] if line]
                headers = {name.lower(): value for name, value in pairs}
                self.requests.append((parts.path, query, headers))
                await self._answer(parts.path.rsplit("/", 1)[1], query, headers, writer)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            del self._open[writer]
            writer.close()

    async def _answer(
        self,
        resource: str,
        query: dict[str, str],
        headers: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> None:
        verb = "watch" if query.get("watch") == "true" else "list"
        if self.token is not None and headers.get("authorization", "").split(" ")[-1] != self.token:
            return _send(writer, 401, _status(401, "Unauthorized"))
        for refusal in self.refusals:
            if refusal.verb in ("any", verb) and refusal.times > 0:
                refusal.times -= 1
                status = _status(refusal.status, refusal.message)
                return _send(writer, refusal.status, status, refusal.headers)
        selector = dict(
            pair.split("=", 1) for pair in query.get("labelSelector", "").split(",") if pair
        )
        if verb == "watch":
            return await self._watch(resource, query, selector, writer)
        return self._list(resource, query, selector, writer)

    def _list(
        self,
        resource: str,
        query: dict[str, str],
        selector: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> None:
        if self.list_bodies:
            return _send(writer, 200, self.list_bodies.pop(0))
        start, version = 0, self.version
        if "continue" in query:
            if self.expired_tokens > 0:
                self.expired_tokens -= 1
                return _send(
                    writer, 410, _status(410, "The provided continue parameter is too old")
                )
            start, version = map(int, query["continue"].split("-"))
            found = self._snapshots[version]
        else:
            found = [item for item in self.objects[resource].values() if _matches(item, selector)]
            self._snapshots[version] = found
        limit = int(query.get("limit", "0")) or len(found) or 1
        page = found[start : start + limit]
        meta = {"resourceVersion": str(version)}
        if start + limit < len(found):
            meta["continue"] = f"{start + limit}-{version}"
        return _send(writer, 200, {"kind": "List", "metadata": meta, "items": page or None})

    async def _watch(
        self,
        resource: str,
        query: dict[str, str],
        selector: dict[str, str],
        writer: asyncio.StreamWriter,
    ) -> None:
        since = int(query["resourceVersion"])
        is_gone = self.is_always_gone or since < self.oldest
        gone = _status(410, "too old resource version")
        if is_gone and self.gone_by == "status":
            return _send(writer, 410, gone)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n")
        writer.write(b"Transfer-Encoding: chunked\r\n\r\n")
        if is_gone:
            writer.write(_chunk(_line("ERROR", gone)) + b"0\r\n\r\n")
            return None
        watcher = Watcher(resource, selector, "allowWatchBookmarks" in query, writer)
        if self.are_watches_silent:
            # Half open: nothing comes, not even the end.
            await asyncio.sleep(3600)
        for version, where, kind, item in self.log:
            if version > since and where == resource and _matches(item, selector):
                watcher.queue.put_nowait(_line(kind, item))
        self.watchers.append(watcher)
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(float(query["timeoutSeconds"])):
                    while (line := await watcher.queue.get()) is not None:
                        writer.write(_chunk(line))
                        await writer.drain()
            writer.write(_chunk(self._bookmark()) if watcher.has_bookmarks else b"")
            writer.write(b"0\r\n\r\n")
        finally:
            if watcher in self.watchers:
                self.watchers.remove(watcher)
        return None


def _matches(item: Object, selector: dict[str, str]) -> bool:
    return selector.items() <= item["metadata"].get("labels", {}).items()


def _line(kind: str, item: Object) -> bytes:
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _status(code: int, message: str) -> Object:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


def _send(
    writer: asyncio.StreamWriter, status: int, body: Object, headers: dict[str, str] | None = None
) -> None:
    data = json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + data)


@asynccontextmanager
async def kube_api() -> AsyncIterator[KubeApi]:
    api = KubeApi()
    await api.start()
    try:
        yield api
    finally:
        await api.stop()


def kubeconfig(directory: Path, api: KubeApi, user: Object | None = None, **cluster: Any) -> str:
    """Write a kubeconfig for the server and return its path."""
    scheme = "http" if api.tls is None else "https"
    # JSON is YAML.
    path = directory / "kubeconfig"
    path.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "here",
                "clusters": [
                    {
                        "name": "c",
                        "cluster": {"server": f"{scheme}://127.0.0.1:{api.port}", **cluster},
                    }
                ],
                "users": [{"name": "u", "user": user or {}}],
                "contexts": [
                    {"name": "here", "context": {"cluster": "c", "user": "u", "namespace": "voice"}}
                ],
            }
        )
    )
    return str(path)


def pod(name: str, ip: str | None = "10.0.0.1", uid: str | None = None, **more: Any) -> Object:
    """Return a running, ready pod; ``more`` replaces keys of metadata, spec or status."""
    item: Object = {
        "metadata": {
            "name": name,
            "namespace": "voice",
            "uid": uid or f"uid-{name}",
            "labels": {"app": "whisper"},
            "annotations": {},
        },
        "spec": {
            "containers": [{"name": "vllm", "ports": [{"name": "http", "containerPort": 8000}]}]
        },
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]},
    }
    if ip is not None:
        item["status"]["podIP"] = ip
    for key, value in more.items():
        item[_PART_OF[key]][key] = value
    return item


_PART_OF = {
    **dict.fromkeys(("labels", "annotations", "deletionTimestamp"), "metadata"),
    **dict.fromkeys(("containers", "initContainers", "readinessGates", "nodeSelector"), "spec"),
    **dict.fromkeys(("phase", "conditions"), "status"),
}


def endpoint_slice(name: str, *endpoints: Object, **more: Any) -> Object:
    """Return a slice of the Service ``engines``; ``more`` replaces top-level keys."""
    return {
        "metadata": {
            "name": name,
            "namespace": "voice",
            "uid": f"uid-{name}",
            "labels": {"kubernetes.io/service-name": "engines"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8000, "protocol": "TCP"}],
        "endpoints": list(endpoints),
        **more,
    }


def endpoint(pod_name: str | None, address: str, **conditions: bool) -> Object:
    """Return a slice's endpoint, with only the conditions that are given."""
    item: Object = {"addresses": [address], "conditions": conditions}
    if pod_name is not None:
        item["targetRef"] = {
            "kind": "Pod",
            "namespace": "voice",
            "name": pod_name,
            "uid": f"uid-{pod_name}",
        }
    return item

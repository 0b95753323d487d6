"""Raw JSON from the Kubernetes API: a GET, and a watch.

Uses ``kubernetes.aio`` of the official package only for what is hard to get right (kubeconfig with
exec plugins and certificates, the service account). Its typed models take 2.7 s of CPU for 5,000
pods of 6 KB, where plain JSON takes 0.7 s (kubernetes 37.0.2), and its watch responds to 410 by
requesting the same lost version again. Importing it takes 0.8 s and 43 MB, so the import happens in
a thread when a client opens, and never in a router with another discovery.

Promises: each await has a deadline; every foreign exception becomes a KubeError. Credentials are
read when the client opens and again after a 401; in a cluster, the token file is read again every
minute.
"""

import asyncio
import importlib
import json
import os
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from vllm_router.discovery.kube_access import KubeAccess
from vllm_router.discovery.kube_objects import identifier, mapping, text, whole
from vllm_router.discovery.line_cutter import LineCutter, LineTooLong
from vllm_router.discovery.regular_file import read_regular_file

# An exec plugin may query a cloud's identity service; kubectl's users see the same wait.
_OPEN_S = 30.0
_CONNECT_S = 10.0
# Enough for an unpaged list of 5,000 pods at 50 KiB; a page is far smaller.
_BODY_MAX_BYTES = 256 * 1024 * 1024
# etcd refuses objects above 1.5 MiB; as JSON inside an event, they stay well below this.
_LINE_MAX_BYTES = 8 * 1024 * 1024
_READ_BYTES = 64 * 1024
_MESSAGE_MAX_CHARS = 300
# Enough for certificates of a few hundred clusters; larger sets are usually kept in separate files.
_KUBECONFIG_MAX_BYTES = 16 * 1024 * 1024
_NAMESPACE_MAX_BYTES = 1024
# No server asks for a longer pause, and a float cannot hold every integer in JSON.
_RETRY_AFTER_MAX_S = 86_400

Query = Sequence[tuple[str, str]]


class KubeError(Exception):
    """The API server returned nothing usable; the text says why."""


class KubeSilent(KubeError):
    """A watch stayed open past its deadline without ending."""


class KubeGarbled(KubeError):
    """A response arrived, but it is not what the API returns."""


class KubeRefused(KubeError):
    """The API server refused the request.

    Attributes:
        status: HTTP status, or the code in an ERROR event of a watch.
        retry_after_s: The pause that the server asks for, in seconds, if any.
    """

    def __init__(self, status: int, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(f"HTTP {status}: {message}")
        self.status = status
        self.retry_after_s = retry_after_s


class KubeClient:
    """One identity at one API server; opened by its first request."""

    def __init__(self, access: KubeAccess) -> None:
        self._access = access
        self._client: Any = None
        self._context_namespace: str | None = None

    def __repr__(self) -> str:
        return f"<KubeClient {self._access}, {'open' if self._client else 'closed'}>"

    async def get(self, path: str, query: Query, timeout_s: float) -> Mapping[str, Any]:
        """Return the JSON object at a path.

        Raises:
            KubeRefused: The response's status is not 200.
            KubeError: No response, or not a JSON object.
        """
        with closing(await self._answer(path, query, timeout_s)) as answer:
            return await answer.json_object()

    async def watch(self, path: str, query: Query, timeout_s: float) -> "KubeAnswer":
        """Open a watch that ends after ``timeout_s``, whatever the server does.

        Returns:
            The response; the caller closes it.

        Raises:
            KubeRefused: The response's status is not 200.
            KubeError: No response.
        """
        return await self._answer(path, query, timeout_s)

    async def namespace(self) -> str:
        """Return the router's namespace: the pod's own, the context's, or ``default``.

        Raises:
            KubeError: The kubeconfig cannot be used.
        """
        if self._access.kubeconfig is None:
            path = self._access.service_account / "namespace"
            try:
                content = await asyncio.to_thread(read_regular_file, path, _NAMESPACE_MAX_BYTES)
            except OSError:
                return "default"
            return identifier(content.decode("ascii", "replace").strip()) or "default"
        await self._opened()
        return self._context_namespace or "default"

    async def close(self) -> None:
        """Close the connections; the next request opens new ones with fresh credentials."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _answer(self, path: str, query: Query, timeout_s: float) -> "KubeAnswer":
        client = await self._opened()
        aiohttp = importlib.import_module("aiohttp")
        deadline = asyncio.get_running_loop().time() + timeout_s
        host = str(client.configuration.host)
        try:
            async with asyncio.timeout_at(deadline):
                _, url, headers, _, _ = await client.param_serialize(
                    "GET",
                    path,
                    query_params=list(query),
                    header_params={"Accept": "application/json"},
                    auth_settings=["BearerToken"],
                )
                # A token file written by hand may end in a line break, which no header may contain.
                headers = {name: value.strip() for name, value in headers.items()}
                limits = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S)
                response = await client.rest_client.request(
                    "GET", url, headers=headers, _request_timeout=limits
                )
        except Exception as error:
            # The package has no common base class for errors of re-reading the token or connecting.
            raise KubeError(f"{host}: {_reason(error)}") from error
        answer = KubeAnswer(response.response, host, deadline)
        if response.status != 200:
            with closing(answer):
                refusal = await answer.refusal()
            if response.status == 401:
                await self.close()
            raise refusal
        return answer

    async def _opened(self) -> Any:
        if self._client is None:
            try:
                async with asyncio.timeout(_OPEN_S):
                    self._client = await self._load()
            except Exception as error:
                # The package raises arbitrary errors for an invalid file.
                raise KubeError(f"{self._access} cannot be used: {_reason(error)}") from error
        return self._client

    async def _load(self) -> Any:
        client = await asyncio.to_thread(importlib.import_module, "kubernetes.aio.client")
        configuration = client.Configuration()
        access = self._access
        if access.kubeconfig is None:
            in_cluster = importlib.import_module("kubernetes.aio.config.incluster_config")
            in_cluster.InClusterConfigLoader(
                token_filename=str(access.service_account / "token"),
                cert_filename=str(access.service_account / "ca.crt"),
                environ=access.environ,
            ).load_and_set(configuration)
        else:
            # The package opens anything with that name, and on the event loop.
            await asyncio.to_thread(_require_readable, access.kubeconfig)
            config = importlib.import_module("kubernetes.aio.config")
            loader = await config.load_kube_config(
                config_file=access.kubeconfig,
                context=access.context,
                client_configuration=configuration,
                # A router reads its user's kubeconfig but never writes to it.
                persist_config=False,
            )
            context = mapping(mapping(loader.current_context).get("context"))
            self._context_namespace = identifier(context.get("namespace"))
        opened = client.ApiClient(configuration)
        opened.user_agent = "vllm-whisper-router"
        return opened


class KubeAnswer:
    """A response being read; ``close`` may be called at any time, and twice."""

    def __init__(self, response: Any, host: str, deadline: float) -> None:
        self._response = response
        self._host = host
        self._deadline = deadline
        self._lines = LineCutter(_LINE_MAX_BYTES)

    def close(self) -> None:
        """Stop reading; a connection with an unfinished response is not reused."""
        self._response.close()

    async def json_object(self) -> Mapping[str, Any]:
        """Read the whole response as one JSON object.

        Raises:
            KubeError: It broke off, was too slow or too large, or is not a JSON object.
        """
        pieces: list[bytes] = []
        size_bytes = 0
        while piece := await self._piece():
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > _BODY_MAX_BYTES:
                raise KubeGarbled(f"{self._host}: a response exceeds {_BODY_MAX_BYTES} bytes")
        return self._parsed(b"".join(pieces))

    async def events(self) -> list[Mapping[str, Any]] | None:
        """Return the watch's next events, possibly none; None at its end.

        Raises:
            KubeSilent: The deadline passed.
            KubeError: It broke off, or did not consist of lines of JSON objects.
        """
        try:
            piece = await self._piece()
            lines = self._lines.feed(piece)
        except LineTooLong as error:
            raise KubeGarbled(f"{self._host}: {error}") from None
        # Many chunks may be buffered already: let other tasks run between them.
        await asyncio.sleep(0)
        return [self._parsed(line) for line in lines] if piece else None

    async def refusal(self) -> KubeRefused:
        """Read the error in a response with an error status."""
        try:
            status = await self.json_object()
        except KubeError:
            status = {}
        said = text(status.get("message")) or str(self._response.reason)
        asked = self._response.headers.get("Retry-After", "")
        wait_s = int(asked[:9]) if asked.isascii() and asked.isdigit() else None
        return KubeRefused(self._response.status, said[:_MESSAGE_MAX_CHARS], _bounded_s(wait_s))

    async def _piece(self) -> bytes:
        try:
            async with asyncio.timeout_at(self._deadline):
                return bytes(await self._response.content.read(_READ_BYTES))
        except TimeoutError as error:
            raise KubeSilent(f"{self._host}: no data before the deadline") from error
        except (importlib.import_module("aiohttp").ClientError, OSError) as error:
            raise KubeError(f"{self._host}: {_reason(error)}") from error

    def _parsed(self, data: bytes) -> Mapping[str, Any]:
        try:
            value = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise KubeGarbled(f"{self._host}: the response is not JSON: {_reason(error)}") from None
        if not isinstance(value, dict):
            raise KubeGarbled(f"{self._host}: the response is not a JSON object")
        return value


def event_refusal(status: Mapping[str, Any]) -> KubeRefused:
    """Return the error that a watch's ERROR event carries."""
    said = text(status.get("message")) or text(status.get("reason")) or "an ERROR event"
    details = mapping(status.get("details"))
    code = whole(status.get("code"))
    return KubeRefused(
        code if code is not None and 100 <= code <= 999 else 500,
        said[:_MESSAGE_MAX_CHARS],
        _bounded_s(whole(details.get("retryAfterSeconds"))),
    )


def _bounded_s(seconds: int | None) -> float | None:
    return None if seconds is None else float(min(max(seconds, 0), _RETRY_AFTER_MAX_S))


def _require_readable(kubeconfig: str) -> None:
    for each in kubeconfig.split(os.pathsep):
        path = Path(each).expanduser()
        # Some of several may be missing: the package skips them, as kubectl does.
        if each and path.exists():
            read_regular_file(path, _KUBECONFIG_MAX_BYTES)


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    said = " ".join(str(error).split())[:_MESSAGE_MAX_CHARS]
    return said or type(error).__name__

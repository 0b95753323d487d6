"""Queries to an engine: probes, models and metrics. Each call has a deadline.

Consecutive queries to one engine share a connection. Transcribing a short silence is the more
reliable probe: `/health` answers even while an engine hangs. The fleet decides what follows from a
result.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import NamedTuple

from vllm_router.audio.wav import silence
from vllm_router.scheduling.engine_bounds import are_models
from vllm_router.scheduling.engine_metrics import BadExposition, EngineStats, read_engine_stats
from vllm_router.upstream.answer import Answer, denial
from vllm_router.upstream.call import (
    BytesBody,
    CallFailed,
    CallTimedOut,
    Deadlines,
    Headers,
)
from vllm_router.upstream.http_client import HttpClient
from vllm_router.upstream.origin import Origins
from vllm_router.upstream.time_limit import TimeLimit

#: Long enough for one window of encoder work, short enough to cost almost nothing.
PROBE_S = 0.1
#: A metrics page has some 100 KB; the bound protects the router's memory.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: A model takes less than 1 KB in this list, including adapters and permissions.
MAX_MODELS_BYTES = 1024 * 1024
_BOUNDARY = b"vllm-router-probe-5b1f0c1d"


@dataclass(frozen=True, slots=True)
class Probe:
    """The result of a probe.

    Attributes:
        error: One sentence; None if the engine is healthy.
        is_timeout: Whether it timed out, which a busy engine may do.
        is_denied: Whether the engine denied the router access, because of its key or its address.
    """

    error: str | None
    is_timeout: bool = False
    is_denied: bool = False


class ModelList(NamedTuple):
    """An engine's list of models.

    Attributes:
        names: Names of the models.
        max_model_lens: Context lengths in tokens by name, if reported.
    """

    names: tuple[str, ...]
    max_model_lens: dict[str, int]


class Denied(CallFailed):
    """The engine denied the router access."""


class EngineInquiry:
    """Queries engines.

    Args:
        client: Makes the calls; a separate client, so that uploads never wait behind queries.
        engine_key: The key that engines require.
        timeout_s: Deadline per query.
    """

    def __init__(self, client: HttpClient, engine_key: str | None, timeout_s: float) -> None:
        self._client = client
        self._timeout_s = timeout_s
        self._deadlines = Deadlines(timeout_s, timeout_s, timeout_s)
        self._silence = silence(PROBE_S)
        self._origins = Origins()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._headers: Headers = []
        if engine_key is not None:
            self._headers.append((b"authorization", b"Bearer " + engine_key.encode()))

    async def _ask(
        self,
        url: str,
        method: bytes,
        path: bytes,
        body: bytes = b"",
        most_bytes: int = MAX_ANSWER_BYTES,
    ) -> Answer:
        headers = self._headers
        if body:
            kind = b"multipart/form-data; boundary=" + _BOUNDARY
            headers = [*headers, (b"content-type", kind)]
        # Before Python 3.12, looking up the running loop costs a system call.
        loop = self._loop = self._loop or asyncio.get_running_loop()
        try:
            with TimeLimit(loop, self._timeout_s):
                answer = await self._client.call(
                    self._origins.of(url),
                    method,
                    path,
                    headers,
                    BytesBody(body),
                    self._deadlines,
                    whole_bytes=most_bytes,
                )
        except TimeoutError as e:
            raise CallTimedOut(f"no answer within {self._timeout_s:g} s") from e
        answer.close()
        if answer.body is None or len(answer.body) > most_bytes:
            raise CallFailed("the response is too large")
        return answer

    async def health(self, url: str) -> Probe:
        """Query /health."""
        return await self._probe(url, b"GET", b"/health", b"")

    async def transcribe_silence(self, url: str, model: str) -> Probe:
        """Have the engine transcribe a tenth of a second of silence."""
        body = _form({"model": model, "response_format": "json", "temperature": "0"}, self._silence)
        return await self._probe(url, b"POST", b"/v1/audio/transcriptions", body)

    async def _probe(self, url: str, method: bytes, path: bytes, body: bytes) -> Probe:
        try:
            answer = await self._ask(url, method, path, body)
        except CallTimedOut as e:
            return Probe(str(e), is_timeout=True)
        except CallFailed as e:
            return Probe(str(e))
        why = denial(answer.status)
        if why is not None:
            return Probe(f"it answered {answer.status}: {why}", is_denied=True)
        if answer.status != 200:
            return Probe(f"it answered {answer.status} to {path.decode()}")
        return Probe(None)

    async def models(self, url: str) -> ModelList:
        """Return the models that an engine lists.

        Raises:
            Denied: The engine denied the router access.
            CallFailed: It gave no valid list.
        """
        answer = await self._ask(url, b"GET", b"/v1/models", most_bytes=MAX_MODELS_BYTES)
        why = denial(answer.status)
        if why is not None:
            raise Denied(f"it answered {answer.status} to /v1/models: {why}")
        if answer.status != 200 or answer.body is None:
            raise CallFailed(f"it answered {answer.status} to /v1/models")
        return read_models(answer.body)

    async def access(self, url: str) -> Probe:
        """Check whether an engine, whose models are already known, grants the router access.

        `/health` needs no key. Other problems with the list of models are ignored.
        """
        try:
            answer = await self._ask(url, b"GET", b"/v1/models", most_bytes=MAX_MODELS_BYTES)
        except CallFailed as e:
            return Probe(str(e), is_timeout=isinstance(e, CallTimedOut))
        why = denial(answer.status)
        if why is None:
            return Probe(None)
        return Probe(f"it answered {answer.status} to /v1/models: {why}", is_denied=True)

    async def stats(self, url: str) -> EngineStats:
        """Return an engine's load from its /metrics.

        Raises:
            CallFailed: It gave no valid metrics.
        """
        answer = await self._ask(url, b"GET", b"/metrics")
        if answer.status != 200 or answer.body is None:
            raise CallFailed(f"it answered {answer.status} to /metrics")
        try:
            return read_engine_stats(answer.body)
        except BadExposition as e:
            raise CallFailed(f"its /metrics cannot be read: {e}") from e


def read_models(body: bytes) -> ModelList:
    """Parse an OpenAI list of models.

    Raises:
        CallFailed: It is not such a list, or an unreasonable one.
    """
    try:
        listed = json.loads(body)["data"]
        names = tuple(dict.fromkeys(item["id"] for item in listed))
        lengths = {item["id"]: item.get("max_model_len") for item in listed}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        raise CallFailed("its /v1/models is not a list of models") from e
    if not are_models(names):
        raise CallFailed("its /v1/models is not a reasonable list of models")
    # A bool is an int, but it has no meaning here.
    return ModelList(names, {n: v for n, v in lengths.items() if type(v) is int and 0 < v < 2**53})


def _form(fields: dict[str, str], audio: bytes) -> bytes:
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n'
        % (_BOUNDARY, name.encode(), value.encode())
        for name, value in fields.items()
    ]
    head = b'--%b\r\nContent-Disposition: form-data; name="file"; filename="silence.wav"\r\n'
    parts += [head % _BOUNDARY, b"Content-Type: audio/wav\r\n\r\n", audio]
    parts.append(b"\r\n--%b--\r\n" % _BOUNDARY)
    return b"".join(parts)

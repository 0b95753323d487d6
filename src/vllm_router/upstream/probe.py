"""Asking an engine how it is: a probe, its models, its metrics. Each call has a deadline.

What is asked of an engine at once, one question after the other, goes over one connection.
A probe that transcribes a short silence is the honest one: `/health` answers while an engine hangs.
What follows from an answer is the fleet's business.
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

#: Long enough to be a window's worth of encoder work, short enough to cost next to nothing.
PROBE_S = 0.1
#: A metrics page has some 100 KB. An engine may not fill our memory.
MAX_ANSWER_BYTES = 4 * 1024 * 1024
#: A model takes less than 1 KB there, with its adapters and permissions.
MAX_MODELS_BYTES = 1024 * 1024
_BOUNDARY = b"vllm-router-probe-5b1f0c1d"


@dataclass(frozen=True, slots=True)
class Probe:
    """How a probe went.

    Attributes:
        error: One sentence, or None if the engine is well.
        is_timeout: Whether it failed for being slow, which a busy engine may be.
        is_denied: Whether the engine does not let the router in, by its key or by its address.
    """

    error: str | None
    is_timeout: bool = False
    is_denied: bool = False


class ModelList(NamedTuple):
    """What an engine says of its models.

    Attributes:
        names: Theirs.
        max_model_lens: The tokens of their contexts, by name; of those that it tells of.
    """

    names: tuple[str, ...]
    max_model_lens: dict[str, int]


class Denied(CallFailed):
    """The engine does not let the router in."""


class EngineInquiry:
    """Asks engines.

    Args:
        client: Makes the calls; its own, so that uploads never wait behind questions.
        engine_key: The key that engines ask for.
        timeout_s: Deadline of each question.
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
        # To ask which loop runs is a system call before Python 3.12.
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
            raise CallFailed("the answer is too large")
        return answer

    async def health(self, url: str) -> Probe:
        """Ask for /health."""
        return await self._probe(url, b"GET", b"/health", b"")

    async def transcribe_silence(self, url: str, model: str) -> Probe:
        """Let the engine transcribe a tenth of a second of silence."""
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
        """Return the models that an engine says it serves.

        Raises:
            Denied: It does not let the router in.
            CallFailed: It does not say.
        """
        answer = await self._ask(url, b"GET", b"/v1/models", most_bytes=MAX_MODELS_BYTES)
        why = denial(answer.status)
        if why is not None:
            raise Denied(f"it answered {answer.status} to /v1/models: {why}")
        if answer.status != 200 or answer.body is None:
            raise CallFailed(f"it answered {answer.status} to /v1/models")
        return read_models(answer.body)

    async def access(self, url: str) -> Probe:
        """Find out whether an engine lets the router in, where its models are known anyway.

        `/health` needs no key. What else is wrong with the list of models is not looked at.
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
        """Return an engine's load, from its /metrics.

        Raises:
            CallFailed: It does not tell.
        """
        answer = await self._ask(url, b"GET", b"/metrics")
        if answer.status != 200 or answer.body is None:
            raise CallFailed(f"it answered {answer.status} to /metrics")
        try:
            return read_engine_stats(answer.body)
        except BadExposition as e:
            raise CallFailed(f"its /metrics cannot be read: {e}") from e


def read_models(body: bytes) -> ModelList:
    """Return what an OpenAI list of models says.

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
    # A bool is an int, and means nothing here.
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

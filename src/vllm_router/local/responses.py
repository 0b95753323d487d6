"""The bodies and stream events of vLLM 0.32's audio API.

Pure: values in, bodies and events out. vLLM's habits: `text` is answered with JSON, translations
have no usage, `no_speech_prob` is null, segment ids restart in each chunk, and `seek` is the
chunk's start in seconds.
"""

import json
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

# The release whose API this is.
VLLM_VERSION = "0.32.0"


@dataclass(frozen=True, slots=True)
class ResponseSegment:
    """A transcribed segment; times in seconds from the start of its chunk."""

    start_s: float
    end_s: float
    text: str
    tokens: tuple[int, ...] = ()
    avg_logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """The transcript of at most 30 s of audio.

    `segments` is empty unless timestamps were requested.
    """

    start_s: float
    text: str
    segments: tuple[ResponseSegment, ...]
    token_count: int


def to_json(task: str, text: str, duration_s: float) -> dict[str, object]:
    """Return the body for `json` and `text`; only transcriptions have usage."""
    if task == "translate":
        return {"text": text}
    return {"text": text, "usage": {"type": "duration", "seconds": math.ceil(duration_s)}}


def to_verbose_json(
    chunks: Sequence[Chunk], language: str, duration_s: float, temperature: float
) -> dict[str, object]:
    """Return the body for `verbose_json`."""
    segments = [
        {
            "id": index,
            "seek": int(chunk.start_s),
            "start": round(chunk.start_s + segment.start_s, 4),
            "end": round(chunk.start_s + segment.end_s, 4),
            "text": segment.text,
            "tokens": list(segment.tokens),
            "temperature": temperature,
            "avg_logprob": segment.avg_logprob,
            "compression_ratio": compression_ratio(segment.text),
            "no_speech_prob": None,
        }
        for chunk in chunks
        for index, segment in enumerate(chunk.segments)
    ]
    return {
        "duration": duration_s,
        "language": language,
        "text": " ".join(segment.text for chunk in chunks for segment in chunk.segments),
        "segments": segments,
    }


def compression_ratio(text: str) -> float:
    """Return the ratio by which zlib shortens a text; above 2.4 the text repeats itself."""
    data = text.encode()
    return len(data) / len(zlib.compress(data))


@dataclass(frozen=True, slots=True)
class StreamEvents:
    """Server-sent events of one streamed response.

    Args:
        stream_id: `id` of each event.
        task: transcribe or translate.
        model: The name that the client gave.
        created: Unix time in seconds.
    """

    stream_id: str
    task: str
    model: str
    created: int

    def delta(self, content: str, usage: dict[str, int] | None = None) -> bytes:
        """Return an event with the next words."""
        return self._event([{"delta": {"content": content}}], usage)

    def end_of_chunk(self, usage: dict[str, int] | None = None) -> bytes:
        """Return the event that ends each chunk."""
        choice: dict[str, object] = {
            "delta": {"content": ""},
            "finish_reason": "stop",
            "stop_reason": None,
        }
        return self._event([choice], usage)

    def usage(self, usage: dict[str, int]) -> bytes:
        """Return the last event, which `stream_include_usage` requests."""
        return self._event([], usage)

    def _event(self, choices: list[dict[str, object]], usage: dict[str, int] | None) -> bytes:
        kind = "transcription.chunk" if self.task == "transcribe" else "translation.chunk"
        value: dict[str, object] = {
            "id": self.stream_id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        }
        if usage is not None:
            value["usage"] = usage
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        return f"data: {text}\n\n".encode()


DONE = b"data: [DONE]\n\n"


def error_event(body: dict[str, object]) -> bytes:
    """Return the event that reports an error in a stream."""
    return f"data: {json.dumps(body)}\n\n".encode()


def usage_of(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """Return vLLM's UsageInfo."""
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def models_body(names: Sequence[str], created: int) -> dict[str, object]:
    """Return the body of /v1/models."""
    data: list[dict[str, object]] = [
        {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "vllm",
            "root": name,
            "parent": None,
            "max_model_len": 448,
            "permission": [],
        }
        for name in names
    ]
    return {"object": "list", "data": data}

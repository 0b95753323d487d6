"""Translates an engine's event stream to OpenAI's.

Promises: the deltas of a stream, joined, are the text of its last event, even if a second engine
replaced a failed one; whether the stream was complete is reported truthfully.

Bounds: the parser bounds the engine's events (sse.py); the text of a stream is kept for its last
event.

Refuses to know: bytes on the wire, time, and the causes of failures: it forwards the engine's own
messages.
"""

from collections.abc import Mapping
from enum import Enum

from vllm_router.formats.engine_error import plain_sentence
from vllm_router.formats.json_text import BadJson, JsonObject, JsonValue, read_object
from vllm_router.formats.sse import MAX_EVENT_BYTES, EventReader, EventTooLarge
from vllm_router.formats.transcript import duration_usage, separator
from vllm_router.formats.usage_seconds import usage_in


def delta_event(delta: str) -> JsonObject:
    """Return OpenAI's event for a text delta."""
    return {"type": "transcript.text.delta", "delta": delta}


def done_event(text: str, usage: JsonObject | None = None) -> JsonObject:
    """Return OpenAI's last event: the whole text, and usage if known."""
    event: dict[str, JsonValue] = {"type": "transcript.text.done", "text": text}
    if usage is not None:
        event["usage"] = usage
    return event


def with_warning(event: JsonObject, warning: str | None) -> JsonObject:
    """Return a stream's last event with a warning about the audio file; None adds nothing.

    Clients do not know this field: the official ones keep it, others ignore it.
    """
    return event if warning is None else {**event, "warning": warning}


def segment_event(segment_id: int, start_s: float, end_s: float, text: str) -> JsonObject:
    """Return OpenAI's event for a finished segment; its id is a string."""
    return {
        "type": "transcript.text.segment",
        "id": str(segment_id),
        "start": start_s,
        "end": end_s,
        "text": text,
    }


def error_event(
    message: str,
    kind: str = "server_error",
    param: str | None = None,
    code: str | int | None = None,
) -> JsonObject:
    """Return the event that both official clients raise as an API error."""
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def engine_chunk(
    delta: str,
    *,
    request_id: str,
    model: str,
    created: int,
    task: str = "transcribe",
    finish_reason: str | None = None,
) -> JsonObject:
    """Return vLLM's own event for a text delta, for clients that expect it.

    Args:
        delta: The text.
        request_id: Without the task that vLLM prepends.
        model: As named by the client.
        created: Seconds since 1970.
        task: "transcribe" or "translate".
        finish_reason: "stop" in the last chunk.
    """
    choice: dict[str, JsonValue] = {"delta": {"content": delta}}
    if finish_reason is not None:
        choice["finish_reason"] = finish_reason
    return {
        "id": f"{task}-{request_id}",
        "object": "translation.chunk" if task == "translate" else "transcription.chunk",
        "created": created,
        "model": model,
        "choices": [choice],
    }


_HEARD_OTHERWISE = "The engine failed mid-stream, and the replacement engine's transcript diverged."


class StreamState(Enum):
    """The known state of an engine's stream."""

    OPEN = "open"
    """In progress or broken off: only the caller knows whether more bytes will come."""
    COMPLETE = "complete"
    """The engine reported the end."""
    FAILED = "failed"
    """The engine sent an error or an invalid event."""


class ChunkTranslator:
    """Translates vLLM's stream of `transcription.chunk` to OpenAI's events.

    Events of an engine that sends OpenAI's events itself pass through. Comments and other objects
    are dropped.
    """

    __slots__ = ("_audio_s", "_chunk_ended", "_parts", "_reader", "_state", "_told", "_usage")

    def __init__(
        self,
        audio_s: float | None = None,
        max_event_bytes: int = MAX_EVENT_BYTES,
        told: str = "",
    ) -> None:
        """Start a stream.

        Args:
            audio_s: The audio's length, for the usage in the last event, unless the engine counts
                tokens itself.
            max_event_bytes: Maximum size of an engine's event.
            told: Text that the client already has from another engine's stream of the same audio.
                It is not sent again; if this engine's transcript differs, the stream fails.
        """
        self._told = told
        self._reader = EventReader(max_event_bytes)
        self._audio_s = audio_s
        self._usage: JsonObject | None = None
        self._parts: list[str] = []
        self._chunk_ended = False
        self._state = StreamState.OPEN

    @property
    def state(self) -> StreamState:
        """The state of the stream."""
        return self._state

    @property
    def text(self) -> str:
        """The engine's deltas so far, joined."""
        return "".join(self._parts)

    @property
    def told(self) -> str:
        """The text that the client has so far, including this stream's deltas."""
        text = self.text
        return text if len(text) > len(self._told) else self._told

    def feed(self, chunk: bytes) -> list[JsonObject]:
        """Take the next bytes and return the events to send; none after the last one."""
        if self._state is not StreamState.OPEN:
            return []
        try:
            events = self._reader.feed(chunk)
        except EventTooLarge as error:
            return [self._fail(str(error))]
        out: list[JsonObject] = []
        for event in events:
            translated = self._translate(event.data)
            if translated is not None:
                out.append(translated)
            if self._state is not StreamState.OPEN:
                break
        return out

    def feed_whole(self, text: str, usage: JsonObject | None = None) -> list[JsonObject]:
        """Take the whole text at once, from an engine that does not stream; return all events.

        Args:
            text: The transcript, without a leading space.
            usage: The engine's usage; None derives it from the audio's length.
        """
        self._usage = usage or self._usage
        delta = self._delta(text) if text else None
        out = [] if delta is None else [delta]
        if self._state is StreamState.OPEN:
            out.append(self._complete(done_event(self.text, self._final_usage())))
        return out

    def _translate(self, data: str) -> JsonObject | None:
        if data.strip() == "[DONE]":
            return self._complete(done_event(self.text, self._final_usage()))
        try:
            message = read_object(data)
        except BadJson:
            return self._fail("The engine's stream contains an event that is not JSON.")
        if message.get("error") or message.get("object") == "error":
            self._state = StreamState.FAILED
            return _as_error_event(message)
        kind = message.get("type")
        if isinstance(kind, str) and kind.startswith("transcript.text."):
            return self._pass_through(kind, message)
        usage = message.get("usage")
        if isinstance(usage, Mapping):
            self._usage = _token_usage(usage) or self._usage
        return self._next_delta(message)

    def _pass_through(self, kind: str, message: JsonObject) -> JsonObject | None:
        delta = message.get("delta")
        if kind == "transcript.text.delta" and isinstance(delta, str):
            event = self._delta(delta if self.text else delta.lstrip())
            # Including the engine's other fields, unless a part of the text is withheld.
            return message if event == delta_event(delta) else event
        if kind == "transcript.text.done":
            text = message.get("text")
            if isinstance(text, str) and text[:1].isspace():
                message = {**message, "text": text.lstrip()}
            usage = usage_in(message)
            return self._complete(message if usage is None else {**message, "usage": usage})
        return message

    def _complete(self, last: JsonObject) -> JsonObject:
        """Return a stream's last event, unless the engine has less text than the client."""
        if len(self.text) < len(self._told):
            return self._fail(_HEARD_OTHERWISE, "engine_failed")
        self._state = StreamState.COMPLETE
        return last

    def _delta(self, content: str) -> JsonObject | None:
        """Take a text delta, and return the event for its part that the client lacks."""
        at = len(self.text) if self._told else 0
        self._parts.append(content)
        known = self._told[at : at + len(content)]
        if not content.startswith(known):
            return self._fail(_HEARD_OTHERWISE, "engine_failed")
        return delta_event(content[len(known) :]) if len(content) > len(known) else None

    def _next_delta(self, message: JsonObject) -> JsonObject | None:
        content, is_end = _choice(message)
        if not self._parts:
            # Whisper's first token includes the space before the first word.
            content = content.lstrip()
        elif self._chunk_ended and content:
            content = separator(self._parts[-1], content) + content
        if content:
            self._chunk_ended = False
        # The engine continues after a finish_reason: one is sent for each 30 s of audio.
        self._chunk_ended = self._chunk_ended or is_end
        return self._delta(content) if content else None

    def _final_usage(self) -> JsonObject | None:
        return self._usage or duration_usage(self._audio_s)

    def _fail(self, message: str, code: str = "bad_engine_stream") -> JsonObject:
        self._state = StreamState.FAILED
        return error_event(message, code=code)


def _choice(message: JsonObject) -> tuple[str, bool]:
    """Return the first choice's text and whether the engine ended a chunk with it."""
    choices = message.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, Mapping):
        return "", False
    delta = first.get("delta")
    content = delta.get("content") if isinstance(delta, Mapping) else None
    return content if isinstance(content, str) else "", bool(first.get("finish_reason"))


def _token_usage(usage: JsonObject) -> JsonObject | None:
    given, made = usage.get("prompt_tokens"), usage.get("completion_tokens")
    if not isinstance(given, int) or not isinstance(made, int):
        return None
    return {
        "type": "tokens",
        "input_tokens": given,
        "output_tokens": made,
        "total_tokens": given + made,
    }


def _as_error_event(message: JsonObject) -> JsonObject:
    """Return the engine's error in OpenAI's format; old releases send it without a wrapper."""
    error = message.get("error", message)
    if not isinstance(error, Mapping):
        words = plain_sentence(error) if isinstance(error, str) else None
        return error_event(words or "The engine reported an error.")
    text, kind = error.get("message"), error.get("type")
    param, code = error.get("param"), error.get("code")
    return error_event(
        text if isinstance(text, str) and text else "The engine reported an error.",
        kind if isinstance(kind, str) and kind else "server_error",
        param if isinstance(param, str) else None,
        code if isinstance(code, (str, int)) else None,
    )

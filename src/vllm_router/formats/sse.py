"""Server-sent events: parsed as they arrive, and written.

Promises: the parser follows the WHATWG event-stream rules (LF, CRLF and CR end lines, comments,
data of several lines, one byte order mark, an unfinished last event is dropped) and returns the
same events however the bytes are cut.

Bounds: an event, comment or line may have `max_event_bytes`. The `retry` field is ignored.

Refuses to know: sockets, time (callers that want keep-alives send `comment()` when idle), and the
meaning of events (stream_events.py).
"""

import re
from dataclasses import dataclass
from typing import Final

from vllm_router.formats.json_text import JsonObject, write_object

# vLLM's chunks have about 200 bytes. An event with the transcript of an hour has about 60 KB.
MAX_EVENT_BYTES = 1024 * 1024

DONE: Final = b"data: [DONE]\n\n"
CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"

_LINE_END = re.compile(rb"\r\n|\n|\r")
_TEXT_LINE_END = re.compile(r"\r\n|\n|\r")
_BLANK_LINES: Final = (b"\n\n", b"\r\n\r\n", b"\r\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class EventTooLarge(ValueError):
    """One event or line of the stream exceeds the bound."""


@dataclass(frozen=True, slots=True)
class Event:
    """One dispatched event.

    Attributes:
        data: The data lines, joined by newlines.
        name: The `event` field; "message" if absent.
        last_id: The stream's last `id` so far; "" if there was none.
    """

    data: str
    name: str = "message"
    last_id: str = ""


class EventReader:
    """A parser: bytes in, events out."""

    __slots__ = (
        "_data",
        "_data_bytes",
        "_is_first_line",
        "_last_id",
        "_limit",
        "_line",
        "_name",
        "_skips_newline",
    )

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._line = bytearray()
        self._data: list[str] = []
        self._data_bytes = 0
        self._name = ""
        self._last_id = ""
        self._is_first_line = True
        self._skips_newline = False

    @property
    def is_mid_event(self) -> bool:
        """Whether an event has begun that no blank line has ended yet."""
        return bool(self._line or self._data)

    def feed(self, chunk: bytes) -> list[Event]:
        """Take the next bytes and return the events that they complete.

        Raises:
            EventTooLarge: The event being parsed exceeds the bound; the parser is no longer usable.
        """
        if self._skips_newline and chunk:
            # A CR has already ended the line; it may have been the first half of CRLF.
            self._skips_newline = False
            chunk = chunk.removeprefix(b"\n")
        *complete, rest = _LINE_END.split(chunk)
        events: list[Event] = []
        for part in complete:
            self._extend(part)
            line = bytes(self._line)
            self._line.clear()
            event = self._take_line(line)
            if event is not None:
                events.append(event)
        self._extend(rest)
        if chunk.endswith(b"\r"):
            self._skips_newline = True
        return events

    def _extend(self, part: bytes) -> None:
        self._line += part
        if len(self._line) + self._data_bytes > self._limit:
            raise EventTooLarge(f"an event of the stream has over {self._limit} bytes")

    def _take_line(self, line: bytes) -> Event | None:
        if self._is_first_line:
            self._is_first_line = False
            line = line.removeprefix(_BYTE_ORDER_MARK)
        if not line:
            return self._dispatch()
        field, _, raw = line.partition(b":")
        value = raw.removeprefix(b" ").decode("utf-8", "replace")
        if field == b"data":
            self._data.append(value)
            # The line end counts, so that a flood of empty lines is bounded too.
            self._data_bytes += len(raw) + 1
        elif field == b"event":
            self._name = value
        elif field == b"id" and "\0" not in value:
            self._last_id = value
        return None

    def _dispatch(self) -> Event | None:
        data, name = self._data, self._name
        self._data, self._data_bytes, self._name = [], 0, ""
        if not data:
            return None
        return Event("\n".join(data), name or "message", self._last_id)


def complete_bytes(data: bytes) -> int:
    """Return how many bytes of a stream's beginning are complete events with their blank lines.

    For callers that forward events as bytes: after these bytes, they may insert their own event.
    """
    return max((data.rfind(end) + len(end) for end in _BLANK_LINES if end in data), default=0)


def encode(data: JsonObject | str, name: str | None = None) -> bytes:
    """Write one event; a JSON object takes one line, text as many `data:` lines as it has.

    Raises:
        ValueError: The name contains a line end, or a number is infinite or NaN.
    """
    if name is not None and _TEXT_LINE_END.search(name):
        raise ValueError("an event's name is one line")
    head = b"" if name is None else b"event: " + name.encode() + b"\n"
    if not isinstance(data, str):
        return head + b"data: " + write_object(data) + b"\n\n"
    lines = (line.encode("utf-8", "replace") for line in _TEXT_LINE_END.split(data))
    return head + b"".join(b"data: " + line + b"\n" for line in lines) + b"\n"


def comment(text: str = "keep-alive") -> bytes:
    """Write a comment, which parsers skip: it keeps idle connections open."""
    return b"".join(b": " + line.encode() + b"\n" for line in _TEXT_LINE_END.split(text)) + b"\n"

"""The requests that a simulated engine received, for tests to inspect.

Bounded: the oldest are forgotten.
"""

import base64
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from tests.fake_engine.exchange import Head
from tests.fake_engine.multipart import Part

CAPACITY = 4096


@dataclass(slots=True)
class LoggedRequest:
    """A request as it was received.

    `outcome` is "arriving", "answering", a status as text, "client left", or the name of the
    fault that struck; `parts` is in the order of the form. `started_at` and `ended_at` are
    the event loop's clock in seconds.
    """

    head: Head
    started_at: float
    ended_at: float | None = None
    body_bytes: int = 0
    outcome: str = "arriving"
    parts: tuple[Part, ...] = ()

    @property
    def path(self) -> str:
        """The path without its query."""
        return self.head.path

    @property
    def fields(self) -> list[tuple[str, bytes]]:
        """Names and values of the plain fields, in order."""
        return [(part.name, part.value) for part in self.parts if not part.is_file]

    @property
    def file(self) -> Part | None:
        """The first file of the form."""
        return next((part for part in self.parts if part.is_file), None)

    def header(self, name: str) -> str | None:
        """Return the first header of that name."""
        value = self.head.header(name.lower().encode("latin-1"))
        return None if value is None else value.decode("latin-1")

    def to_json(self) -> dict[str, object]:
        """Return the request for people, and for tests in other processes."""
        return {
            "method": self.head.method,
            "path": self.head.path,
            "query": self.head.query,
            "headers": [
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in self.head.headers
            ],
            "started_at": self.started_at,
            "ended_at": self.ended_at,
            "body_bytes": self.body_bytes,
            "outcome": self.outcome,
            "parts": [_part_to_json(part) for part in self.parts],
        }


def _part_to_json(part: Part) -> dict[str, object]:
    value: dict[str, object] = {
        "name": part.name,
        "filename": part.filename,
        "content_type": part.content_type,
        "size_bytes": part.size_bytes,
        "sha256": part.sha256,
    }
    if not part.is_file:
        value["value"] = part.value.decode("utf-8", "replace")
        value["value_base64"] = base64.b64encode(part.value).decode()
    return value


class RequestLog:
    """The most recent requests, oldest first."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._requests: deque[LoggedRequest] = deque(maxlen=capacity)

    def __iter__(self) -> Iterator[LoggedRequest]:
        return iter(self._requests)

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, request: LoggedRequest) -> None:
        """Add a request, which may continue to change."""
        self._requests.append(request)

    def clear(self) -> None:
        """Remove all requests."""
        self._requests.clear()

    def audio(self) -> list[LoggedRequest]:
        """Return the requests for transcriptions and translations."""
        return [one for one in self._requests if one.path.startswith("/v1/audio/")]

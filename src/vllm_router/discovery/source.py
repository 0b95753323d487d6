"""The interface of a source of engines, and its status.

A source is an async iterator of changes. It reports failures here instead of raising them, and
continues. Nothing here does I/O or reads a clock.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from vllm_router.scheduling.changes import Change


@dataclass(slots=True)
class DiscoveryStatus:
    """The status of a source; written by the source, read by metrics and ``/health``.

    Attributes:
        source: Description of the source, for display.
        started_at: Monotonic seconds.
        last_sync: When the engines were last known to be current, monotonic seconds; None if never.
        last_error: One sentence; None while there is no error.
        failures: Consecutive failures.
        is_fixed: Whether the source cannot change, so that its data does not age.
    """

    source: str
    started_at: float
    last_sync: float | None = None
    last_error: str | None = None
    failures: int = 0
    is_fixed: bool = False

    def synced(self, now: float) -> None:
        """Record that the engines are current."""
        self.last_sync = now

    def failed(self, why: str) -> bool:
        """Record a failure; return True if it is the first in a row or has a new reason."""
        is_news = self.last_error != why
        self.last_error = why
        self.failures += 1
        return is_news

    def recovered(self) -> bool:
        """Clear the error; return True if there was one."""
        is_news = self.last_error is not None
        self.last_error = None
        self.failures = 0
        return is_news

    def age_s(self, now: float) -> float:
        """Return the seconds since the last sync, or since the start if there was none."""
        if self.is_fixed:
            return 0.0
        since = self.started_at if self.last_sync is None else self.last_sync
        return max(0.0, now - since)


class Discovery(Protocol):
    """A source of engines."""

    @property
    def status(self) -> DiscoveryStatus:
        """Status of the source."""

    def changes(self) -> AsyncGenerator[Change]:
        """Yield changes; the first is a Listing. Close the iterator (``aclosing``) to stop."""

"""What every source of engines has in common: how fresh its picture is.

A source gives an async iterator of changes; it reports its troubles here instead of raising, and
goes on. Nothing here does I/O or reads a clock.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Protocol

from vllm_router.scheduling.changes import Change


@dataclass(slots=True)
class DiscoveryStatus:
    """How a source fares; written by the source, read by metrics and ``/health``.

    Attributes:
        source: What is asked, for humans.
        started_at: Monotonic seconds.
        last_sync: When the picture was last known to be current, in monotonic seconds; None: never.
        last_error: One sentence; None while all is well.
        failures: Failures in a row.
        is_fixed: The source cannot change, so its picture does not age.
    """

    source: str
    started_at: float
    last_sync: float | None = None
    last_error: str | None = None
    failures: int = 0
    is_fixed: bool = False

    def synced(self, now: float) -> None:
        """Note that the picture is current."""
        self.last_sync = now

    def failed(self, why: str) -> bool:
        """Note a failure; True if this is news: the first in a row, or another reason."""
        is_news = self.last_error != why
        self.last_error = why
        self.failures += 1
        return is_news

    def recovered(self) -> bool:
        """Note that all is well; True if it was not before."""
        is_news = self.last_error is not None
        self.last_error = None
        self.failures = 0
        return is_news

    def age_s(self, now: float) -> float:
        """Return the age of the picture in seconds; before the first one, that of the source."""
        if self.is_fixed:
            return 0.0
        since = self.started_at if self.last_sync is None else self.last_sync
        return max(0.0, now - since)


class Discovery(Protocol):
    """A source of engines."""

    @property
    def status(self) -> DiscoveryStatus:
        """How the source fares."""

    def changes(self) -> AsyncGenerator[Change]:
        """Yield changes; the first is a Listing. Close the iterator (``aclosing``) to stop."""

"""What a worker has counted outlives it: whoever takes its place goes on from there.

A sum over workers that falls when one of them dies looks to Prometheus like a restart of all, and
its rates count everything once more. So each page is left in the workers' folder when it is shown,
and its counters are the first thing that the next one in that place knows. What was counted after
the last page is lost; what was ever shown is not.
"""

from __future__ import annotations

import logging
from pathlib import Path

from vllm_router.observability.exposition import merge_expositions, only_counts

log = logging.getLogger("vllm_router")


class InheritedCounts:
    """The counts of those who were in a worker's place before.

    Args:
        folder: The workers' own.
        index: The place.
    """

    def __init__(self, folder: Path, index: int) -> None:
        self._path = folder / f"worker-{index}.metrics"
        self._left = ""
        try:
            self._left = only_counts(self._path.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as e:
            log.warning("what the last worker had counted is lost: %s", e)

    def add(self, page: bytes) -> bytes:
        """Return a page of this worker's with what was left to it, and leave that to the next."""
        if self._left:
            page = merge_expositions([page.decode(), self._left])
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(page)
            fresh.replace(self._path)
        except OSError as e:
            log.warning("a page of metrics cannot be left behind: %s", e)
        return page

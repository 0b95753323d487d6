"""Preserve a dead worker's counts: its successor continues from them.

If a sum over workers falls because one of them dies, Prometheus takes it for a restart of all, and
its rates count everything again. Each page is therefore saved in the workers' directory when it is
shown, and the successor starts from its counters. Counts after the last page are lost; counts that
were ever shown are not.
"""

from __future__ import annotations

import logging
from pathlib import Path

from vllm_router.observability.exposition import merge_expositions, only_counts

log = logging.getLogger("vllm_router")


class InheritedCounts:
    """The counts of a worker's predecessors.

    Args:
        folder: The workers' directory.
        index: The worker's number.
    """

    def __init__(self, folder: Path, index: int) -> None:
        self._path = folder / f"worker-{index}.metrics"
        self._left = ""
        try:
            self._left = only_counts(self._path.read_text())
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as e:
            log.warning("the previous worker's counts are lost: %s", e)

    def add(self, page: bytes) -> bytes:
        """Return this worker's page plus inherited counts, and save it for the successor."""
        if self._left:
            page = merge_expositions([page.decode(), self._left])
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(page)
            fresh.replace(self._path)
        except OSError as e:
            log.warning("cannot save a page of metrics: %s", e)
        return page

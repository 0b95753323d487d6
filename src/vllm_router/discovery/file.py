"""Engines from a YAML file that is watched.

Promises: an edit takes effect within 2 s, however it was made (in place, by renaming, through a
ConfigMap's symlinks): contents are compared, not timestamps. After an invalid edit, or if the file
is gone or no longer a regular file, the last good engines are kept, and one warning is logged.

Bounds: one read at a time, in a thread, so a hanging file system blocks one thread and never the
event loop.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

from vllm_router.discovery.engine_file import MAX_BYTES, parse_engine_file
from vllm_router.discovery.regular_file import READ_S, FileReader, read_regular_file
from vllm_router.discovery.source import DiscoveryStatus
from vllm_router.scheduling.changes import Change, Listing
from vllm_router.scheduling.engine import EngineSpec

logger = logging.getLogger(__name__)

# An edit counts after two identical reads, so a file still being written does not: at most 1 s.
_POLL_S = 0.5


class FileDiscovery:
    """The engines that a file lists, as it changes.

    Args:
        path: The file; symlinks are followed on each read.
        poll_s: Time between reads, in seconds; an edit counts after two that agree.
        read_s: Time after which a read is reported as failed, in seconds.
        read: Reads the file.
        clock: Monotonic seconds.
        sleep: Waits between reads.
    """

    def __init__(
        self,
        path: Path,
        *,
        poll_s: float = _POLL_S,
        read_s: float = READ_S,
        read: Callable[[Path, int], bytes] = read_regular_file,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._path = path
        self.poll_s = poll_s
        self._reader = FileReader(path, MAX_BYTES, read_s=read_s, read=read)
        self._clock = clock
        self._sleep = sleep
        self._judged: bytes | None = None
        self._engines: int | None = None
        self.status = DiscoveryStatus(f"file {path}", clock())

    def __repr__(self) -> str:
        return f"<FileDiscovery {self._path} engines={self._engines}>"

    async def changes(self) -> AsyncGenerator[Change]:
        """Yield a Listing for each new valid content, forever."""
        before: bytes | None = None
        # A new consumer gets a Listing first, whatever earlier ones received.
        self._judged = None
        is_good = False
        while True:
            try:
                content = await self._reader.content()
            except OSError as error:
                self._failed(error.strerror or str(error))
                before = None
                if not is_good:
                    self._judged = None
            else:
                digest = hashlib.sha256(content).digest()
                if digest == self._judged:
                    if is_good:
                        self._synced()
                elif digest == before or self._engines is None:
                    self._judged = digest
                    specs = await self._specs(content)
                    is_good = specs is not None
                    if specs is not None:
                        yield Listing(specs)
                before = digest
            await self._sleep(self.poll_s)

    async def _specs(self, content: bytes) -> tuple[EngineSpec, ...] | None:
        try:
            specs = await asyncio.to_thread(parse_engine_file, content)
        except ValueError as error:
            self._failed(str(error))
            return None
        self._engines = len(specs)
        self._synced()
        logger.info("%s: %d engines", self.status.source, len(specs))
        return specs

    def _synced(self) -> None:
        self.status.synced(self._clock())
        if self.status.recovered():
            logger.info("%s: readable again", self.status.source)

    def _failed(self, why: str) -> None:
        if self.status.failed(why):
            kept = "no engines yet" if self._engines is None else "keeping the last good engines"
            logger.warning("%s: %s; %s", self.status.source, why, kept)

"""An upload's unchanged bytes: in pooled memory, or in an unlinked file if they exceed a bound.

Memory is bounded for the whole process, not per request: blocks are taken from a `BlockPool` and
returned. Uploads that do not fit, or are known to be too large, go to an unnamed file. Worker
threads write it, so that a slow disk never blocks the event loop. An `Upload` can be read any
number of times, by several engines in turn or concurrently, and closed at any time; `block_pool`
explains when its memory is reused. Knows nothing of HTTP or forms.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from vllm_router.spool.block_pool import BLOCK_BYTES, BlockPool, is_viewed
from vllm_router.spool.multipart import Edit

#: Blocks per upload that may wait for the disk: one is written while the next fills.
STAGED_BLOCKS: Final = 2
#: One upload may fill this part of the pool before it goes to disk, so that one large file does not
#: displace other clients' short clips.
UPLOAD_SHARE: Final = 8


#: A range (start, end) of an upload, or bytes that replace one.
BodySpan = tuple[int, int] | bytes

_T = TypeVar("_T")


class SpoolFailed(Exception):
    """The disk under the spool failed; the message gives the directory and the reason."""


class Spool:
    """Creates uploads and owns their shared resources: the pool, the directory, the disk threads.

    Args:
        folder: Directory for unnamed files; None for the system's temporary directory.
        memory_bytes: Memory that all uploads together may hold.
    """

    def __init__(self, folder: Path | None, memory_bytes: int) -> None:
        self.pool = BlockPool(memory_bytes)
        self.folder = Path(folder or tempfile.gettempdir())
        self.bytes_on_disk = 0
        self.open_uploads = 0
        self.share_bytes = max(2, self.pool.capacity_blocks // UPLOAD_SHARE) * BLOCK_BYTES
        self._threads = ThreadPoolExecutor(max_workers=4, thread_name_prefix="spool")

    def upload(self, expected_bytes: int = 0) -> Upload:
        """Return a new, empty upload; the caller closes it.

        Args:
            expected_bytes: Its size, if known. The actual size may differ.
        """
        return Upload(self, self._threads, expected_bytes)

    def open_file(self) -> int:
        """Return a descriptor of a new unnamed file, mode 0600, that is deleted when it is closed.

        Raises:
            SpoolFailed: No file can be created in the directory.
        """
        try:
            return os.open(self.folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except FileNotFoundError as e:
            raise SpoolFailed(f"the spool directory {self.folder} does not exist") from e
        except OSError:
            # Some file systems (overlay on old kernels, NFS) do not support O_TMPFILE.
            return self._open_unlinked()

    def _open_unlinked(self) -> int:
        try:
            fd, name = tempfile.mkstemp(prefix="upload-", dir=self.folder)
            os.unlink(name)
        except OSError as e:
            raise SpoolFailed(
                f"cannot create a file in the spool directory {self.folder}: {e.strerror}"
            ) from e
        return fd

    def close(self) -> None:
        """Stop the threads. All uploads must have been closed before."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Upload:
    """The bytes of one upload. Written once, sequentially, then read as often as needed.

    The bytes are either all in memory or, past a bound, all in one file. The writer gets the
    destination of the next bytes from `block()`, puts them there, and reports their number with
    `wrote()`. If `is_staged_full`, it must wait for `flush()` before it continues.
    """

    __slots__ = (
        "_base",
        "_block",
        "_blocks",
        "_disk_bytes",
        "_expected_bytes",
        "_fd",
        "_spool",
        "_staged",
        "_staged_bytes",
        "_threads",
        "_used",
        "is_closed",
        "size_bytes",
    )

    def __init__(self, spool: Spool, threads: ThreadPoolExecutor, expected_bytes: int = 0) -> None:
        self._spool = spool
        self._threads = threads
        self._expected_bytes = expected_bytes
        self._blocks: list[bytearray] = []
        self._staged: list[bytearray] = []
        self._staged_bytes = 0
        self._block: bytearray | None = None
        self._used = BLOCK_BYTES
        # Offset of the upload in its first block. Bytes before it belong to something else.
        self._base = 0
        self._fd: int | None = None
        self._disk_bytes = 0
        self.size_bytes = 0
        self.is_closed = False
        spool.open_uploads += 1

    def __repr__(self) -> str:
        where = "memory" if self._fd is None else "a file"
        return f"<Upload {self.size_bytes} bytes in {where}{', closed' if self.is_closed else ''}>"

    @property
    def is_on_disk(self) -> bool:
        """Whether it exceeded the memory bound."""
        return self._fd is not None

    def block(self) -> tuple[bytearray, int]:
        """Return the block for the next bytes, and their offset in it.

        Raises:
            SpoolFailed: The disk was needed but failed.
        """
        if self._used == BLOCK_BYTES:
            self._block = self._next_block()
            self._used = 0
        assert self._block is not None
        return self._block, self._used

    def _next_block(self) -> bytearray:
        if self._fd is None and not self._fits_in_memory():
            self._fd = self._spool.open_file()
            self._staged, self._blocks = self._blocks, []
            self._staged_bytes = self.size_bytes
        block = self._spool.pool.take()
        (self._blocks if self._fd is None else self._staged).append(block)
        return block

    def _fits_in_memory(self) -> bool:
        share = self._spool.share_bytes
        return (
            self._expected_bytes <= share
            and self._base + self.size_bytes < share
            and self._spool.pool.has_room
        )

    def adopt(self, block: bytearray, at: int) -> bytearray | None:
        """Take over a block that already holds the first bytes, so that they need not be copied.

        Args:
            block: The caller's memory. From now on it belongs to the upload, and later to the pool.
            at: Offset of the upload in it, which `block()` returns next.

        Returns:
            A block in exchange; None if it was not taken over.
        """
        if self.size_bytes or len(block) != BLOCK_BYTES or not self._fits_in_memory():
            return None
        self._blocks.append(block)
        self._block, self._used = block, at
        self._base = at
        return self._spool.pool.take()

    def wrote(self, count: int) -> tuple[bytearray, int]:
        """Report that `count` bytes were written to `block()`; return the block and their end."""
        assert self._block is not None
        self._used += count
        self.size_bytes += count
        if self._fd is not None:
            self._staged_bytes += count
        return self._block, self._used

    def append(self, data: bytes | memoryview) -> Iterator[tuple[bytearray, int, int]]:
        """Copy bytes in, and yield each destination (block, start, end)."""
        at = 0
        while at < len(data):
            block, used = self.block()
            count = min(len(data) - at, BLOCK_BYTES - used)
            # Through a view: a bytearray's own slice assignment copies twice.
            memoryview(block)[used : used + count] = data[at : at + count]
            self.wrote(count)
            yield block, used, used + count
            at += count

    @property
    def is_staged_full(self) -> bool:
        """Whether the writer must wait for the disk."""
        return len(self._staged) >= STAGED_BLOCKS and self._used == BLOCK_BYTES

    async def flush(self) -> None:
        """Write everything that is staged to disk.

        Raises:
            SpoolFailed: The disk is full or broken.
        """
        if not self._staged_bytes or self._fd is None:
            return
        blocks, size = self._staged, self._staged_bytes
        self._staged, self._staged_bytes = [], 0
        self._block, self._used = None, BLOCK_BYTES
        offset = self._disk_bytes
        views = _views(blocks, self._base, self._base + size)
        self._base = 0
        self._disk_bytes += size
        self._spool.bytes_on_disk += size
        try:
            await self._on_copy(lambda fd: _write(fd, views, offset))
        except OSError as e:
            raise SpoolFailed(
                f"cannot write to the spool directory {self._spool.folder}: {e.strerror}"
            ) from e
        finally:
            # If the client left, the thread may still be writing these blocks; it has views of
            # them.
            self._spool.pool.give(blocks)

    def read(self, start: int, count: int) -> bytes:
        """Return bytes from memory or disk; fewer at the end.

        Blocks for the disk: for a form's first and last bytes, which are few and recently written.
        """
        end = min(self.size_bytes, start + count)
        if end <= start:
            return b""
        if self._fd is not None:
            return os.pread(self._fd, end - start, start)
        at = (start + self._base) % BLOCK_BYTES
        if at + end - start > BLOCK_BYTES:
            return b"".join(self.views(start, end))
        block = self._blocks[(start + self._base) // BLOCK_BYTES]
        return bytes(memoryview(block)[at : at + end - start])

    def views(self, start: int, end: int) -> list[memoryview]:
        """Return views of a range in memory."""
        return _views(self._blocks, start + self._base, end + self._base)

    def file(self) -> int:
        """Return the descriptor of a file with the whole upload, for positional reads.

        The caller closes it; it remains valid after the upload is closed. An upload in memory is
        copied into a file in memory.
        """
        if self._fd is not None:
            return os.dup(self._fd)
        fd = os.memfd_create("upload", os.MFD_CLOEXEC)
        try:
            for view in self.views(0, self.size_bytes):
                while view:
                    # Not inside the slice: mypyc evaluates that twice.
                    written = os.write(fd, view)
                    view = view[written:]
        except BaseException:
            os.close(fd)
            raise
        return fd

    def spans(self, edits: list[Edit]) -> list[BodySpan]:
        """Return the edited upload as ranges of the original and new bytes, in order."""
        if not edits:
            return [(0, self.size_bytes)] if self.size_bytes else []
        out: list[BodySpan] = []
        at = 0
        for edit in sorted(edits, key=lambda e: e.start):
            if edit.start > at:
                out.append((at, edit.start))
            if edit.data:
                out.append(edit.data)
            at = max(at, edit.end)
        if at < self.size_bytes:
            out.append((at, self.size_bytes))
        return out

    def memory_of(self, spans: list[BodySpan]) -> list[bytes | memoryview] | None:
        """Return the spans' bytes for one gathered write, or None if some are on disk."""
        out: list[bytes | memoryview] = []
        for span in spans:
            if isinstance(span, bytes):
                out.append(span)
            elif self._fd is not None:
                return None
            else:
                out += _views(self._blocks, span[0] + self._base, span[1] + self._base)
        return out

    def pieces(self, spans: list[BodySpan]) -> Pieces:
        """Return the spans' bytes in chunks that are suitable for consecutive writes."""
        return Pieces(self, self._spool.pool, spans)

    async def read_into(self, offset: int, into: memoryview) -> None:
        """Fill memory with bytes from the disk.

        If this is cancelled, a thread may continue to fill the memory. It has a view of it until
        then.

        Raises:
            SpoolFailed: The disk could not be read.
        """
        view = into[:]
        try:
            count = await self._on_copy(lambda fd: _read(fd, view, offset))
        except OSError as e:
            raise SpoolFailed(
                f"cannot read from the spool directory {self._spool.folder}: {e.strerror}"
            ) from e
        if count != len(into):
            raise SpoolFailed(f"a file in the spool directory {self._spool.folder} is truncated")

    async def _on_copy(self, work: Callable[[int], _T]) -> _T:
        """Run work in a thread with its own copy of the descriptor: the upload may be closed
        meanwhile.

        Raises:
            OSError: From the disk, or because too many files are open.
        """
        assert self._fd is not None
        fd = os.dup(self._fd)
        job = self._threads.submit(work, fd)
        # Also if it is cancelled before a thread starts it.
        job.add_done_callback(lambda _: os.close(fd))
        return await asyncio.wrap_future(job)

    def close(self) -> None:
        """Release all resources. May be called twice."""
        if self.is_closed:
            return
        self.is_closed = True
        self._spool.open_uploads -= 1
        # One of them is empty.
        self._spool.pool.give(self._blocks or self._staged)
        self._blocks, self._staged, self._block = [], [], None
        if self._fd is not None:
            self._spool.bytes_on_disk -= self._disk_bytes
            os.close(self._fd)
            self._fd = None


class Pieces:
    """An upload's bytes in chunks: an iterator that must be closed.

    A chunk does not change while a view of it exists. Release each before you request the next, so
    that one block serves all. Raises SpoolFailed if the disk cannot be read.
    """

    __slots__ = ("_at", "_block", "_end", "_pool", "_spans", "_upload")

    def __init__(self, upload: Upload, pool: BlockPool, spans: list[BodySpan]) -> None:
        self._upload = upload
        self._pool = pool
        self._spans = iter(spans)
        self._block: bytearray | None = None
        self._at = 0
        self._end = 0

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> list[bytes | memoryview]:
        if self._at == self._end:
            span = next(self._spans, None)
            if span is None:
                self._give_back()
                raise StopAsyncIteration
            if isinstance(span, bytes):
                return [span]
            if not self._upload.is_on_disk:
                return [*self._upload.views(span[0], span[1])]
            self._at, self._end = span
        if self._block is not None and is_viewed(self._block):
            self._give_back()
        if self._block is None:
            self._block = self._pool.take()
        piece = memoryview(self._block)[: min(BLOCK_BYTES, self._end - self._at)]
        try:
            await self._upload.read_into(self._at, piece)
        except BaseException:
            piece.release()
            self._give_back()
            raise
        self._at += len(piece)
        return [piece]

    def _give_back(self) -> None:
        block, self._block = self._block, None
        if block is not None:
            self._pool.give([block])

    async def aclose(self) -> None:
        """Return the memory. May be called twice."""
        self._give_back()


def _views(blocks: list[bytearray], start: int, end: int) -> list[memoryview]:
    """Return the views that cover a range of consecutive blocks."""
    out: list[memoryview] = []
    while start < end:
        # Not by divmod: that is a call, also when compiled.
        at = start % BLOCK_BYTES
        count = min(end - start, BLOCK_BYTES - at)
        out.append(memoryview(blocks[start // BLOCK_BYTES])[at : at + count])
        start += count
    return out


# Threads release their views explicitly: a thread may still refer to a job whose result is known.


def _read(fd: int, into: memoryview, offset: int) -> int:
    with into:
        return os.preadv(fd, [into], offset)


def _write(fd: int, views: list[memoryview], offset: int) -> None:
    try:
        for view in views:
            at = 0
            while at < len(view):
                at += os.pwrite(fd, view[at:], offset + at)
            offset += at
    finally:
        for view in views:
            view.release()

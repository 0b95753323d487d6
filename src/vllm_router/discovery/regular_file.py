"""Reading a file that somebody else edits while we run, again and again.

Promises: only a regular file is read, and never more of it than allowed: a pipe, a device or a
folder in its place is an error, not a wait. The event loop never waits for a file system; where
one hangs, the read is reported as late and awaited by the next call, so that one thread hangs and
not one more each second, and a stop does not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

_READ_BYTES: Final = 256 * 1024
#: A read of a few kilobytes takes microseconds; a network's file system that fails over, seconds.
READ_S: Final = 5.0


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return what a regular file holds; symlinks are followed.

    Raises:
        OSError: It cannot be read, is no regular file, or is larger than `max_bytes`.
    """
    # Twice: to open a pipe, even without waiting, wakes who writes to it; and between the two looks
    # the path may come to name another file.
    _require_regular(os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(handle).st_mode)
        parts: list[bytes] = []
        left = max_bytes
        # The size that it claims may be 0 (/proc) or change while it is read.
        while part := os.read(handle, min(_READ_BYTES, left + 1)):
            left -= len(part)
            if left < 0:
                raise OSError(errno.EFBIG, f"it is larger than {_shown(max_bytes)}")
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(handle)


def _require_regular(mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a regular file")


def _shown(size_bytes: int) -> str:
    mib = size_bytes / 2**20
    return f"{mib:g} MiB" if mib >= 1 else f"{size_bytes // 1024} KiB"


class FileReader:
    """Reads one file whenever asked, one read at a time, in a thread.

    Args:
        path: The file.
        max_bytes: A larger one is an error.
        read_s: How long a read may take before it is reported as an error.
        read: Reads the file; replaced where a file system is to hang.
    """

    def __init__(
        self,
        path: Path,
        max_bytes: int,
        *,
        read_s: float = READ_S,
        read: Callable[[Path, int], bytes] = read_regular_file,
    ) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._read_s = read_s
        self._read = read
        self._reading: asyncio.Future[bytes] | None = None

    def __repr__(self) -> str:
        return f"<FileReader {self.path}{', reading' if self._reading else ''}>"

    async def content(self) -> bytes:
        """Return what the file holds now.

        Raises:
            TimeoutError: The file system does not answer; the next call waits for the same read.
            OSError: See `read_regular_file`.
        """
        reading = self._reading
        if reading is None:
            loop = asyncio.get_running_loop()
            reading = self._reading = loop.create_future()
            # No thread of a pool's: those are waited for at the end of the process.
            threading.Thread(
                target=self._run, args=(loop, reading), name=f"reads {self.path}", daemon=True
            ).start()
        done, _ = await asyncio.wait({reading}, timeout=self._read_s)
        if not done:
            raise TimeoutError("the file system does not answer")
        self._reading = None
        return reading.result()

    def _run(self, loop: asyncio.AbstractEventLoop, reading: asyncio.Future[bytes]) -> None:
        content = b""
        error: OSError | None = OSError(errno.EIO, "the read ended without an answer")
        try:
            content = self._read(self.path, self._max_bytes)
            error = None
        except OSError as e:
            error = e
        finally:
            with contextlib.suppress(RuntimeError):  # The loop has not waited, and is closed.
                loop.call_soon_threadsafe(_settle, reading, content, error)


def _settle(reading: asyncio.Future[bytes], content: bytes, error: OSError | None) -> None:
    if reading.cancelled():
        return
    if error is None:
        reading.set_result(content)
    else:
        reading.set_exception(error)
        # Nobody may be waiting any more; that is no fault worth a line.
        reading.exception()

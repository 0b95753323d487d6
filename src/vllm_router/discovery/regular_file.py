"""Repeatedly reads a file that others may edit while the router runs.

Promises: only a regular file is read, and never more of it than allowed: a pipe, a device or a
directory in its place is an error, not a wait. The event loop never waits for a file system. If one
hangs, the read is reported as late and the next call awaits the same read, so only one thread
hangs, rather than one more each second, and a shutdown does not wait for it.
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
#: Reading a few kilobytes takes microseconds, or seconds while a network file system fails over.
READ_S: Final = 5.0


def read_regular_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a regular file; symlinks are followed.

    Raises:
        OSError: It cannot be read, is not a regular file, or is larger than `max_bytes`.
    """
    # Checked twice: opening a pipe, even without blocking, wakes its writer, and between the two
    # checks the path may come to name another file.
    _require_regular(os.stat(path).st_mode)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(handle).st_mode)
        parts: list[bytes] = []
        left = max_bytes
        # The reported size may be 0 (/proc) or change during the read.
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
    """Reads one file on request, one read at a time, in a thread.

    Args:
        path: The file.
        max_bytes: A larger file is an error.
        read_s: Time after which a read is reported as failed, in seconds.
        read: Reads the file; tests replace it to simulate a hanging file system.
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
        """Return the file's current content.

        Raises:
            TimeoutError: The file system does not respond; the next call awaits the same read.
            OSError: See `read_regular_file`.
        """
        reading = self._reading
        if reading is None:
            loop = asyncio.get_running_loop()
            reading = self._reading = loop.create_future()
            # Not a pool's thread: the process would wait for those on exit.
            threading.Thread(
                target=self._run, args=(loop, reading), name=f"reads {self.path}", daemon=True
            ).start()
        done, _ = await asyncio.wait({reading}, timeout=self._read_s)
        if not done:
            raise TimeoutError("the file system does not respond")
        self._reading = None
        return reading.result()

    def _run(self, loop: asyncio.AbstractEventLoop, reading: asyncio.Future[bytes]) -> None:
        content = b""
        error: OSError | None = OSError(errno.EIO, "the read ended without a result")
        try:
            content = self._read(self.path, self._max_bytes)
            error = None
        except OSError as e:
            error = e
        finally:
            with contextlib.suppress(RuntimeError):  # The loop did not wait and is closed.
                loop.call_soon_threadsafe(_settle, reading, content, error)


def _settle(reading: asyncio.Future[bytes], content: bytes, error: OSError | None) -> None:
    if reading.cancelled():
        return
    if error is None:
        reading.set_result(content)
    else:
        reading.set_exception(error)
        # There may be no reader left; that is not worth a log line.
        reading.exception()

"""Several processes on one port: a connection goes to whichever has the fewest.

The kernel deals connections out by a hash of their addresses. Of few connections, as a proxy in
front keeps them, all may so fall to one worker, whose core and whose part of the engines' limits is
then all there is. A worker that accepts one while another has fewer passes it on.

Counts are hints on a page that all workers see: each writes its own, and one more for whom it
passes a connection to. Whoever has not written for a while is passed nothing, and what cannot be
passed is kept.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import mmap
import os
import socket
import struct
import time
from array import array
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger("vllm_router")

#: Waiting connections the kernel holds; a burst of a fleet's clients comes at once.
BACKLOG = 4096
#: How often a worker writes that it lives, and how many connections it has.
BEAT_S = 0.25
#: A worker that has been silent for so long is stopped or busy, and takes nothing.
SILENT_S = 2.0
#: Accepted in one step; others want their turn too.
AT_ONCE = 64
#: Out of files, say: until some are closed, accepting is of no use.
PAUSE_S = 1.0

_SLOT = struct.Struct("=dq")


class Board:
    """How many connections each worker has, for all of them to see.

    Args:
        folder: Where only the workers may look.
        index: This worker's number, from 0.
        count: How many there are.
        now: Monotonic seconds, the same in all processes.
    """

    def __init__(
        self, folder: Path, index: int, count: int, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._index = index
        self._count = count
        self._now = now
        size = _SLOT.size * count
        handle = os.open(folder / "connections", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            os.ftruncate(handle, size)
            self._page = mmap.mmap(handle, size)
        finally:
            os.close(handle)

    def write(self, connections: int) -> None:
        """Say how many this worker has."""
        _SLOT.pack_into(self._page, self._index * _SLOT.size, self._now(), connections)

    def leave(self) -> None:
        """Say that this worker takes no more."""
        _SLOT.pack_into(self._page, self._index * _SLOT.size, 0.0, 0)

    def fewer(self, connections: int) -> int | None:
        """Return the worker that has the fewest, if fewer than these, and count one more there."""
        found, fewest, wrote_at = None, connections, 0.0
        for index in range(self._count):
            at, has = _SLOT.unpack_from(self._page, index * _SLOT.size)
            if index != self._index and has < fewest and self._now() - at < SILENT_S:
                found, fewest, wrote_at = index, has, at
        if found is not None:
            # Its own count is right again with its next word.
            _SLOT.pack_into(self._page, found * _SLOT.size, wrote_at, fewest + 1)
        return found

    def close(self) -> None:
        """Let the page go."""
        self._page.close()


class FairListener:
    """Accepts connections for one of several workers, and passes on what others should have.

    Args:
        listening: A bound socket.
        new_protocol: Makes the protocol of a connection.
        connections: Returns how many connections this worker has.
        board: Everybody's counts.
        folder: Where the workers' sockets are.
        index: This worker's number.
    """

    def __init__(
        self,
        listening: socket.socket,
        new_protocol: Callable[[], asyncio.BaseProtocol],
        connections: Callable[[], int],
        board: Board,
        folder: Path,
        index: int,
    ) -> None:
        self._listening = listening
        self._new_protocol = new_protocol
        self._connections = connections
        self._board = board
        self._folder = folder
        self._path = self._socket_of(index)
        self._handed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._handed.setblocking(False)
        self._loop = asyncio.get_running_loop()
        # Accepted, and not yet anybody's connection.
        self._coming: set[asyncio.Task[None]] = set()
        self._beat: asyncio.TimerHandle | None = None
        self._pause: asyncio.TimerHandle | None = None

    def _socket_of(self, index: int) -> Path:
        # No longer than `siblings` has it: the kernel takes some hundred bytes with the folder.
        return self._folder / f"worker-{index}.conn"

    def start(self) -> None:
        """Listen."""
        self._path.unlink(missing_ok=True)
        self._handed.bind(str(self._path))
        self._loop.add_reader(self._handed.fileno(), self._take)
        self._listening.listen(BACKLOG)
        self._loop.add_reader(self._listening.fileno(), self._accept)
        self._write()

    def close(self) -> None:
        """Listen no more."""
        for timer in (self._beat, self._pause):
            if timer is not None:
                timer.cancel()
        self._board.leave()
        for each in (self._listening, self._handed):
            self._loop.remove_reader(each.fileno())
            each.close()
        for task in self._coming:
            task.cancel()
        self._board.close()

    def _has(self) -> int:
        return self._connections() + len(self._coming)

    def _write(self) -> None:
        self._board.write(self._has())
        self._beat = self._loop.call_later(BEAT_S, self._write)

    def _accept(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            except OSError as e:
                log.error("connections cannot be accepted: %s", e)
                self._loop.remove_reader(self._listening.fileno())
                self._pause = self._loop.call_later(PAUSE_S, self._go_on)
                break
            other = self._board.fewer(self._has())
            if other is None or not self._pass_on(connection, other):
                self._keep(connection)
        self._board.write(self._has())

    def _go_on(self) -> None:
        self._loop.add_reader(self._listening.fileno(), self._accept)

    def _pass_on(self, connection: socket.socket, index: int) -> bool:
        handle = array("i", [connection.fileno()])
        try:
            # Not `send_fds`: it forgets the address.
            self._handed.sendmsg(
                [b"c"],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handle)],
                0,
                str(self._socket_of(index)),
            )
        except OSError:
            # It has died, or has more to take than it can.
            return False
        connection.close()
        return True

    def _take(self) -> None:
        for _ in range(AT_ONCE):
            try:
                _, handles, _, _ = socket.recv_fds(self._handed, 1, 1)
            except OSError:
                break
            for handle in handles:
                self._keep(socket.socket(fileno=handle))
        self._board.write(self._has())

    def _keep(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        task = self._loop.create_task(self._begin(connection))
        self._coming.add(task)
        task.add_done_callback(self._coming.discard)

    async def _begin(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._new_protocol, connection)
        except OSError:
            # It is gone already.
            with contextlib.suppress(OSError):
                connection.close()

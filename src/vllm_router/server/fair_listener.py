"""Several processes on one port: a connection goes to whichever has the fewest.

The kernel deals connections out by a hash of their addresses. Of few connections, as a proxy in
front keeps them, all may so fall to one worker, whose core and whose part of the engines' limits is
then all there is. A worker that accepts one while another has fewer passes it on.

Each worker keeps at most its part of all connections, so that together they never hold more than
allowed. A worker that is full passes a connection to one that is not; where none seems to have room
it asks once more a moment later, for the others' counts may be old, and then refuses. The part of a
worker that hangs is lost as long as it hangs.

Counts are hints on a page that all workers see: each writes its own, and one more for whom it
passes a connection to. Whoever has not written for a while is passed nothing, and what cannot be
passed is kept if there is room.
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
#: So often a connection is passed on, since a worker may have filled up while it was on its way.
MOST_HOPS = 3
#: A full worker asks again whether there is room elsewhere when each has written once more.
ASK_AGAIN_S = 1.2 * BEAT_S
#: Connections that a full worker holds meanwhile; further ones are refused at once.
MOST_HELD = 64
#: Out of files, say: until some are closed, accepting is of no use.
PAUSE_S = 1.0

_SLOT = struct.Struct("=dq")


class ConnectionBoard:
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
        most: Connections that this worker may have, the same for each.
        failed: Told of a fault of our own; returns the seconds to wait before going on.
    """

    def __init__(
        self,
        listening: socket.socket,
        new_protocol: Callable[[], asyncio.BaseProtocol],
        connections: Callable[[], int],
        board: ConnectionBoard,
        folder: Path,
        index: int,
        most: int,
        failed: Callable[[Exception], float],
    ) -> None:
        self._listening = listening
        self._new_protocol = new_protocol
        self._connections = connections
        self._board = board
        self._folder = folder
        self._most = most
        self._failed = failed
        self._path = self._socket_of(index)
        self._handed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._handed.setblocking(False)
        self._loop = asyncio.get_running_loop()
        # Accepted, and not yet anybody's connection.
        self._coming: set[asyncio.Task[None]] = set()
        # Held until room has been asked for once more.
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}
        self._beat: asyncio.TimerHandle | None = None
        self._pauses: dict[int, asyncio.TimerHandle] = {}

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
        if self._beat is not None:
            self._beat.cancel()
        for timer in (*self._pauses.values(), *self._held.values()):
            timer.cancel()
        for connection in self._held:
            connection.close()
        self._held.clear()
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
        # First, so that nothing can end it.
        self._beat = self._loop.call_later(BEAT_S, self._write)
        try:
            self._board.write(self._has())
        except Exception as e:
            self._failed(e)

    def _accept(self) -> None:
        try:
            self._accept_some()
        except OSError as e:
            log.error("connections cannot be accepted: %s", e)
            self._rest(self._listening, self._accept, PAUSE_S)
        except Exception as e:
            self._rest(self._listening, self._accept, self._failed(e))

    def _accept_some(self) -> None:
        for _ in range(AT_ONCE):
            try:
                connection, _ = self._listening.accept()
            except (BlockingIOError, ConnectionAbortedError):
                break
            self._place(connection, 0)
        self._board.write(self._has())

    def _rest(self, source: socket.socket, read: Callable[[], None], seconds: float) -> None:
        number = source.fileno()

        def go_on() -> None:
            del self._pauses[number]
            self._loop.add_reader(number, read)

        # What waits there would call us again at once.
        self._loop.remove_reader(number)
        self._pauses[number] = self._loop.call_later(seconds, go_on)

    def _place(self, connection: socket.socket, hops: int, *, is_last: bool = False) -> None:
        """Pass a connection on, keep it, hold it for a moment or refuse it."""
        try:
            self._decide(connection, hops, is_last=is_last)
        except BaseException:
            connection.close()
            raise

    def _decide(self, connection: socket.socket, hops: int, *, is_last: bool) -> None:
        has = self._has()
        is_full = has >= self._most
        if is_full or not hops:
            other = self._board.fewer(has) if hops < MOST_HOPS else None
            if other is not None and self._pass_on(connection, other, hops + 1):
                return
        if not is_full:
            self._keep(connection)
        elif is_last or len(self._held) >= MOST_HELD:
            connection.close()
        else:
            self._held[connection] = self._loop.call_later(ASK_AGAIN_S, self._again, connection)

    def _again(self, connection: socket.socket) -> None:
        del self._held[connection]
        # Whoever gets it now keeps it or passes it on once, and holds it no more.
        self._place(connection, MOST_HOPS - 1, is_last=True)

    def _pass_on(self, connection: socket.socket, index: int, hops: int) -> bool:
        handle = array("i", [connection.fileno()])
        try:
            # Not `send_fds`: it forgets the address.
            self._handed.sendmsg(
                [bytes((hops,))],
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
        try:
            self._take_some()
        except Exception as e:
            self._rest(self._handed, self._take, self._failed(e))

    def _take_some(self) -> None:
        for _ in range(AT_ONCE):
            try:
                said, handles, _, _ = socket.recv_fds(self._handed, 1, 1)
            except OSError:
                break
            hops = said[0] if said else MOST_HOPS
            for handle in handles:
                try:
                    connection = socket.socket(fileno=handle)
                except OSError:
                    # It is no socket, which none of us sends.
                    os.close(handle)
                else:
                    self._place(connection, hops, is_last=hops >= MOST_HOPS)
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
        except Exception as e:
            connection.close()
            self._failed(e)

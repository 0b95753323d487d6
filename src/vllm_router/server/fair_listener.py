"""Balances connections between processes that share a port: the one with the fewest gets the next.

The kernel distributes connections by a hash of their addresses. If there are few, as with a reverse
proxy, one worker may get all of them. Then only its core and its share of the engines' limits are
used. A worker that accepts a connection while another has fewer passes it on.

Each worker holds at most its share of all connections, so that together they never exceed the
limit. A full worker passes a connection to one with room. If none seems to have room, it checks
once more a moment later, because the counts may be stale, and then rejects the connection. While a
worker hangs, its share is unavailable.

Counts are hints on a memory page shared by all workers. Each worker writes its own count, and
increments the count of a worker to which it passes a connection. A worker that has not written for
a while gets no connections. A connection that cannot be passed on is kept if there is room.
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

#: Pending connections in the kernel. All clients of a fleet may connect at once.
BACKLOG = 4096
#: How often a worker writes its heartbeat and its number of connections.
BEAT_S = 0.25
#: A worker without a heartbeat for this long is stopped or busy, and gets no connections.
SILENT_S = 2.0
#: Connections accepted in one step. Other work needs its turn too.
AT_ONCE = 64
#: How often one connection may be passed on: a worker may have filled up in the meantime.
MOST_HOPS = 3
#: A full worker checks for room again after each worker has written once more.
ASK_AGAIN_S = 1.2 * BEAT_S
#: Connections that a full worker holds meanwhile; further ones are rejected at once.
MOST_HELD = 64
#: For example if file descriptors are exhausted: until some are closed, accepting is futile.
PAUSE_S = 1.0

_SLOT = struct.Struct("=dq")


class ConnectionBoard:
    """Each worker's number of connections, visible to all workers.

    Args:
        folder: A directory that only the workers can access.
        index: This worker's number, from 0.
        count: Number of workers.
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
        """Publish this worker's number of connections."""
        _SLOT.pack_into(self._page, self._index * _SLOT.size, self._now(), connections)

    def leave(self) -> None:
        """Publish that this worker accepts no more connections."""
        _SLOT.pack_into(self._page, self._index * _SLOT.size, 0.0, 0)

    def fewer(self, connections: int) -> int | None:
        """Return the worker with the fewest connections, if fewer than these; count one there."""
        found, fewest, wrote_at = None, connections, 0.0
        for index in range(self._count):
            at, has = _SLOT.unpack_from(self._page, index * _SLOT.size)
            if index != self._index and has < fewest and self._now() - at < SILENT_S:
                found, fewest, wrote_at = index, has, at
        if found is not None:
            # The worker's next write corrects the count.
            _SLOT.pack_into(self._page, found * _SLOT.size, wrote_at, fewest + 1)
        return found

    def close(self) -> None:
        """Unmap the page."""
        self._page.close()


class FairListener:
    """Accepts connections for one of several workers, and passes on those that belong elsewhere.

    Args:
        listening: A bound socket.
        new_protocol: Creates a connection's protocol.
        connections: Returns the number of this worker's connections.
        board: All workers' counts.
        folder: The directory of the workers' sockets.
        index: This worker's number.
        most: Connections that each worker may have.
        failed: Called with an internal error; returns the seconds to wait before continuing.
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
        # Accepted, but without a protocol yet.
        self._coming: set[asyncio.Task[None]] = set()
        # Held until room has been checked for once more.
        self._held: dict[socket.socket, asyncio.TimerHandle] = {}
        self._beat: asyncio.TimerHandle | None = None
        self._pauses: dict[int, asyncio.TimerHandle] = {}

    def _socket_of(self, index: int) -> Path:
        # No longer than assumed in `siblings`: the kernel limits a path to about a hundred bytes.
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
        """Stop listening."""
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
        # First, so that no exception can stop the heartbeat.
        self._beat = self._loop.call_later(BEAT_S, self._write)
        try:
            self._board.write(self._has())
        except Exception as e:
            self._failed(e)

    def _accept(self) -> None:
        try:
            self._accept_some()
        except OSError as e:
            log.error("cannot accept connections: %s", e)
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

        # The pending connections would call this again at once.
        self._loop.remove_reader(number)
        self._pauses[number] = self._loop.call_later(seconds, go_on)

    def _place(self, connection: socket.socket, hops: int, *, is_last: bool = False) -> None:
        """Pass a connection on, keep it, hold it for a moment, or reject it."""
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
        # The next worker keeps it or passes it on once, and does not hold it again.
        self._place(connection, MOST_HOPS - 1, is_last=True)

    def _pass_on(self, connection: socket.socket, index: int, hops: int) -> bool:
        handle = array("i", [connection.fileno()])
        try:
            # Not `send_fds`, which ignores the address.
            self._handed.sendmsg(
                [bytes((hops,))],
                [(socket.SOL_SOCKET, socket.SCM_RIGHTS, handle)],
                0,
                str(self._socket_of(index)),
            )
        except OSError:
            # The worker has died or its queue is full.
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
                    # Not a socket. No worker sends these.
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
            # The client has already disconnected.
            with contextlib.suppress(OSError):
                connection.close()
        except Exception as e:
            connection.close()
            self._failed(e)

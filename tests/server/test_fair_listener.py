"""Connections of several listeners on one port: spread evenly, whoever accepts them."""

import asyncio
import contextlib
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import cast

import pytest
from tests.routers import until
from tests.server.conftest import event_loop_policy

from vllm_router.app.run import bind
from vllm_router.server.fair_listener import SILENT_S, ConnectionBoard, FairListener

__all__ = ["event_loop_policy"]


class Client(asyncio.Protocol):
    """One connection at the listener's end; says its listener's name."""

    def __init__(self, name: bytes, connections: set["Client"]) -> None:
        self._name = name
        self._connections = connections

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._connections.add(self)
        self.transport.write(self._name)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.discard(self)


@contextlib.asynccontextmanager
async def listener(
    folder: Path,
    index: int,
    count: int,
    port: int = 0,
    now: Callable[[], float] | None = None,
    *,
    most: int = 1000,
    faults: list[Exception] | None = None,
    told: list[Exception] | None = None,
) -> AsyncIterator[tuple[int, set[Client]]]:
    """Listen; yields the port and the connections. Faults are raised when those are counted."""
    connections: set[Client] = set()

    def count_them() -> int:
        if faults:
            raise faults.pop()
        return len(connections)

    def failed(error: Exception) -> float:
        assert told is not None, error
        told.append(error)
        return 0.05

    listening = bind("127.0.0.1", port, is_shared=True)
    board = (
        ConnectionBoard(folder, index, count, now) if now else ConnectionBoard(folder, index, count)
    )
    fair = FairListener(
        listening,
        lambda: Client(str(index).encode(), connections),
        count_them,
        board,
        folder,
        index,
        most,
        failed,
    )
    fair.start()
    try:
        yield listening.getsockname()[1], connections
    finally:
        fair.close()
        for each in list(connections):
            each.transport.abort()


async def is_taken(port: int) -> asyncio.StreamWriter | None:
    """Return the connection, or None if it was refused."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.suppress(ConnectionError):
        if await reader.read(1):
            return writer
    writer.close()
    return None


async def connect(port: int) -> tuple[asyncio.StreamWriter, bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    return writer, await reader.readexactly(1)


async def test_connections_are_spread_evenly_over_the_workers(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        port, first = await stack.enter_async_context(listener(tmp_path, 0, 3))
        _, second = await stack.enter_async_context(listener(tmp_path, 1, 3, port))
        _, third = await stack.enter_async_context(listener(tmp_path, 2, 3, port))
        clients = [await connect(port) for _ in range(30)]
        # A count may be one behind when it is looked at; the kernel alone is off by far more.
        assert sum(map(len, (first, second, third))) == 30
        assert {9, 10, 11} >= set(map(len, (first, second, third)))
        for writer, _ in clients:
            writer.close()
        await until(lambda: not first | second | third)


async def test_a_burst_is_spread_too(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        port, first = await stack.enter_async_context(listener(tmp_path, 0, 2))
        _, second = await stack.enter_async_context(listener(tmp_path, 1, 2, port))
        clients = await asyncio.gather(*(connect(port) for _ in range(200)))
        assert 80 <= len(first) <= 120
        assert len(first) + len(second) == 200
        for writer, _ in clients:
            writer.close()


async def test_one_that_left_or_never_came_is_passed_nothing(tmp_path: Path) -> None:
    async with listener(tmp_path, 0, 3) as (port, connections):
        async with listener(tmp_path, 1, 3, port):
            pass
        clients = [await connect(port) for _ in range(4)]
        assert len(connections) == 4
        for writer, _ in clients:
            writer.close()


async def test_one_that_died_without_a_word_is_passed_nothing(tmp_path: Path) -> None:
    async with listener(tmp_path, 0, 2) as (port, connections):
        dead = ConnectionBoard(tmp_path, 1, 2)
        dead.write(0)
        clients = [await connect(port) for _ in range(4)]
        assert len(connections) == 4
        for writer, _ in clients:
            writer.close()


def test_who_has_been_silent_is_passed_over(tmp_path: Path) -> None:
    now = 100.0
    boards = [ConnectionBoard(tmp_path, index, 3, lambda: now) for index in range(3)]
    for board, connections in zip(boards, (5, 3, 1), strict=True):
        board.write(connections)
    assert boards[0].fewer(5) == 2
    # One more is counted there.
    assert boards[0].fewer(2) is None
    assert boards[0].fewer(5) == 2
    now += SILENT_S
    assert boards[0].fewer(5) is None
    boards[1].write(3)
    assert boards[0].fewer(5) == 1
    boards[1].leave()
    assert boards[0].fewer(5) is None


async def test_a_socket_left_by_the_one_before_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "worker-0.conn").write_text("left behind")
    async with listener(tmp_path, 0, 1) as (port, _):
        writer, name = await connect(port)
        assert name == b"0"
        writer.close()


async def test_connections_wait_while_there_are_no_files_left(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import resource

    async with listener(tmp_path, 0, 1) as (port, connections):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as client, socket.socket() as spare:
            client.setblocking(False)
            resource.setrlimit(resource.RLIMIT_NOFILE, (spare.fileno() + 1, hard))
            try:
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                await until(lambda: "cannot accept connections" in caplog.text)
                assert not connections
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await until(lambda: len(connections) == 1)


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_all_workers_together_hold_as_many_as_allowed_and_no_more(
    tmp_path: Path, count: int
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        port = 0
        held: list[set[Client]] = []
        for index in range(count):
            port, connections = await stack.enter_async_context(
                listener(tmp_path, index, count, port, most=4)
            )
            held.append(connections)
        for _ in range(3):
            clients = [await is_taken(port) for _ in range(4 * count)]
            assert None not in clients
            assert [len(each) for each in held] == [4] * count
            assert [await is_taken(port) for _ in range(3)] == [None] * 3
            # Those of one worker go; whoever comes is taken by it, whichever the kernel chose.
            for client in list(held[0]):
                client.transport.abort()
            clients += [await is_taken(port) for _ in range(4)]
            assert [len(each) for each in held] == [4] * count
            for writer in clients:
                if writer is not None:
                    writer.close()
            await until(lambda: not any(held))


async def test_a_burst_past_what_is_allowed_is_refused_and_nobody_else(tmp_path: Path) -> None:
    async with contextlib.AsyncExitStack() as stack:
        port, first = await stack.enter_async_context(listener(tmp_path, 0, 2, most=50))
        _, second = await stack.enter_async_context(listener(tmp_path, 1, 2, port, most=50))
        clients = await asyncio.gather(*(is_taken(port) for _ in range(300)))
        taken = [writer for writer in clients if writer is not None]
        assert len(taken) == len(first) + len(second) == 100
        for writer in taken:
            writer.close()


async def test_the_part_of_a_worker_that_hangs_is_not_taken_by_others(tmp_path: Path) -> None:
    async with listener(tmp_path, 0, 2, most=3) as (port, connections):
        ConnectionBoard(tmp_path, 1, 2).write(3)
        clients = [await is_taken(port) for _ in range(5)]
        assert [writer is not None for writer in clients] == [True] * 3 + [False] * 2
        assert len(connections) == 3


async def test_connections_held_at_the_end_are_closed(tmp_path: Path) -> None:
    async with listener(tmp_path, 0, 1, most=1) as (port, _):
        kept = await is_taken(port)
        assert kept is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.sleep(0.05)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()


async def test_a_fault_while_connections_are_accepted_or_handed_over_is_told_and_they_go_on(
    tmp_path: Path,
) -> None:
    told: list[Exception] = []
    faults: list[Exception] = []
    async with contextlib.AsyncExitStack() as stack:
        first = listener(tmp_path, 0, 2, faults=faults, told=told)
        port, connections = await stack.enter_async_context(first)
        _, others = await stack.enter_async_context(listener(tmp_path, 1, 2, port))
        for _ in range(3):
            told.clear()
            faults.extend([ZeroDivisionError() for _ in range(4)])
            async with asyncio.timeout(20):
                while faults:
                    # Whoever comes while it fails may be lost.
                    writer = await is_taken(port)
                    if writer is not None:
                        writer.close()
            await until(lambda: len(told) == 4)
            clients = [await connect(port) for _ in range(10)]
            await until(lambda: len(connections) + len(others) == 10)
            for writer, _ in clients:
                writer.close()
            await until(lambda: not connections | others)
    places = {each.name for error in told for each in traceback.extract_tb(error.__traceback__)}
    assert "_accept" in places

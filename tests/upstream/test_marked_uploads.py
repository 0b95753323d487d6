"""No engine ever gets a byte of another client's upload, whenever it answers.

Each upload repeats one word of its own. An engine with small buffers reads part of the first
upload, answers, and reads on only after that upload has been closed and a second one has been
received into the memory that came free. What the transport still had of the first upload then
arrives at the engine: it must be the first upload's words and no others.
"""

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.server.conftest import event_loop_policy
from tests.upstream.calls import EVENTS, call
from tests.upstream.raw_engine import answering, http_client, raw_engine, until

from vllm_router.spool.block_pool import BLOCK_BYTES
from vllm_router.spool.upload import Pieces, Spool, Upload
from vllm_router.upstream.call import Buffers, CallTimedOut, Deadlines
from vllm_router.upstream.origin import Origin

__all__ = ["event_loop_policy"]

MIB = 2**20
FIRST, SECOND = b"first!! ", b"second! "
SIZE = 5 * BLOCK_BYTES
#: Where in the upload the engine stops to answer: before it, in its first piece, after each piece.
POINTS = (0, 8, *range(BLOCK_BYTES, SIZE + 1, BLOCK_BYTES))
WHOLE = b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig"
STREAM = EVENTS + b"5\r\nfirst\r\n"


class SpooledBody:
    """An upload as the body of a call."""

    def __init__(self, upload: Upload) -> None:
        self._upload = upload
        self.size_bytes = upload.size_bytes

    def in_memory(self) -> Buffers | None:
        return self._upload.memory_of(self._upload.spans([]))

    def pieces(self) -> Pieces:
        return self._upload.pieces(self._upload.spans([]))


class SlowReader:
    """An engine in a thread of its own: it goes on while the router's loop does not."""

    def __init__(self, take_bytes: int, answer: bytes, *, then_eof: bool = False) -> None:
        self._take_bytes = take_bytes
        self._answer = answer
        self._then_eof = then_eof
        self._listener = socket.socket()
        # Small segments and a small window keep the sender's kernel from taking the whole upload.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self.origin = Origin.of(f"http://127.0.0.1:{self._listener.getsockname()[1]}")
        self.body = b""
        self.has_answered = threading.Event()
        self.go_on = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def _serve(self) -> None:
        self._listener.settimeout(20)
        with self._listener, self._listener.accept()[0] as sock:
            sock.settimeout(20)
            data = b""
            while b"\r\n\r\n" not in data:
                data += sock.recv(1024)
            self.body = data.partition(b"\r\n\r\n")[2]
            while len(self.body) < self._take_bytes:
                self.body += sock.recv(min(65_536, self._take_bytes - len(self.body)))
            sock.sendall(self._answer)
            if self._then_eof:
                sock.shutdown(socket.SHUT_WR)
            self.has_answered.set()
            self.go_on.wait(20)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, MIB)
            sock.settimeout(0.3)
            with contextlib.suppress(ConnectionError, TimeoutError):
                while len(self.body) < SIZE and (more := sock.recv(65_536)):
                    self.body += more

    def close(self) -> None:
        self.go_on.set()
        self._thread.join()


@contextlib.asynccontextmanager
async def slow_reader(
    take_bytes: int, answer: bytes, *, then_eof: bool = False
) -> AsyncIterator[SlowReader]:
    engine = SlowReader(take_bytes, answer, then_eof=then_eof)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture(params=["memory", "disk"])
async def spool(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path, 16 * MIB if request.param == "memory" else MIB // 2)
    yield spool
    await until(lambda: not spool.pool.blocks_out)
    spool.close()


async def first_upload(spool: Spool) -> Upload:
    upload = spool.upload()
    for at in range(0, SIZE, BLOCK_BYTES):
        list(upload.append(FIRST * (min(SIZE - at, BLOCK_BYTES) // len(FIRST))))
        if upload.is_staged_full:
            await upload.flush()
    await upload.flush()
    return upload


def second_arrives(spool: Spool, engine: SlowReader) -> Upload:
    """Receive another upload while the engine goes on reading, all before the loop's next step."""
    upload = spool.upload()
    list(upload.append(SECOND * (SIZE // len(SECOND))))
    engine.go_on.set()
    # The engine's reading makes room in the socket: the loop finds it writable in its next step.
    time.sleep(0.03)
    return upload


def assert_own(engine: SlowReader) -> None:
    whole, rest = divmod(len(engine.body), len(FIRST))
    assert engine.body.count(SECOND[:6]) == 0
    assert engine.body == FIRST * whole + FIRST[:rest]


async def test_memory_that_an_engine_has_taken_is_used_again(spool: Spool) -> None:
    async with raw_engine(answering) as engine, http_client() as client:
        for _ in range(10):
            upload = await first_upload(spool)
            answer = await call(client, engine.origin, SpooledBody(upload))
            answer.close()
            upload.close()
    # Of at least 50: now and then uvloop lets go of what is sent only in its next step.
    assert spool.pool.dropped_blocks < 10


@pytest.mark.parametrize("answer", [WHOLE, STREAM], ids=["whole", "stream"])
@pytest.mark.parametrize("then_eof", [False, True], ids=["stays", "half-closes"])
async def test_an_answer_before_the_upload_was_taken(
    spool: Spool, answer: bytes, then_eof: bool
) -> None:
    for point in POINTS:
        upload = await first_upload(spool)
        async with (
            slow_reader(point, answer, then_eof=then_eof) as engine,
            http_client() as client,
        ):
            got = await call(client, engine.origin, SpooledBody(upload))
            if answer is WHOLE:
                assert (got.status, got.body) == (413, b"big")
            else:
                assert await got.next_chunk() == b"first"
            got.close()
            upload.close()
            second = second_arrives(spool, engine)
            await until(lambda: engine.is_done)
            second.close()
            assert_own(engine)


async def test_an_upload_closed_while_its_answer_still_streams(spool: Spool) -> None:
    is_on_disk = (upload := await first_upload(spool)).is_on_disk
    upload.close()
    for point in POINTS:
        upload = await first_upload(spool)
        async with slow_reader(point, STREAM) as engine, http_client() as client:
            got = await call(client, engine.origin, SpooledBody(upload))
            assert await got.next_chunk() == b"first"
            upload.close()
            second = second_arrives(spool, engine)
            await until(lambda: engine.is_done)
            second.close()
            got.close()
            assert_own(engine)
            assert is_on_disk or len(engine.body) == SIZE


@pytest.mark.parametrize("is_seen", [False, True], ids=["at once", "when seen"])
async def test_a_call_that_is_cancelled(spool: Spool, is_seen: bool) -> None:
    # At once: as when the other of two engines has won, and the request ends in the same step.
    for point in POINTS:
        upload = await first_upload(spool)
        async with slow_reader(point, b"") as engine, http_client() as client:
            task = asyncio.create_task(call(client, engine.origin, SpooledBody(upload)))
            await until(engine.has_answered.is_set)
            await asyncio.sleep(0.01)
            task.cancel()
            if is_seen:
                await asyncio.wait((task,))
            upload.close()
            second = second_arrives(spool, engine)
            await asyncio.wait((task,))
            await until(lambda: engine.is_done)
            second.close()
            assert_own(engine)


async def test_an_engine_that_takes_too_long(spool: Spool) -> None:
    upload = await first_upload(spool)
    async with slow_reader(0, b"") as engine, http_client() as client:
        # Its kernel and ours together do not take the whole upload, or nothing is tested here.
        with pytest.raises(CallTimedOut, match="read no more"):
            await call(client, engine.origin, SpooledBody(upload), Deadlines(20, 0.1, 20))
        upload.close()
        second = second_arrives(spool, engine)
        await until(lambda: engine.is_done)
        second.close()
        assert_own(engine)


async def test_one_of_two_engines_at_work_on_the_same_upload(spool: Spool) -> None:
    upload = await first_upload(spool)
    async with (
        slow_reader(8, b"") as hung,
        slow_reader(SIZE, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") as quick,
        http_client() as client,
    ):
        loser = asyncio.create_task(call(client, hung.origin, SpooledBody(upload)))
        answer = await call(client, quick.origin, SpooledBody(upload))
        assert answer.body == b"ok"
        await until(hung.has_answered.is_set)
        loser.cancel()
        answer.close()
        upload.close()
        second = second_arrives(spool, hung)
        quick.go_on.set()
        await asyncio.wait((loser,))
        await until(lambda: hung.is_done and quick.is_done)
        second.close()
        assert quick.body == FIRST * (SIZE // len(FIRST))
        assert_own(hung)

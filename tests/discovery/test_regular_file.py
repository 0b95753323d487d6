"""Reading a file that others edit: only regular ones, only so much, and never on the event loop."""

import asyncio
import contextlib
import os
import socket
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vllm_router.discovery.regular_file import FileReader, read_regular_file


@given(st.binary(max_size=2000), st.integers(0, 2000))
def test_a_file_is_read_whole_or_refused_for_its_size(data: bytes, most: int) -> None:
    handle = os.memfd_create("file")
    try:
        os.write(handle, data)
        path = Path(f"/proc/self/fd/{handle}")
        if len(data) <= most:
            assert read_regular_file(path, most) == data
        else:
            with pytest.raises(OSError, match="it is larger than"):
                read_regular_file(path, most)
    finally:
        os.close(handle)


def test_a_file_whose_size_is_said_to_be_0_is_read() -> None:
    assert read_regular_file(Path("/proc/self/status"), 1 << 20).startswith(b"Name:")


def test_a_file_without_end_is_refused_at_its_bound(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="it is larger than 4 MiB"):
        read_regular_file(path, 4 << 20)


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    pipe, link, sock = tmp_path / "pipe", tmp_path / "link", tmp_path / "socket"
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(sock))
        for path in (pipe, link, sock, tmp_path, Path("/dev/zero")):
            with pytest.raises(OSError, match="it is not a regular file"):
                read_regular_file(path, 100)


def test_a_pipe_that_takes_the_files_place_between_two_looks_does_not_block(
    tmp_path: Path,
) -> None:
    path, other, pipe = tmp_path / "file", tmp_path / "other", tmp_path / "pipe"
    other.write_text("x")
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            os.link(other, tmp_path / "new")
            os.replace(tmp_path / "new", path)
            os.mkfifo(pipe)
            os.replace(pipe, path)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(3000):
            with contextlib.suppress(OSError):
                assert read_regular_file(path, 100) == b"x"
    finally:
        stop.set()
        swapping.join()


async def test_a_read_that_hangs_is_late_and_the_next_call_waits_for_the_same_one() -> None:
    goes_on = threading.Event()
    reads = 0

    def hanging(path: Path, max_bytes: int) -> bytes:
        nonlocal reads
        reads += 1
        goes_on.wait()
        return b"late"

    reader = FileReader(Path("file"), 100, read_s=0.02, read=hanging)
    for _ in range(3):
        with pytest.raises(TimeoutError, match="the file system does not respond"):
            await reader.content()
    assert repr(reader) == "<FileReader file, reading>"
    goes_on.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await reader.content() == b"late"
                break
            except TimeoutError:
                pass
    assert reads == 1
    assert repr(reader) == "<FileReader file>"


async def test_whoever_waits_may_leave_and_a_late_error_troubles_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    goes_on = threading.Event()

    def failing(path: Path, max_bytes: int) -> bytes:
        goes_on.wait()
        raise OSError("gone")

    reader = FileReader(Path("file"), 100, read=failing)
    waiting = asyncio.create_task(reader.content())
    await asyncio.sleep(0.02)
    waiting.cancel()
    goes_on.set()
    with pytest.raises(OSError, match="gone"):
        await reader.content()
    assert not caplog.records


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_reader_that_breaks_is_an_error_of_the_file() -> None:
    def broken(path: Path, max_bytes: int) -> bytes:
        raise SystemExit

    with pytest.raises(OSError, match="ended without a result"):
        await FileReader(Path("file"), 100, read=broken).content()

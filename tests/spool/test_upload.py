"""Uploads in memory and on disk: what is bounded, what is read back, and what is left behind."""

import asyncio
import gc
import os
import random
import resource
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.server.conftest import event_loop_policy

from vllm_router.spool.block_pool import BLOCK_BYTES
from vllm_router.spool.multipart import Edit
from vllm_router.spool.upload import STAGED_BLOCKS, Spool, SpoolFailed, Upload

__all__ = ["event_loop_policy"]

MIB = 2**20
RNG = random.Random(5)
SOUND = RNG.randbytes(3 * MIB + 12_345)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[Spool]:
    """A spool that holds half a megabyte in memory; nothing of it is left afterwards."""
    spool = Spool(tmp_path, MIB // 2)
    gc.collect()
    before = open_files()
    yield spool
    assert spool.open_uploads == 0
    assert spool.bytes_on_disk == 0
    async with asyncio.timeout(20):
        while spool.pool.blocks_out or open_files() > before:
            await asyncio.sleep(0.005)
    assert os.listdir(tmp_path) == []
    spool.close()


async def fill(upload: Upload, data: bytes, step: int = 50_000) -> None:
    """Write as a connection does: into the block itself or by copying, flushing when told."""
    at = 0
    while at < len(data):
        if (at // step) % 2:
            for block, start, end in upload.append(memoryview(data)[at : at + step]):
                assert block[start:end]
            at += min(step, len(data) - at)
        else:
            block, used = upload.block()
            count = min(step, BLOCK_BYTES - used, len(data) - at)
            block[used : used + count] = data[at : at + count]
            assert upload.wrote(count) == (block, used + count)
            at += count
        if upload.is_staged_full:
            await upload.flush()


async def content(upload: Upload, edits: list[Edit] | None = None) -> bytes:
    """Return what an engine would be sent; each piece is taken before the next is asked for."""
    out = b""
    async for buffers in upload.pieces(upload.spans(edits or [])):
        out += b"".join(buffers)
    return out


def edited(data: bytes, edits: list[Edit]) -> bytes:
    for edit in sorted(edits, key=lambda e: e.start, reverse=True):
        data = data[: edit.start] + edit.data + data[edit.end :]
    return data


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, BLOCK_BYTES + 1, 2 * BLOCK_BYTES, 3 * MIB])
async def test_an_upload_is_read_back_as_it_was_any_number_of_times(
    small: Spool, size: int
) -> None:
    data = SOUND[:size]
    upload = small.upload()
    await fill(upload, data)
    await upload.flush()
    await upload.flush()
    assert upload.size_bytes == size
    assert upload.is_on_disk == (size > 2 * BLOCK_BYTES)
    for _ in range(2):
        assert await content(upload) == data
    for start, count in ((0, 10), (size // 2, 70_000), (max(0, size - 5), 100), (size, 5)):
        assert bytes(upload.read(start, count)) == data[start : start + count]
    gathered = upload.memory_of(upload.spans([]))
    assert (gathered is None) == upload.is_on_disk
    assert gathered is None or b"".join(gathered) == data
    assert ("a file" in repr(upload)) == upload.is_on_disk
    upload.close()
    upload.close()
    assert "closed" in repr(upload)


@pytest.mark.parametrize("size", [1000, 100_000, 2 * MIB])
async def test_a_file_of_it_lives_on_after_the_upload(small: Spool, size: int) -> None:
    upload = small.upload()
    await fill(upload, SOUND[:size])
    await upload.flush()
    handle = upload.file()
    upload.close()
    try:
        assert os.pread(handle, size + 10, 0) == SOUND[:size]
    finally:
        os.close(handle)


async def test_what_is_spooled_has_no_name_and_is_nobody_elses(
    small: Spool, tmp_path: Path
) -> None:
    upload = small.upload()
    await fill(upload, SOUND)
    assert os.listdir(tmp_path) == []
    handle = upload.file()
    state = os.fstat(handle)
    os.close(handle)
    assert stat.S_IMODE(state.st_mode) == 0o600
    assert state.st_nlink == 0
    upload.close()


async def test_without_unnamed_files_the_name_is_removed_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, MIB)
    handle = spool._open_unlinked()
    try:
        assert os.listdir(tmp_path) == []
        assert stat.S_IMODE(os.fstat(handle).st_mode) == 0o600
    finally:
        os.close(handle)
        spool.close()


edits = st.lists(
    st.tuples(st.integers(0, 400_000), st.integers(0, 70_000), st.binary(max_size=20)), max_size=4
)


@settings(max_examples=40)
@given(edits, st.booleans())
def test_edits_are_made_without_touching_the_rest(
    wishes: list[tuple[int, int, bytes]], is_on_disk: bool
) -> None:
    made: list[Edit] = []
    at = 0
    for start, length, data in sorted(wishes):
        if start >= at:
            made.append(Edit(start, min(start + length, 400_000), data))
            at = start + length + 1
    made = [edit for edit in made if edit.start <= edit.end]

    async def main() -> None:
        spool = Spool(None, MIB // 2 if is_on_disk else 64 * MIB)
        upload = spool.upload()
        await fill(upload, SOUND[:400_000])
        await upload.flush()
        assert upload.is_on_disk == is_on_disk
        assert await content(upload, made) == edited(SOUND[:400_000], made)
        upload.close()
        assert spool.pool.bytes_out == 0
        spool.close()

    asyncio.run(main())


@pytest.mark.parametrize("at", [0, 1, 300, 30_000])
@pytest.mark.parametrize("size", [1, 1000, BLOCK_BYTES, 2 * BLOCK_BYTES, MIB])
async def test_a_block_in_which_the_first_bytes_came_becomes_the_uploads(
    small: Spool, at: int, size: int
) -> None:
    upload = small.upload()
    came = bytearray(b"a key" * BLOCK_BYTES)[:BLOCK_BYTES]
    count = min(size, BLOCK_BYTES - at)
    came[at : at + count] = SOUND[:count]
    other = upload.adopt(came, at)
    assert other is not None
    assert len(other) == BLOCK_BYTES
    assert other is not came
    assert upload.block() == (came, at)
    assert upload.wrote(count) == (came, at + count)
    await fill(upload, SOUND[count:size], 10_000)
    await upload.flush()
    assert upload.is_on_disk == (at + size > 2 * BLOCK_BYTES)
    assert await content(upload) == SOUND[:size]
    assert bytes(upload.read(size // 2, 70_000)) == SOUND[size // 2 : size][:70_000]
    assert await content(upload, [Edit(0, 1, b"new")]) == b"new" + SOUND[1:size]
    handle = upload.file()
    assert os.pread(handle, size + 10, 0) == SOUND[:size]
    os.close(handle)
    upload.close()


async def test_a_block_is_not_taken_over_where_it_has_no_place(small: Spool) -> None:
    begun, too_large = small.upload(), small.upload(MIB)
    await fill(begun, b"begun")
    whole = bytearray(BLOCK_BYTES)
    assert begun.adopt(whole, 0) is None
    assert too_large.adopt(whole, 0) is None
    blocks = []
    while small.pool.has_room:
        blocks.append(small.pool.take())
    crowded = small.upload()
    assert crowded.adopt(whole, 0) is None
    small.pool.give(blocks)
    assert crowded.adopt(bytearray(1000), 0) is None
    for upload in (begun, too_large, crowded):
        upload.close()


async def test_what_is_known_to_be_too_large_goes_to_disk_from_the_start(small: Spool) -> None:
    upload = small.upload(2 * BLOCK_BYTES + 1)
    await fill(upload, SOUND[:1000])
    assert upload.is_on_disk
    upload.close()
    upload = small.upload(2 * BLOCK_BYTES)
    await fill(upload, SOUND[: 2 * BLOCK_BYTES])
    assert not upload.is_on_disk
    upload.close()


async def test_memory_is_bounded_for_all_uploads_together(small: Spool) -> None:
    uploads = [small.upload() for _ in range(40)]
    peak = 0
    for start in range(0, MIB, 50_000):
        for upload in uploads:
            await fill(upload, SOUND[start : start + 50_000], 50_000)
            peak = max(peak, small.pool.bytes_out)
    # The pool, and what each upload may have waiting for the disk.
    assert peak <= MIB // 2 + len(uploads) * (STAGED_BLOCKS + 1) * BLOCK_BYTES
    for upload in uploads:
        await upload.flush()
        assert await content(upload) == SOUND[: upload.size_bytes]
    assert small.pool.bytes_out <= MIB // 2 + BLOCK_BYTES
    assert small.bytes_on_disk == sum(u.size_bytes for u in uploads if u.is_on_disk)
    for upload in uploads:
        upload.close()


async def test_one_large_upload_leaves_room_for_short_ones(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 16 * MIB)
    large, short = spool.upload(), spool.upload()
    await fill(large, SOUND)
    await fill(short, SOUND[:100_000])
    assert large.is_on_disk
    assert not short.is_on_disk
    assert spool.pool.has_room
    large.close()
    short.close()
    spool.close()


class FullSpool(Spool):
    """A spool on a disk that is full."""

    def open_file(self) -> int:
        return os.open("/dev/full", os.O_RDWR)


async def test_a_full_disk_is_told_and_leaves_nothing() -> None:
    before = open_files()
    spool = FullSpool(None, MIB // 2)
    upload = spool.upload()
    with pytest.raises(SpoolFailed, match="No space left"):
        await fill(upload, SOUND)
    upload.close()
    assert (spool.bytes_on_disk, spool.pool.blocks_out, spool.open_uploads) == (0, 0, 0)
    assert open_files() == before
    spool.close()


async def test_a_limit_on_files_is_told(small: Spool) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    upload = small.upload()
    resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, hard))
    try:
        with pytest.raises(SpoolFailed, match="too large"):
            await fill(upload, SOUND)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    upload.close()


async def test_too_many_open_files_are_told(small: Spool) -> None:
    upload = small.upload()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    await fill(upload, SOUND[:200_000])
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        with pytest.raises(SpoolFailed, match="open files"):
            await fill(upload, SOUND)
        other = small.upload()
        with pytest.raises(SpoolFailed, match="open files"):
            await fill(other, SOUND)
        other.close()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    upload.close()


async def test_a_folder_that_is_gone_or_closed_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path / "gone", Path("/proc")):
        spool = Spool(folder, MIB // 2)
        upload = spool.upload()
        with pytest.raises(SpoolFailed, match=str(folder)):
            await fill(upload, SOUND)
        upload.close()
        spool.close()


class Cut(Spool):
    """A spool whose files can be cut off behind its back."""

    handle = -1

    def open_file(self) -> int:
        self.handle = super().open_file()
        return self.handle


async def test_bytes_that_the_disk_has_lost_are_never_made_up(tmp_path: Path) -> None:
    spool = Cut(tmp_path, MIB // 2)
    upload = spool.upload()
    await fill(upload, SOUND)
    await upload.flush()
    os.ftruncate(spool.handle, MIB)
    with pytest.raises(SpoolFailed, match="truncated"):
        await content(upload)
    os.dup2(os.open("/proc/self/mem", os.O_RDONLY), spool.handle)
    with pytest.raises(SpoolFailed, match="cannot read"):
        await content(upload)
    upload.close()
    assert spool.pool.blocks_out == 0
    spool.close()


async def test_jobs_cancelled_before_their_turn_leave_no_descriptor_open(small: Spool) -> None:
    gate = threading.Event()
    for _ in range(4):
        small._threads.submit(gate.wait)
    writing, reading = small.upload(), small.upload()
    list(reading.append(SOUND[:700_000]))
    list(writing.append(SOUND[:700_000]))
    tasks = [asyncio.create_task(writing.flush()), asyncio.create_task(content(reading))]
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writing.close()
    reading.close()
    gate.set()


async def test_an_upload_may_be_closed_while_it_is_written(small: Spool) -> None:
    for _ in range(20):
        upload = small.upload()
        list(upload.append(SOUND[:MIB]))
        task = asyncio.create_task(upload.flush())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        upload.close()


async def test_a_thread_that_still_writes_an_upload_writes_nothing_else(small: Spool) -> None:
    for _ in range(30):
        upload = small.upload()
        list(upload.append(b"first" * (MIB // 5)))
        task = asyncio.create_task(upload.flush())
        await asyncio.sleep(0)
        handle = upload.file()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        upload.close()
        second = small.upload()
        list(second.append(b"other" * (MIB // 5)))
        second.close()
        async with asyncio.timeout(20):
            while small._threads._work_queue.qsize():
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.002)
        written = os.pread(handle, 2 * MIB, 0)
        os.close(handle)
        assert not written.strip(b"first\0"), "another upload's bytes are in its file"


async def test_memory_is_not_read_into_while_somebody_has_a_view_of_it(small: Spool) -> None:
    upload = small.upload()
    await fill(upload, SOUND)
    await upload.flush()
    pieces = upload.pieces(upload.spans([]))
    kept = [await anext(pieces) for _ in range(3)]
    assert b"".join(view for piece in kept for view in piece) == SOUND[: 3 * BLOCK_BYTES]
    kept.clear()
    last = await anext(pieces)
    assert small.pool.dropped_blocks == 2
    await pieces.aclose()
    upload.close()
    assert b"".join(last) == SOUND[3 * BLOCK_BYTES : 4 * BLOCK_BYTES]


async def test_memory_that_is_let_go_of_is_read_into_again(small: Spool) -> None:
    upload = small.upload()
    await fill(upload, SOUND)
    await upload.flush()
    async for piece in upload.pieces(upload.spans([])):
        del piece
    upload.close()
    assert not small.pool.dropped_blocks


async def test_reading_may_be_given_up_midway(small: Spool) -> None:
    upload = small.upload()
    await fill(upload, SOUND)
    await upload.flush()
    pieces = upload.pieces(upload.spans([]))
    assert b"".join(await anext(pieces)) == SOUND[:BLOCK_BYTES]
    await pieces.aclose()
    await pieces.aclose()
    upload.close()

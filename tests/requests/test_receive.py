import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.routers import CONTENT_TYPE, field, file, form

from vllm_router.errors import BadRequest, SpoolFull, TooLarge
from vllm_router.requests.receive import UploadReceiver
from vllm_router.spool.block_pool import BLOCK_BYTES
from vllm_router.spool.upload import Spool

LARGE = form(field("model", "m"), file(bytes(10 * BLOCK_BYTES)))


@pytest.fixture
async def spool(tmp_path: Path) -> AsyncIterator[Spool]:
    spool = Spool(tmp_path, 4 * BLOCK_BYTES)
    yield spool
    spool.close()


def intake(
    spool: Spool,
    content_type: bytes = CONTENT_TYPE,
    declared: int | None = None,
    max_bytes: int = 2**24,
    max_disk_bytes: int = 2**24,
) -> UploadReceiver:
    return UploadReceiver(spool, content_type, declared, max_bytes, max_disk_bytes)


async def fill(one: UploadReceiver, data: bytes, step: int = 5000) -> None:
    """Put bytes in as a connection does: in place, flushing when told to."""
    at = 0
    while at < len(data):
        if one.must_flush:
            await one.flush()
        block, used = one.block()
        count = min(step, len(block) - used, len(data) - at)
        block[used : used + count] = data[at : at + count]
        one.wrote(count)
        at += count


@pytest.mark.parametrize("step", [1, 7, 5000])
async def test_a_form_is_known_when_its_bytes_have_come(spool: Spool, step: int) -> None:
    one = intake(spool)
    body = form(field("model", "m"), file(b"audio"))
    await fill(one, body, step)
    read = await one.form()
    assert read.value("model") == b"m"
    part = read.file()
    assert part is not None
    assert bytes(one.upload.read(part.start, part.end - part.start)) == b"audio"
    one.close()
    one.close()
    assert spool.open_uploads == 0


async def test_bytes_that_arrived_elsewhere_are_copied_in(spool: Spool) -> None:
    one = intake(spool)
    body = form(field("model", "m"), file(b"audio"))
    for at in range(0, len(body), 11):
        one.append(memoryview(body)[at : at + 11])
    assert (await one.form()).value("model") == b"m"
    one.close()


@pytest.mark.parametrize(
    ("content_type", "says"),
    [
        (b"", "multipart/form-data"),
        (b"application/json", "application/json"),
        (b"multipart/form-data", "boundary"),
        (b"multipart/form-data; boundary=", "boundary"),
        (b"x" * 1000, "xxx"),
    ],
)
async def test_what_is_no_form_is_refused_before_it_comes(
    spool: Spool, content_type: bytes, says: str
) -> None:
    with pytest.raises(BadRequest, match=says) as refused:
        intake(spool, content_type)
    assert len(refused.value.message) < 400
    assert spool.open_uploads == 0


async def test_too_much_is_refused_when_it_is_declared(spool: Spool) -> None:
    with pytest.raises(TooLarge, match="1 MiB"):
        intake(spool, declared=2**20 + 1, max_bytes=2**20)
    assert spool.open_uploads == 0
    intake(spool, declared=2**20, max_bytes=2**20).close()


async def test_too_much_is_refused_as_soon_as_it_is_there(spool: Spool) -> None:
    one = intake(spool, max_bytes=20_000)
    with pytest.raises(TooLarge):
        await fill(one, LARGE, 1000)
    assert one.upload.size_bytes <= 21_000
    one.close()


@pytest.mark.parametrize("body", [b"", b"--", LARGE[:-5], form(file(b"x")).replace(b"name", b"n")])
async def test_a_broken_form_is_refused(spool: Spool, body: bytes) -> None:
    one = intake(spool)
    with pytest.raises(BadRequest, match="cannot be read"):  # noqa: PT012
        await fill(one, body)
        await one.form()
    one.close()


async def test_past_the_memory_it_goes_to_disk_and_comes_back_the_same(spool: Spool) -> None:
    one = intake(spool)
    await fill(one, LARGE)
    await one.form()
    assert one.upload.is_on_disk
    assert bytes(one.upload.read(0, len(LARGE))) == LARGE
    one.close()
    assert (spool.bytes_on_disk, spool.pool.bytes_out) == (0, 0)


async def test_all_uploads_together_have_a_bound_on_disk(spool: Spool) -> None:
    one = intake(spool, max_disk_bytes=3 * BLOCK_BYTES)
    with pytest.raises(SpoolFull) as refused:
        await fill(one, LARGE)
    assert refused.value.retry_after_s
    one.close()
    assert spool.bytes_on_disk == 0


@pytest.mark.parametrize("way", ["in place", "copied"])
async def test_a_folder_that_is_gone_is_told_as_no_room(tmp_path: Path, way: str) -> None:
    spool = Spool(tmp_path / "gone", 2 * BLOCK_BYTES)
    one = intake(spool)
    with pytest.raises(SpoolFull, match="no room"):  # noqa: PT012
        if way == "in place":
            await fill(one, LARGE)
        one.append(memoryview(LARGE))
    one.close()
    spool.close()
    await asyncio.sleep(0)

"""Uploads are held in memory up to a bound, past it in a file without a name, and nowhere after."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.fake_engine.serving import SimulatedHandle, serve_simulated
from tests.routers import MODEL, RunningRouter, field, file, form, request, running_router, until

from vllm_router.audio.wav import silence

LARGE = silence(55.0)


@pytest.fixture
async def engine() -> AsyncIterator[SimulatedHandle]:
    async with serve_simulated(MODEL, time_scale=1000) as engine:
        yield engine


@pytest.fixture
async def router(engine: SimulatedHandle, tmp_path: Path) -> AsyncIterator[RunningRouter]:
    async with running_router(
        engine, spool_dir=str(tmp_path), spool_memory_mb=1, split="off"
    ) as router:
        yield router


def held(router: RunningRouter) -> tuple[int, int]:
    """Return bytes in memory and on disk."""
    spools = router.router.spools
    return sum(s.pool.bytes_out for s in spools), sum(s.bytes_on_disk for s in spools)


def open_files(folder: Path) -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{fd}"))
        except OSError:
            continue
    return [name for name in found if name.startswith(str(folder))]


async def test_a_small_upload_never_touches_the_disk(router: RunningRouter, tmp_path: Path) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    whole = request(form(field("model", MODEL), file(silence(1.0))))
    writer.write(whole[:-1])
    await until(lambda: held(router)[0] > 0)
    assert held(router)[1] == 0
    assert open_files(tmp_path) == []
    writer.close()
    await until(lambda: held(router) == (0, 0))


async def test_a_large_one_lies_in_a_file_without_a_name(
    router: RunningRouter, engine: SimulatedHandle, tmp_path: Path
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", router.port)
    whole = request(form(field("model", MODEL), file(LARGE)))
    writer.write(whole[:-10])
    await until(lambda: held(router)[1] > 1_000_000)
    [name] = open_files(tmp_path)
    assert name.endswith("(deleted)")
    assert os.listdir(tmp_path) == []
    assert held(router)[0] <= 2**20
    writer.write(whole[-10:])
    assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    await until(lambda: held(router) == (0, 0))
    assert open_files(tmp_path) == []
    [logged] = engine.log.audio()
    assert logged.file is not None
    assert logged.file.sha256 == hashlib.sha256(LARGE).hexdigest()
    writer.close()


async def test_a_client_that_leaves_takes_its_file_along(
    router: RunningRouter, tmp_path: Path
) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", router.port)
    writer.write(request(form(field("model", MODEL), file(LARGE)))[:-10])
    await until(lambda: held(router)[1] > 1_000_000)
    writer.close()
    await until(lambda: held(router) == (0, 0))
    await until(lambda: open_files(tmp_path) == [])


async def test_many_uploads_share_the_memory(router: RunningRouter, tmp_path: Path) -> None:
    body = form(field("model", MODEL), file(LARGE))
    writers = []
    for _ in range(12):
        _, writer = await asyncio.open_connection("127.0.0.1", router.port)
        writer.write(request(body)[:-10])
        writers.append(writer)
    await until(lambda: held(router)[1] > 10_000_000)
    # Each may have some blocks staged for the disk.
    assert held(router)[0] <= 2**20 + 12 * 5 * 65536
    for writer in writers:
        writer.close()
    await until(lambda: held(router) == (0, 0))

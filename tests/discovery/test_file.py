import asyncio
import os
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.discovery.following import following, until

from vllm_router.discovery.file import FileDiscovery
from vllm_router.discovery.regular_file import read_regular_file
from vllm_router.scheduling.changes import Listing

ONE = "- url: http://a\n"
TWO = "- url: http://a\n- url: http://b\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engines.yaml"


def discovery(path: Path, **settings: Any) -> FileDiscovery:
    return FileDiscovery(path, **{"poll_s": 0.02} | settings)


def replaced(path: Path, text: str) -> None:
    new = path.with_name("new")
    new.write_text(text)
    new.replace(path)


@pytest.mark.parametrize("edit", [Path.write_text, replaced])
async def test_an_edit_counts_whether_written_or_renamed_over(path: Path, edit: Any) -> None:
    path.write_text(ONE)
    async with following(discovery(path)) as seen:
        await seen.until(lambda: seen.urls == ["http://a"])
        edit(path, TWO)
        await seen.until(lambda: seen.urls == ["http://a", "http://b"])
        edit(path, "engines: []\n")
        await seen.until(lambda: seen.urls == [])
    assert all(isinstance(change, Listing) for change in seen.changes)


async def test_an_edit_counts_within_2_s_at_the_default_pace(path: Path) -> None:
    path.write_text(ONE)
    source = FileDiscovery(path)
    async with following(source) as seen:
        await seen.until(lambda: seen.urls == ["http://a"])
        path.write_text(TWO)
        await seen.until(lambda: len(seen.urls) == 2)
    # Two polls at the most; the sum, not the clock of a busy machine, is what is promised.
    assert source.poll_s * 2 < 2


async def test_a_configmap_swapped_by_symlinks_counts(tmp_path: Path) -> None:
    for name, text in (("..v1", ONE), ("..v2", TWO)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "engines.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..v1")
    path = tmp_path / "engines.yaml"
    path.symlink_to("..data/engines.yaml")
    async with following(discovery(path)) as seen:
        await seen.until(lambda: len(seen.urls) == 1)
        (tmp_path / "..tmp").symlink_to("..v2")
        (tmp_path / "..tmp").replace(tmp_path / "..data")
        await seen.until(lambda: len(seen.urls) == 2)


async def test_an_edit_of_the_same_size_and_time_counts(path: Path) -> None:
    path.write_text(ONE)
    times = path.stat()
    async with following(discovery(path)) as seen:
        await seen.until(lambda: seen.urls == ["http://a"])
        path.write_text(ONE.replace("a", "b"))
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
        await seen.until(lambda: seen.urls == ["http://b"])


async def test_a_broken_edit_keeps_the_last_good_one_and_says_so_once(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(TWO)
    now = 0.0
    source = discovery(path, clock=lambda: now)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.urls) == 2)
        path.write_text("- url: http://a\n- uri: http://b\n")
        await seen.until(lambda: source.status.last_error is not None)
        now = 100.0
        await asyncio.sleep(0.2)
        assert len(seen.urls) == 2
        assert len(seen.changes) == 1
        assert source.status.last_error == "line 2: uri: is not a known key"
        assert source.status.age_s(now) == 100.0
        path.write_text(ONE)
        await seen.until(lambda: seen.urls == ["http://a"])
        assert source.status.last_error is None
        assert source.status.age_s(now) == 0.0
    warnings = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warnings) == 1
    assert "keeping the last good engines" in warnings[0]


async def test_a_file_cut_short_by_an_editor_is_no_empty_fleet(path: Path) -> None:
    path.write_text(TWO)
    source = discovery(path)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.urls) == 2)
        path.write_text("")
        await seen.until(lambda: "empty" in str(source.status.last_error))
        assert len(seen.urls) == 2
        path.write_text(TWO)
        await until(lambda: source.status.last_error is None)


async def test_a_file_that_is_gone_keeps_its_engines_until_it_is_back(path: Path) -> None:
    path.write_text(ONE)
    source = discovery(path)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.urls) == 1)
        path.unlink()
        await seen.until(lambda: "No such file" in str(source.status.last_error))
        assert len(seen.urls) == 1
        path.write_text(ONE)
        await until(lambda: source.status.last_error is None)
        assert len(seen.changes) == 1


async def test_a_file_that_is_not_there_yet_is_waited_for(path: Path) -> None:
    source = discovery(path)
    async with following(source) as seen:
        await until(lambda: source.status.last_error is not None)
        assert seen.changes == []
        path.write_text("nonsense")
        await until(lambda: "line 1" in str(source.status.last_error))
        path.unlink()
        await until(lambda: "No such file" in str(source.status.last_error))
        path.write_text("nonsense")
        await until(lambda: "line 1" in str(source.status.last_error))
        path.write_text(ONE)
        await seen.until(lambda: len(seen.urls) == 1)
    assert repr(source).endswith("engines=1>")


async def test_a_file_that_hangs_is_reported_and_read_once_it_answers(path: Path) -> None:
    goes_on = threading.Event()

    def hanging(path: Path, max_bytes: int) -> bytes:
        goes_on.wait()
        return read_regular_file(path, max_bytes)

    path.write_text(TWO)
    source = discovery(path, read_s=0.05, read=hanging)
    async with following(source) as seen:
        await until(lambda: source.status.last_error == "the file system does not respond")
        await asyncio.sleep(0.2)
        assert seen.changes == []
        goes_on.set()
        await seen.until(lambda: len(seen.urls) == 2)
        await until(lambda: source.status.last_error is None)


async def test_a_pipe_in_the_place_of_the_file_is_told_and_the_next_edit_counts(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path.write_text(ONE)
    source = discovery(path)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.urls) == 1)
        path.unlink()
        os.mkfifo(path)
        await until(lambda: source.status.last_error == "it is not a regular file")
        assert len(seen.urls) == 1
        replaced(path, TWO)
        await seen.until(lambda: len(seen.urls) == 2)
    assert caplog.text.count("it is not a regular file; keeping the last good engines") == 1


@pytest.mark.parametrize("weight", ["1.0e+308", "5e-324", "1e-320", ".nan", "true"])
async def test_a_weight_out_of_bounds_keeps_the_last_good_list(path: Path, weight: str) -> None:
    path.write_text(TWO)
    source = discovery(path)
    async with following(source) as seen:
        await seen.until(lambda: len(seen.urls) == 2)
        path.write_text(f"{ONE}  weight: {weight}\n")
        await until(lambda: source.status.last_error is not None)
        assert source.status.last_error == "line 2: weight: should be a number from 0.01 to 100"
        assert len(seen.urls) == 2


async def test_whoever_follows_anew_is_told_the_list_first(path: Path) -> None:
    path.write_text(ONE)
    source = discovery(path)
    for _ in range(2):
        async with following(source) as seen:
            await seen.until(lambda: seen.urls == ["http://a"])
            assert isinstance(seen.changes[0], Listing)

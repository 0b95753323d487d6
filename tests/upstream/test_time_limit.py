"""A block that takes too long is cut short; whatever else ends it is left as it is."""

import asyncio

import pytest

from vllm_router.upstream.time_limit import TimeLimit


async def test_what_is_done_in_time_is_left_alone() -> None:
    with TimeLimit(asyncio.get_running_loop(), 60):
        await asyncio.sleep(0)
    with pytest.raises(KeyError), TimeLimit(asyncio.get_running_loop(), 60):
        raise KeyError


async def test_what_takes_too_long_is_cut_short_and_the_task_goes_on() -> None:
    task = asyncio.current_task()
    assert task is not None
    for _ in range(2):
        with pytest.raises(TimeoutError), TimeLimit(asyncio.get_running_loop(), 0.001):
            await asyncio.sleep(3600)
        assert not task.cancelling()
    await asyncio.sleep(0.01)


async def test_a_task_that_is_cancelled_meanwhile_ends_as_cancelled() -> None:
    async def work() -> None:
        with TimeLimit(asyncio.get_running_loop(), 0.001):
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.001, task.cancel)
            await asyncio.sleep(3600)

    # In whichever order the two come, and also if both do.
    for _ in range(20):
        task = asyncio.create_task(work())
        with pytest.raises((asyncio.CancelledError, TimeoutError)):
            await task


async def test_both_at_once_is_a_cancelling() -> None:
    async def work() -> None:
        with TimeLimit(asyncio.get_running_loop(), 0):
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            try:
                await asyncio.sleep(3600)
            finally:
                # Both have come by now.
                await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_on_the_way_out_is_not_hidden() -> None:
    task = asyncio.current_task()
    assert task is not None

    async def work() -> None:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError as e:
            raise KeyError from e

    with pytest.raises(KeyError), TimeLimit(asyncio.get_running_loop(), 0.001):
        await work()
    assert not task.cancelling()

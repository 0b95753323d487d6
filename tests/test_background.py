"""Loops go on whatever they raise; each is tested with the part that runs it."""

import asyncio
import logging
from collections import Counter
from random import Random

import pytest

from vllm_router.background import CAP_S, FORGIVEN_S, LEAST_S, QUIET_S, Background, BackgroundLoop


class Time:
    def __init__(self) -> None:
        self.now_s = 1000.0
        self.waits: list[float] = []

    def now(self) -> float:
        return self.now_s

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now_s += seconds
        await asyncio.sleep(0)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def counted() -> Counter[str]:
    return Counter()


@pytest.fixture
def background(time: Time, counted: Counter[str]) -> Background:
    return Background(lambda loop: counted.update([loop]), Random(1), time.now, time.sleep)


async def test_a_loop_that_fails_begins_again_until_it_ends_by_itself(
    background: Background, counted: Counter[str], time: Time
) -> None:
    runs = 0

    async def run() -> None:
        nonlocal runs
        runs += 1
        if runs < 4:
            raise ValueError(f"run {runs}")

    await background.keep(BackgroundLoop.SWEEP, run)
    assert runs == 4
    assert counted == {"sweep": 3}
    assert len(time.waits) == 3


async def test_waits_grow_up_to_a_bound_and_never_vanish(
    background: Background, time: Time
) -> None:
    async def run() -> None:
        if len(time.waits) < 200:
            raise ValueError

    await background.keep(BackgroundLoop.SWEEP, run)
    assert all(LEAST_S <= wait <= CAP_S for wait in time.waits)
    assert max(time.waits[:3]) <= 4.0
    assert max(time.waits) > CAP_S / 2


async def test_a_group_of_failures_is_one(background: Background, counted: Counter[str]) -> None:
    async def fail() -> None:
        raise ValueError

    async def run() -> None:
        if not counted:
            async with asyncio.TaskGroup() as group:
                group.create_task(fail())
                group.create_task(fail())

    await background.keep(BackgroundLoop.DISCOVERY, run)
    assert counted == {"discovery": 1}


async def test_a_loop_that_is_cancelled_ends(background: Background, counted: Counter[str]) -> None:
    task = asyncio.create_task(background.keep(BackgroundLoop.SWEEP, asyncio.Event().wait))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not counted


async def test_a_loop_whose_own_wait_was_cancelled_goes_on(
    background: Background, counted: Counter[str]
) -> None:
    async def run() -> None:
        if not counted:
            cancelled = asyncio.get_running_loop().create_future()
            cancelled.cancel()
            await cancelled

    await background.keep(BackgroundLoop.SWEEP, run)
    assert counted == {"sweep": 1}


def test_a_fault_is_told_with_its_traceback_once_and_then_in_a_line_now_and_then(
    background: Background, time: Time, counted: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(300):
        try:
            raise ValueError(f"number\n{number}")
        except ValueError as error:
            background.failed(BackgroundLoop.PROBES, error)
        time.now_s += 0.1
    first, *others = caplog.records
    assert first.exc_info is not None
    assert len(others) == int(300 * 0.1 / QUIET_S) - 1
    assert all(each.exc_info is None for each in others)
    assert others[0].getMessage() == (
        "background loop probes failed again, 100 times since last logged: ValueError: number 100"
    )
    assert counted == {"probes": 300}
    caplog.clear()
    background.failed(BackgroundLoop.PROBES, KeyError("another"))
    assert "Traceback" not in caplog.text
    assert [each.exc_info is not None for each in caplog.records] == [True]


def test_what_is_long_past_is_forgiven(
    background: Background, time: Time, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(20):
        background.failed(BackgroundLoop.SWEEP, ValueError("again"))
    time.now_s += FORGIVEN_S
    caplog.clear()
    assert background.failed(BackgroundLoop.SWEEP, ValueError("again")) <= 1.0
    assert caplog.records[0].exc_info is not None


async def test_a_callback_that_fails_is_counted_and_a_connection_is_the_loops_affair(
    background: Background, counted: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    loop = asyncio.get_running_loop()
    before = loop.get_exception_handler()
    loop.set_exception_handler(background.on_exception)
    try:
        loop.call_soon([].pop)
        await asyncio.sleep(0.01)
        assert counted == {"callbacks": 1}
        context = {"message": "fatal", "exception": OSError("x"), "transport": object()}
        loop.call_exception_handler(context)
        loop.call_exception_handler({"message": "only words"})
        assert counted == {"callbacks": 1}
    finally:
        loop.set_exception_handler(before)
    assert [each.levelno for each in caplog.records] == [logging.ERROR] * 3

import asyncio

import pytest
from tests.fake_engine.curve import NAMED_CURVES, Curve, CurveShape


async def seconds(curve: Curve, windows: int) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await curve.run(windows)
    return loop.time() - start


@pytest.mark.parametrize("windows", [1, 20, 64])
async def test_windows_take_as_long_as_the_measured_curve_says(windows: int) -> None:
    scale = 5.0
    taken_s = await seconds(Curve(speed=scale), windows)
    assert taken_s >= (windows + 18.5) / 57.5 / scale - 0.002


async def test_windows_share_the_speed_whoever_they_belong_to() -> None:
    curve = Curve(CurveShape(100.0, 1.0))
    times = await asyncio.gather(*(seconds(curve, 1) for _ in range(10)))
    assert min(times) >= 11 / 100 - 0.002
    assert curve.running == curve.waiting == 0


async def test_those_over_the_limit_wait_and_are_told_how_long() -> None:
    curve = Curve(CurveShape(100.0, 1.0), max_running=2)
    first = asyncio.create_task(curve.run(3))
    second = asyncio.create_task(curve.run(1))
    await asyncio.sleep(0)
    assert (curve.running, curve.waiting) == (2, 2)
    waited_s = await first
    assert await second > max(waited_s, 0.01)
    assert curve.running == curve.waiting == 0


async def test_a_request_that_is_cancelled_frees_what_runs_and_what_waits() -> None:
    curve = Curve(CurveShape(100.0, 1.0), speed=0.0, max_running=2)
    task = asyncio.create_task(curve.run(5))
    other = asyncio.create_task(curve.run(1))
    await asyncio.sleep(0)
    assert (curve.running, curve.waiting) == (2, 4)
    task.cancel()
    await asyncio.sleep(0)
    assert (curve.running, curve.waiting) == (1, 0)
    curve.set_speed(1.0)
    await other
    assert (curve.running, curve.waiting) == (0, 0)


async def test_a_change_of_speed_counts_from_now_on() -> None:
    curve = Curve(CurveShape(1.0, 0.0), speed=0.0)
    task = asyncio.create_task(curve.run(1))
    await asyncio.sleep(0.01)
    assert not task.done()
    curve.set_speed(1000.0)
    await task


def test_named_curves_are_ordered_by_what_such_gpus_can_do() -> None:
    peaks = [NAMED_CURVES[name].peak_windows_per_s for name in ("t4", "l4", "a100", "h100", "h200")]
    assert peaks == sorted(peaks)

"""A loop that is held up says for how long."""

import asyncio
import time

from gateway.kernel.lag import PERIOD_S, LoopLag


async def test_a_loop_held_up_is_late() -> None:
    """What keeps the loop for half a second shows as about as much, once it is over."""
    lag = LoopLag()
    lag.start()
    try:
        await asyncio.sleep(3 * PERIOD_S)
        before_s = lag.total_s
        time.sleep(0.5)  # noqa: ASYNC251  # it holds the loop up
        await asyncio.sleep(3 * PERIOD_S)
    finally:
        lag.stop()
    assert 0.3 < lag.latest_max_s < 3.0
    assert lag.total_s - before_s >= 0.3


async def test_what_was_long_ago_is_forgotten() -> None:
    """The longest is of the last hundred looks."""
    lag = LoopLag()
    lag._woken(asyncio.get_running_loop().time() - 5.0)
    assert lag.latest_max_s > 4.0
    for _ in range(100):
        lag.stop()
        lag._woken(asyncio.get_running_loop().time())
    lag.stop()
    assert lag.latest_max_s < 1.0

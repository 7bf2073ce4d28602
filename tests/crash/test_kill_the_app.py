"""R1: SIGKILL of the app at any moment under load. Nothing acknowledged is lost, nothing is there twice."""

import asyncio
import random
import time

import pytest
from crash_harness import (
    App,
    Load,
    Market,
    assert_bars_right,
    assert_each_once,
    kills_wanted,
    processes_of,
    read,
    running_app,
    seed_of,
    spread,
)


async def kill_now_and_then(app: App, load: Load, kills: int, dice: random.Random) -> list[float]:
    """Kill it at any time, right after something was sent, or while it starts; how long it took to serve again."""
    seconds = []
    for _ in range(kills):
        await asyncio.sleep(dice.uniform(0.05, 2.0))
        if dice.random() < 0.5:
            await load.sent()
            await asyncio.sleep(dice.choice([0, 0, dice.uniform(0, 0.03)]))
        await app.kill()
        while dice.random() < 0.2:
            app.spawn()
            await asyncio.sleep(dice.uniform(0.5, 3.0))
            await app.kill()
        seconds.append(await app.start())
    return seconds


@pytest.mark.timeout(3600)
async def test_killed_app_loses_nothing_and_doubles_nothing() -> None:
    seed = seed_of(1)
    async with running_app() as app:
        load = Load(app, Market(seed))
        async with load.flowing():
            await asyncio.sleep(1)
            seconds = await kill_now_and_then(app, load, kills_wanted(3), random.Random(seed))
            await asyncio.sleep(1)
        await load.end()
        stored = await read(app.dsn)
        started = time.monotonic()
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)
        print(f"checked in {time.monotonic() - started:.1f} s")
        print(
            f"{len(seconds)} kills, {load.ticks} ticks, {load.rate:.0f} a second;"
            f" serving again after {spread(seconds)} s; answers {dict(load.answers)}"
        )
        assert (await app.terminate())[0] == 0
        assert processes_of(app.folder) == []

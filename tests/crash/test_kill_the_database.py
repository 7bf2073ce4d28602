"""SIGKILL of the embedded postmaster, of a backend, or of the app too: the app recovers by itself."""

import asyncio
import os
import random
import signal
import time

import psutil
import pytest
from crash_harness import (
    App,
    Load,
    Market,
    assert_bars_right,
    assert_derived_right,
    assert_each_once,
    kills_wanted,
    processes_of,
    read,
    running_app,
    seed_of,
    spread,
)


def backend_of(app: App, dice: random.Random) -> int | None:
    """Return the pid of a backend that serves the app, if there is one."""
    backends = [process.pid for process in processes_of(app.folder) if "[local]" in " ".join(process.cmdline())]
    return dice.choice(backends) if backends else None


async def kill_postgres(app: App, load: Load, dice: random.Random) -> float:
    """Kill the postmaster or a backend; return the seconds until the app takes ticks again."""
    await asyncio.sleep(dice.uniform(0.05, 1.5))
    if dice.random() < 0.5:
        await load.sent()
    victim = backend_of(app, dice) if dice.random() < 0.3 else app.postmaster()
    app.ready.clear()
    started = time.monotonic()
    if victim is not None:
        os.kill(victim, signal.SIGKILL)
    await asyncio.sleep(0.05)
    await app.wait_ready()
    assert app.process is not None
    assert app.process.poll() is None
    return time.monotonic() - started


async def finish(app: App, load: Load) -> None:
    await load.settle()
    stored = await read(app.dsn)
    assert_each_once(stored, load.batches)
    assert_bars_right(stored)
    await assert_derived_right(app)
    assert (await app.terminate())[0] == 0
    assert processes_of(app.folder) == []
    assert app.postmaster() is None or not psutil.pid_exists(app.postmaster() or 0)


@pytest.mark.thorough
@pytest.mark.timeout(3600)
async def test_app_outlives_its_database() -> None:
    seed = seed_of(1)
    dice = random.Random(seed)
    async with running_app() as app:
        load = Load(app, Market(seed))
        async with load.flowing():
            await asyncio.sleep(1)
            seconds = [await kill_postgres(app, load, dice) for _ in range(kills_wanted(3))]
            await asyncio.sleep(0.5)
        print(
            f"{len(seconds)} kills, {load.ticks} ticks, {load.rate:.0f} a second; ready again after {spread(seconds)} s"
        )
        await finish(app, load)


@pytest.mark.longest
@pytest.mark.timeout(3600)
async def test_app_and_database_killed_together_lose_nothing() -> None:
    seed = seed_of(2)
    dice = random.Random(seed)
    async with running_app() as app:
        load = Load(app, Market(seed))
        seconds = []
        async with load.flowing():
            await asyncio.sleep(1)
            for _ in range(kills_wanted(2)):
                await asyncio.sleep(dice.uniform(0.05, 1.5))
                victims = [pid for pid in (app.pid, app.postmaster()) if pid is not None]
                dice.shuffle(victims)
                for pid in victims:
                    os.kill(pid, signal.SIGKILL)
                await app.kill()
                seconds.append(await app.start())
            await asyncio.sleep(0.5)
        print(
            f"{len(seconds)} kills, {load.ticks} ticks, {load.rate:.0f} a second; ready again after {spread(seconds)} s"
        )
        await finish(app, load)

"""SIGKILL of the app at any moment under load: nothing acknowledged is lost, nothing is stored twice."""

import asyncio
import contextlib
import random
import time
from pathlib import Path

import psutil
import pytest
from crash_harness import (
    CACHE,
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
    until,
)


async def kill_now_and_then(app: App, load: Load, kills: int, dice: random.Random) -> list[float]:
    """Kill the app at any time, right after a request, or while it starts; return the seconds until it served again."""
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


@pytest.mark.thorough
@pytest.mark.timeout(3600)
async def test_killed_app_loses_nothing_and_doubles_nothing() -> None:
    seed = seed_of(1)
    async with running_app() as app:
        load = Load(app, Market(seed))
        async with load.flowing():
            await asyncio.sleep(1)
            seconds = await kill_now_and_then(app, load, kills_wanted(3), random.Random(seed))
            await asyncio.sleep(1)
        await load.settle()
        stored = await read(app.dsn)
        started = time.monotonic()
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)
        await assert_derived_right(app)
        print(f"checked in {time.monotonic() - started:.1f} s")
        print(
            f"{len(seconds)} kills, {load.ticks} ticks, {load.rate:.0f} a second;"
            f" serving again after {spread(seconds)} s; answers {dict(load.answers)}"
        )
        assert (await app.terminate())[0] == 0
        assert processes_of(app.folder) == []


@pytest.mark.longest
@pytest.mark.timeout(3600)
async def test_killed_before_its_indicators_are_compiled_and_while_they_catch_up(
    tmp_path: Path, compiled: Path
) -> None:
    seed = seed_of(9)
    dice = random.Random(seed)
    async with running_app(cache_dir=tmp_path / "cache") as app:
        load = Load(app, Market(seed))
        async with load.flowing():
            await asyncio.sleep(1)
            await kill_now_and_then(app, load, 1, dice)
            await asyncio.sleep(0.5)
        said = await app.analytics()
        assert said["compiled"] is False
        assert said["behind"]
        # From here on it finds them compiled, so that the test need not wait for it.
        app.settings[CACHE] = str(compiled)
        behind = []
        for _ in range(kills_wanted(1)):
            await app.kill()
            await app.start()
            while not (said := await app.analytics())["compiled"]:
                await asyncio.sleep(0.02)
            behind.append(said["behind"])
            await asyncio.sleep(dice.uniform(0, 1))
        assert behind[0], "it had caught up before it could be killed"
        await app.kill()
        await app.start()
        await load.settle()
        # A kill now leaves nothing to do.
        await app.kill()
        await app.start()
        assert (await app.analytics())["behind"] == 0
        stored = await read(app.dsn)
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)
        await assert_derived_right(app)


@pytest.mark.thorough
async def test_compiling_ends_with_the_app(tmp_path: Path) -> None:
    """No compiler outlives the app, even if the app is killed."""
    async with running_app(cache_dir=tmp_path / "cache") as app:
        await until(lambda: compilers_of(app), "that it compiles")
        await app.kill()
        await until(lambda: not compilers_of(app), "that no compiler is left", seconds=5)


def compilers_of(app: App) -> list[psutil.Process]:
    found = []
    for process in processes_of(app.folder):
        with contextlib.suppress(psutil.NoSuchProcess):  # it may end during the check
            if "stockpulse.indicators.compiler" in process.cmdline():
                found.append(process)
    return found

"""The whole app with a database whose connections die at any message."""

import asyncio
import random
import time
from pathlib import Path

import pytest
from crash_harness import (
    App,
    Load,
    Market,
    assert_bars_right,
    assert_each_once,
    data_folder,
    processes_of,
    read,
    running_app,
    seed_of,
)
from crash_proxy import Cut, Proxy

from stockpulse.postgres import migrate
from stockpulse.postgres.embedded.server import EmbeddedPostgres

CUTS = [Cut.BEFORE, Cut.WITHIN, Cut.AFTER, Cut.AFTER, Cut.HALF_OPEN]


@pytest.mark.longest
@pytest.mark.timeout(180)
async def test_app_outlives_connections_that_die_at_any_message() -> None:
    seed = seed_of(1)
    dice = random.Random(seed)
    with data_folder() as folder:
        server = EmbeddedPostgres(folder / "server")
        await server.start()
        try:
            await migrate.upgrade(server.dsn)
            async with Proxy(folder / "cut", Path(server.dsn.partition("host=")[2])) as proxy:
                await under_load(App(folder, database_url=proxy.dsn), proxy, server.dsn, dice, seed)
        finally:
            await server.stop()


async def under_load(app: App, proxy: Proxy, dsn: str, dice: random.Random, seed: int) -> None:
    cuts = 0

    def decide(_number: int, _message: bytes) -> Cut | None:
        nonlocal cuts
        if dice.random() > 0.02:
            return None
        cuts += 1
        return dice.choice(CUTS)

    try:
        await app.start()
        load = Load(app, Market(seed))
        async with load.flowing():
            await asyncio.sleep(1)
            for _ in range(3):
                proxy.decide = decide
                await asyncio.sleep(1)
                proxy.disarm()
                proxy.cut_all()
                await asyncio.sleep(0.5)
            begun = time.monotonic()
        print(f"{cuts} cuts, {load.ticks} ticks; the last answer {time.monotonic() - begun:.1f} s after the last cut")
        await load.end()
        stored = await read(dsn)
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)
        assert (await app.terminate())[0] == 0
    except BaseException:
        print(app.tail(20_000))
        raise
    finally:
        if app.process is not None and app.process.poll() is None:
            await app.kill()


@pytest.mark.thorough
@pytest.mark.timeout(120)
async def test_app_outlives_a_database_that_dies_while_it_comes_up() -> None:
    """The new postmaster is killed too, a moment after the old one, again and again."""
    seed = seed_of(2)
    dice = random.Random(seed)
    async with running_app() as app:
        load = Load(app, Market(seed))
        async with load.flowing():
            await asyncio.sleep(1)
            for _ in range(2):
                for _ in range(5):
                    for process in processes_of(app.folder):
                        if process.pid == app.postmaster():
                            process.kill()
                    await asyncio.sleep(dice.uniform(0.2, 0.7))
                await app.wait_ready()
        await load.end()
        stored = await read(app.dsn)
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)
        assert (await app.terminate())[0] == 0
        assert processes_of(app.folder) == []

"""A disk that fills up under load and has room again later: no acknowledged tick is lost, and the app continues."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from crash_harness import (
    App,
    Load,
    Market,
    assert_bars_right,
    assert_derived_right,
    assert_each_once,
    data_folder,
    processes_of,
    read,
    seed_of,
    until,
    until_true,
)

from small_disk import fill, make_room, small_disk
from stockpulse.postgres import migrate
from stockpulse.postgres.embedded.server import EmbeddedPostgres

TICK = {"symbol": "TINY", "ts": "2024-11-29T15:00:00Z", "price": 1.0, "size": 1.0, "trade_id": "1"}


@contextlib.asynccontextmanager
async def app_on(disk: Path, **settings: object) -> AsyncIterator[App]:
    app = App(disk, **settings)
    app.log = disk.parent / "app.log"  # not on the full disk, which has no room for its lines
    try:
        await app.start()
        yield app
    except BaseException:
        print(app.tail(20_000))
        raise
    finally:
        for process in processes_of(disk):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if app.process is not None:
            app.process.wait()


async def health(app: App) -> Any:
    return (await app.get("/health"))[1]


async def check_refusal(app: App, words: str) -> None:
    """Readiness and POST say the same, and POST says when to come back."""
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{app.port}", timeout=30) as client:
        for answer in (await client.get("/ready"), await client.post("/ticks", json=[TICK])):
            assert answer.status_code == 503, answer.text
            assert words in answer.json()["error"]["message"]
            assert int(answer.headers["Retry-After"]) > 0


async def not_ready(app: App) -> bool:
    return (await app.get("/ready"))[0] == 503


async def finish(app: App, load: Load, dsn: str) -> None:
    await load.settle()
    stored = await read(dsn)
    assert_each_once(stored, load.batches)
    assert_bars_right(stored)


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_a_disk_that_fills_up_stops_intake_and_nothing_else() -> None:
    with data_folder() as folder, small_disk(folder / "disk", "700m") as disk:
        async with app_on(disk) as app:
            load = Load(app, Market(seed_of(1)), connections=2)
            async with load.flowing():
                await until(lambda: load.ticks > 5_000, "ticks are acknowledged")
                fill(disk, leave=60_000_000)  # below the app's reserve, and enough for ticks and the WAL
                await until_true(lambda: not_ready(app), "readiness says that the disk is full")
                await check_refusal(app, f"bytes are free at {disk}")
                said = await health(app)
                assert said["status"] == "degraded"
                assert said["db"] == "ok"
                assert said["disk"]["path"] == str(disk)
                assert 0 < said["disk"]["missing_bytes"] < 73_400_320
                acknowledged = load.ticks
                await asyncio.sleep(2)
                assert load.ticks == acknowledged
                make_room(disk)
                await app.wait_ready()
                await until(lambda: load.ticks > acknowledged + 2_000, "ticks are acknowledged again")
            assert app.said("postgres died") == []
            await finish(app, load, app.dsn)
            await assert_derived_right(app)
            assert (await app.terminate())[0] == 0


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_the_embedded_database_comes_back_when_there_is_room() -> None:
    with data_folder() as folder, small_disk(folder / "disk", "260m") as disk:
        async with app_on(disk, disk_reserve_mb=0) as app:  # so that nothing is held back
            load = Load(app, Market(seed_of(2)), connections=4)
            async with load.flowing():
                await until(lambda: load.ticks > 20_000, "ticks are acknowledged")
                fill(disk)
                await until_true(lambda: not_ready(app), "readiness fails")
                await asyncio.sleep(1)
                if (postmaster := app.postmaster()) is not None:  # it may have panicked before
                    os.kill(postmaster, signal.SIGKILL)
                for _ in range(15):  # longer than eight starts take
                    await asyncio.sleep(1)
                    assert app.process is not None
                    assert app.process.poll() is None, app.tail()
                    fill(disk)
                said = await health(app)
                assert said["status"] == "degraded"
                acknowledged = load.ticks
                make_room(disk)
                await app.wait_ready(90)
                await until(lambda: load.ticks > acknowledged + 2_000, "ticks are acknowledged again")
            assert app.said("postgres died") != []
            print(f"{len(app.said('postgres cannot start on a full disk'))} starts failed for want of room")
            await finish(app, load, app.dsn)
            await assert_derived_right(app)
            assert (await app.terminate())[0] == 0


@pytest.mark.thorough
async def test_a_start_on_a_disk_that_is_too_small_says_so() -> None:
    with data_folder() as folder, small_disk(folder / "disk", "20m") as disk:
        app = App(disk)
        app.log = folder / "app.log"
        app.spawn()
        assert app.process is not None
        assert await asyncio.to_thread(app.process.wait, 60) != 0
        (said,) = app.said("cannot start")
        assert f"bytes are free at {disk}" in str(said["reason"])
        assert "Traceback" not in app.tail()
        assert list(disk.glob("postgres")) == []


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_the_full_disk_of_another_server_is_said_and_waited_for() -> None:
    with data_folder() as folder, small_disk(folder / "disk", "260m") as disk:
        server = EmbeddedPostgres(disk)
        await server.start()
        try:
            await migrate.upgrade(server.dsn)
            async with app_on(folder, database_url=server.dsn) as app:
                load = Load(app, Market(seed_of(3)), connections=2)
                async with load.flowing():
                    await until(lambda: load.ticks > 5_000, "ticks are acknowledged")
                    fill(disk)
                    await until_true(lambda: not_ready(app), "readiness says that the disk is full")
                    await check_refusal(app, "the disk of the database is full: could not")
                    said = await health(app)
                    assert (said["status"], said["disk"]["path"]) == ("degraded", None)
                    assert "No space left on device" in said["disk"]["fault"]
                    acknowledged = load.ticks
                    make_room(disk)
                    await app.wait_ready()
                    await until(lambda: load.ticks > acknowledged + 2_000, "ticks are acknowledged again")
                await finish(app, load, server.dsn)
                assert (await app.terminate())[0] == 0
        finally:
            await server.stop()

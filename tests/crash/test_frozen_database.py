"""SIGSTOP of the database, and restarts: no request hangs, /health stays, and all goes on by itself."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator

import httpx2
import psutil
import pytest
from crash_harness import (
    App,
    Load,
    Market,
    assert_bars_right,
    assert_each_once,
    processes_of,
    read,
    running_app,
    seed_of,
    until,
    until_true,
)

READS = ("/signals", "/dead-letters", "/data/C00?interval=1d", "/ohlc/C00?interval=5m", "/signals/C00")
"""Requests that ask the database; some others are answered from memory."""


def postgres_of(app: App) -> list[psutil.Process]:
    return [one for one in processes_of(app.folder) if one.pid != app.pid and "postgres" in " ".join(one.cmdline())]


@contextlib.contextmanager
def frozen(app: App) -> Iterator[None]:
    """Stop every process of the database, as a machine does that hangs."""
    stopped = postgres_of(app)
    assert len(stopped) > 3
    for process in stopped:
        process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for process in stopped:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)


def client_of(app: App) -> httpx2.AsyncClient:
    limits = httpx2.Limits(max_connections=200)
    return httpx2.AsyncClient(base_url=f"http://127.0.0.1:{app.port}", timeout=60, limits=limits)


async def all_read(client: httpx2.AsyncClient) -> bool:
    return {(await client.get(path)).status_code for path in READS} == {200}


async def database_is(app: App, state: str) -> bool:
    _, health = await app.get("/health")
    assert isinstance(health, dict)
    return health["db"] == state


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_a_frozen_database_hangs_no_request() -> None:
    async with running_app(durable_timeout_seconds=5) as app, client_of(app) as client:
        load = Load(app, Market(seed_of(1)), connections=2)
        async with load.flowing():
            await until(lambda: load.ticks > 5_000, "ticks are acknowledged")
            await until_true(lambda: all_read(client), "the symbol is known")
            with frozen(app):  # all of this is answered before the database goes on
                answers = await asyncio.gather(*[client.get(path) for path in READS * 12])
                await until_true(lambda: database_is(app, "down"), "health says that the database is down")
                answers += await asyncio.gather(*[client.get(path) for path in READS * 4])
                answers.append(await client.get("/ready"))
                answers.append(await client.post("/dead-letters/retry", headers={"Content-Type": "application/json"}))
                for answer in answers:
                    assert answer.status_code == 503, (answer.url, answer.text)
                    assert answer.json()["error"]["code"] in {"UNAVAILABLE", "OUTCOME_UNKNOWN"}
                    assert int(answer.headers["Retry-After"]) > 0
                health = (await client.get("/health")).json()
                assert health["status"] == "degraded"
            await app.wait_ready()
            acknowledged = load.ticks
            await until(lambda: load.ticks > acknowledged + 2_000, "ticks are acknowledged again")
            assert await all_read(client)
        await load.settle()
        stored = await read(app.dsn)
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)
        assert (await app.terminate())[0] == 0


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_a_database_that_restarts_hangs_no_request() -> None:
    async with running_app() as app, client_of(app) as client:
        load = Load(app, Market(seed_of(2)), connections=2)
        seen: set[int] = set()

        async def read_all(path: str) -> None:
            while True:
                answer = await client.get(path)
                assert answer.status_code in {200, 503}, (path, answer.text)
                assert answer.status_code == 200 or int(answer.headers["Retry-After"]) > 0
                seen.add(answer.status_code)

        async with load.flowing():
            await until(lambda: load.ticks > 5_000, "ticks are acknowledged")
            await until_true(lambda: all_read(client), "the symbol is known")
            readers = [asyncio.create_task(read_all(path)) for path in READS]
            for _ in range(5):
                postmaster = app.postmaster()
                assert postmaster is not None
                os.kill(postmaster, signal.SIGINT)  # a fast shutdown; the app starts it again
                await until(lambda before=postmaster: app.postmaster() not in {None, before}, "a new server")
                await app.wait_ready()
                acknowledged = load.ticks
                await until(lambda before=acknowledged: load.ticks > before, "ticks are acknowledged again")
            for reader in readers:
                assert not reader.done(), reader.exception()
                reader.cancel()
            await asyncio.wait(readers)
        assert 200 in seen
        await load.settle()
        stored = await read(app.dsn)
        assert_each_once(stored, load.batches)
        assert (await app.terminate())[0] == 0

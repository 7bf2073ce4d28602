"""Stops in good order, and the guarantees for a client that sends again."""

import asyncio
import os
import signal
import time

import asyncpg
import polars as pl
import pytest
from crash_harness import (
    BEGIN,
    FORMATS,
    SOURCES,
    App,
    Caller,
    Load,
    Market,
    assert_bars_right,
    assert_derived_right,
    assert_each_once,
    processes_of,
    read,
    read_stopped,
    running_app,
    seed_of,
    until,
)

pytestmark = pytest.mark.timeout(180)


@pytest.mark.thorough
async def test_sigterm_under_load_ends_well_and_leaves_nothing_to_do() -> None:
    async with running_app() as app:
        load = Load(app, Market(seed_of(3)), gives_up=True)
        async with load.flowing():
            await asyncio.sleep(2)
            load.finish()
            status, seconds = await app.terminate()
        print(f"stopped in {seconds:.1f} s")
        assert status == 0
        assert app.said("stopping with work left") == []
        assert processes_of(app.folder) == []
        stored = await read_stopped(app.folder)
        assert_each_once(stored, load.batches)
        assert stored.checkpoint == stored.head
        await app.start()
        again = await read(app.dsn)
        assert (again.log, again.head) == (stored.log, stored.head)
        assert again.bars == stored.bars
        await load.settle()
        assert_bars_right(await read(app.dsn))
        await assert_derived_right(app)


@pytest.mark.thorough
async def test_stop_with_half_a_request_open_ends() -> None:
    """A client that never sends the rest of its body does not hold the process."""
    async with running_app() as app:
        _, writer = await asyncio.open_connection("127.0.0.1", app.port)
        writer.write(
            b"POST /api/v1/ticks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            b"Content-Length: 1000\r\n\r\n["
        )
        await writer.drain()
        await asyncio.sleep(0.3)
        status, seconds = await app.terminate(20)
        print(f"stopped in {seconds:.1f} s")
        assert status == 0
        writer.close()


@pytest.mark.longest
async def test_idle_stop_after_a_restart_is_quick() -> None:
    """Also when the open segment was sealed at the start, which leaves out offsets."""
    async with running_app() as app:
        load = Load(app, Market(seed_of(4), least=60_000, most=80_000, formats=FORMATS[-1:]), connections=3)
        async with load.flowing():
            # More than is read back into memory.
            await until(lambda: load.ticks > 330_000, "so many ticks")
        await app.kill()
        await app.start()
        status, seconds = await app.terminate()
        print(f"stopped in {seconds:.1f} s")
        assert status == 0
        assert app.said("stopping with work left") == []
        await app.start()
        *_, sealed, last = app.said("recovered")
        assert sealed["offset"] == sealed["head"] == last["offset"] == last["head"]
        await load.end()
        stored = await read(app.dsn)
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)


@pytest.mark.thorough
async def test_end_of_a_recording_is_stored_when_it_is_answered() -> None:
    async with running_app() as app:
        load = Load(app, Market(seed_of(5)))
        async with load.flowing():
            await asyncio.sleep(0.5)
        await load.end()
        await app.kill()
        await app.start()
        stored = await read(app.dsn)
        assert_each_once(stored, load.batches)
        assert_bars_right(stored)


async def send(app: App, batches: list) -> list[dict]:
    caller = Caller(app.port)
    receipts = []
    for batch in batches:
        status, receipt = await caller.call("POST", batch.source.path(), batch.body, batch.content_type)
        assert status == 200, receipt
        receipts.append(receipt)
    caller.close()
    return receipts


@pytest.mark.thorough
async def test_what_was_sent_before_a_restart_is_recognised() -> None:
    market = Market(seed_of(6))
    batches = [market.batch() for _ in range(30)]
    async with running_app() as app:
        for batch, receipt in zip(batches, await send(app, batches), strict=True):
            assert receipt["accepted"] == len(batch.ticks)
        await app.kill()
        await app.start()
        for batch, receipt in zip(batches, await send(app, batches), strict=True):
            assert (receipt["accepted"], receipt["duplicates"]) == (0, len(batch.ticks))
        await app.terminate()
        await app.start()
        for batch, receipt in zip(batches, await send(app, batches), strict=True):
            assert (receipt["accepted"], receipt["duplicates"]) == (0, len(batch.ticks))
        stored = await read(app.dsn)
        assert len(stored.log) == sum(len(batch.ticks) for batch in batches)


@pytest.mark.thorough
async def test_frozen_database_gives_503_and_sending_again_is_safe() -> None:
    market = Market(seed_of(7))
    batches = [batch for batch in (market.batch() for _ in range(12)) if not batch.poison]
    async with running_app(durable_timeout_seconds=1) as app:
        await send(app, batches[:5])
        frozen = [process for process in processes_of(app.folder) if process.pid != app.pid]
        for process in frozen:
            process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        caller = Caller(app.port)
        try:
            while time.monotonic() < begun + 5:
                for batch in batches[5:8]:
                    started = time.monotonic()
                    status, answer = await caller.call("POST", batch.source.path(), batch.body, batch.content_type)
                    assert status == 503
                    assert answer["error"]["code"] == "OUTCOME_UNKNOWN"
                    assert time.monotonic() - started < 3
            assert (await asyncio.wait_for(app.get("/ready"), 5))[0] == 503
            assert (await asyncio.wait_for(app.get("/health"), 5))[0] == 200
        finally:
            for process in frozen:
                process.send_signal(signal.SIGCONT)
        caller.close()
        await app.wait_ready()
        await send(app, batches)
        stored = await read(app.dsn)
        assert len(stored.log) == len({tick.seq for tick in stored.log}) == sum(len(batch.ticks) for batch in batches)
        assert (await app.terminate())[0] == 0


@pytest.mark.thorough
async def test_app_that_was_fenced_goes_down() -> None:
    """Another process took the log over: this one ends with an error, and the next start takes the log back."""
    market = Market(seed_of(8))
    batches = [market.batch() for _ in range(4)]
    async with running_app() as app:
        await send(app, batches[:2])
        connection = await asyncpg.connect(app.dsn)
        await connection.execute("UPDATE journal_heads SET epoch = epoch + 1; UPDATE checkpoints SET epoch = epoch + 1")
        await connection.close()
        posting = asyncio.create_task(send(app, batches[2:3]))
        assert app.process is not None
        status = await asyncio.to_thread(app.process.wait, 30)
        assert status != 0
        (error,) = await asyncio.gather(posting, return_exceptions=True)
        assert isinstance(error, Exception)
        assert app.said("task failed, stopping the process")
        assert processes_of(app.folder) == []
        await app.start()
        assert [receipt["duplicates"] for receipt in await send(app, batches)][2:] == [0, 0]
        stored = await read(app.dsn)
        assert len(stored.log) == sum(len(batch.ticks) for batch in batches)


@pytest.mark.longest
async def test_restart_with_many_symbols() -> None:
    count = int(os.environ.get("STOCKPULSE_CRASH_SYMBOLS", "2000"))
    source = SOURCES[0]
    async with running_app() as app:
        caller = Caller(app.port)
        for minute in range(3):
            ts = int(BEGIN.timestamp() * 1_000_000) + minute * 60_000_000
            ticks = pl.DataFrame(
                {
                    "symbol": [f"X{number}" for number in range(count)],
                    "ts": pl.Series(range(ts, ts + count)).cast(pl.Datetime("us", "UTC")),
                    "price": [100 + number / 100 for number in range(count)],
                    "size": [float(number % 500) for number in range(count)],
                    "trade_id": [f"{minute}-{number}" for number in range(count)],
                }
            )
            body = ticks.write_ipc_stream(None).getvalue()
            status, answer = await caller.call("POST", source.path(), body, "application/vnd.apache.arrow.stream")
            assert (status, answer["accepted"]) == (200, count)
        caller.close()
        await app.kill()
        cold = await app.start()
        await asyncio.sleep(1)
        await app.kill()
        warm = await app.start()
        print(f"{count} symbols: ready again after {cold:.2f} s, then {warm:.2f} s")
        caller = Caller(app.port)
        assert (await caller.call("POST", source.path(end=True)))[0] == 200
        caller.close()
        stored = await read(app.dsn)
        assert len(stored.log) == 3 * count
        assert_bars_right(stored)

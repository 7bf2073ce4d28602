"""Requests that ask for more memory than there is: a real server stays small, and answers others."""

import asyncio
import io
import time
from collections import Counter
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx2
import orjson
import polars as pl
import psutil
import pytest

from app_process import AppProcess

JSON = {"Content-Type": "application/json"}
ROWS = 60_000
START = datetime(2025, 6, 2, tzinfo=UTC)
BUDGET_MB = 64
"""Of these, 21 are for a large answer, 7 for the arriving body of one request, and 28 for parsing it."""
MB = 2**20

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def app(tmp_path_factory, compiled):
    """A server with 60,000 one-minute bars of one symbol."""
    settings = {"request_memory_mb": str(BUDGET_MB), "durable_timeout_seconds": "2"}
    with AppProcess(tmp_path_factory.mktemp("memory"), **settings) as running:
        for begin in range(0, ROWS, 20_000):
            minutes = range(begin, begin + 20_000)
            ticks = [
                {
                    "symbol": "LONG",
                    "ts": int((START + timedelta(minutes=i)).timestamp()),
                    "price": 100 + i % 7,
                    "size": 1,
                    "trade_id": str(i),
                }
                for i in minutes
            ]
            send(running, orjson.dumps(ticks))
        running.wait_for("/health", lambda health: not health["tasks"]["flush"]["lag"])
        running.wait_for("/data/LONG?interval=1m&format=json", lambda data: len(data["bars"]) == ROWS)
        yield running


def send(app, content):
    """Send 20,000 ticks; again if a busy machine does not store them in time."""
    while (answer := post(app, content, query="?calendar=24/7&clock=event&provider=tape")).status_code == 503:
        time.sleep(0.5)
    receipt = answer.json()
    assert receipt["accepted"] + receipt["duplicates"] == 20_000, receipt


def post(app, content, *, headers=JSON, query="?calendar=24/7"):
    return httpx2.post(f"{app.url}/api/v1/ticks{query}", content=content, headers=headers, timeout=30)


def one_tick():
    return orjson.dumps([{"symbol": "LIVE", "ts": datetime.now(UTC).isoformat(), "price": 10, "size": 1}])


def assert_serves_others(app):
    """Small requests are answered as always."""
    assert httpx2.get(f"{app.url}/ready", timeout=30).status_code == 200
    assert httpx2.get(f"{app.url}/health", timeout=30).json()["db"] == "ok"
    assert post(app, one_tick()).json()["accepted"] == 1
    assert httpx2.get(f"{app.url}/ticks/latest?symbol=LIVE", timeout=30).json()["count"] >= 1


def memory_of(app):
    return psutil.Process(app.pid).memory_info().rss


async def opened(app, stack, request):
    """Send the beginning of a request over a new connection that stays open."""
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    stack.callback(writer.close)
    writer.write(request)
    await writer.drain()
    return reader, writer


def head_of_post(size):
    head = "POST /api/v1/ticks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {size}\r\n\r\n".encode()


async def head_of(reader):
    head = await reader.readuntil(b"\r\n\r\n")
    return int(head.split()[1]), head.decode().lower()


async def test_readers_that_do_not_read_hold_little(app):
    before = memory_of(app)
    request = b"GET /api/v1/data/LONG?interval=1m HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    async with AsyncExitStack() as stack:
        connections = [await opened(app, stack, request) for _ in range(60)]
        heads = await asyncio.gather(*(head_of(reader) for reader, _ in connections))
        assert Counter(status for status, _ in heads).keys() == {200, 503}
        assert all("retry-after: " in head for status, head in heads if status == 503)
        await asyncio.to_thread(assert_serves_others, app)
        # The answers together have 900 MB.
        assert memory_of(app) - before < 3 * BUDGET_MB * MB
    # Their memory is free again.
    answer = await asyncio.to_thread(httpx2.get, f"{app.url}/data/LONG?interval=1m", timeout=60)
    assert len(answer.json()["bars"]) == ROWS


@pytest.mark.parametrize("form", ["json", "csv", "arrow", "parquet"])
async def test_parallel_answers_are_whole_or_refused(app, form):
    url = f"{app.url}/api/v1/indicators/LONG?type=sma,rsi,obv,bb&interval=1m&format={form}"
    before = memory_of(app)
    async with httpx2.AsyncClient(timeout=120) as client:
        alone = (await client.get(url)).content
        answers = await asyncio.gather(*(client.get(url) for _ in range(12)))
    whole = [answer for answer in answers if answer.status_code == 200]
    assert whole
    assert all(answer.content == alone for answer in whole)
    for answer in answers:
        if answer.status_code != 200:
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "UNAVAILABLE")
            assert "STOCKPULSE_REQUEST_MEMORY_MB" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
    assert memory_of(app) - before < 3 * BUDGET_MB * MB
    read = {"json": lambda body: orjson.loads(body)["values"], "csv": pl.read_csv}
    read |= {"arrow": pl.read_ipc_stream, "parquet": pl.read_parquet}
    assert len(read[form](alone)) == ROWS


def test_an_answer_that_never_fits_says_what_to_do(app):
    answer = httpx2.get(f"{app.url}/api/v1/analytics/intraday/LONG?limit=10000", timeout=30)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (413, "TOO_LARGE")
    assert "one request may have 21 MB: ask for a shorter range, a smaller limit" in error["message"]
    assert "STOCKPULSE_REQUEST_MEMORY_MB" in error["message"]
    assert httpx2.get(f"{app.url}/api/v1/analytics/intraday/LONG?limit=1000", timeout=30).status_code == 200


async def test_stalled_bodies_leave_room_for_live_ticks(app):
    before = memory_of(app)
    size = 2 * MB
    async with AsyncExitStack() as stack:
        connections = [await opened(app, stack, head_of_post(size) + b" " * 60_000) for _ in range(10)]
        refused = [asyncio.create_task(head_of(reader)) for reader, _ in connections]
        done, stalled = await asyncio.wait(refused, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.to_thread(assert_serves_others, app)
        while len(done) < 7:  # three fit
            more, stalled = await asyncio.wait(stalled, timeout=60, return_when=asyncio.FIRST_COMPLETED)
            assert more
            done |= more
        assert {task.result()[0] for task in done} == {503}
        assert len(stalled) == 3
        for task in stalled:
            task.cancel()
        await asyncio.to_thread(assert_serves_others, app)
        assert memory_of(app) - before < BUDGET_MB * MB
    body = orjson.dumps([{"symbol": "LIVE", "ts": "2026-01-05", "price": 1, "size": 1}]).ljust(size)
    assert (await asyncio.to_thread(post, app, body)).json()["accepted"] == 1


async def test_a_body_that_never_fits_is_refused_before_it_is_sent(app):
    async with AsyncExitStack() as stack:
        reader, _ = await opened(app, stack, head_of_post(60 * MB))
        status, _ = await head_of(reader)
        assert status == 413
        body = await reader.read(1000)
        assert b"needs about 60 MB of memory, and one request may have 7 MB: send several requests" in body


def test_a_body_that_becomes_large_is_refused_before_it_is_unpacked(app):
    before = memory_of(app)
    rows = 100_000
    frame = pl.DataFrame(
        {
            "symbol": pl.Series(["A" * 2600]).new_from_index(0, rows),
            "ts": pl.Series([1_764_000_000]).new_from_index(0, rows),
            "price": pl.Series([1.0]).new_from_index(0, rows),
            "size": pl.Series([1.0]).new_from_index(0, rows),
        }
    )
    plain, repeated = io.BytesIO(), io.BytesIO()
    frame.write_ipc_stream(plain, compression="zstd", compat_level=pl.CompatLevel.oldest())
    frame.with_columns(pl.col("symbol").cast(pl.Categorical)).write_ipc_stream(repeated, compression="zstd")
    arrow = {"Content-Type": "application/vnd.apache.arrow.stream"}
    for body in (plain.getvalue(), repeated.getvalue()):
        assert len(body) < MB
        answer = post(app, body, headers=arrow)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "TOO_LARGE")
        assert len(answer.content) < 1000
    many = b"[" + b",".join([b'{"symbol":"A"}'] * 100_000) + b"]"
    assert post(app, many).status_code == 413
    assert memory_of(app) - before < BUDGET_MB * MB
    assert_serves_others(app)


async def test_readers_that_wait_for_the_database_keep_no_other_work_waiting(app):
    """A lock holds all connections of readers."""
    connection = await asyncpg.connect(f"postgresql://stockpulse@/stockpulse?host={app.data_dir / 'run'}")
    async with httpx2.AsyncClient(base_url=app.url, timeout=60) as client:
        async with connection.transaction():
            await connection.execute("LOCK TABLE dead_letters IN ACCESS EXCLUSIVE MODE")
            readers = [asyncio.create_task(client.get("/dead-letters?limit=1")) for _ in range(40)]
            while await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") < 6:
                await asyncio.sleep(0.01)
            for number in range(3):
                assert (await client.get("/ready")).status_code == 200
                assert (await client.get("/health")).json()["db"] == "ok"
                new = orjson.dumps([{"symbol": f"NEW{number}", "ts": 1_764_000_000, "price": 1, "size": 1}])
                assert (await client.post("/ticks", content=new, headers=JSON)).json()["accepted"] == 1
            assert not any(reader.done() for reader in readers)
        assert {(await reader).status_code for reader in readers} == {200}
    await connection.close()

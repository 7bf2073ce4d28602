"""Replies of providers are stored in the background, bounded in size and age."""

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import pytest

from stockpulse.pipeline.reply_recorder import ReplyRecorder
from stockpulse.postgres.connect import create_pool
from stockpulse.providers.transport.rest_client import Reply
from stockpulse.storage.raw_replies import LONGEST_BODY, RawReplies

NOW = datetime(2026, 7, 14, 12, tzinfo=UTC)


def reply(body=b"{}", *, at=NOW, path="/quote"):
    return Reply("acme", path, {"symbol": "AAPL"}, 200, {}, body, at)


@pytest.fixture
async def pool(postgres_dsn):
    async with await create_pool(postgres_dsn, 2) as pool:
        yield pool


async def stored(pool):
    return await pool.fetch(
        "SELECT provider, path, params, status, outcome, body, body_bytes FROM raw_market_data ORDER BY id"
    )


async def until_stored(pool, number):
    async with asyncio.timeout(20):
        while await pool.fetchval("SELECT count(*) FROM raw_market_data") < number:
            await asyncio.sleep(0.02)


async def test_replies_are_stored_with_their_outcome(pool):
    recorder = ReplyRecorder(RawReplies(pool), 10_000, timedelta(days=7), lambda: NOW)
    running = asyncio.create_task(recorder.run())
    recorder.record(reply(b'{"price":1}'), "ok")
    recorder.record(reply(b"no\0\xff"), "rate_limited")
    await until_stored(pool, 2)
    assert [tuple(row) for row in await stored(pool)] == [
        ("acme", "/quote", '{"symbol": "AAPL"}', 200, "ok", '{"price":1}', 11),
        ("acme", "/quote", '{"symbol": "AAPL"}', 200, "rate_limited", "no\ufffd\ufffd", 8),
    ]
    running.cancel()


async def test_long_bodies_are_cut(pool):
    await RawReplies(pool).write([(reply(b"x" * (LONGEST_BODY + 1)), "ok")])
    (row,) = await stored(pool)
    assert row["body"].endswith("x…(cut)")
    assert row["body_bytes"] == LONGEST_BODY + len("…(cut)".encode())


async def test_the_newest_replies_are_kept_within_a_size(pool):
    store = RawReplies(pool)
    await store.write([(reply(b"x" * 100, path=f"/{n}"), "ok") for n in range(10)])
    await store.trim(NOW - timedelta(days=1), 350)
    assert [row["path"] for row in await stored(pool)] == ["/7", "/8", "/9"]
    await store.trim(NOW - timedelta(days=1), 0)
    assert await stored(pool) == []


async def test_old_replies_are_deleted(pool):
    store = RawReplies(pool)
    await store.write([(reply(at=NOW - timedelta(days=days), path=f"/{days}"), "ok") for days in (9, 8, 1)])
    await store.trim(NOW - timedelta(days=7), 10_000)
    assert [row["path"] for row in await stored(pool)] == ["/1"]


async def test_a_full_queue_drops_replies_and_counts_them(pool):
    recorder = ReplyRecorder(RawReplies(pool), 10_000_000, timedelta(days=7), lambda: NOW)
    for _ in range(70):
        recorder.record(reply(b"x" * LONGEST_BODY), "ok")
    assert recorder.dropped == 70 - 16_000_000 // LONGEST_BODY
    running = asyncio.create_task(recorder.run())
    await until_stored(pool, 70 - recorder.dropped)
    running.cancel()


async def test_a_fault_of_the_database_loses_no_reply(pool):
    class Failing(RawReplies):
        faults = 1

        async def write(self, replies):
            if self.faults:
                self.faults -= 1
                raise asyncpg.InterfaceError("connection is closed")
            await super().write(replies)

    recorder = ReplyRecorder(Failing(pool), 10_000, timedelta(days=7), lambda: NOW)
    recorder.record(reply(), "ok")
    with pytest.raises(asyncpg.InterfaceError):
        await recorder.run()
    running = asyncio.create_task(recorder.run())  # as the supervisor does
    await until_stored(pool, 1)
    running.cancel()

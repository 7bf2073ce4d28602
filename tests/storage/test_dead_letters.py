"""Rejected records by kind: each is kept up to a number in a minute, and the further ones are counted."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta

import asyncpg
import httpx2
import polars as pl
import pytest

from stockpulse.market.rows import CUT
from stockpulse.postgres.connect import create_pool
from stockpulse.storage.dead_letters import DeadLetters, DeadLetterStore
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.rejected_kinds import RejectedKinds

Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]

NOW = datetime(2026, 11, 24, 15, 0, 5, tzinfo=UTC)
KEPT = 3


def rejected(count: int, reason: str = "price: missing") -> pl.DataFrame:
    return pl.DataFrame({"reason": [reason] * count, "raw": [f'{{"row":{at}}}' for at in range(count)]})


def shares(kinds: RejectedKinds, source: str, rows: pl.DataFrame, now: datetime = NOW) -> list[tuple[int, int]]:
    with kinds.shares(source, rows, now) as found:
        return [(len(one.kept), one.counted) for one in found]


class TestKinds:
    def test_a_kind_is_kept_up_to_the_limit_of_a_minute(self) -> None:
        kinds = RejectedKinds(KEPT)
        assert shares(kinds, "api", rejected(2)) == [(2, 0)]
        assert shares(kinds, "api", rejected(5)) == [(1, 4)]
        assert shares(kinds, "api", rejected(5)) == [(0, 5)]
        assert shares(kinds, "other", rejected(5)) == [(3, 2)]
        assert shares(kinds, "api", rejected(5, "size: missing")) == [(3, 2)]
        assert shares(kinds, "api", rejected(5), NOW + timedelta(minutes=1)) == [(3, 2)]

    def test_values_in_a_reason_make_no_kinds(self) -> None:
        kinds = RejectedKinds(KEPT)
        reasons = [f"price: not a number: 'a{at}'" for at in range(10)] + [f"row {at}: bad" for at in range(10)]
        rows = pl.DataFrame({"reason": reasons, "raw": reasons})
        assert shares(kinds, "api", rows) == [(3, 7), (3, 7)]

    def test_many_kinds_share_a_limit(self) -> None:
        kinds = RejectedKinds(KEPT)
        kept = [shares(kinds, f"provider_{at}", rejected(1)) for at in range(5_000)]
        assert kept[0] == [(1, 0)]
        assert kept[-1] == [(0, 1)]
        assert sum(one[0][0] for one in kept) == 20 * KEPT
        assert sum(one[0][1] for one in kept) == 5_000 - 20 * KEPT

    def test_a_batch_that_was_not_stored_does_not_count(self) -> None:
        kinds = RejectedKinds(KEPT)
        with pytest.raises(OSError, match="away"), kinds.shares("api", rejected(5), NOW):
            raise OSError("away")
        assert shares(kinds, "api", rejected(5)) == [(3, 2)]


async def test_further_records_are_counted_in_one_row(postgres_dsn: str) -> None:
    async with await create_pool(postgres_dsn, 2) as pool:
        letters, store = DeadLetters(pool, Partitions(pool), RejectedKinds(KEPT)), DeadLetterStore(pool)
        assert await letters.write("api", rejected(KEPT), NOW) == 0
        for _ in range(4):
            assert await letters.write("api", rejected(100), NOW) == 100
        assert await letters.write("api", rejected(KEPT + 1), NOW + timedelta(minutes=1)) == 1
        found = await store.newest(100)
    assert sorted(one.count for one in found) == [1] * (2 * KEPT + 1) + [400]


async def test_a_counting_row_that_is_gone_is_made_again(postgres_dsn: str) -> None:
    """A flush of Kafka's records may be rolled back after it has made the row."""
    async with await create_pool(postgres_dsn, 2) as pool:
        letters, store = DeadLetters(pool, Partitions(pool), RejectedKinds(KEPT)), DeadLetterStore(pool)
        await letters.write("api", rejected(KEPT + 10), NOW)
        await pool.execute("DELETE FROM dead_letters WHERE count > 1")
        await letters.write("api", rejected(7), NOW)
        assert max(one.count for one in await store.newest(100)) == 7


async def post(client: httpx2.AsyncClient, frame: pl.DataFrame) -> dict[str, object]:
    body = frame.write_ipc_stream(None, compression="zstd").getvalue()
    answer = await client.post(
        "/api/v1/ticks?calendar=24/7",
        content=body,
        headers={"Content-Type": "application/vnd.apache.arrow.stream"},
        timeout=120,
    )
    assert answer.status_code == 200
    assert len(answer.content) < 3_000_000
    found: dict[str, object] = answer.json()
    return found


async def test_a_flood_of_rejected_rows(postgres_dsn: str, serve: Serve) -> None:
    """100,000 rows of symbols of 2,600 characters: a count and some examples, and none can be sent again."""
    symbols = [f"{number:05}{'X' * 2595}" for number in range(10_000)]
    flood = pl.DataFrame({"symbol": symbols, "price": 1.0, "size": 1.0, "ts": datetime.now(UTC)})
    async with serve(postgres_dsn, durable_timeout_seconds=100) as client:
        for _ in range(10):
            answer = await post(client, flood)
            assert (answer["accepted"], len(answer["rejected"])) == (0, 10_000)
        letters = (await client.get("/api/v1/dead-letters?limit=10000")).json()["dead_letters"]
        retried = (await client.post("/api/v1/dead-letters/retry")).json()
        metrics = (await client.get("/metrics")).text
    assert sum(one["count"] for one in letters) == 100_000
    assert len(letters) % 1_001 == 0  # the flood may last for more than a minute
    kept = len(letters) // 1_001 * 1_000
    assert all(one["is_cut"] and CUT in one["record"] and len(one["record"]) < 500 for one in letters)
    assert retried["retried"] == 0
    assert all("cut" in why for why in retried["refused"].values())
    assert f"stockpulse_rejected_counted_total {100_000 - kept}.0" in metrics
    connection = await asyncpg.connect(postgres_dsn)
    size = await connection.fetchval(
        "SELECT sum(pg_total_relation_size(c.oid))::bigint FROM pg_class c"
        " WHERE relname LIKE 'dead_letters%' AND relkind = 'r'"
    )
    await connection.close()
    assert size < 1_500_000 + 500 * len(letters)


async def test_the_answer_lists_rejected_rows_up_to_a_number(client: httpx2.AsyncClient) -> None:
    ticks = pl.DataFrame({"symbol": ["AAA"], "ts": [datetime.now(UTC)], "price": [-1.0], "size": [1.0]})
    answer = await post(client, pl.concat([ticks] * 12_000))
    assert (answer["accepted"], len(answer["rejected"]), answer["rejected_further"]) == (0, 10_000, 2_000)
    assert "rejected_further" not in await post(client, ticks)


async def test_ticks_beyond_the_limit_stay_with_their_sender(postgres_dsn: str, serve: Serve) -> None:
    """Kept records can be sent again. The row that only counts further records cannot."""
    now = datetime.now(UTC)
    early = pl.DataFrame({"symbol": ["AAA"], "ts": [now + timedelta(seconds=8)], "price": [1.0], "size": [1.0]})
    async with serve(postgres_dsn, dead_letters_per_minute=5, future_seconds=1) as client:
        answer = await post(client, pl.concat([early] * 20))
        assert len(answer["rejected"]) == 20
        letters = (await client.get("/api/v1/dead-letters")).json()["dead_letters"]
        assert sorted(one["count"] for one in letters) == [1, 1, 1, 1, 1, 15]
    async with serve(postgres_dsn, future_seconds=60) as client:
        retried = (await client.post("/api/v1/dead-letters/retry")).json()
        assert retried["retried"] == 5
        (why,) = retried["refused"].values()
        assert why.startswith("stands for 15 records")

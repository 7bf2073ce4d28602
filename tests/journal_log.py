"""A log in a test database, and records for it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import numpy as np
import polars as pl

from stockpulse.journal.postgres import PostgresJournal
from stockpulse.journal.recent import RecentTicks
from stockpulse.journal.records import Bars, Ticks
from stockpulse.journal.segments import Segments
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_TICKS, UTC_MICROS
from stockpulse.postgres.connect import create_pool

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
MINUTE = 60_000_000
T = 1_772_465_400_000_000  # NOW, in microseconds


@asynccontextmanager
async def opened(dsn: str, rows: int = 2_000_000, age_seconds: float = 6 * 3600) -> AsyncIterator[PostgresJournal]:
    """Open and take the log; `rows` is the size of its segments."""
    pool = await create_pool(dsn, 4)
    journal = PostgresJournal(dsn, Segments(pool, RecentTicks(), rows, age_seconds))
    try:
        await journal.take()
        yield journal
    finally:
        await journal.close()
        await pool.close()


def ticks(count: int, seed: int = 0, symbols: int = 3, received_at: datetime = NOW) -> Ticks:
    """Make trades with and without a trade_id, in no order of time."""
    random = np.random.default_rng(seed)
    ids = [None if random.random() < 0.3 else "é" * int(random.integers(0, 3)) + str(n) for n in range(count)]
    frame = pl.DataFrame(
        {
            "symbol_id": random.integers(1, symbols + 1, count),
            "kind_id": random.integers(1, 4, count),
            "ts": pl.Series(T + random.integers(0, 10, count) * MINUTE).cast(UTC_MICROS),
            "received_at": pl.repeat(received_at, count, dtype=UTC_MICROS, eager=True),
            "price": random.uniform(1, 200, count),
            "size": random.integers(0, 500, count).astype(float),
            "trade_id": pl.Series(ids, dtype=pl.String),
        }
    )
    return Ticks(frame.select(pl.col(name).cast(LOGGED_TICKS[name]) for name in frame.columns))


def bars(count: int, seed: int = 0, received_at: datetime = NOW) -> Bars:
    random = np.random.default_rng(seed)
    price = random.uniform(1, 200, count)
    frame = pl.DataFrame(
        {
            "symbol_id": random.integers(1, 4, count),
            "provider_id": 1,
            "minutes": random.choice([1, 5, 1440], count),
            "ts": pl.Series(T + random.integers(0, 10, count) * 5 * MINUTE).cast(UTC_MICROS),
            "received_at": pl.repeat(received_at, count, dtype=UTC_MICROS, eager=True),
            **dict.fromkeys(("open", "high", "low", "close"), price),
            "volume": random.uniform(0, 1e6, count),
            "trade_count": random.integers(-1, 100, count),
            "vwap": np.where(random.random(count) < 0.5, np.nan, price),
        }
    )
    return Bars(frame.select(pl.col(name).cast(LOGGED_BARS[name]) for name in frame.columns))


def some(seed: int, most: int = 60) -> Ticks | Bars:
    """Make a batch of ticks or bars of any size."""
    random = np.random.default_rng(seed)
    count = int(random.integers(1, most))
    return bars(count, seed) if random.random() < 0.3 else ticks(count, seed)


def records(batches):
    """Return the records of appended batches as a replay yields them, without trade_id."""
    return [
        (type(appended.batch).__name__, *map(comparable, row))
        for appended in batches
        for row in appended.batch.frame.drop("trade_id", strict=False).iter_rows()
    ]


def comparable(value):
    return "NaN" if value != value else value  # noqa: PLR0124 (that is what a NaN is)


def offsets(batches):
    return [seq for appended in batches for seq in appended.batch.frame["seq"].to_list()]


async def replayed(journal, offset):
    return [appended async for appended in journal.replay(offset, journal.head)]

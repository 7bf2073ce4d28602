"""Sustained ticks per second from the provider until everything is committed: ticks, bars, indicators, checkpoints.

Compared in the same run with the physical limit, one plain binary COPY of the same rows into an identical open
segment; with the naive way, an INSERT and a commit for each tick and then aggregation in SQL; and with a run without
indicators.

    python tests/bench/ingest.py [--ticks 8000000] [--symbols 500] [--naive-ticks 3000]
"""

import argparse
import asyncio
import math
import time
from datetime import UTC, datetime

import numpy as np
import polars as pl
import uvloop
from prometheus_client import CollectorRegistry

from bench import fresh_database, report
from stockpulse.aio.supervisor import State
from stockpulse.journal import tick_rows
from stockpulse.market.schemas import LOGGED_TICKS, UTC_MICROS
from stockpulse.market.times import micros
from stockpulse.node.lifecycle import running
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.postgres.binary_copy import in_slices
from stockpulse.postgres.connect import connect
from stockpulse.providers.simulated import SimulatedProvider
from stockpulse.settings import Settings

PER_EVENT_SECOND = 20_000
"""Ticks per second of event time. Ticks arrive faster than that, so many bars close during a run."""


async def pipeline(
    dsn: str, ticks: int, symbols: list[str], *, indicators: bool = True, **options: object
) -> tuple[float, dict[str, float]]:
    """Return the ticks per second until everything is committed, derived rows included, and details of the run."""
    settings = Settings(database_url=dsn, provider="none", log_format="json", **options)
    provider = SimulatedProvider(symbols, math.inf)
    async with running(settings, CollectorRegistry()) as context:
        while context.supervisor.health["compiler"].state is not State.DONE:
            await asyncio.sleep(0.05)
        if not indicators:
            for shard in context.shards.processors.values():
                analytics = shard.engine.unlocked.analytics
                analytics.apply_ticks = analytics.apply_bars = lambda _: None
        sent = 0
        pending: set[asyncio.Task[object]] = set()
        started = time.perf_counter()
        begin = micros(datetime.now(UTC)) - ticks * 1_000_000 // PER_EVENT_SECOND - 60_000_000
        async for frame in provider.stream():
            ts = begin + np.arange(sent, sent + len(frame)) * 1_000_000 // PER_EVENT_SECOND
            dense = frame.with_columns(ts=pl.Series(ts).cast(UTC_MICROS))
            pending.add(asyncio.create_task(context.pipeline.intake.submit(dense, feed_of(provider))))
            sent += len(frame)
            if len(pending) >= 8:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            if sent >= ticks:
                break
        await asyncio.gather(*pending)
        while context.pipeline.lag().unflushed or context.pipeline.lag().unprocessed or context.pipeline.lag().behind:
            await asyncio.sleep(0.005)
        seconds = time.perf_counter() - started
        sealed = await context.pool.fetchval("SELECT count(*) FROM log_segments WHERE indexed")
        bars = await context.pool.fetchval("SELECT count(*) FROM bars")
        rows = await context.pool.fetchval("SELECT (SELECT count(*) FROM intraday_analytics) + count(*) FROM signals")
        counters = context.pipeline.counters
        assert await context.pool.fetchval("SELECT count(*) FROM realtime_prices") == sent == counters.ticks
    return sent / seconds, {
        "ticks": sent,
        "segments_sealed_meanwhile": sealed,
        "final_bars": bars,
        "rows_of_indicators_and_signals": rows,
        "flushes": counters.flushes,
        "flush_ms_mean": round(1000 * counters.flush_seconds / max(counters.flushes, 1), 1),
    }


async def plain_copy(dsn: str, rows: int) -> float:
    """Return the rows per second of one COPY of stored rows into a table like an open segment."""
    connection = await connect(dsn)
    found = await connection.fetch("SELECT * FROM realtime_prices LIMIT 20000")
    frame = pl.DataFrame([tuple(row) for row in found], schema=LOGGED_TICKS, orient="row")
    pieces, columns = tick_rows.packed(frame), tick_rows.COLUMNS
    await connection.execute("DROP TABLE IF EXISTS copy_limit; CREATE TABLE copy_limit (LIKE realtime_prices)")
    header, body, trailer = pieces[0], pieces[1:-1], pieces[-1]
    repeats = rows // len(frame)
    started = time.perf_counter()
    await connection.copy_to_table(
        "copy_limit", source=in_slices([header, *(body * repeats), trailer]), columns=columns, format="binary"
    )
    rate = repeats * len(frame) / (time.perf_counter() - started)
    await connection.execute("DROP TABLE copy_limit")
    await connection.close()
    return rate


async def insert_per_tick(dsn: str, ticks: int) -> float:
    """Return the ticks per second of an INSERT and a commit for each, then one aggregation to 1-minute bars."""
    connection = await connect(dsn)
    await connection.execute(
        "DROP TABLE IF EXISTS naive; CREATE TABLE naive (id bigserial PRIMARY KEY, symbol varchar(10),"
        " price numeric(12,4), volume bigint, event_time timestamptz); CREATE INDEX ON naive (symbol, event_time)"
    )
    started = time.perf_counter()
    for number in range(ticks):
        await connection.execute(
            "INSERT INTO naive (symbol, price, volume, event_time) VALUES ($1, 100, 10, now())", f"S{number % 6}"
        )
    await connection.fetch(
        "SELECT symbol, date_trunc('minute', event_time), min(price), max(price), sum(volume),"
        " (array_agg(price ORDER BY event_time))[1], (array_agg(price ORDER BY event_time DESC))[1]"
        " FROM naive GROUP BY 1, 2"
    )
    rate = ticks / (time.perf_counter() - started)
    await connection.execute("DROP TABLE naive")
    await connection.close()
    return rate


async def main(ticks: int, symbols: int, rounds: int, naive_ticks: int) -> None:
    figures = []
    for _ in range(rounds):
        async with fresh_database() as dsn:
            rate, details = await pipeline(dsn, ticks, [f"S{number}" for number in range(symbols)])
            async with fresh_database() as other:
                bare, _ = await pipeline(other, ticks, [f"S{number}" for number in range(symbols)], indicators=False)
            limit = await plain_copy(dsn, min(ticks, 4_000_000))
            naive = await insert_per_tick(dsn, naive_ticks)
        figures.append(
            {
                "ticks_per_second": round(rate),
                "without_indicators": round(bare),
                "share_of_without": round(rate / bare, 3),
                "plain_copy_per_second": round(limit),
                "share_of_plain_copy": round(rate / limit, 3),
                "insert_per_tick_per_second": round(naive),
                "times_insert_per_tick": round(rate / naive),
                **details,
            }
        )
    report("ingest", symbols=symbols, rounds=figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticks", type=int, default=8_000_000)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--naive-ticks", type=int, default=3000)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.ticks, arguments.symbols, arguments.rounds, arguments.naive_ticks))

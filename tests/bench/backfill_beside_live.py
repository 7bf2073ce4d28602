"""Measures the delay of live bars while decades of daily bars arrive, and without them.

A live feed sends a tick of each of its symbols for one minute after the other. The delay of a bar is the time from the
submission of the tick that closes it until a reader sees it as final, and until it is in the table. Daily bars are
those of weekdays. Memory is that of the server's process, at a third of the backfill and at its most afterwards.

    python tests/bench/backfill_beside_live.py [--symbols 500] [--years 30] [--live 50] [--alone-seconds 20]
"""

import argparse
import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from resource import getpagesize

import numpy as np
import polars as pl
import uvloop
from prometheus_client import CollectorRegistry

from bench import fresh_database, quantiles, report
from stockpulse.aio.supervisor import State
from stockpulse.api.context import Context
from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.node.lifecycle import running
from stockpulse.settings import Settings

LIVE = Feed("live", "24/7", Clock.EVENT)
HISTORY = Feed("history", "24/7", Clock.EVENT)
MINUTE = timedelta(minutes=1)
LATER = timedelta(seconds=5)  # beyond the allowed lateness, so that the minute before closes
CHUNK = 20_000
PAUSE_SECONDS = 0.1
SATURDAY = 5
STATM = Path("/proc/self/statm")


async def live(context: Context, symbols: int, stop: asyncio.Event) -> tuple[list[float], list[float]]:
    """Send minute after minute; return the seconds until the closed bars were seen, and until they were stored."""
    seen, stored = [], []
    minute = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(days=5)
    names = [f"LIVE{number}" for number in range(symbols)]
    while not stop.is_set():
        rows = {"symbol": names, "ts": [minute + LATER] * symbols, "price": [100.0] * symbols, "size": [1.0] * symbols}
        frame = pl.DataFrame({name: rows.get(name, [None] * symbols) for name in TICKS}, schema=TICKS)
        started = time.perf_counter()
        await context.pipeline.intake.submit(frame, LIVE)
        if (symbol := context.names.symbols.get(names[-1])) and minute.minute % 2:
            closed = minute - MINUTE
            while not await _is_final(context, symbol, closed):
                await asyncio.sleep(0.002)
            seen.append(time.perf_counter() - started)
            query = "SELECT 1 FROM bars_1m WHERE symbol_id = $1 AND ts = $2"
            while await context.pool.fetchval(query, symbol.id, closed) is None:
                await asyncio.sleep(0.01)
            stored.append(time.perf_counter() - started)
        minute += MINUTE
        await asyncio.sleep(PAUSE_SECONDS)
    return seen, stored


async def _is_final(context: Context, symbol: object, ts: datetime) -> bool:
    newest = await context.bars.latest(symbol, M1, 3, ts)
    return bool(newest.filter((pl.col("ts") == ts) & pl.col("final")).height)


async def memory(into: list[float]) -> None:
    """Note the resident memory of this process in MB, four times a second."""
    while True:
        into.append(_resident_mb())
        await asyncio.sleep(0.25)


def _resident_mb() -> float:
    """Return the resident memory of this process; 0 outside Linux."""
    return int(STATM.read_text().split()[1]) * getpagesize() / 1e6 if STATM.exists() else 0.0


async def backfill(context: Context, symbols: int, years: int) -> int:
    """Send the daily bars of one symbol after the other; return their number."""
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    past = (today - timedelta(days=ago) for ago in range(365 * years, 0, -1))
    ts = [day for day in past if day.weekday() < SATURDAY]
    days = len(ts)
    close = 100 + np.cumsum(np.random.default_rng(1).normal(0, 0.01, days))
    sent = 0
    for number in range(symbols):
        columns = {"symbol": [f"OLD{number}"] * days, "interval": ["1d"] * days, "ts": ts, "volume": [1e6] * days}
        columns |= dict.fromkeys(("open", "high", "low", "close", "vwap"), close) | {"trade_count": [1] * days}
        frame = pl.DataFrame({name: columns[name] for name in BARS}, schema=BARS)
        for part in frame.iter_slices(CHUNK):
            await context.pipeline.intake.submit(part, HISTORY, of_bars=True)
            sent += len(part)
    return sent


async def measured(dsn: str, symbols: int, years: int, live_symbols: int, alone_seconds: float) -> dict[str, object]:
    """Return the delays of live bars: alone if there are no `symbols` to fill, otherwise beside the backfill."""
    settings = Settings(database_url=dsn, provider="none", log_format="json", calendar="24/7")
    async with running(settings, CollectorRegistry()) as context:
        while context.supervisor.health["compiler"].state is not State.DONE:
            await asyncio.sleep(0.05)
        stop = asyncio.Event()
        feed = asyncio.create_task(live(context, live_symbols, stop))
        resident: list[float] = []
        watch = asyncio.create_task(memory(resident))
        started = time.perf_counter()
        if symbols:
            bars = await backfill(context, symbols, years)
            durable = time.perf_counter() - started
            while (lag := context.pipeline.lag()).unprocessed or lag.behind:
                await asyncio.sleep(0.05)
        else:
            bars, durable = 0, 0.0
            await asyncio.sleep(alone_seconds)
        seconds = time.perf_counter() - started
        stop.set()
        seen, stored = await feed
        watch.cancel()
    third = len(resident) // 3
    found = {"daily_bars": bars, "durable_s": round(durable, 1), "done_s": round(seconds, 1), "live_bars": len(seen)}
    found |= {"memory_mb": [round(max(part)) for part in (resident[: third + 1], resident[third:]) if part]}
    return found | {"seen": quantiles(seen), "stored": quantiles(stored)}


async def main(symbols: int, years: int, live_symbols: int, alone_seconds: float) -> None:
    async with fresh_database() as dsn:
        alone = await measured(dsn, 0, 0, live_symbols, alone_seconds)
    async with fresh_database() as dsn:
        beside = await measured(dsn, symbols, years, live_symbols, alone_seconds)
    report("backfill_beside_live", symbols=symbols, years=years, alone=alone, beside=beside)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--years", type=int, default=30)
    parser.add_argument("--live", type=int, default=50)
    parser.add_argument("--alone-seconds", type=float, default=20)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.symbols, arguments.years, arguments.live, arguments.alone_seconds))

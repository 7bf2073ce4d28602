"""/ticks/latest and /ticks/summary with 10 million ticks stored, while 10,000 ticks a second arrive.

Compared in the same run with the same queries through bare asyncpg, on one segment: a sealed and indexed one, if the
ticks fill one.

    python tests/bench/tick_reads.py [--stored 10000000] [--rate 10000] [--symbols 500] [--samples 1000]
"""

import argparse
import asyncio
import math
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx2
import polars as pl

from bench import AppProcess, quantiles, report
from stockpulse.journal.segments import table_of
from stockpulse.market.schemas import TICKS
from stockpulse.providers.simulated import SimulatedProvider

ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}


async def send(client: httpx2.AsyncClient, frame: pl.DataFrame) -> None:
    answer = await client.post(
        "/api/v1/ticks?calendar=24/7", content=frame.write_ipc_stream(None).getvalue(), headers=ARROW
    )
    assert answer.json()["accepted"] == len(frame), answer.text


async def fill(client: httpx2.AsyncClient, symbols: list[str], stored: int) -> None:
    """Send this many ticks, spread over the last ten minutes."""
    newest = datetime.now(UTC)
    span = timedelta(minutes=10)
    sent = 0
    async for some in SimulatedProvider(symbols, math.inf).stream():
        frame = some.head(stored - sent)
        spread = pl.Series([newest - span + span * (sent + row) / stored for row in (0, len(frame))])
        ts = pl.datetime_range(spread[0], spread[1], spread[1] - spread[0], eager=True).to_physical()
        times = pl.int_range(0, len(frame), eager=True) * ((ts[1] - ts[0]) / len(frame)) + ts[0]
        await send(client, frame.with_columns(times.cast(pl.Int64).cast(TICKS["ts"]).alias("ts")).select(list(TICKS)))
        sent += len(frame)
        if sent >= stored:
            return


async def keep_coming(client: httpx2.AsyncClient, symbols: list[str], rate: int) -> None:
    async for frame in SimulatedProvider(symbols, rate).stream():
        await send(client, frame)


async def timed(samples: int, ask: Callable[[], Awaitable[None]]) -> list[float]:
    latencies = []
    for _ in range(samples):
        started = time.perf_counter()
        await ask()
        latencies.append(time.perf_counter() - started)
        await asyncio.sleep(0.005)
    return latencies


async def bare(app: AppProcess, symbols: list[str], samples: int) -> dict[str, object]:
    """Ask one segment the same through bare asyncpg."""
    connection = await asyncpg.connect(f"postgresql://stockpulse@/stockpulse?host={app.data_dir / 'run'}")
    segment, indexed = await connection.fetchrow(
        "SELECT id, indexed FROM log_segments ORDER BY indexed DESC, id LIMIT 1"
    )
    table = table_of(segment)
    ids = [row[0] for row in await connection.fetch("SELECT id FROM symbols WHERE symbol = ANY($1::text[])", symbols)]
    newest = await connection.fetchval(f"SELECT max(ts) FROM {table}")

    async def latest() -> None:
        await connection.fetch(
            f"SELECT * FROM {table} WHERE symbol_id = $1 ORDER BY ts DESC LIMIT 100", random.choice(ids)
        )

    async def summary() -> None:
        await connection.fetch(
            f"SELECT count(*), avg(price), min(price), max(price), sum(size) FROM {table}"
            " WHERE symbol_id = $1 AND ts >= $2",
            random.choice(ids),
            newest - timedelta(minutes=5),
        )

    figures = {name: quantiles(await timed(samples, ask)) for name, ask in (("latest", latest), ("summary", summary))}
    await connection.close()
    return {"segment_is_indexed": indexed, **figures}


async def main(stored: int, rate: int, count: int, samples: int) -> None:
    symbols = [f"S{number}" for number in range(count)]
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder, AppProcess(Path(folder)) as app:
        async with httpx2.AsyncClient(base_url=app.url, timeout=60) as client:
            await fill(client, symbols, stored)
            await asyncio.sleep(5)  # the last full segment gets its index
            load = asyncio.create_task(keep_coming(client, symbols, rate))
            await asyncio.sleep(2)

            async def ask(path: str) -> None:
                answer = await client.get(path, params={"symbol": random.choice(symbols)})
                assert answer.status_code == 200, answer.text

            results = {}
            for path in ("/ticks/latest?limit=100", "/ticks/summary?minutes=5"):
                results[path] = quantiles(await timed(samples, lambda path=path: ask(path)))
            load.cancel()
        peer = await bare(app, symbols, samples)
        report("tick_reads", stored=stored, ticks_per_second=rate, symbols=count, answers=results, bare_asyncpg=peer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stored", type=int, default=10_000_000)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--samples", type=int, default=1000)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.stored, arguments.rate, arguments.symbols, arguments.samples))

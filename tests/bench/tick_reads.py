"""/ticks/latest and /ticks/summary with 10 M ticks stored, while 10,000 ticks a second come in.

The peer, in the same run: the same questions asked with bare asyncpg, of one sealed and indexed segment.

    python tests/bench/tick_reads.py [--stored 10000000] [--rate 10000] [--symbols 500]
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
from stockpulse.market.schemas import TICKS
from stockpulse.providers.simulated import SimulatedProvider

ARROW = {"Content-Type": "application/vnd.apache.arrow.stream"}
SAMPLES = 1000


async def send(client: httpx2.AsyncClient, frame: pl.DataFrame) -> None:
    answer = await client.post(
        "/api/v1/ticks?calendar=24/7", content=frame.write_ipc_stream(None).getvalue(), headers=ARROW
    )
    assert answer.json()["accepted"] == len(frame), answer.text


async def fill(client: httpx2.AsyncClient, symbols: list[str], stored: int) -> None:
    """The ticks of the last minutes, as many as asked for."""
    newest = datetime.now(UTC)
    span = timedelta(minutes=10)
    sent = 0
    async for frame in SimulatedProvider(symbols, math.inf).stream():
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


async def bare(app: AppProcess, symbols: list[str]) -> dict[str, dict[str, float]]:
    """The same questions to one sealed segment, with bare asyncpg."""
    connection = await asyncpg.connect(f"postgresql://stockpulse@/stockpulse?host={app.data_dir / 'run'}")
    segment = await connection.fetchval("SELECT id FROM log_segments WHERE indexed ORDER BY id LIMIT 1")
    table = f"realtime_prices_s{segment:010d}"
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

    figures = {"latest": quantiles(await timed(300, latest)), "summary": quantiles(await timed(300, summary))}
    await connection.close()
    return figures


async def main(stored: int, rate: int, count: int) -> None:
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
                results[path] = quantiles(await timed(SAMPLES, lambda path=path: ask(path)))
            load.cancel()
        peer = await bare(app, symbols)
        report("tick_reads", stored=stored, ticks_per_second=rate, symbols=count, answers=results, bare_asyncpg=peer)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--stored", type=int, default=10_000_000)
    parser.add_argument("--rate", type=int, default=10_000)
    parser.add_argument("--symbols", type=int, default=500)
    arguments = parser.parse_args()
    asyncio.run(main(arguments.stored, arguments.rate, arguments.symbols))

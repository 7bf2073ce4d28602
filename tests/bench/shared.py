"""Ticks per second that one `process` process, and two, take from the log that an `ingest` process has filled.

Broker, database and processes are on the same cores: two can only gain if one leaves a core idle.

    python tests/bench/shared.py [--ticks 2000000] [--symbols 500]
"""

import argparse
import asyncio
import math
import tempfile
import time
from pathlib import Path

import uvloop
from prometheus_client import CollectorRegistry

from bench import AppProcess, fresh_database, report
from broker import Broker, jars
from stockpulse.node.lifecycle import running
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.postgres.connect import create_pool
from stockpulse.providers.simulated import SimulatedProvider
from stockpulse.settings import Settings

KINDS = ("raw", "ohlcv", "analytics", "signals")


async def ingested(dsn: str, bootstrap: str, topics: dict[str, str], ticks: int, symbols: list[str]) -> float:
    """Put ticks into the log; return the ticks per second."""
    settings = Settings(
        database_url=dsn, provider="none", role="ingest", kafka_bootstrap_servers=bootstrap, log_format="json", **topics
    )
    provider, sent = SimulatedProvider(symbols, math.inf), 0
    async with running(settings, CollectorRegistry()) as context:
        started = time.perf_counter()
        async for frame in provider.stream():
            await context.pipeline.intake.submit(frame, feed_of(provider))
            sent += len(frame)
            if sent >= ticks:
                break
        return sent / (time.perf_counter() - started)


async def processed(dsn: str, bootstrap: str, topics: dict[str, str], processes: int, ticks: int) -> float:
    """Return the ticks per second from the first one that is stored to the last."""
    pool = await create_pool(dsn, 2)
    settings = {"role": "process", "kafka_bootstrap_servers": bootstrap, "database_url": dsn, "kafka_group": "bench"}
    progress = "SELECT coalesce(sum(journal_offset - first_seq), 0)::bigint FROM checkpoints"
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder:
        apps = [AppProcess(Path(folder) / str(number), **settings, **topics) for number in range(processes)]
        try:
            await asyncio.gather(*[asyncio.to_thread(app.start) for app in apps])
            while not (begun := await pool.fetchval(progress)):
                await asyncio.sleep(0.005)
            started = time.perf_counter()
            while await pool.fetchval(progress) < ticks:
                await asyncio.sleep(0.02)
            return (ticks - begun) / (time.perf_counter() - started)
        finally:
            for app in apps:
                app.stop()
            await pool.close()


async def main(ticks: int, symbols: int) -> None:
    names = [f"S{number}" for number in range(symbols)]
    found: dict[str, int] = {}
    with Broker(jars()) as broker:
        for processes in (1, 2):
            topics = {f"kafka_topic_{kind}": f"shared{processes}.{kind}" for kind in KINDS}
            async with fresh_database() as dsn:
                found["ingest_per_second"] = round(await ingested(dsn, broker.bootstrap, topics, ticks, names))
                rate = await processed(dsn, broker.bootstrap, topics, processes, ticks)
                found[f"with_{processes}_per_second"] = round(rate)
    report("shared", ticks=ticks, symbols=symbols, **found)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticks", type=int, default=2_000_000)
    parser.add_argument("--symbols", type=int, default=500)
    arguments = parser.parse_args()
    uvloop.run(main(arguments.ticks, arguments.symbols))

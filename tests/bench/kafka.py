"""Sustained ticks per second and latency with the log on Kafka, its broker on the same cores.

Compared in the same run with one plain binary COPY of the same rows, and with the log in the database. Latency is the
time from submitting a batch of 100 ticks until the broker has acknowledged it, and until it is committed in the
database with its checkpoint.

    python tests/bench/kafka.py [--ticks 4000000] [--symbols 500] [--codec json] [--latency-seconds 15]
"""

import argparse
import asyncio
import math
import time

import numpy as np
import polars as pl
import uvloop
from prometheus_client import CollectorRegistry

from bench import fresh_database, quantiles, report
from broker import Broker, jars
from ingest import pipeline, plain_copy
from stockpulse.node.lifecycle import running
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.providers.simulated import SimulatedProvider
from stockpulse.settings import Settings

BATCH = 100


async def latencies(
    dsn: str, bootstrap: str, rate: int, symbols: list[str], seconds: float
) -> dict[str, dict[str, float]]:
    """Return the milliseconds from submitted to acknowledged and to committed, at `rate` ticks per second."""
    topics = {f"kafka_topic_{kind}": f"latency{rate}.{kind}" for kind in ("raw", "ohlcv", "analytics", "signals")}
    settings = Settings(
        database_url=dsn, provider="none", log_format="json", kafka_bootstrap_servers=bootstrap, **topics
    )
    provider = SimulatedProvider(symbols, math.inf)
    acknowledged: list[float] = []
    committed: list[float] = []

    async with running(settings, CollectorRegistry()) as context:
        journal, owned = context.log.journal, context.shards.owned

        async def one(frame: pl.DataFrame) -> None:
            started = time.perf_counter()
            await context.pipeline.intake.submit(frame, feed_of(provider))
            acknowledged.append(time.perf_counter() - started)
            ends = {shard: journal.own_end(shard) or 0 for shard in owned}
            while any(owned[shard].sink.offset < end for shard, end in ends.items()):
                await asyncio.sleep(0.005)
            committed.append(time.perf_counter() - started)

        pending = []
        begin = time.perf_counter()
        async for frame in provider.stream():
            for batch in frame.iter_slices(BATCH):
                await asyncio.sleep(max(0.0, begin + len(pending) * BATCH / rate - time.perf_counter()))
                pending.append(asyncio.create_task(one(batch)))
                if len(pending) >= rate * seconds / BATCH:
                    break
            else:
                continue
            break
        await asyncio.gather(*pending)
    warm = len(acknowledged) // 5
    return {
        "acknowledged": quantiles(np.array(acknowledged[warm:])),
        "committed": quantiles(np.array(committed[warm:])),
    }


async def main(ticks: int, symbols: int, rounds: int, codec: str, latency_seconds: float) -> None:
    names = [f"S{number}" for number in range(symbols)]
    figures = []
    with Broker(jars()) as broker:
        for number in range(rounds):
            topics = {
                f"kafka_topic_{kind}": f"bench{number}.{kind}" for kind in ("raw", "ohlcv", "analytics", "signals")
            }
            async with fresh_database() as dsn:
                rate, details = await pipeline(
                    dsn, ticks, names, kafka_bootstrap_servers=broker.bootstrap, kafka_codec=codec, **topics
                )
                limit = await plain_copy(dsn, min(ticks, 4_000_000))
                async with fresh_database() as other:
                    in_database, _ = await pipeline(other, ticks, names)
            figures.append(
                {
                    "ticks_per_second": round(rate),
                    "with_log_in_database": round(in_database),
                    "plain_copy_per_second": round(limit),
                    "share_of_plain_copy": round(rate / limit, 3),
                    **details,
                }
            )
        latency = {}
        for speed in (1000, 10_000):
            async with fresh_database() as dsn:
                latency[speed] = await latencies(dsn, broker.bootstrap, speed, names, latency_seconds)
    report("kafka", codec=codec, symbols=symbols, rounds=figures, batch=BATCH, latency_at_ticks_per_second=latency)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--ticks", type=int, default=4_000_000)
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--codec", choices=["json", "avro"], default="json")
    parser.add_argument("--latency-seconds", type=float, default=15)
    given = parser.parse_args()
    uvloop.run(main(given.ticks, given.symbols, given.rounds, given.codec, given.latency_seconds))

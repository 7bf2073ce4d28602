"""Helpers for tests of the app on Kafka: settings for one test, the records of topics, the stored rows."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx2
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import murmur2

PARTITIONS = 6
NANOS = 10**9
TABLES = {60: "bars_1m", 300: "intraday_ohlcv", 86_400: "historical_ohlcv"}

Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]
"""The fixture of that name."""

Put = tuple[int, str, dict[str, Any] | bytes | None]
"""Partition, key and value of a record to be sent."""


def on_kafka(bootstrap: str, topic: str, **more: Any) -> dict[str, Any]:
    """Return settings with separate topics and a separate group; pairs trade around the clock."""
    names = {f"kafka_topic_{name}": f"{topic}.{name}" for name in ("raw", "ohlcv", "analytics", "signals")}
    return {"kafka_bootstrap_servers": bootstrap, "kafka_group": topic, "calendar": "24/7", **names} | more


def in_environment(settings: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a process with these settings of StockPulse and no others."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("STOCKPULSE_")}
    clean |= {"STOCKPULSE_CACHE_DIR": os.environ["STOCKPULSE_CACHE_DIR"], "STOCKPULSE_PROVIDER": "none"}
    plain = {"database_url", "kafka_bootstrap_servers"}
    names = {name: name.upper() if name in plain else f"STOCKPULSE_{name.upper()}" for name in settings}
    return clean | {names[name]: str(value) for name, value in settings.items()}


async def command(dsn: str, settings: dict[str, Any], *words: str) -> tuple[int, str]:
    """Run a command of StockPulse in a separate process; return its exit status and its output."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "stockpulse", *words],
        env=in_environment({"database_url": dsn, **settings}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def partition_of(symbol: str, partitions: int = PARTITIONS) -> int:
    return (murmur2(symbol.encode()) & 0x7FFFFFFF) % partitions


def symbols_on(partition: int, count: int, prefix: str = "K") -> list[str]:
    """Return symbols that belong to a partition."""
    names = (f"{prefix}{number}/USD" for number in range(10_000))
    found = [name for name in names if partition_of(name) == partition]
    return found[:count]


def trade(symbol: str, ts: datetime, price: float, size: float = 1.0, trade_id: str | None = None) -> dict[str, Any]:
    """Return a tick as other programs write it to the topic and as POST /ticks takes it."""
    made = {"symbol": symbol, "ts": ts.astimezone(UTC).isoformat(), "price": price, "size": size}
    return made if trade_id is None else {**made, "trade_id": trade_id}


async def put(bootstrap: str, topic: str, records: Iterable[Put], **options: Any) -> list[int]:
    """Write records as another program does, one after the other; return their offsets."""
    offsets = []
    async with AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **options) as producer:
        for partition, key, value in records:
            raw = json.dumps(value).encode() if isinstance(value, dict) else value
            offsets.append((await producer.send_and_wait(topic, raw, key=key.encode(), partition=partition)).offset)
    return offsets


@dataclass(frozen=True)
class Record:
    """A record of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None


async def read_topic(bootstrap: str, topic: str) -> list[Record]:
    """Return all committed records of a topic, ordered by partition and offset."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=bootstrap,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        isolation_level="read_committed",
    )
    records: list[Record] = []
    async with consumer:
        places = [TopicPartition(topic, number) for number in sorted(await _partitions(bootstrap, topic))]
        consumer.assign(places)
        ends = await consumer.end_offsets(places)
        for place, end in ends.items():
            while await consumer.position(place) < end:
                found = await consumer.getmany(place, timeout_ms=200)
                records += [Record(one.partition, one.offset, one.key, one.value) for one in found.get(place, [])]
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def _partitions(bootstrap: str, topic: str) -> list[int]:
    [described] = await with_admin(bootstrap, lambda admin: admin.describe_topics([topic]))
    return [one["partition"] for one in described["partitions"]]


async def with_admin(bootstrap: str, ask: Callable[[AIOKafkaAdminClient], Awaitable[Any]]) -> Any:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        return await ask(admin)
    finally:
        await admin.close()


async def rows(dsn: str, query: str, *arguments: Any) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(query, *arguments)]
    finally:
        await connection.close()


@dataclass(frozen=True)
class StoredTick:
    """A row of the tick table."""

    seq: int
    symbol: str
    ts: datetime
    price: float
    size: float
    trade_id: str | None


async def stored_ticks(dsn: str) -> list[StoredTick]:
    """Return the tick table in the order of the log."""
    found = await rows(
        dsn,
        "SELECT seq, symbol, ts, price, size, trade_id FROM realtime_prices JOIN symbols ON id = symbol_id"
        " ORDER BY seq",
    )
    return [StoredTick(*row) for row in found]


async def first_seqs(dsn: str) -> dict[int, int]:
    """Return the first seq of each shard: the seq of its offset 0."""
    return dict(await rows(dsn, "SELECT shard, first_seq FROM checkpoints"))  # type: ignore[arg-type]


async def until(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        await asyncio.sleep(0.05)


async def processed(dsn: str, bootstrap: str, topic: str, seconds: float = 30) -> None:
    """Wait until the checkpoints have reached the ends of a topic, transaction markers included."""
    async with AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False) as consumer:
        places = [TopicPartition(topic, number) for number in await _partitions(bootstrap, topic)]
        ends = {place.partition: end for place, end in (await consumer.end_offsets(places)).items()}

    async def are_there() -> bool:
        known = await rows(dsn, "SELECT shard, journal_offset - first_seq FROM checkpoints")
        return bool(known) and all(offset >= ends[shard] for shard, offset in known)

    await until(are_there, f"that {topic} is processed up to {ends}", seconds)


# Bars, one tick at a time -----------------------------------------------------------------------

Bar = tuple[float, float, float, float, int, int, int]
"""Open, high, low, close, volume in billionths, count of trades, revision."""


def bars_of(ticks: Sequence[StoredTick], seconds: int) -> dict[tuple[str, datetime], Bar]:
    """Return the bars of these ticks, for symbols that trade around the clock; every tick counts."""
    bars: dict[tuple[str, datetime], Bar] = {}
    for tick in sorted(ticks, key=lambda tick: (tick.ts, tick.seq)):
        start = tick.ts - timedelta(seconds=tick.ts.timestamp() % seconds)
        opened, high, low, _, volume, count, revision = bars.get(
            (tick.symbol, start), (tick.price, tick.price, tick.price, 0.0, 0, 0, 0)
        )
        bars[tick.symbol, start] = (
            opened,
            max(high, tick.price),
            min(low, tick.price),
            tick.price,
            volume + round(tick.size * NANOS),
            count + 1,
            max(revision, tick.seq),
        )
    return bars


async def stored_bars(dsn: str, seconds: int) -> dict[tuple[str, datetime], Bar]:
    found = await rows(
        dsn,
        "SELECT symbol, ts, open, high, low, close, volume_units * 1000000000 + volume_picos / 1000, trade_count,"
        f" revision FROM {TABLES[seconds]} JOIN symbols ON id = symbol_id",
    )
    return {(symbol, ts): tuple(bar) for symbol, ts, *bar in found}  # type: ignore[misc]


async def assert_bars_right(dsn: str, ticks: Sequence[StoredTick]) -> None:
    """Assert that the stored bars are those of these ticks, and that all of them are closed."""
    for seconds in TABLES:
        have, want = await stored_bars(dsn, seconds), bars_of(ticks, seconds)
        assert have.keys() == want.keys(), f"{seconds} s: {have.keys() ^ want.keys()}"
        wrong = {key: (have[key], bar) for key, bar in want.items() if have[key] != bar}
        assert not wrong, f"{len(wrong)} of {len(want)} bars of {seconds} s are wrong: {list(wrong.items())[:3]}"

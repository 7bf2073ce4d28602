"""Checks for crash tests with the log on Kafka: they read the topic with code that shares nothing with the app, and
compare it with the stored data.
"""

import contextlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import asyncpg
import polars as pl
from aiokafka import AIOKafkaConsumer
from aiokafka.partitioner import murmur2
from crash_harness import (
    SECOND,
    App,
    Batch,
    Stored,
    Tick,
    assert_bars_right,
    assert_each_once,
    read,
    running_app,
    until_true,
)

PARTITIONS = 6
_ALL_FLAGS = 7
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Record:
    """A record of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    stamp: int


@dataclass(frozen=True)
class Trade:
    """A tick as the tick table must have it."""

    seq: int
    symbol: str
    ts: int
    price: float
    size: float
    provider: str
    exchange: str | None
    conditions: str | None
    trade_id: str | None
    received_at: int
    flags: int


@contextlib.asynccontextmanager
async def app_on_kafka(bootstrap: str, topic: str, **settings: object) -> AsyncIterator[App]:
    """Yield a started app with its log on the topic `raw_of(topic)`."""
    names = {f"kafka_topic_{name}": f"{topic}.{name}" for name in ("raw", "ohlcv", "analytics", "signals")}
    async with running_app(kafka_bootstrap_servers=bootstrap, **names, **settings) as app:
        yield app


def raw_of(topic: str) -> str:
    return f"{topic}.raw"


async def read_topic(bootstrap: str, topic: str) -> list[Record]:
    """Return all records of a topic, ordered by partition and offset."""
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    await consumer.start()
    try:
        ends = await consumer.end_offsets(consumer.assignment())
        records = []
        for place, end in ends.items():
            while await consumer.position(place) < end:
                found = await consumer.getmany(*[place], timeout_ms=1000)
                records += [
                    Record(one.partition, one.offset, one.key, one.value, one.timestamp) for one in found.get(place, [])
                ]
    finally:
        await consumer.stop()
    assert len({record.partition for record in records}) <= PARTITIONS
    return sorted(records, key=lambda record: (record.partition, record.offset))


async def first_seqs(dsn: str) -> dict[int, int]:
    """Return the first seq of each partition: the seq of its offset 0."""
    connection = await asyncpg.connect(dsn)
    try:
        return dict(map(tuple, await connection.fetch("SELECT shard, first_seq FROM checkpoints")))
    finally:
        await connection.close()


def trades_of(records: list[Record], firsts: dict[int, int]) -> list[Trade]:
    """Return the ticks in these records; each record must be a tick or the end of a recording."""
    trades = []
    for record in records:
        assert record.value is not None
        found = json.loads(record.value)
        if found.get("type") == "end":
            continue
        assert found.get("type", "trade") == "trade", found
        assert record.key == found["symbol"].encode(), record
        assert record.partition == (murmur2(record.key) & 0x7FFFFFFF) % PARTITIONS, record
        received_at = micros(found["received_at"]) if "received_at" in found else record.stamp * 1000
        trades.append(
            Trade(
                firsts[record.partition] + record.offset,
                found["symbol"],
                micros(found["ts"]),
                float(found["price"]),
                float(found["size"]),
                found.get("provider", "kafka"),
                found.get("exchange"),
                found.get("conditions"),
                found.get("trade_id"),
                received_at,
                found.get("flags", _ALL_FLAGS),
            )
        )
    return trades


def micros(text: str) -> int:
    """Return a time as microseconds since 1970, without rounding."""
    since = datetime.fromisoformat(text) - _EPOCH
    return (since.days * 86_400 + since.seconds) * SECOND + since.microseconds


async def stored_trades(dsn: str) -> list[Trade]:
    """Return the rows of the tick table."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT seq, symbol, (extract(epoch FROM ts) * 1000000)::bigint, price, size, p.name,"
            " nullif(exchange, ''), nullif(conditions, ''), trade_id,"
            " (extract(epoch FROM received_at) * 1000000)::bigint, flags"
            " FROM realtime_prices t JOIN symbols s ON s.id = symbol_id JOIN tick_kinds k ON k.id = kind_id"
            " JOIN providers p ON p.id = k.provider_id ORDER BY seq"
        )
    finally:
        await connection.close()
    return [Trade(*row) for row in rows]


async def processed(app: App, bootstrap: str, topic: str, seconds: float = 60) -> None:
    """Wait until the checkpoints stand at the end of the topic."""
    records = await read_topic(bootstrap, topic)
    counts = Counter(dict.fromkeys(range(PARTITIONS), 0))
    for record in records:
        counts[record.partition] = max(counts[record.partition], record.offset + 1)
    connection = await asyncpg.connect(app.dsn)

    async def are_there() -> bool:
        rows = await connection.fetch("SELECT shard, journal_offset - first_seq FROM checkpoints")
        return all(offset >= counts[shard] for shard, offset in rows)

    try:
        await until_true(are_there, f"that all of {topic} is processed:\n{app.tail()}", seconds)
    finally:
        await connection.close()


async def assert_log_right(
    app: App, bootstrap: str, topic: str, batches: list[Batch], *, leave_out: frozenset[tuple[int, int]] = frozenset()
) -> Stored:
    """Assert that the topic has every acknowledged tick once, that the tick table equals the topic, and the bars too.

    `leave_out` are partition and offset of records that are not ticks. Return what must be stored.
    """
    records = [one for one in await read_topic(bootstrap, topic) if (one.partition, one.offset) not in leave_out]
    wanted = sorted(trades_of(records, await first_seqs(app.dsn)), key=lambda trade: trade.seq)
    assert_same(await stored_trades(app.dsn), wanted)
    stored = await read(app.dsn)
    numbers = await _symbols(app.dsn)
    log = [Tick(one.seq, *numbers[one.symbol], one.flags, one.ts, one.price, one.size) for one in wanted]
    of_topic = replace(stored, log=log, sent=_as_sent(wanted, {batch.source.name for batch in batches}))
    assert_each_once(of_topic, batches)
    assert_bars_right(of_topic)
    return of_topic


def assert_same(have: list[Trade], want: list[Trade]) -> None:
    counts = Counter(trade.seq for trade in have)
    doubled = [seq for seq, count in counts.items() if count > 1]
    assert not doubled, f"{len(doubled)} offsets stand in the tick table more than once: {doubled[:5]}"
    by_seq = {trade.seq: trade for trade in have}
    missing = [trade for trade in want if trade.seq not in by_seq]
    assert not missing, f"{len(missing)} of {len(want)} ticks are missing in the tick table: {missing[:3]}"
    assert len(have) == len(want), f"{len(have) - len(want)} ticks of the tick table are of no record"
    wrong = [(by_seq[trade.seq], trade) for trade in want if by_seq[trade.seq] != trade]
    assert not wrong, f"{len(wrong)} ticks are not as they stand in the topic: {wrong[:3]}"


def _as_sent(trades: list[Trade], providers: set[str]) -> pl.DataFrame:
    schema = {
        "provider": pl.String, "trade_id": pl.String, "symbol": pl.String, "exchange": pl.String,
        "conditions": pl.String, "ts": pl.Int64, "price": pl.Float64, "size": pl.Float64,
    }  # fmt: skip
    ours = [trade for trade in trades if trade.provider in providers]
    return pl.DataFrame({name: [getattr(trade, name) for trade in ours] for name in schema}, schema=schema)


async def _symbols(dsn: str) -> dict[str, tuple[int, str]]:
    """Return id and calendar of each symbol."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT symbol, id, calendar FROM symbols")
    finally:
        await connection.close()
    return {name: (number, calendar) for name, number, calendar in rows}

"""Standard Kafka clients read our topics and write to them: kcat and Confluent's client."""

import asyncio
import json
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest

from kafka_app import (
    PARTITIONS,
    Serve,
    assert_bars_right,
    bars_of,
    on_kafka,
    partition_of,
    processed,
    rows,
    stored_ticks,
    symbols_on,
    trade,
    until,
)

confluent_kafka = pytest.importorskip("confluent_kafka")
from confluent_kafka.schema_registry import SchemaRegistryClient  # noqa: E402
from confluent_kafka.schema_registry.avro import AvroDeserializer  # noqa: E402
from confluent_kafka.serialization import MessageField, SerializationContext  # noqa: E402
from registry_server import RegistryServer, serving  # noqa: E402

needs_kcat = pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed: apt-get install kcat")

T0 = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
OURS = "/ticks?provider=ours&calendar=24/7&clock=event"
SYMBOLS = [symbol for number in range(PARTITIONS) for symbol in symbols_on(number, 2)]


def market(trade_ids: str = "t") -> list[dict[str, Any]]:
    """Make a few minutes of ticks with symbols on all partitions."""
    return [
        trade(symbol, T0 + timedelta(seconds=20 * at), 100 + number - at, 1 + at / 4, f"{trade_ids}{number}-{at}")
        for at in range(10)
        for number, symbol in enumerate(SYMBOLS)
    ]


async def post(client: httpx2.AsyncClient, ticks: list[dict[str, Any]]) -> None:
    response = await client.post(OURS, json=ticks)
    assert response.status_code == 200, response.text
    await client.post(f"{OURS}&end_of_stream=true")


# Readers ----------------------------------------------------------------------------------------


def kcat(kafka: str, *words: str, given: bytes | None = None) -> str:
    done = subprocess.run(["kcat", "-b", kafka, *words], input=given, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def newest(bars: list[dict[str, Any]]) -> dict[tuple[str, datetime], dict[str, Any]]:
    """Keep the highest revision of each bar as a consumer does; of equal revisions the final one."""
    kept: dict[tuple[str, datetime], dict[str, Any]] = {}
    for bar in bars:
        if bar["interval"] == "1m":
            ts = bar["timestamp"]
            key = (bar["symbol"], datetime.fromisoformat(ts) if isinstance(ts, str) else ts)
            kept[key] = max(kept.get(key, bar), bar, key=lambda one: (one["revision"], one["final"]))
    return kept


async def assert_same_bars(dsn: str, bars: list[dict[str, Any]]) -> None:
    ticks = await stored_ticks(dsn)
    want, have = bars_of(ticks, 60), newest(bars)
    assert have.keys() == want.keys()
    for key, (opened, high, low, close, volume, count, revision) in want.items():
        bar = have[key]
        assert (bar["open"], bar["high"], bar["low"], bar["close"]) == (opened, high, low, close)
        assert (bar["volume"], bar["trade_count"], bar["revision"]) == (volume / 1e9, count, revision)
        assert (bar["final"], bar["source"]) == (True, "trades")


@needs_kcat
async def test_kcat_prints_what_we_write(serve: Serve, postgres_dsn: str, kafka: str, topic: str) -> None:
    sent = market()
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client:
        await post(client, sent)
        await processed(postgres_dsn, kafka, f"{topic}.raw")
    printed = await asyncio.to_thread(kcat, kafka, "-C", "-t", f"{topic}.raw", "-e", "-q", "-f", "%p|%k|%s\n")
    lines = [line.split("|", 2) for line in printed.splitlines()]
    raw = [(int(partition), key, json.loads(value)) for partition, key, value in lines]
    trades = [one for one in raw if one[2]["type"] == "trade"]
    assert all(partition == partition_of(key) and one["symbol"] == key for partition, key, one in trades)
    read = {(o["trade_id"], o["symbol"], datetime.fromisoformat(o["ts"]), o["price"], o["size"]) for *_, o in trades}
    assert read == {(o["trade_id"], o["symbol"], datetime.fromisoformat(o["ts"]), o["price"], o["size"]) for o in sent}
    assert len(trades) == len(sent)
    assert [one for one in raw if one[2]["type"] == "end"] != []
    printed = await asyncio.to_thread(kcat, kafka, "-C", "-t", f"{topic}.ohlcv", "-e", "-q")
    await assert_same_bars(postgres_dsn, [json.loads(line) for line in printed.splitlines()])


@pytest.mark.thorough
async def test_confluents_avro_consumer_reads_what_we_write(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    sent = market()
    with serving() as registry:
        settings = on_kafka(kafka, topic, kafka_codec="avro", schema_registry_url=registry.url)
        async with serve(postgres_dsn, **settings) as client:
            await post(client, sent)
            await processed(postgres_dsn, kafka, f"{topic}.raw")
        raw = await asyncio.to_thread(consumed, kafka, f"{topic}.raw", registry)
        bars = await asyncio.to_thread(consumed, kafka, f"{topic}.ohlcv", registry)
    trades = [one for one in raw if "price" in one]
    assert len(raw) == len(trades) + PARTITIONS  # the end of the recording stands on each
    read = {(one["trade_id"], one["symbol"], one["ts"], one["price"], one["size"]) for one in trades}
    assert read == {(o["trade_id"], o["symbol"], datetime.fromisoformat(o["ts"]), o["price"], o["size"]) for o in sent}
    assert len(trades) == len(sent)
    await assert_same_bars(postgres_dsn, bars)


def consumed(kafka: str, topic: str, registry: RegistryServer) -> list[dict[str, Any]]:
    """Read all values of a topic with Confluent's deserializer."""
    client = SchemaRegistryClient({"url": registry.url})
    read = AvroDeserializer(client)
    consumer = confluent_kafka.Consumer(
        {
            "bootstrap.servers": kafka,
            "group.id": f"{topic}.reader",
            "auto.offset.reset": "earliest",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
        }
    )
    found, ended = [], set()
    try:
        consumer.subscribe([topic])
        while len(ended) < PARTITIONS:
            message = consumer.poll(20)
            assert message is not None, f"nothing came of {topic}"
            if message.error() is None:
                found.append(read(message.value(), SerializationContext(topic, MessageField.VALUE)))
            else:
                assert message.error().code() == confluent_kafka.KafkaError._PARTITION_EOF, message.error()
                ended.add(message.partition())
    finally:
        consumer.close()
    return found


# Writers ----------------------------------------------------------------------------------------

Write = Callable[[str, str, list[dict[str, Any]]], None]
"""Writes ticks to a topic."""


def by_confluent(partitioner: str) -> Write:
    def write(kafka: str, topic: str, ticks: list[dict[str, Any]]) -> None:
        producer = confluent_kafka.Producer({"bootstrap.servers": kafka, "partitioner": partitioner})
        for tick in ticks:
            producer.produce(topic, json.dumps(tick), key=tick["symbol"])
        assert producer.flush(30) == 0

    return write


def by_kcat(kafka: str, topic: str, ticks: list[dict[str, Any]]) -> None:
    given = "".join(f"{tick['symbol']}|{json.dumps(tick)}\n" for tick in ticks).encode()
    kcat(kafka, "-P", "-t", topic, "-K", "|", "-X", "topic.partitioner=murmur2_random", given=given)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "write", [pytest.param(by_confluent("murmur2_random"), id="confluent"), pytest.param(by_kcat, marks=needs_kcat)]
)
async def test_what_they_write_becomes_bars(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str, write: Write
) -> None:
    """No end of a recording comes: the wall clock closes the bars."""
    sent = market()
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client:
        await asyncio.to_thread(write, kafka, f"{topic}.raw", sent)
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        ticks = await stored_ticks(postgres_dsn)
        assert sorted(str(tick.trade_id) for tick in ticks) == sorted(tick["trade_id"] for tick in sent)
        wanted = bars_of(ticks, 60)

        async def are_stored() -> bool:
            [(count,)] = await rows(postgres_dsn, "SELECT count(*) FROM bars_1m")
            [(days,)] = await rows(postgres_dsn, "SELECT count(*) FROM historical_ohlcv")
            return bool(count == len(wanted) and days == len(SYMBOLS))

        await until(are_stored, "that all bars are closed")
        await assert_bars_right(postgres_dsn, ticks)
        assert (await client.get("/dead-letters")).json() == {"dead_letters": []}


@pytest.mark.thorough
async def test_librdkafkas_default_puts_them_astray_and_nothing_is_lost(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    """The partitioner CRC32 puts some symbols on wrong partitions: their records become dead letters."""
    sent = market()
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client:
        await asyncio.to_thread(by_confluent("consistent_random"), kafka, f"{topic}.raw", sent)
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        letters = (await client.get("/dead-letters", params={"limit": 1000})).json()["dead_letters"]
        taken = {str(tick.trade_id) for tick in await stored_ticks(postgres_dsn)}
        astray = {json.loads(letter["record"])["trade_id"] for letter in letters}
        assert taken
        assert len(astray) == len(letters) > 0
        assert taken | astray == {tick["trade_id"] for tick in sent}
        assert not taken & astray
        assert all("murmur2_random" in letter["reason"] for letter in letters)
        outcome = (await client.post("/dead-letters/retry", params={"limit": 1000})).json()
        assert outcome == {"retried": len(letters), "refused": {}}
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        ticks = await stored_ticks(postgres_dsn)
        assert sorted(str(tick.trade_id) for tick in ticks) == sorted(tick["trade_id"] for tick in sent)

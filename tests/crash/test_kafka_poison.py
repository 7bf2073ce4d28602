"""Poison among the records of the raw topic: each becomes one dead letter, and the other records are not held up."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.partitioner import murmur2
from crash_harness import BEGIN, Load, Market, assert_derived_right, kills_wanted, seed_of, until_true
from crash_kafka import PARTITIONS, app_on_kafka, assert_log_right, processed, raw_of

LARGEST = 16 << 20
SHARE = 0.01
WIRE_SYMBOLS = [*(f"W{number:02}" for number in range(20)), *(f"S{number:02}" for number in range(10)), "BTC/USD"]

Make = Callable[[dict[str, Any]], bytes | None]


def _with(**fields: object) -> Make:
    """A good record with these fields instead; None leaves one out."""

    def make(good: dict[str, Any]) -> bytes:
        return json.dumps({name: value for name, value in (good | fields).items() if value is not None}).encode()

    return make


def _cut(good: dict[str, Any]) -> bytes:
    return json.dumps(good).encode()[:-7]


def _huge(good: dict[str, Any]) -> bytes:
    return json.dumps(good | {"comment": "x" * (5 << 20)}).encode()


#: Values, and a part of the reason that each one gets.
POISON: dict[str, tuple[Make, str]] = {
    "cut": (_cut, "not JSON"),
    "no JSON": (lambda _: b"hello, world", "not JSON"),
    "empty": (lambda _: b"", "not JSON"),
    "no UTF-8": (lambda _: b'{"symbol":"W00\xff\xfe","price":1}', "not JSON"),
    "nulls": (lambda _: b"\0" * 40, "not JSON"),
    "a list": (lambda good: json.dumps([good]).encode(), "not an object"),
    "a number": (lambda _: b"42", "not an object"),
    "null": (lambda _: b"null", "not an object"),
    "unknown type": (_with(type="quote"), "type:"),
    "type of a wrong type": (_with(type=[1]), "type:"),
    "tombstone": (lambda _: None, "tombstone"),
    "end without provider": (lambda _: b'{"type":"end"}', "provider:"),
    "price as text": (_with(price="a lot"), "price:"),
    "price as object": (_with(price={"usd": 1}), "price:"),
    "negative price": (_with(price=-1.0), "price:"),
    "no price": (_with(price=None), "price:"),
    "NaN": (lambda good: json.dumps(good | {"price": float("nan")}).encode(), "not JSON"),
    "no time": (_with(ts=None), "ts:"),
    "1970": (_with(ts="1970-01-01T00:00:00Z"), "ts:"),
    "2099": (_with(ts="2099-01-01T00:00:00Z"), "ts:"),
    "received in 2099": (_with(received_at="2099-01-01T00:00:00Z"), "received_at:"),
    "flags": (_with(flags=99), "flags:"),
    "provider": (_with(provider="No Name!"), "provider:"),
    "symbol": (_with(symbol="not a symbol"), "symbol:"),
    "symbol as number": (_with(symbol=7.5), "symbol:"),
    "a long symbol": (_with(symbol="X" * 100_000), "symbol:"),
    "deep": (lambda _: b"[" * 200_000, "inside"),
    "5 MB": (_huge, "longer than"),
    "astray": (_with(), "does not belong"),
    "a bar of no interval": (_with(type="bar", open=1, high=1, low=1, close=1, volume=1, interval="7m"), "interval:"),
}


def partition_of(symbol: str) -> int:
    return (murmur2(symbol.encode()) & 0x7FFFFFFF) % PARTITIONS


@dataclass
class Foreigner:
    """Another program that writes to the raw topic."""

    bootstrap: str
    topic: str
    dice: random.Random
    good: int = 0
    poison: dict[tuple[int, int], str] = field(default_factory=dict)
    """The kind of poison, by partition and offset."""

    @contextlib.asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Write as long as this lasts; at its end all records are in the topic."""
        over = asyncio.Event()
        producer = AIOKafkaProducer(bootstrap_servers=self.bootstrap, max_request_size=LARGEST, linger_ms=1)
        await producer.start()
        writing = asyncio.create_task(self._write(producer, over))
        try:
            yield
        finally:
            over.set()
            try:
                await writing
            finally:
                await producer.stop()

    async def _write(self, producer: AIOKafkaProducer, over: asyncio.Event) -> None:
        kinds = list(POISON)
        while not over.is_set() or kinds:
            sent = []
            for _ in range(self.dice.randrange(1, 100)):
                name = None
                if self.dice.random() < SHARE:
                    name = kinds.pop(self.dice.randrange(len(kinds))) if kinds else self.dice.choice(list(POISON))
                elif over.is_set():
                    name = kinds.pop()
                sent.append((name, await self._send(producer, name)))
                if over.is_set() and not kinds:
                    break
            for name, future in sent:
                done = await future
                if name is None:
                    self.good += 1
                else:
                    self.poison[done.partition, done.offset] = name
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    await over.wait()

    async def _send(self, producer: AIOKafkaProducer, name: str | None) -> "asyncio.Future[Any]":
        good = self._record()
        symbol = good["symbol"]
        if name is None:
            return await producer.send(self.topic, json.dumps(good).encode(), key=symbol.encode())
        partition = partition_of(symbol)
        if name == "astray":
            partition = (partition + 1) % PARTITIONS
        return await producer.send(self.topic, POISON[name][0](good), key=symbol.encode(), partition=partition)

    def _record(self) -> dict[str, Any]:
        dice = self.dice
        ts = BEGIN - timedelta(microseconds=int(dice.expovariate(1 / 3e9)))
        found: dict[str, Any] = {
            "symbol": dice.choice(WIRE_SYMBOLS),
            "ts": ts.isoformat(),
            "price": round(dice.uniform(10, 20), 4),
            "size": dice.randrange(1, 500),
        }
        match dice.randrange(4):
            case 0:
                return found
            case 1:
                return {"type": "trade"} | found | {"exchange": "X", "made_by": {"version": [1, 2]}}
            case 2:  # spelled as we do
                ts_text = ts.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
                ours = {"type": "trade", **found, "ts": ts_text, "size": float(found["size"])}
                return ours | {"provider": "wire", "conditions": "all", "trade_id": self._id(), "flags": 7}
            case _:
                received = (ts + timedelta(seconds=1)).isoformat()
                more = {"provider": "wire", "exchange": "Y", "conditions": "odd", "trade_id": self._id()}
                return found | more | {"received_at": received, "flags": 6}

    def _id(self) -> str:
        return f"{self.dice.getrandbits(64):x}"


async def create(bootstrap: str, topic: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await admin.start()
    try:
        await admin.create_topics([NewTopic(topic, PARTITIONS, 1, topic_configs={"max.message.bytes": str(LARGEST)})])
    finally:
        await admin.close()


async def assert_all_are_dead_letters(dsn: str, topic: str, poison: dict[tuple[int, int], str]) -> None:
    """Each once, with its place and the reason."""
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch(
            "SELECT topic, topic_partition, topic_offset, reason, record FROM dead_letters WHERE topic IS NOT NULL"
        )
    finally:
        await connection.close()
    assert {row["topic"] for row in rows} == {topic}
    counts = Counter((row["topic_partition"], row["topic_offset"]) for row in rows)
    assert counts.keys() == poison.keys(), (
        f"of {len(poison)} {[poison[one] for one in poison.keys() - counts.keys()]} are no dead letters;"
        f" {counts.keys() - poison.keys()} should be none"
    )
    assert set(counts.values()) == {1}, [(poison[one], count) for one, count in counts.items() if count > 1]
    wrong = [
        f"{name}: {row['reason'][:200]}"
        for row in rows
        for name in [poison[row["topic_partition"], row["topic_offset"]]]
        if POISON[name][1] not in row["reason"]
    ]
    assert not wrong, "\n".join(sorted(set(wrong)))
    assert all(row["record"] is not None and len(row["record"]) <= 9000 for row in rows)


@pytest.mark.longest
@pytest.mark.timeout(900)
async def test_poison_is_set_aside_and_the_rest_flows(kafka: str, topic: str) -> None:
    seed = seed_of(41)
    dice = random.Random(seed)
    await create(kafka, raw_of(topic))
    foreigner = Foreigner(kafka, raw_of(topic), random.Random(seed + 1))
    async with app_on_kafka(kafka, topic) as app:
        load = Load(app, Market(seed, most=500, in_parts=True), connections=3)
        async with foreigner.writing(), load.flowing():
            for _ in range(kills_wanted(1)):
                await asyncio.sleep(dice.uniform(1, 3))
                await app.kill()
                await asyncio.sleep(dice.uniform(0, 0.5))
                await app.start()
            await asyncio.sleep(2)
        counts = Counter(foreigner.poison.values())
        print(f"{foreigner.good} good records of others, {sum(counts.values())} bad ones, {load.ticks} ticks of ours")
        assert counts.keys() == POISON.keys()
        await processed(app, kafka, raw_of(topic))
        await load.settle()
        await assert_all_are_dead_letters(app.dsn, raw_of(topic), foreigner.poison)

        async def are_right() -> bool:
            """Return True once the clock has closed the last bars of providers that sent no end."""
            try:
                await assert_log_right(app, kafka, raw_of(topic), load.batches, leave_out=frozenset(foreigner.poison))
            except AssertionError as wrong:
                if "are missing" in str(wrong) and "bars" in str(wrong):
                    print(wrong)
                    return False
                raise
            return True

        await until_true(are_right, "that all bars are closed", 20)
        await app.caught_up()
        await assert_derived_right(app)
        assert (await app.terminate())[0] == 0

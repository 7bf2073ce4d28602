"""The log on Kafka with a real broker: offsets, records of other programs, and lost records."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import NewTopic, RecordsToDelete
from aiokafka.partitioner import DefaultPartitioner
from hypothesis import given
from hypothesis import strategies as st

from kafka_app import (
    PARTITIONS,
    Serve,
    assert_bars_right,
    command,
    first_seqs,
    on_kafka,
    processed,
    put,
    read_topic,
    rows,
    stored_ticks,
    symbols_on,
    trade,
    until,
    with_admin,
)
from stockpulse.api.context import Context
from stockpulse.errors import CannotStart, RecordsLost
from stockpulse.journal.records import Appended, Ticks
from stockpulse.journal.routing import murmur2, partition_of
from stockpulse.pipeline.ingestor import HandOn

T0 = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
OURS = "/ticks?provider=ours&calendar=24/7&clock=event"
#: Ticks of other programs follow the wall clock, so all their bars here are closed.
SYMBOL = symbols_on(2, 1)[0]


async def post(client: httpx2.AsyncClient, *ticks: dict[str, Any]) -> dict[str, Any]:
    response = await client.post(OURS, json=list(ticks))
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


# Routing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "signed"),
    [  # of Kafka's own UtilsTest
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_hash_is_that_of_kafka(key: bytes, signed: int) -> None:
    assert murmur2(key) == signed % 2**32


@given(st.text(min_size=1, max_size=24).filter(lambda text: text.isprintable()), st.integers(1, 512))
def test_partition_is_that_of_other_clients(symbol: str, partitions: int) -> None:
    every = list(range(partitions))
    assert partition_of(symbol, partitions) == DefaultPartitioner()(symbol.encode(), every, every)


# Offsets and order ------------------------------------------------------------------------------


@pytest.mark.thorough
async def test_every_batch_stands_where_the_journal_says(
    serve: Serve, contexts: list[Context], postgres_dsn: str, kafka: str, topic: str
) -> None:
    async with serve(postgres_dsn, role="ingest", **on_kafka(kafka, topic)) as client:
        journal = contexts[0].log.journal
        assert journal is not None
        said: list[Appended] = []
        ingestor = contexts[0].pipeline.ingestor
        assert ingestor is not None
        ingestor._hand_on = noting(ingestor._hand_on, said)
        every = [symbol for number in range(PARTITIONS) for symbol in symbols_on(number, 2)]
        batches = [
            [trade(symbol, T0, 1 + number + at / 100) for at, symbol in enumerate(every)] for number in range(20)
        ]
        await asyncio.gather(*[post(client, *batch) for batch in batches])
        records = await read_topic(kafka, f"{topic}.raw")
        firsts = await first_seqs(postgres_dsn)
        replayed = []
        for shard in contexts[0].log.logs.shards:
            source = await contexts[0].log.logs.open(shard)
            replayed += [one async for one in source.log.replay(firsts[shard], await source.log.end())]
            await source.close()
    names = {number: symbol.name for number, symbol in contexts[0].names.symbol_by_id.items()}
    assert len(records) == len(every) * len(batches)
    assert sorted(ticks_in(said, names)) == sorted(ticks_in(replayed, names))
    assert {seq: symbol for seq, symbol, _ in ticks_in(said, names)} == {
        firsts[record.partition] + record.offset: (record.key or b"").decode() for record in records
    }
    for number in range(PARTITIONS):
        ours = [one for one in said if one.shard == number]
        assert [one.before for one in ours] == [firsts[number], *[one.after for one in ours[:-1]]]


def noting(hand_on: HandOn, said: list[Appended]) -> HandOn:
    async def note(appended: Appended) -> asyncio.Future[None] | None:
        said.append(appended)
        return await hand_on(appended)

    return note


def ticks_in(appended: list[Appended], names: dict[int, str]) -> list[tuple[int, str, float]]:
    frames = [one.batch.frame for one in appended if isinstance(one.batch, Ticks)]
    rows = [row for frame in frames for row in frame.select("seq", "symbol_id", "price").rows()]
    return [(seq, names[symbol_id], price) for seq, symbol_id, price in rows]


@pytest.mark.thorough
@pytest.mark.parametrize("identified", [False, True])
async def test_what_others_write_between_ours_keeps_its_place(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str, identified: bool
) -> None:
    """All ticks have the same time, so only the order of the log decides open and close."""
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client, AIOKafkaProducer(bootstrap_servers=kafka) as p:
        pending = []
        for number in range(60):
            foreign = trade(SYMBOL, T0, 1000 + number, trade_id=f"f{number}" if identified else None)
            value = httpx2.Request("POST", "http://x", json=foreign).content
            pending.append(await p.send(f"{topic}.raw", value, key=SYMBOL.encode(), partition=2))
            mine = trade(SYMBOL, T0, 1 + number, trade_id=f"o{number}" if identified else None)
            if number % 3:
                await post(client, mine)
            else:
                pending.append(asyncio.create_task(post(client, mine)))
        await asyncio.gather(*pending)
        await client.post(f"{OURS}&end_of_stream=true")
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        await assert_all_stored(postgres_dsn, kafka, topic, 120)


async def assert_all_stored(dsn: str, kafka: str, topic: str, count: int) -> None:
    """The tick table holds the records of the topic, and the bars follow from them."""
    import orjson

    firsts = await first_seqs(dsn)
    found = [(one, orjson.loads(one.value or b"")) for one in await read_topic(kafka, f"{topic}.raw")]
    wanted = [
        (firsts[one.partition] + one.offset, tick["symbol"], tick["price"])
        for one, tick in found
        if tick.get("type") != "end"
    ]
    assert len(wanted) == count
    ticks = await stored_ticks(dsn)
    have = [(one.seq, one.symbol, one.price) for one in ticks]
    assert have == wanted, f"missing: {sorted(set(wanted) - set(have))}, more: {sorted(set(have) - set(wanted))}"

    async def are_closed() -> bool:
        return len(await rows(dsn, "SELECT FROM bars_1m")) > 0

    await until(are_closed, "that a bar is closed")
    await assert_bars_right(dsn, ticks)


async def test_our_own_read_back_because_of_somebody_elses_is_stored(
    serve: Serve, contexts: list[Context], postgres_dsn: str, kafka: str, topic: str
) -> None:
    """A batch may be read from the log before it is handed on. It counts once."""
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client:
        ingestor = contexts[0].pipeline.ingestor
        assert ingestor is not None
        hand_on = ingestor._hand_on

        async def late(appended: Appended) -> asyncio.Future[None] | None:
            if isinstance(appended.batch, Ticks):
                await put(kafka, f"{topic}.raw", [(2, SYMBOL, trade(SYMBOL, T0, 7.0, trade_id="foreign"))])
                await asyncio.sleep(1)  # it is seen by then, and may be read from the log, ours with it
            return await hand_on(appended)

        ingestor._hand_on = late
        answer = await post(client, trade(SYMBOL, T0, 5.0, trade_id="ours"))
        assert (answer["accepted"], answer["duplicates"]) == (1, 0)
        await client.post(f"{OURS}&end_of_stream=true")
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        await assert_all_stored(postgres_dsn, kafka, topic, 2)


@pytest.mark.thorough
async def test_a_redelivery_among_the_records_of_others_is_left_out_also_after_a_restart(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    settings = on_kafka(kafka, topic)
    same = trade(SYMBOL, T0, 5.0, trade_id="same")
    async with serve(postgres_dsn, **settings):
        await put(kafka, f"{topic}.raw", [(2, SYMBOL, same), (2, SYMBOL, same)])
        await processed(postgres_dsn, kafka, f"{topic}.raw")
    async with serve(postgres_dsn, **settings):
        await put(kafka, f"{topic}.raw", [(2, SYMBOL, same), (2, SYMBOL, trade(SYMBOL, T0, 6.0, trade_id="other"))])
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        assert [tick.price for tick in await stored_ticks(postgres_dsn)] == [5.0, 6.0]


# Transactions -----------------------------------------------------------------------------------


@pytest.mark.thorough
async def test_transactions_of_others(serve: Serve, postgres_dsn: str, kafka: str, topic: str) -> None:
    """Records of aborted transactions are skipped; an open transaction delays later records; markers delay nothing."""
    raw = f"{topic}.raw"

    async def send(producer: AIOKafkaProducer, price: float) -> None:
        value = httpx2.Request("POST", "http://x", json=trade(SYMBOL, T0, price)).content
        await producer.send_and_wait(raw, value, key=SYMBOL.encode(), partition=2)

    producer = AIOKafkaProducer(bootstrap_servers=kafka, transactional_id=topic)
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client, producer:
        async with producer.transaction():
            await send(producer, 1.0)
        await producer.begin_transaction()
        await send(producer, 666.0)
        await producer.abort_transaction()
        await processed(postgres_dsn, kafka, raw)
        await post(client, trade(SYMBOL, T0, 2.0))
        await producer.begin_transaction()
        await send(producer, 3.0)
        await post(client, trade(SYMBOL, T0, 4.0))
        await asyncio.sleep(1.2)
        assert [tick.price for tick in await stored_ticks(postgres_dsn)] == [1.0, 2.0]
        await producer.commit_transaction()
        await processed(postgres_dsn, kafka, raw)
        await producer.begin_transaction()
        await send(producer, 666.0)
        await producer.abort_transaction()
        await processed(postgres_dsn, kafka, raw)
        await client.post(f"{OURS}&end_of_stream=true")
        await processed(postgres_dsn, kafka, raw)
        await assert_all_stored(postgres_dsn, kafka, topic, 4)
    async with serve(postgres_dsn, **on_kafka(kafka, topic)):
        assert len(await stored_ticks(postgres_dsn)) == 4


# Astray -----------------------------------------------------------------------------------------


async def test_a_record_on_a_wrong_partition_is_a_dead_letter_and_can_be_sent_again(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client:
        tick = trade(SYMBOL, T0, 5.0, trade_id="astray") | {"provider": "vendor", "exchange": "Q"}
        [offset] = await put(kafka, f"{topic}.raw", [(3, SYMBOL, tick)])
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        [letter] = (await client.get("/dead-letters")).json()["dead_letters"]
        assert (letter["topic"], letter["topic_partition"], letter["topic_offset"]) == (f"{topic}.raw", 3, offset)
        assert "partition 3" in letter["reason"]
        assert "murmur2_random" in letter["reason"]
        assert await stored_ticks(postgres_dsn) == []
        assert (await client.post("/dead-letters/retry")).json() == {"retried": 1, "refused": {}}
        assert (await client.post("/dead-letters/retry")).json() == {"retried": 0, "refused": {}}
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        [stored] = await stored_ticks(postgres_dsn)
        firsts = await first_seqs(postgres_dsn)
        assert (stored.seq, stored.symbol, stored.price, stored.ts) == (firsts[2], SYMBOL, 5.0, T0)
        assert stored.trade_id == "astray"
        [letter] = (await client.get("/dead-letters")).json()["dead_letters"]
        assert letter["retried_at"] is not None
        [latest] = (await client.get("/ticks/latest", params={"symbol": SYMBOL})).json()["ticks"]
        assert (latest["provider"], latest["exchange"]) == ("vendor", "Q")


# Settling ---------------------------------------------------------------------------------------


@pytest.mark.thorough
@pytest.mark.parametrize("before", [1, 8])
async def test_a_batch_whose_sequence_the_broker_refuses_lands_once(
    serve: Serve, contexts: list[Context], postgres_dsn: str, kafka: str, topic: str, before: int
) -> None:
    """A sequence that starts again is a duplicate for the broker at first, and out of order later."""
    async with serve(postgres_dsn, **on_kafka(kafka, topic)) as client:
        for number in range(before):
            await post(client, trade(SYMBOL, T0, 1 + number, trade_id=f"{number}"))
        journal: Any = contexts[0].log.journal
        former = journal._appender._producer
        former._txn_manager._sequence_numbers.clear()
        every = [trade(one, T0, 50.0, trade_id=one) for number in range(PARTITIONS) for one in symbols_on(number, 2)]
        answer = await post(client, *every)
        assert answer["accepted"] == len(every)
        assert journal._appender._producer is not former, "nothing had to be settled"
        await post(client, trade(SYMBOL, T0, 99.0, trade_id="after"))
        await client.post(f"{OURS}&end_of_stream=true")
        await processed(postgres_dsn, kafka, f"{topic}.raw")
        await assert_all_stored(postgres_dsn, kafka, topic, before + len(every) + 1)


# Topics -----------------------------------------------------------------------------------------


@pytest.mark.thorough
async def test_topics_are_made_as_they_are_set(serve: Serve, postgres_dsn: str, kafka: str, topic: str) -> None:
    settings = on_kafka(kafka, topic, kafka_partitions=3, kafka_retention_hours=5, kafka_replication=1)
    async with serve(postgres_dsn, **settings):
        pass
    status, said = await command(postgres_dsn, settings, "topics", "list")
    assert status == 0, said
    for name in ("raw", "ohlcv", "analytics", "signals"):
        [line] = [line.split() for line in said.splitlines() if f"{topic}.{name}" in line]
        assert line == [f"{topic}.{name}", "3", "1", "5", "h"]
    assert len(await first_seqs(postgres_dsn)) == 3
    # Existing records do not change.
    async with serve(postgres_dsn, **settings | {"kafka_partitions": 4, "kafka_retention_hours": 9}):
        assert len(await first_seqs(postgres_dsn)) == 3


@pytest.mark.parametrize("policy", ["compact", "compact,delete"])
async def test_a_compacted_log_is_refused(serve: Serve, postgres_dsn: str, kafka: str, topic: str, policy: str) -> None:
    new = NewTopic(f"{topic}.raw", 1, 1, topic_configs={"cleanup.policy": policy})
    await with_admin(kafka, lambda admin: admin.create_topics([new]))
    with pytest.raises(CannotStart, match=rf"{topic}\.raw has cleanup\.policy={policy}, which drops ticks"):
        async with serve(postgres_dsn, **on_kafka(kafka, topic)):
            pass


# Losses -----------------------------------------------------------------------------------------


@pytest.mark.thorough
async def test_records_that_were_dropped_before_they_were_worked_in_stop_the_start(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    settings, raw = on_kafka(kafka, topic), f"{topic}.raw"
    async with serve(postgres_dsn, **settings):
        await put(kafka, raw, [(2, SYMBOL, trade(SYMBOL, T0, 1 + number)) for number in range(3)])
        await processed(postgres_dsn, kafka, raw)
    newest = (await stored_ticks(postgres_dsn))[-1].seq
    await put(kafka, raw, [(2, SYMBOL, trade(SYMBOL, T0, 10 + number)) for number in range(5)])
    await delete_up_to(kafka, raw, 2, 6)
    with pytest.raises(RecordsLost, match=r"partition 2 of .*: the records 3 to 5 were dropped") as refused:
        async with serve(postgres_dsn, **settings):
            pass
    assert "stockpulse topics accept-loss" in str(refused.value)
    status, said = await command(postgres_dsn, settings, "topics", "accept-loss")
    assert (status, said.strip()) == (0, "partition 2: processed up to 3, continues at 6")
    async with serve(postgres_dsn, **settings) as client:
        await processed(postgres_dsn, kafka, raw)
        await post(client, trade(SYMBOL, T0, 20.0))
        await client.post(f"{OURS}&end_of_stream=true")
        await processed(postgres_dsn, kafka, raw)
        ticks = await stored_ticks(postgres_dsn)
        assert [tick.price for tick in ticks] == [1, 2, 3, 13, 14, 20]
        assert min(tick.seq for tick in ticks[3:]) > newest
        await until(lambda: closed(postgres_dsn), "that the bar is closed")
        await assert_bars_right(postgres_dsn, ticks)
        latest = (await client.get("/ticks/latest", params={"symbol": SYMBOL, "limit": 10})).json()["ticks"]
        assert [tick["price"] for tick in latest] == [20, 14, 13, 3, 2, 1]
    status, said = await command(postgres_dsn, settings, "topics", "accept-loss")
    assert (status, said.strip()) == (0, "nothing is lost")


async def closed(dsn: str) -> bool:
    return len(await rows(dsn, "SELECT FROM bars_1m")) > 0


async def delete_up_to(bootstrap: str, topic: str, partition: int, offset: int) -> None:
    wanted = {TopicPartition(topic, partition): RecordsToDelete(before_offset=offset)}
    await with_admin(bootstrap, lambda admin: admin.delete_records(wanted))


# Forgets ----------------------------------------------------------------------------------------


async def prices(client: httpx2.AsyncClient) -> list[float]:
    answer = await client.get("/ticks/latest", params={"symbol": SYMBOL, "limit": 100})
    return sorted(tick["price"] for tick in answer.json()["ticks"])


@pytest.mark.thorough
async def test_ticks_are_taken_back_by_us_and_by_others(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    settings, raw = on_kafka(kafka, topic, durable_timeout_seconds=60), f"{topic}.raw"
    ticks = [trade(SYMBOL, T0 + timedelta(seconds=n), 10.0 + n, trade_id=str(n)) for n in range(6)]
    async with serve(postgres_dsn, **settings) as client:
        await post(client, *ticks[:5])
        await put(kafka, raw, [(2, SYMBOL, ticks[5])])
        span = {"start": (T0 + timedelta(seconds=1)).isoformat(), "end": (T0 + timedelta(seconds=3)).isoformat()}
        answer = await client.delete("/ticks", params={"symbol": SYMBOL, "provider": "ours", **span})
        assert (answer.status_code, answer.json()["ticks"]) == (200, 2), answer.text
        assert await prices(client) == [10, 13, 14, 15]
        # Another program does the same, on the partition of the symbol; on another one that is a dead letter.
        foreign = {
            "type": "forget",
            "symbol": SYMBOL,
            "start": (T0 + timedelta(seconds=4)).isoformat(),
            "end": "2100-01-01",
        }
        await put(kafka, raw, [(2, SYMBOL, foreign), (1, SYMBOL, foreign | {"start": T0.isoformat()})])
        await processed(postgres_dsn, kafka, raw)
        assert await prices(client) == [10, 13]
        letters = await rows(postgres_dsn, "SELECT topic_partition, reason FROM dead_letters")
        assert [(partition, reason.split(",")[0]) for partition, reason in letters] == [(1, f"on partition 1 of {raw}")]
        receipt = await post(client, *ticks)
        assert (receipt["accepted"], receipt["duplicates"]) == (4, 2)
        await processed(postgres_dsn, kafka, raw)
        assert await prices(client) == [10, 11, 12, 13, 14, 15]
    async with serve(postgres_dsn, **settings) as client:
        assert await prices(client) == [10, 11, 12, 13, 14, 15]
        answer = await client.delete("/ticks", params={"provider": "ours"})
        assert (answer.status_code, answer.json()["ticks"], answer.json()["bars_refused"]) == (200, 6, 0), answer.text
        assert await prices(client) == []
        assert await rows(postgres_dsn, "SELECT FROM bars_1m") == []
    async with serve(postgres_dsn, **settings) as client:
        assert await prices(client) == []


# Corrections ------------------------------------------------------------------------------------


async def served(client: httpx2.AsyncClient) -> dict[str, float]:
    answer = await client.get("/ticks/latest", params={"symbol": SYMBOL, "limit": 100})
    return {tick["trade_id"]: tick["price"] for tick in answer.json()["ticks"]}


async def correct(client: httpx2.AsyncClient, *rows: dict[str, Any]) -> tuple[int, int]:
    answer = await client.post("/ticks/corrections?provider=ours", json=list(rows))
    assert answer.status_code == 200, answer.text
    return answer.json()["accepted"], answer.json()["duplicates"]


async def test_trades_are_corrected_by_us_and_by_others(
    serve: Serve, postgres_dsn: str, kafka: str, topic: str
) -> None:
    settings, raw = on_kafka(kafka, topic, durable_timeout_seconds=60), f"{topic}.raw"
    ticks = [trade(SYMBOL, T0 + timedelta(seconds=n), 10.0 + n, trade_id=str(n)) for n in range(6)]
    later = (T0 + timedelta(minutes=1)).isoformat()
    cancel = {"symbol": SYMBOL, "ts": later, "trade_id": "1"}
    corrected = {"symbol": SYMBOL, "ts": later, "trade_id": "2", "price": 50.0, "size": 3.0, "new_trade_id": "2b"}
    after = {"0": 10, "2b": 50, "3": 13, "4": 14, "5": 15}
    async with serve(postgres_dsn, **settings) as client:
        await post(client, *ticks)
        assert await correct(client, cancel, corrected) == (2, 0)
        await processed(postgres_dsn, kafka, raw)
        assert await served(client) == after
        # The same again, and the cancelled trade again, by another program: the shard drops them.
        values = [json.loads(record.value or b"") for record in await read_topic(kafka, raw)]
        assert [one["type"] for one in values] == ["trade"] * 6 + ["correction"] * 2
        assert values[6]["since"] == values[6]["ts"] == ticks[1]["ts"].replace("+00:00", ".000000Z")
        await put(kafka, raw, [(2, SYMBOL, values[number]) for number in (6, 1, 7, 2)])
        await processed(postgres_dsn, kafka, raw)
        assert await served(client) == after
        assert await rows(postgres_dsn, "SELECT count(*) FROM corrections") == [(2,)]
        foreign = {"type": "correction", "symbol": SYMBOL, "trade_id": "3", "ts": later, "provider": "ours"}
        right = foreign | {"trade_id": "4", "ts": ticks[4]["ts"], "price": 60, "size": 1}
        await put(kafka, raw, [(2, SYMBOL, foreign), (2, SYMBOL, right), (1, SYMBOL, foreign | {"trade_id": "5"})])
        await processed(postgres_dsn, kafka, raw)
        assert await served(client) == {"0": 10, "2b": 50, "4": 60, "5": 15}
        letters = await rows(postgres_dsn, "SELECT id, reason FROM dead_letters")
        assert [reason.split(",")[0] for _, reason in letters] == [f"on partition 1 of {raw}"]
        retried = await client.post("/dead-letters/retry", json={"ids": [letters[0][0]]})
        assert retried.status_code == 200, retried.text
        await processed(postgres_dsn, kafka, raw)
        assert await served(client) == {"0": 10, "2b": 50, "4": 60}
    async with serve(postgres_dsn, **settings) as client:
        assert await correct(client, cancel, corrected) == (0, 2)
        receipt = await post(client, *ticks)
        assert (receipt["accepted"], receipt["duplicates"]) == (0, 6)
        assert await served(client) == {"0": 10, "2b": 50, "4": 60}
        await client.post(f"{OURS}&end_of_stream=true")
        await until(lambda: closed(postgres_dsn), "that the bar is closed")
        assert await rows(postgres_dsn, "SELECT high, trade_count, volume_units FROM bars_1m") == [(60, 3, 5)]

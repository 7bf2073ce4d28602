"""Records of other programs that stand right behind ours, at the moments when that matters."""

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from crash_harness import until, until_true

from stockpulse.api.context import Context

SYMBOL = "AAPL"


def tick(trade_id: str) -> dict[str, Any]:
    return {"symbol": SYMBOL, "ts": "2024-11-29T17:00:00Z", "price": 1.5, "size": 1, "trade_id": trade_id}


@pytest.mark.timeout(60)
async def test_ours_are_kept_when_what_follows_them_is_read_before_they_are_handed_on(
    serve: Any, contexts: list[Context], postgres_dsn: str, kafka: str, topic: str, compiled: object
) -> None:
    raw = f"{topic}.raw"
    names = {f"kafka_topic_{name}": f"{topic}.{name}" for name in ("raw", "ohlcv", "analytics", "signals")}
    producer = AIOKafkaProducer(bootstrap_servers=kafka)
    await producer.start()
    try:
        async with serve(postgres_dsn, kafka_bootstrap_servers=kafka, kafka_partitions=1, **names) as client:
            ingestor = contexts[-1].pipeline.ingestor
            assert ingestor is not None
            hand_on, held, go_on = ingestor._hand_on, asyncio.Event(), asyncio.Event()

            async def hand_on_later(appended: Any) -> Any:
                held.set()
                await go_on.wait()
                return await hand_on(appended)

            ingestor._hand_on = hand_on_later
            posting = asyncio.create_task(client.post("/api/v1/ticks", json=[tick("ours")]))
            await held.wait()
            await producer.send_and_wait(raw, json.dumps(tick("theirs")).encode(), key=SYMBOL.encode())
            log = contexts[-1].shards.owned[0].source.log
            start = log.head
            await until(lambda: log.head > start, "that the record of the others is seen", 10)
            await asyncio.sleep(1)  # several turns of the shard's loop, in which it may read
            go_on.set()
            assert (await posting).json()["accepted"] == 1
            connection = await asyncpg.connect(postgres_dsn)

            async def both_are_there() -> bool:
                rows = await connection.fetch("SELECT trade_id FROM realtime_prices ORDER BY seq")
                return [row["trade_id"] for row in rows] == ["ours", "theirs"]

            try:
                await until_true(both_are_there, "that both ticks are stored, in the order of the log", 10)
            finally:
                await connection.close()
    finally:
        await producer.stop()

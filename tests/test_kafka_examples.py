"""The programs of the manual's page on Kafka write ticks that StockPulse takes."""

import asyncio
import shutil
import subprocess
import sys
from typing import Any

import pytest

import documents
from kafka_app import Serve, on_kafka, rows, until

PAGE = documents.section(documents.page("kafka"), "Write ticks from other programs")


def here(example: str, kafka: str, topic: str) -> str:
    """The example for the broker and the topic of this test."""
    return example.replace("localhost:9092", kafka).replace("market.prices.raw", f"{topic}.raw")


async def written(serve: Serve, dsn: str, kafka: str, topic: str, command: list[str]) -> list[tuple[Any, ...]]:
    """Run the program beside a server; return provider, symbol, price and volume of the ticks in the database."""
    query = "SELECT provider, symbol, price, volume FROM stock_ticks"

    async def has_arrived() -> bool:
        return bool(await rows(dsn, query))

    async with serve(dsn, **on_kafka(kafka, topic)):
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        await until(has_arrived, "the tick is stored")
    return await rows(dsn, query)


@pytest.mark.skipif(shutil.which("kcat") is None, reason="kcat is not installed: apt-get install kcat")
async def test_kcat(serve: Serve, postgres_dsn: str, kafka: str, topic: str) -> None:
    (example,) = documents.code(PAGE, "bash")
    command = ["bash", "-c", here(example, kafka, topic)]
    assert await written(serve, postgres_dsn, kafka, topic, command) == [("desk", "SPY", 684.5, 100.0)]


async def test_confluents_producer(serve: Serve, postgres_dsn: str, kafka: str, topic: str) -> None:
    pytest.importorskip("confluent_kafka")
    (example,) = documents.code(PAGE, "python")
    command = [sys.executable, "-c", here(example, kafka, topic)]
    assert await written(serve, postgres_dsn, kafka, topic, command) == [("kafka", "SPY", 684.75, 20.0)]

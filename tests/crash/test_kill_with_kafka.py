"""SIGKILL of the app at any moment under load, with the log on Kafka: nothing acknowledged is lost or doubled."""

import asyncio
import random
import time

import pytest
from crash_harness import Load, Market, assert_derived_right, kills_wanted, processes_of, seed_of, spread
from crash_kafka import app_on_kafka, assert_log_right, raw_of
from test_kill_the_app import kill_now_and_then


@pytest.mark.longest
@pytest.mark.timeout(3600)
async def test_killed_app_loses_nothing_and_doubles_nothing(kafka: str, topic: str) -> None:
    seed = seed_of(21)
    async with app_on_kafka(kafka, topic) as app:
        load = Load(app, Market(seed, in_parts=True))
        async with load.flowing():
            await asyncio.sleep(1)
            seconds = await kill_now_and_then(app, load, kills_wanted(2), random.Random(seed))
            await asyncio.sleep(1)
        print(
            f"{len(seconds)} kills, {load.ticks} ticks, {load.rate:.0f} a second;"
            f" serving again after {spread(seconds)} s: {[round(one, 1) for one in seconds]};"
            f" answers {dict(load.answers)}"
        )
        await load.settle()
        started = time.monotonic()
        await assert_log_right(app, kafka, raw_of(topic), load.batches)
        await assert_derived_right(app)
        print(f"checked in {time.monotonic() - started:.1f} s")
        assert (await app.terminate())[0] == 0
        assert processes_of(app.folder) == []

"""A reader of the stream ends with the bars of the API, although the server is killed and the reader leaves."""

import asyncio
import random
from datetime import timedelta

import httpx2
import pytest
from crash_harness import BEGIN, PAIRS, Load, Market, kills_wanted, running_app, seed_of

from stream_client import Bars, of_api

SYMBOLS = list(PAIRS[2:12])
INTERVALS = ("5m", "1h")
FIRST = (BEGIN - timedelta(days=30)).isoformat()
LONGEST_WAIT = 60


@pytest.mark.thorough
@pytest.mark.timeout(900)
async def test_a_reader_ends_with_the_bars_of_the_api() -> None:
    seed = seed_of(12)
    dice = random.Random(seed)
    async with running_app() as app:
        load = Load(app, Market(seed))
        readers = {interval: Bars(SYMBOLS, interval) for interval in INTERVALS}
        over = asyncio.Event()

        async def follow(bars: Bars) -> None:
            while not over.is_set():
                leaves = asyncio.get_running_loop().time() + dice.uniform(0.3, 2)
                within_snapshot = dice.random() < 0.3

                def left() -> bool:
                    return asyncio.get_running_loop().time() > leaves and (within_snapshot or bars.complete)

                await bars.follow(app.port, left, FIRST)
                await asyncio.sleep(dice.uniform(0.05, 0.3))

        async with asyncio.TaskGroup() as group:
            for bars in readers.values():
                group.create_task(follow(bars))
            async with load.flowing():
                for _ in range(kills_wanted(3)):
                    await asyncio.sleep(dice.uniform(1, 3))
                    await app.kill()
                    await app.start()
                await asyncio.sleep(1)
            await load.settle()
            over.set()
        for interval, bars in readers.items():
            expected: dict[tuple[str, str], object] = {}
            async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{app.port}") as client:
                for symbol in SYMBOLS:
                    answer = await client.get(f"/data/{symbol}?interval={interval}")
                    expected |= of_api(answer.raise_for_status().json())
            assert len(expected) > 100
            deadline = asyncio.get_running_loop().time() + LONGEST_WAIT
            await bars.follow(app.port, lambda: bars.complete or asyncio.get_running_loop().time() > deadline, FIRST)
            await bars.follow(
                app.port, lambda: bars.kept() == expected or asyncio.get_running_loop().time() > deadline, FIRST
            )
            assert bars.kept() == expected
            print(f"{interval}: {len(expected)} bars, {len(bars.resumed)} connections, {sum(bars.resumed)} resumed")
            assert bars.missed == 0
            assert any(bars.resumed)
            assert not all(bars.resumed)

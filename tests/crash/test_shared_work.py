"""Several processes share the partitions of one log and one database, and are killed and frozen under load.

In the end the database has what one process would have stored.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

import asyncpg
import pytest
from crash_harness import (
    CAUGHT_UP_SECONDS,
    App,
    Load,
    Market,
    NoAnswer,
    assert_derived_right,
    data_folder,
    kills_wanted,
    seed_of,
    until_true,
)
from crash_kafka import assert_log_right, processed

from kafka_app import PARTITIONS, on_kafka, rows

pytestmark = pytest.mark.timeout(3600)

#: Longer than a member of the group may be silent.
FROZEN_SECONDS = 8.0


class Part(App):
    """A process with one role, on a database that it shares with others."""

    @property
    def dsn(self) -> str:
        return self.settings["STOCKPULSE_DATABASE_URL"]

    async def shards(self) -> dict[str, dict[str, int]]:
        """Return its shards with their lags, as /health has them; none if it does not answer."""
        with contextlib.suppress(NoAnswer, TimeoutError):
            _, health = await asyncio.wait_for(self.get("/health"), 2)
            assert isinstance(health, dict)
            found: dict[str, dict[str, int]] = health["shards"]
            return found
        return {}

    @property
    def lives(self) -> bool:
        return self.process is not None and self.process.poll() is None


@dataclass(frozen=True)
class Work:
    """One process that takes ticks, and the processes that share their processing."""

    ingest: Part
    workers: list[Part]

    async def shared_out(self) -> bool:
        """Return True if each shard has exactly one live owner, and each live process owns at least one."""
        owned = [await one.shards() for one in self.workers if one.lives]
        return sorted(shard for some in owned for shard in some) == [str(n) for n in range(PARTITIONS)] and all(owned)

    async def done(self) -> None:
        """Wait until everything is processed and stored, and no indicator is behind."""
        deadline = time.monotonic() + CAUGHT_UP_SECONDS
        while (left := await self._left()) or not await self.shared_out():
            assert time.monotonic() < deadline, f"not done after {CAUGHT_UP_SECONDS} s: {left}"
            await asyncio.sleep(0.1)

    async def _left(self) -> list[object]:
        said = [(await one.shards(), await one.analytics()) for one in self.workers]
        lags = [lag for shards, _ in said for lag in shards.items() if lag[1]["unprocessed"] or lag[1]["unflushed"]]
        return [*lags, *[analytics for _, analytics in said if analytics != {"compiled": True, "behind": 0}]]

    def tails(self) -> str:
        """Return the last lines of all logs, without lines about requests."""
        said = ""
        for one in self._all:
            lines = [line for line in one.tail(200_000).splitlines() if '"event": "request"' not in line]
            said += "\n".join(["", f"--- {one.settings['STOCKPULSE_ROLE']}:", *lines[-30:]])
        return said

    @property
    def _all(self) -> list[Part]:
        return [self.ingest, *self.workers]


@contextlib.asynccontextmanager
async def working(dsn: str, kafka: str, topic: str) -> AsyncIterator[Work]:
    """Run one `ingest` and two `process` that share all partitions; print their logs after an error."""
    settings = on_kafka(kafka, topic, database_url=dsn)
    del settings["calendar"]
    with contextlib.ExitStack() as stack:
        parts = [
            Part(stack.enter_context(data_folder()), role=role, **settings) for role in ("ingest", "process", "process")
        ]
        work = Work(parts[0], parts[1:])
        try:
            await asyncio.gather(*[one.start() for one in parts])
            await until_true(work.shared_out, "that all partitions are shared out")
            yield work
        except BaseException:
            print(work.tails())
            raise
        finally:
            for one in parts:
                if one.lives:
                    assert one.process is not None
                    one.process.send_signal(signal.SIGCONT)
                    one.process.kill()
                    one.process.wait()


async def assert_all_right(work: Work, kafka: str, topic: str, load: Load) -> None:
    """Assert that each tick is stored once, and everything derived is what one process would have made."""
    raw = f"{topic}.raw"
    await load.end()
    await until_true(work.shared_out, f"that all partitions are shared out:{work.tails()}")
    await processed(work.workers[0], kafka, raw, CAUGHT_UP_SECONDS)
    await work.done()
    started = time.monotonic()
    await assert_log_right(work.ingest, kafka, raw, load.batches)
    await assert_derived_right(work.ingest)
    print(f"{load.ticks} ticks, {load.rate:.0f} a second, {dict(load.answers)}; {time.monotonic() - started:.1f} s")
    assert await rows(work.ingest.dsn, "SELECT FROM dead_letters WHERE topic IS NOT NULL") == []
    for one in [work.ingest, *work.workers]:
        assert one.lives, f"a process has ended by itself:\n{one.tail()}"
        assert (await one.terminate())[0] == 0


@pytest.mark.longest
async def test_killed_workers_lose_nothing_and_double_nothing(postgres_dsn: str, kafka: str, topic: str) -> None:
    seed = seed_of(41)
    dice = random.Random(seed)
    async with working(postgres_dsn, kafka, topic) as work:
        load = Load(work.ingest, Market(seed, in_parts=True, most=1000), connections=3)
        async with load.flowing():
            for _ in range(kills_wanted(1)):
                await asyncio.sleep(dice.uniform(0.2, 2.0))
                victim = dice.choice(work.workers)
                await victim.kill()
                await asyncio.sleep(dice.choice([0, dice.uniform(0, 8)]))
                await victim.start()
            await asyncio.sleep(0.5)
        await assert_all_right(work, kafka, topic, load)


@pytest.mark.longest
async def test_frozen_worker_that_wakes_up_when_others_do_its_work_spoils_nothing(
    postgres_dsn: str, kafka: str, topic: str
) -> None:
    seed = seed_of(43)
    dice = random.Random(seed)
    async with working(postgres_dsn, kafka, topic) as work:
        load = Load(work.ingest, Market(seed, in_parts=True, most=1000), connections=2)
        async with load.flowing():
            for _ in range(kills_wanted(1)):
                await asyncio.sleep(dice.uniform(0.3, 1.5))
                victim = dice.choice(work.workers)
                other = next(one for one in work.workers if one is not victim)
                epochs = await epochs_of(postgres_dsn)
                had = await victim.shards()
                os.kill(victim.pid, signal.SIGSTOP)
                await asyncio.sleep(FROZEN_SECONDS)
                await until_true(lambda: owns_all(other), f"that the other one has all:{work.tails()}", 20)
                os.kill(victim.pid, signal.SIGCONT)
                await until_true(work.shared_out, f"that both have some again:{work.tails()}", 20)
                assert all(epoch > epochs[int(shard)] for shard, epoch in of_shards(await epochs_of(postgres_dsn), had))
            await asyncio.sleep(0.5)
        await assert_all_right(work, kafka, topic, load)


async def owns_all(one: Part) -> bool:
    return len(await one.shards()) == PARTITIONS


async def epochs_of(dsn: str) -> dict[int, int]:
    return dict(await rows(dsn, "SELECT shard, epoch FROM checkpoints"))  # type: ignore[arg-type]


def of_shards(epochs: dict[int, int], shards: dict[str, dict[str, int]]) -> list[tuple[str, int]]:
    return [(shard, epochs[int(shard)]) for shard in shards]


@pytest.mark.longest
async def test_who_takes_a_shard_from_one_that_is_still_at_it_fences_it(
    postgres_dsn: str, kafka: str, topic: str
) -> None:
    """Another program raises the epochs, as a new owner of every shard does: the owners stop, then take over again."""
    seed = seed_of(45)
    async with working(postgres_dsn, kafka, topic) as work:
        load = Load(work.ingest, Market(seed, in_parts=True, most=1000), connections=2)
        async with load.flowing():
            for _ in range(kills_wanted(1)):
                await asyncio.sleep(1)
                connection = await asyncpg.connect(postgres_dsn)
                try:
                    await connection.execute("UPDATE checkpoints SET epoch = epoch + 1")
                    fenced = dict(await connection.fetch("SELECT shard, epoch FROM checkpoints"))
                finally:
                    await connection.close()

                async def are_taken_back() -> bool:
                    now = await epochs_of(postgres_dsn)
                    return all(now[shard] > epoch for shard, epoch in fenced.items()) and await work.shared_out()

                await until_true(are_taken_back, f"that all are taken back:{work.tails()}", 30)
        said = Counter(str(line["event"]) for one in work.workers for line in one.said("has taken the shard"))
        assert said["another process has taken the shard"] >= PARTITIONS
        await assert_all_right(work, kafka, topic, load)

"""Polling jobs run in one process at a time; another one takes over when it ends."""

import asyncio
from datetime import UTC, datetime

import pytest

from stockpulse.pipeline.job_runner import JobRunner
from stockpulse.pipeline.latest_prices import LatestPrices
from stockpulse.pipeline.sources import Sources
from stockpulse.postgres.connect import create_pool
from stockpulse.providers.base import Capabilities, ProviderBase, ProviderEntry
from stockpulse.providers.faults import Unreachable
from stockpulse.providers.registry import ProviderRegistry
from stockpulse.storage.polling_jobs import PollingJobs


class Away(ProviderBase):
    """A provider that does not answer."""

    name = "away"

    def __init__(self):
        self.requests = 0

    async def latest(self, symbols):
        self.requests += 1
        raise Unreachable("away does not answer")


class Process:
    """The runner of a process, and its own provider."""

    def __init__(self, pool, dsn):
        self.vendor = Away()
        entry = ProviderEntry("away", lambda _: self.vendor, capabilities=Capabilities(ticks=False, latest=True))
        sources = Sources(lambda *_: self.vendor, providers=ProviderRegistry([("tests", entry)]))

        def now():
            return datetime.now(UTC)

        # No price arrives, so the intake is not reached.
        self.runner = JobRunner(PollingJobs(pool), sources, LatestPrices(now), None, dsn, now)
        self.task = asyncio.create_task(self.runner.run())

    async def stop(self):
        self.task.cancel()
        await asyncio.wait([self.task])


async def until(probe):
    async with asyncio.timeout(30):
        while not probe():
            await asyncio.sleep(0.02)


@pytest.fixture
async def pool(postgres_dsn):
    async with await create_pool(postgres_dsn, 4) as pool:
        yield pool


async def test_one_process_runs_the_jobs_and_another_takes_over(pool, postgres_dsn):
    jobs = PollingJobs(pool)
    job = await jobs.create("away", ["A"], 1.0, datetime.now(UTC))
    first = Process(pool, postgres_dsn)
    await until(lambda: first.vendor.requests)
    second = Process(pool, postgres_dsn)
    await until(lambda: first.vendor.requests >= 3)
    assert second.vendor.requests == 0
    await first.stop()
    asked = first.vendor.requests
    await until(lambda: second.vendor.requests)
    assert first.vendor.requests == asked
    stored = await jobs.find(job.id)
    assert (stored.prices["A"]["fault"], stored.prices["A"]["message"]) == ("unreachable", "away does not answer")
    await second.stop()


async def test_jobs_that_others_create_and_stop_are_noticed(pool, postgres_dsn):
    jobs, process = PollingJobs(pool), Process(pool, postgres_dsn)
    job = await jobs.create("away", ["A"], 1.0, datetime.now(UTC))
    await until(lambda: process.vendor.requests)
    await jobs.stop(job.id, datetime.now(UTC))
    await until(lambda: not process.runner._tasks)
    asked = process.vendor.requests
    await asyncio.sleep(1.2)
    assert process.vendor.requests == asked
    await process.stop()


async def test_old_stopped_jobs_are_deleted(pool):
    jobs = PollingJobs(pool)
    for day in (1, 2):
        job = await jobs.create("away", ["A"], 1.0, datetime(2026, 1, day, tzinfo=UTC))
        await jobs.stop(job.id, datetime(2026, 1, day, tzinfo=UTC))
    running = await jobs.create("away", ["A"], 1.0, datetime(2026, 1, 1, tzinfo=UTC))
    await jobs.forget(datetime(2026, 1, 2, tzinfo=UTC))
    assert [one.id for one in await jobs.newest(9)] == [running.id, job.id]

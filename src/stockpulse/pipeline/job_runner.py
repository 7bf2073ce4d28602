"""Runs the polling jobs of the database, in one process at a time."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import structlog

from stockpulse.errors import InvalidInput, NotFound
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.latest_prices import Answer, LatestPrices
from stockpulse.pipeline.sources import Source, Sources
from stockpulse.postgres.connect import Connection, connect
from stockpulse.storage.polling_jobs import KEPT, PollingJob, PollingJobs, running_jobs

_LOCK: Final = (0x5350, 0x4A4F42)
"""The advisory lock of the process that runs the jobs."""
_SYNC_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 3.0

log = structlog.get_logger(__name__)


class JobRunner:
    """Follows the table of jobs: starts a task for each running job, and stops the tasks of stopped ones."""

    def __init__(
        self,
        jobs: PollingJobs,
        sources: Sources,
        prices: LatestPrices,
        ingestor: Ingestor,
        dsn: str,
        now: Callable[[], datetime],
    ) -> None:
        self._jobs = jobs
        self._sources = sources
        self._prices = prices
        self._ingestor = ingestor
        self._dsn = dsn
        self._now = now
        self._changed = asyncio.Event()
        self._tasks: dict[int, asyncio.Task[None]] = {}

    def wake(self) -> None:
        """Look at the table now: a job was created or stopped here."""
        self._changed.set()

    async def run(self) -> None:
        """Run jobs until cancelled, while no other process does. Raises the fault of a job that is no ProviderFault."""
        connection = await connect(self._dsn)
        try:
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1, $2)", *_LOCK):
                await self._pause()
            await self._jobs.forget(self._now() - KEPT)
            while True:
                self._sync(await running_jobs(connection))
                await self._pause()
        finally:
            await self._end(connection)

    async def _pause(self) -> None:
        """Wait for a change that this process makes, or some seconds for those of others."""
        waiting = asyncio.create_task(self._changed.wait())
        try:
            await asyncio.wait([waiting, *self._tasks.values()], timeout=_SYNC_SECONDS, return_when="FIRST_COMPLETED")
        finally:
            waiting.cancel()
        self._changed.clear()

    def _sync(self, running: list[PollingJob]) -> None:
        wanted = {job.id: job for job in running}
        for number in self._tasks.keys() - wanted.keys():
            self._tasks.pop(number).cancel()
        for number, job in wanted.items():
            task = self._tasks.get(number)
            if task is None:
                self._tasks[number] = asyncio.create_task(self._poll(job), name=f"job:{number}")
            elif task.done():
                task.result()  # raises its fault

    async def _end(self, connection: Connection) -> None:
        tasks = list(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        try:
            await connection.close(timeout=_CLOSE_SECONDS)
        except Exception:  # noqa: BLE001 - the connection is broken; the server drops the lock with it
            connection.terminate()

    # One job ------------------------------------------------------------------------------------

    async def _poll(self, job: PollingJob) -> None:
        try:
            source = self._sources.named(job.provider)
        except (NotFound, InvalidInput) as missing:  # a package was removed, a key is not set any more
            await self._jobs.save_prices(job.id, _unavailable(job, missing))
            await asyncio.Event().wait()  # until the next start
            return
        loop = asyncio.get_running_loop()
        while True:
            started = loop.time()
            await self._ask(job, source)
            await asyncio.sleep(max(0.0, started + pause_of(job.interval_seconds, source) - loop.time()))

    async def _ask(self, job: PollingJob, source: Source) -> None:
        try:
            found = await self._prices.ask(source, job.symbols)
        except source.entry.transient as fault:
            log.warning("a job got no prices", job=job.id, provider=source.name, error=repr(fault))
            return
        if len(found.ticks):
            await (await self._ingestor.enqueue_any(found.ticks, source.feed))
        await self._jobs.save_prices(job.id, {one: stored_answer(found.answers[one]) for one in job.symbols})


def pause_of(interval_seconds: float, source: Source) -> float:
    """Return the seconds between two requests: not less than the provider allows."""
    return max(interval_seconds, source.has.poll_seconds)


def stored_answer(answer: Answer) -> dict[str, Any]:
    """Return an answer as the table keeps it."""
    return {
        "price": answer.price,
        "timestamp": answer.ts,
        "asked_at": answer.asked_at,
        "fault": None if answer.fault is None else answer.fault.code,
        "message": None if answer.fault is None else str(answer.fault),
    }


def _unavailable(job: PollingJob, missing: Exception) -> dict[str, dict[str, Any]]:
    """Return the prices of a job whose provider cannot be used."""
    said = {"fault": "unavailable", "message": str(missing)}
    return {
        one: {"price": None, "timestamp": None, "asked_at": None, **job.prices.get(one, {}), **said}
        for one in job.symbols
    }

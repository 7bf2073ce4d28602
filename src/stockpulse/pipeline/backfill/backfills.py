"""The backfills of a process: a round for the symbols of the feeds again and again, and runs on request."""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time
from typing import Final

import structlog

from stockpulse.aio.supervisor import Supervisor
from stockpulse.errors import NotFound, StockPulseError, Unavailable
from stockpulse.market.times import from_micros
from stockpulse.pipeline.backfill.filler import Filler
from stockpulse.pipeline.backfill.run import Run, Status
from stockpulse.pipeline.backfill.targets import Bound, Target
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.sources import Source
from stockpulse.postgres.connect import TRANSIENT
from stockpulse.storage.asked_ranges import AskedRanges
from stockpulse.storage.run_log import RunLog

SECOND_ROUND_SECONDS: Final = 90.0
"""The first round leaves out the bar that forms meanwhile; by then it is complete."""
ROUND_SECONDS: Final = 900.0
_SAVED_EVERY_SECONDS: Final = 5.0
_CAUGHT_UP_POLL_SECONDS: Final = 0.05
_KEPT_RUNS: Final = 100
_MOST_RUNS: Final = 10
_SOURCE: Final = "backfill"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Group:
    """Symbols, and the providers to ask for their history, in this order."""

    symbols: tuple[str, ...]
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Requested:
    """A backfill on request."""

    target: Target
    groups: tuple[Group, ...]
    again: bool = False
    """True to ask again for ranges that were asked for, if their bars are not stored."""


@dataclass
class Totals:
    """Sums over all backfills since the start."""

    bars: int = 0
    requests: int = 0
    refused: int = 0

    def add(self, run: Run) -> None:
        """Add the counts of a run."""
        self.bars += run.bars
        self.requests += run.requests
        self.refused += run.refused


class Backfills:
    """Runs backfills, and remembers the newest of them."""

    def __init__(
        self,
        filler: Filler,
        asked: AskedRanges,
        runs: RunLog,
        pipeline: Pipeline,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._filler = filler
        self._log = runs
        self._pipeline = pipeline
        self._now = now
        self._sleep = sleep
        self._ready = asyncio.Event()
        self._ended = Totals()
        self.asked = asked
        self.runs: deque[Run] = deque(maxlen=_KEPT_RUNS)
        """The newest runs, in the order of their starts."""

    async def prepare(self) -> None:
        """Wait until the log is processed, so that its bars are known, and read the asked ranges."""
        processors = self._pipeline.shards.processors.values()
        ends = [(one, one.offset + one.lag()[0]) for one in processors]
        while any(one.offset < end for one, end in ends):  # noqa: ASYNC110 - nothing tells us of an offset
            await asyncio.sleep(_CAUGHT_UP_POLL_SECONDS)
        await self._log.fail_interrupted(_SOURCE, self._now())
        await self.asked.load()
        self._ready.set()

    async def keep_filled(self, targets: Sequence[Target], group: Group) -> None:
        """Fill the history of symbols, and again from time to time, until all providers refuse our key."""
        for pause in itertools.chain([SECOND_ROUND_SECONDS], itertools.repeat(ROUND_SECONDS)):
            await self.fill_round(targets, group)
            if self._filler.is_shut(group.sources):
                return
            await self._sleep(pause)

    async def fill_round(self, targets: Sequence[Target], group: Group) -> Run | None:
        """Fill the history of symbols once. Return the run; None if nothing was missing."""
        await self._ready.wait()
        plans = await self._filler.plans(targets, group.symbols, group.sources)
        if not any(plan.requests for plan in plans):
            return None
        run = Run(0, self._now(), group.sources[0].name, group.symbols, tuple(one.interval.name for one in targets))
        run.expected = sum(plan.count(one) for plan in plans for one in plan.requests)
        await self._begin(run)
        await self._carry_out(run, targets, [group])
        return run

    async def request(self, wanted: Requested, tasks: Supervisor) -> Run:
        """Begin a run on request, as a task of its own. Raises Unavailable if too many are running."""
        if sum(not run.has_ended for run in self.runs) >= _MOST_RUNS:
            raise Unavailable(f"{_MOST_RUNS} backfills are running; try again when one has ended")
        symbols = tuple(symbol for group in wanted.groups for symbol in group.symbols)
        interval, start, end = wanted.target.interval.name, *map(_shown, (wanted.target.start, wanted.target.end))
        run = Run(0, self._now(), wanted.groups[0].sources[0].name, symbols, (interval,), start, end)
        await self._begin(run)
        await self._forget_ended(tasks)
        tasks.start(self._task_of(run), lambda: self._fill_requested(run, wanted), stage="feed")
        return run

    async def _fill_requested(self, run: Run, wanted: Requested) -> None:
        await self._ready.wait()
        if wanted.again:
            for group in wanted.groups:
                await self._filler.forget_asked(wanted.target, group.symbols, group.sources)
        with suppress(StockPulseError):  # the run says what is wrong
            await self._carry_out(run, [wanted.target], wanted.groups)

    async def _forget_ended(self, tasks: Supervisor) -> None:
        ended = [self._task_of(run) for run in self.runs if run.has_ended]
        await tasks.stop(ended)
        tasks.forget(ended)

    @staticmethod
    def _task_of(run: Run) -> str:
        return f"{_SOURCE}:{run.id}"

    def totals(self) -> Totals:
        """Return the sums over all backfills since the start."""
        totals = replace(self._ended)
        for run in self.running():
            totals.add(run)
        return totals

    def running(self) -> list[Run]:
        """Return the runs that have not ended."""
        return [run for run in self.runs if not run.has_ended]

    def find(self, number: int) -> Run:
        """Return a run by its id. Raises NotFound."""
        for run in self.runs:
            if run.id == number:
                return run
        raise NotFound(f"no such backfill since the start of the server: {number}")

    async def _begin(self, run: Run) -> None:
        run.id = await self._log.begin(f"{_SOURCE}:{run.provider}", run.started_at, run.details())
        self.runs.append(run)

    async def _carry_out(self, run: Run, targets: Sequence[Target], groups: Sequence[Group]) -> None:
        """Carry out a run, and record its progress and its end."""
        run.status, run.completed_at = Status.RUNNING, None
        saving = asyncio.create_task(self._save(run))
        try:
            for group in groups:
                await self._filler.fill(run, targets, group.symbols, group.sources)
            shut = all(self._filler.is_shut(group.sources) for group in groups)
            run.status = Status.FAILED if shut else Status.COMPLETED
        except Exception as fault:
            run.status, run.last_fault = Status.FAILED, str(fault) or repr(fault)
            raise
        finally:
            saving.cancel()
            if run.has_ended:
                await self._end(run)

    async def _end(self, run: Run) -> None:
        self._ended.add(run)
        run.completed_at = self._now()
        with suppress(*TRANSIENT):  # the next start records it
            await self._log.end(run.id, run.status.value, run.bars, run.completed_at, run.details())
        counts = {"bars": run.bars, "requests": run.requests, "refused": run.refused}
        log.info("backfill has ended", provider=run.provider, status=run.status.value, **counts)

    async def _save(self, run: Run) -> None:
        """Store the progress of a run every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_SAVED_EVERY_SECONDS)
            with suppress(*TRANSIENT):
                await self._log.update(run.id, run.bars, run.details())


def _shown(bound: Bound | None) -> datetime | None:
    if bound is None:
        return None
    return from_micros(bound) if isinstance(bound, int) else datetime.combine(bound, time(), UTC)

"""The backfills of a process: a round for the symbols of the feeds again and again, and runs on request."""

import asyncio
import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from stockpulse.errors import NotFound, Unavailable
from stockpulse.market.times import from_micros
from stockpulse.pipeline.backfill.filler import Filler
from stockpulse.pipeline.backfill.run import Run, Status
from stockpulse.pipeline.backfill.targets import Target
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
class Requested:
    """A backfill on request."""

    target: Target
    symbols: tuple[str, ...]
    sources: tuple[Source, ...]
    again: bool = False
    """True to ask again for ranges that were asked for, if their bars are not stored."""


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

    async def keep_filled(self, targets: Sequence[Target], symbols: Collection[str], sources: Sequence[Source]) -> None:
        """Fill the history of symbols, and again from time to time, until all providers refuse our key."""
        for pause in itertools.chain([SECOND_ROUND_SECONDS], itertools.repeat(ROUND_SECONDS)):
            await self.fill_round(targets, symbols, sources)
            if all(source.name in self._filler.shut for source in sources):
                return
            await self._sleep(pause)

    async def fill_round(
        self, targets: Sequence[Target], symbols: Collection[str], sources: Sequence[Source]
    ) -> Run | None:
        """Fill the history of symbols once. Return the run; None if nothing was missing."""
        await self._ready.wait()
        plans = await self._filler.plans(targets, symbols, sources)
        expected = sum(plan.count(one) for plan in plans for one in plan.requests)
        if not any(plan.requests for plan in plans):
            return None
        intervals = tuple(target.interval.name for target in targets)
        run = Run(0, self._now(), sources[0].name, tuple(symbols), intervals, expected=expected)
        await self._begin(run)
        await self._carry_out(run, targets, sources)
        return run

    async def request(self, wanted: Requested, start: Callable[[str, Callable[[], Awaitable[None]]], None]) -> Run:
        """Begin a run on request. `start` starts its task, by a name. Raises Unavailable if too many run already."""
        if sum(not run.has_ended for run in self.runs) >= _MOST_RUNS:
            raise Unavailable(f"{_MOST_RUNS} backfills are running; try again when one has ended")
        target = wanted.target
        run = Run(
            0,
            self._now(),
            wanted.sources[0].name,
            wanted.symbols,
            (target.interval.name,),
            None if target.start is None else from_micros(target.start),
            None if target.end is None else from_micros(target.end),
        )
        await self._begin(run)

        async def fill() -> None:
            await self._ready.wait()
            if wanted.again:
                await self._filler.forget_asked(target, wanted.symbols, wanted.sources)
            await self._carry_out(run, [target], wanted.sources)

        start(f"{_SOURCE}:{run.id}", fill)
        return run

    def find(self, number: int) -> Run:
        """Return a run by its id. Raises NotFound."""
        for run in self.runs:
            if run.id == number:
                return run
        raise NotFound(f"no such backfill since the start of the server: {number}")

    async def _begin(self, run: Run) -> None:
        run.id = await self._log.begin(f"{_SOURCE}:{run.provider}", run.started_at, run.details())
        self.runs.append(run)

    async def _carry_out(self, run: Run, targets: Sequence[Target], sources: Sequence[Source]) -> None:
        """Carry out a run, and record its progress and its end."""
        saving = asyncio.create_task(self._save(run))
        try:
            await self._filler.fill(run, targets, run.symbols, sources)
            run.status = Status.COMPLETED
            if all(source.name in self._filler.shut for source in sources):
                run.status = Status.FAILED
        except Exception as fault:
            run.status, run.last_fault = Status.FAILED, str(fault) or repr(fault)
            raise
        finally:
            saving.cancel()
            if run.has_ended:
                run.completed_at = self._now()
                with suppress(*TRANSIENT):  # the next start records it
                    await self._log.end(run.id, run.status.value, run.bars, run.completed_at, run.details())
        log.info("history filled", provider=run.provider, bars=run.bars, requests=run.requests, refused=run.refused)

    async def _save(self, run: Run) -> None:
        """Store the progress of a run every few seconds, until cancelled."""
        while True:
            await asyncio.sleep(_SAVED_EVERY_SECONDS)
            with suppress(*TRANSIENT):
                await self._log.update(run.id, run.bars, run.details())

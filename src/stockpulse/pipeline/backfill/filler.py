"""Asks providers for missing bars and puts these into the log, as far as other batches leave room."""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta

import polars as pl
import structlog

from stockpulse.aio.ahead import ahead
from stockpulse.aio.backoff import Backoff
from stockpulse.ingest.pieces import PIECE_BARS
from stockpulse.market.intervals import Interval
from stockpulse.market.times import from_micros
from stockpulse.pipeline.backfill.answers import Answer, Answered
from stockpulse.pipeline.backfill.expected import Span, minus
from stockpulse.pipeline.backfill.planner import Plan, Planner
from stockpulse.pipeline.backfill.requests import Request
from stockpulse.pipeline.backfill.run import Run, Status
from stockpulse.pipeline.backfill.targets import Target
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.sources import Source
from stockpulse.postgres.connect import AnyConnection
from stockpulse.providers.faults import BadRequest, NotEntitled, ProviderFault, RateLimited, Unreachable, WrongKey
from stockpulse.storage.asked_ranges import Asked, AskedRange, AskedRanges, Outcome

log = structlog.get_logger(__name__)


class Filler:
    """Fills the history of symbols. A range whose bars are durable is never asked for again."""

    def __init__(
        self,
        planner: Planner,
        ingestor: Ingestor,
        asked: AskedRanges,
        now: Callable[[], datetime],
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._planner = planner
        self._ingestor = ingestor
        self._asked = asked
        self._now = now
        self._sleep = sleep
        self._turns: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self.shut: dict[str, str] = {}
        """Providers that refuse our key, each with its words. They are not asked again before the next start."""

    def is_shut(self, sources: Sequence[Source]) -> bool:
        """Return True if all these providers refuse our key."""
        return all(source.name in self.shut for source in sources)

    async def plans(self, targets: Sequence[Target], symbols: Collection[str], sources: Sequence[Source]) -> list[Plan]:
        """Return the plans as of now. The refusals of one provider may lead to further requests to the next."""
        return [await self._planner.plan(target, symbols, *whom) for target, whom in self._steps(targets, sources)]

    async def fill(
        self, run: Run, targets: Sequence[Target], symbols: Collection[str], sources: Sequence[Source]
    ) -> None:
        """Ask the providers in their order; each for ranges that those before it cannot give."""
        for target, whom in self._steps(targets, sources):
            await self._carry_out(run, await self._planner.plan(target, symbols, *whom))

    async def forget_asked(self, target: Target, symbols: Collection[str], sources: Sequence[Source]) -> None:
        """Forget that the bars of a target were asked for."""
        for source in sources:
            for symbol, (start, end) in (await self._planner.spans(target, symbols, source)).items():
                await self._asked.drop(source.name, target.interval, [symbol], start, end)

    def _steps(
        self, targets: Sequence[Target], sources: Sequence[Source]
    ) -> Iterator[tuple[Target, tuple[Source, list[Source]]]]:
        """Yield each target with a provider to ask, and those that are asked before it."""
        for target in targets:
            for place, source in enumerate(sources):
                if target.interval.name in source.has.history and source.name not in self.shut:
                    yield target, (source, [one for one in sources[:place] if one.name not in self.shut])

    async def _carry_out(self, run: Run, plan: Plan) -> None:
        run.expected = max(run.expected, run.done + sum(map(plan.count, plan.requests)))
        for request in plan.requests:
            try:
                await self._ask(run, plan, request)
            except WrongKey as fault:
                self.shut[plan.source.name] = run.last_fault = str(fault)
                log.warning("a provider refuses the key: its history is not asked for", error=str(fault))
                return

    async def _ask(self, run: Run, plan: Plan, request: Request) -> None:
        """Ask until the whole request is answered or refused. Wait while the provider does not answer."""
        backoff, before = Backoff(first=1.0), run.bars
        while left := self._left_of(plan.source.name, request):
            if run.bars > before:
                before = run.bars
                backoff.reset()
            try:
                async with self._turns[plan.source.name]:
                    await self._fetch(run, plan, left[0])
            except RateLimited as fault:
                await self._wait(run, fault, fault.until or self._now() + timedelta(seconds=backoff.next()))
            except (BadRequest, NotEntitled) as fault:
                if _is_of_some(fault, left[0]):
                    for half in _halves(left[0]):
                        await self._ask(run, plan, half)
                else:
                    await self._refuse(run, plan, left[0], fault)
            except Exception as fault:
                if not isinstance(fault, (Unreachable, *plan.source.entry.transient)):
                    raise
                await self._wait(run, fault, self._now() + timedelta(seconds=backoff.next()))

    def _left_of(self, provider: str, request: Request) -> list[Request]:
        """Return the parts of a request that are not answered yet."""
        left: dict[Span, list[str]] = defaultdict(list)
        for symbol in request.symbols:
            asked = self._asked.of(provider, request.interval, symbol)
            for span in minus([(request.start, request.end)], [(one.start, one.end) for one in asked]):
                left[span].append(symbol)
        return [Request(tuple(symbols), request.interval, *span) for span, symbols in sorted(left.items())]

    async def _fetch(self, run: Run, plan: Plan, request: Request) -> None:
        """Make one request, and put its bars into the log as they come."""
        run.requests += 1
        run.status, run.waits_until = Status.RUNNING, None
        answer, source = Answer(request), plan.source
        start, end = from_micros(request.start), from_micros(request.end)
        frames = source.provider.history(request.symbols, request.interval.name, start, end)
        async with aclosing(ahead(frames)) as coming:
            async for frame in coming:
                for piece in frame.iter_slices(PIECE_BARS):
                    await self._load(run, plan, request.interval, piece, answer.after(piece))
        rest = self._as_asked(answer.end())
        await self._asked.add(source.name, request.interval, rest)
        self._count(run, plan, rest)

    async def _load(
        self, run: Run, plan: Plan, interval: Interval, piece: pl.DataFrame, answered: Sequence[Answered]
    ) -> None:
        """Put bars into the log, and with them, in one transaction, the ranges that they complete."""
        asked, provider = self._as_asked(answered), plan.source.name

        async def also(connection: AnyConnection) -> None:
            await self._asked.write(connection, provider, interval, asked)

        receipt = await self._ingestor.submit_history(piece, plan.source.feed, also)
        if receipt.accepted:
            self._asked.keep(provider, interval, asked)
        else:
            await self._asked.add(provider, interval, asked)
        run.bars += receipt.accepted
        self._count(run, plan, asked)

    def _as_asked(self, answered: Sequence[Answered]) -> list[Asked]:
        now = self._now()
        return [
            Asked(one.symbol, AskedRange(one.start, one.end, Outcome.COMPLETE if one.found else Outcome.NOTHING, now))
            for one in answered
        ]

    def _count(self, run: Run, plan: Plan, asked: Sequence[Asked]) -> None:
        run.done += sum(plan.expected[one.symbol].count(one.range.start, one.range.end) for one in asked)

    async def _refuse(self, run: Run, plan: Plan, request: Request, fault: BadRequest | NotEntitled) -> None:
        """Remember that the provider refuses a request, or one symbol of it."""
        source, now = plan.source, self._now()
        named = _names_symbol(fault, request)
        asked = [
            Asked(symbol, AskedRange(part.start, part.end, Outcome.REFUSED, now, str(fault)))
            for part in self._left_of(source.name, request)
            for symbol in part.symbols
            if named in (None, symbol)
        ]
        await self._asked.add(source.name, request.interval, asked)
        self._count(run, plan, asked)
        for one in asked:
            run.refuse(f"{one.symbol}: {fault}")
        log.warning("a provider refuses history", provider=source.name, ranges=len(asked), error=str(fault))

    async def _wait(self, run: Run, fault: BaseException, until: datetime) -> None:
        run.status, run.last_fault, run.waits_until = Status.WAITING, str(fault) or repr(fault), until
        seconds = max((until - self._now()).total_seconds(), 0.0)
        log.warning("backfill waits", error=run.last_fault, seconds=round(seconds, 1))
        await self._sleep(seconds)
        run.status, run.waits_until = Status.RUNNING, None


def _names_symbol(fault: ProviderFault, request: Request) -> str | None:
    """Return the refused symbol, if the provider names it."""
    return fault.symbol if fault.symbol in request.symbols else None


def _is_of_some(fault: BadRequest | NotEntitled, request: Request) -> bool:
    """Return True if a refusal may be due to one of several symbols, and does not say to which."""
    return len(request.symbols) > 1 and isinstance(fault, BadRequest) and _names_symbol(fault, request) is None


def _halves(request: Request) -> list[Request]:
    middle = len(request.symbols) // 2
    parts = (request.symbols[:middle], request.symbols[middle:])
    return [Request(part, request.interval, request.start, request.end) for part in parts]

"""The latest prices of providers: requests of all callers share their answers, so that no symbol is asked too often."""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import polars as pl

from stockpulse.market.schemas import TICKS
from stockpulse.pipeline.sources import Source
from stockpulse.providers.faults import TRANSIENT, BadRequest, NotEntitled, ProviderFault, RateLimited, WrongKey

_KEPT: Final = 50_000
_REFUSED_FOR: Final = timedelta(hours=1)
"""The pause after a refusal of one symbol: it may be listed later."""


@dataclass(frozen=True)
class Answer:
    """The answer of a provider for one symbol. It keeps the last known price while there is a fault."""

    symbol: str
    asked_at: datetime
    price: float | None = None
    ts: datetime | None = None
    """The event time of the price."""
    fault: ProviderFault | None = None
    """The reason why the last request gave no price."""


@dataclass(frozen=True)
class Round:
    """The answers for several symbols, and the new prices among them as TICKS."""

    answers: dict[str, Answer]
    ticks: pl.DataFrame

    def raise_fault(self) -> None:
        """Raise the fault if no symbol has a price without a fault: one that passes by itself, if there is one."""
        faults = [one.fault for one in self.answers.values() if one.fault is not None]
        if len(faults) == len(self.answers) and faults:
            raise next((fault for fault in faults if isinstance(fault, TRANSIENT)), faults[0])


class LatestPrices:
    """Asks providers for latest prices, and remembers their answers."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._answers: OrderedDict[tuple[str, str], Answer] = OrderedDict()
        self._asking: dict[tuple[str, str], asyncio.Future[None]] = {}

    async def ask(self, source: Source, symbols: Sequence[str]) -> Round:
        """Return an answer for each symbol.

        A symbol is not asked for again within the pause that the provider needs, nor while another caller waits for
        it. A fault of one symbol does not stop the others.
        """
        frames: list[pl.DataFrame] = []
        for wanted in _batches(list(dict.fromkeys(symbols)), source.has.latest_symbols):
            mine = [one for one in wanted if self._is_due(source, one) and (source.name, one) not in self._asking]
            if mine:
                frames.append(await self._ask_for(source, mine))
        others = [self._asking[source.name, one] for one in symbols if (source.name, one) in self._asking]
        if others:
            await asyncio.wait(others)
        answers = {one: self._answers.get((source.name, one)) or self._unanswered(one) for one in symbols}
        return Round(answers, pl.concat([TICKS.to_frame(), *frames]))

    def _is_due(self, source: Source, symbol: str) -> bool:
        """Return True if the provider may be asked for a symbol now."""
        known = self._answers.get((source.name, symbol))
        if known is None:
            return True
        match known.fault:
            case WrongKey():
                return False  # until the next start
            case RateLimited(until=datetime() as until):
                return self._now() >= until
            case BadRequest() | NotEntitled():
                return self._now() >= known.asked_at + _REFUSED_FOR
            case _:
                return self._now() >= known.asked_at + timedelta(seconds=source.has.poll_seconds)

    async def _ask_for(self, source: Source, symbols: list[str]) -> pl.DataFrame:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        keys = [(source.name, symbol) for symbol in symbols]
        self._asking.update(dict.fromkeys(keys, done))
        try:
            return pl.concat([TICKS.to_frame(), *[frame async for frame in self._replies(source, symbols)]])
        finally:
            for key in keys:
                self._asking.pop(key, None)
            done.set_result(None)

    async def _replies(self, source: Source, symbols: list[str]) -> AsyncIterator[pl.DataFrame]:
        """Yield the new prices of some symbols; note the answer for each."""
        asked_at = self._now()
        try:
            ticks = await source.provider.latest(symbols)
        except (BadRequest, NotEntitled) as refusal:
            for part in _without_refused(symbols, refusal.symbol):
                async for frame in self._replies(source, part):
                    yield frame
            refused = symbols if len(symbols) == 1 else [refusal.symbol] if refusal.symbol in symbols else []
            self._note_fault(source, refused, refusal, asked_at)
        except ProviderFault as fault:
            self._note_fault(source, symbols, fault, asked_at)
        else:
            yield self._note_prices(source, symbols, ticks, asked_at)

    # Answers ------------------------------------------------------------------------------------

    def _note_prices(self, source: Source, symbols: list[str], ticks: pl.DataFrame, asked_at: datetime) -> pl.DataFrame:
        """Note the prices; return those that are new."""
        new = []
        for row in ticks.iter_rows(named=True):
            before = self._answers.get((source.name, row["symbol"]))
            self._note(source, Answer(row["symbol"], asked_at, row["price"], row["ts"]))
            new.append(before is None or (before.price, before.ts) != (row["price"], row["ts"]))
        missing = set(symbols) - set(ticks["symbol"])
        self._note_fault(source, missing, NoPrice(f"{source.name} has no price now"), asked_at)
        return _identified(ticks.filter(pl.Series(new, dtype=pl.Boolean)))

    def _note_fault(
        self, source: Source, symbols: Iterable[str | None], fault: ProviderFault, asked_at: datetime
    ) -> None:
        for symbol in symbols:
            if symbol is not None:
                before = self._answers.get((source.name, symbol)) or Answer(symbol, asked_at)
                self._note(source, replace(before, asked_at=asked_at, fault=fault))

    def _note(self, source: Source, answer: Answer) -> None:
        self._answers[source.name, answer.symbol] = answer
        self._answers.move_to_end((source.name, answer.symbol))
        while len(self._answers) > _KEPT:
            self._answers.popitem(last=False)

    def _unanswered(self, symbol: str) -> Answer:
        return Answer(symbol, self._now(), fault=NoPrice(f"{symbol} was not asked for"))


class NoPrice(ProviderFault):
    """The provider has no price of the symbol now."""

    code = "no_price"


def _batches(symbols: list[str], size: int) -> Iterator[list[str]]:
    for at in range(0, len(symbols), size):
        yield symbols[at : at + size]


def _without_refused(symbols: list[str], refused: str | None) -> list[list[str]]:
    """Return the symbols to ask for again after a refusal: all but the refused one, or both halves if it is unknown."""
    if len(symbols) == 1:
        return []
    if refused in symbols:
        return [[one for one in symbols if one != refused]]
    half = len(symbols) // 2
    return [symbols[:half], symbols[half:]]


def _identified(ticks: pl.DataFrame) -> pl.DataFrame:
    """Return prices with ids, so that the same price at the same time is stored once, also after a restart."""
    made = pl.concat_str(pl.lit("price "), pl.col("price").cast(pl.String))
    return ticks.with_columns(trade_id=pl.coalesce("trade_id", made))

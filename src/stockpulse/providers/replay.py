"""Replays a file of recorded trades: at its own pace, faster, or as fast as it can be read."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.market.rows import TICK_FIELDS, assemble, sent_columns
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.times import SECOND_MICROS
from stockpulse.providers.base import Clock, ProviderBase
from stockpulse.providers.recording import find_columns, open_recording, reading, to_ticks

YIELD_SECONDS: Final = 0.05  # the least pause between two frames at a finite speed


def parse_speed(text: str) -> float:
    """Read a speed, in seconds of the recording per second: "1", "60", "2.5", or "max" for infinity."""
    if text.strip().lower() == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise InvalidInput("speed", f"{text!r} is neither a number above 0 nor max")
    return speed


@dataclass(frozen=True)
class Overview:
    """The times of a recording."""

    first: datetime | None
    """The least event time; None if no row has one."""
    last: datetime | None
    without_id: dict[str, tuple[datetime, datetime]]
    """The first and last event time of the rows without a trade_id, by symbol."""

    @property
    def seconds(self) -> float:
        """The seconds from the first to the last event time."""
        return 0.0 if self.first is None or self.last is None else (self.last - self.first).total_seconds()


class ReplayProvider(ProviderBase):
    """The trades of one file, in the file's order; its clock is the greatest event time that it has sent.

    Raises InvalidInput for a file that cannot be read: at once if its beginning shows it, otherwise from `stream`.
    """

    name = "replay"
    clock = Clock.EVENT
    can_wait = True

    def __init__(
        self,
        path: Path | str,
        speed: float = 1.0,
        calendar: str = "XNYS",
        *,
        batch_rows: int = 20_000,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not speed > 0:
            raise InvalidInput("speed", f"{speed} is not above 0")
        self.calendar = calendar
        self.path = Path(path)
        self.speed = speed
        self._batch_rows = batch_rows
        self._sleep = sleep
        self._monotonic = monotonic
        with reading(self.path):
            self._source = open_recording(self.path)
            self._columns = find_columns(self._source.schema)

    @cached_property
    def total_rows(self) -> int:
        """The number of rows. For a CSV file this reads the whole file, so call it in a thread."""
        with reading(self.path):
            return self._source.count()

    def overview(self) -> Overview:
        """Read the times of the whole file. It takes long for a large one, so call it in a thread."""
        fields = [field for field in TICK_FIELDS if field.column in ("symbol", "ts", "trade_id")]
        columns = {name: self._columns[name] for field in fields for name in field.names if name in self._columns}
        spans = [pl.DataFrame(schema=_SPANS)]
        with reading(self.path):
            for chunk in self._source.chunks(list(columns.values()), self._batch_rows):
                known = chunk.select(pl.col(column).alias(name) for name, column in columns.items())
                rows = assemble(sent_columns(known, len(known)), fields).drop_nulls(["symbol", "ts"])
                with_id = pl.col("trade_id").is_not_null()
                spans.append(rows.group_by("symbol", with_id=with_id).agg(first=pl.min("ts"), last=pl.max("ts")))
        span = pl.concat(spans).group_by("symbol", "with_id").agg(pl.min("first"), pl.max("last")).sort("symbol")
        without_id = span.filter(~pl.col("with_id")).select("symbol", "first", "last").rows()
        first, last = span.select(pl.min("first"), pl.max("last")).row(0)
        return Overview(first, last, {symbol: (start, end) for symbol, start, end in without_id})

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """Yield all trades of the file, as TICKS or PARSED_TICKS."""
        pace = None if math.isinf(self.speed) else _Pace(self.speed, self._sleep, self._monotonic)
        frames = self._frames()
        while (frame := await asyncio.to_thread(next, frames, None)) is not None:
            if pace is None:
                yield frame
            else:
                async for due in pace.release(frame):
                    yield due

    def _frames(self) -> Iterator[pl.DataFrame]:
        """Yield the rows of the file, `batch_rows` at a time."""
        with reading(self.path):
            for chunk in self._source.chunks(list(self._columns.values()), self._batch_rows):
                for rows in chunk.iter_slices(self._batch_rows):
                    yield to_ticks(rows, self._columns)


_SPANS: Final = pl.Schema({"symbol": pl.String(), "with_id": pl.Boolean(), "first": UTC_MICROS, "last": UTC_MICROS})


class _Pace:
    """Releases trades when they are due; the recording runs `speed` times as fast as the clock."""

    def __init__(
        self, speed: float, sleep: Callable[[float], Awaitable[object]], monotonic: Callable[[], float]
    ) -> None:
        self._micros_per_second = speed * SECOND_MICROS
        self._sleep = sleep
        self._monotonic = monotonic
        self._started = monotonic()
        self._origin = 0  # the file's first event time, in microseconds since 1970
        self._reached: int | None = None  # the greatest event time so far; None: no row had one yet

    async def release(self, frame: pl.DataFrame) -> AsyncIterator[pl.DataFrame]:
        """Yield the rows of `frame` when their time has come; a row out of order comes with the row before it."""
        due = self._due_times(frame["ts"].to_physical())
        sent = 0
        while sent < len(frame):
            ready = int(due.search_sorted(self._event_time(), side="right"))
            if ready > sent:
                yield frame[sent:ready]
                sent = ready
            if sent < len(frame):
                wait = (due[sent] - self._event_time()) / self._micros_per_second
                await self._sleep(max(wait, YIELD_SECONDS))

    def _event_time(self) -> int:
        """Return the present time of the recording, in microseconds since 1970."""
        elapsed = self._monotonic() - self._started
        return self._origin + int(elapsed * self._micros_per_second)

    def _due_times(self, ts: pl.Series) -> pl.Series:
        """Return the greatest event time up to each row, in microseconds; a row without one does not change it."""
        first = ts.drop_nulls().head(1)
        if self._reached is None and len(first):
            self._origin = self._reached = int(first[0])
            self._started = self._monotonic()
        if self._reached is None:
            return ts.fill_null(0)
        due = ts.fill_null(self._reached).cum_max().clip(lower_bound=self._reached)
        self._reached = int(due[-1])
        return due

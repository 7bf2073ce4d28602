"""The records of the log, and the protocols of a log: one for its writer, one for its readers."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from stockpulse.ingest.corrected_trades import right_trades
from stockpulse.market.schemas import LOGGED_TICKS
from stockpulse.market.times import EARLIEST, LATEST
from stockpulse.postgres.connect import AnyConnection

Write = Callable[[AnyConnection], Awaitable[None]]
"""Writes further rows into the database, on the connection that it is given."""


@dataclass(frozen=True)
class Ticks:
    """Trades: a frame of `schemas.LOGGED_TICKS`, without `seq` until they are appended."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class Bars:
    """A provider's own bars: a frame of `schemas.LOGGED_BARS`, without `seq` until they are appended."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class Corrections:
    """Cancels and corrections of trades: a frame of `schemas.LOGGED_CORRECTIONS`, without `seq` until appended.

    Each takes back one trade before it in the log. A correction is also a tick with the right price.
    """

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)

    @property
    def right_trades(self) -> pl.DataFrame:
        """The trades with the right prices, as `schemas.LOGGED_TICKS`; they have the seqs of their corrections."""
        return right_trades(self.frame)


@dataclass(frozen=True)
class End:
    """The end of a recording: the bars of its provider may close."""

    provider: str

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Forget:
    """Takes back the ticks and providers' bars before it in the log whose event time is in [start, end)."""

    symbol: str | None
    """None: all symbols."""
    provider: str | None
    """None: all providers."""
    start: int = EARLIEST
    """UTC microseconds, as is `end`."""
    end: int = LATEST

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Unreadable:
    """Records of other programs that cannot be read: `seq`, `reason`, `raw`."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)


RowBatch = Ticks | Bars | Corrections
"""Records in rows, each with its own seq."""

Batch = RowBatch | End | Forget
"""Records that are appended in one call."""


def ticks_of(batch: Batch) -> pl.DataFrame:
    """Return the ticks that a batch adds to the tick table."""
    match batch:
        case Ticks(frame):
            return frame
        case Corrections():
            return batch.right_trades
        case _:
            return LOGGED_TICKS.to_frame()


def with_seqs(batch: RowBatch, base: int) -> RowBatch:
    """Number the rows of a batch from `base` on."""
    seq = pl.int_range(base, base + len(batch), dtype=pl.Int64, eager=True).alias("seq")
    return type(batch)(batch.frame.clone().insert_column(0, seq))


@dataclass(frozen=True)
class Appended:
    """A batch in the log of a shard, which was `before` long and now is `after` long (offsets)."""

    shard: int
    batch: Batch | Unreadable
    before: int
    after: int


class ShardLog(Protocol):
    """The log of one shard, for its reader."""

    @property
    def identity(self) -> str:
        """The identity of the log; a checkpoint of another log is refused."""
        ...

    @property
    def head(self) -> int:
        """The offset that the next record gets, as far as is known without asking."""
        ...

    async def end(self) -> int:
        """Ask the log for the offset that the next record gets."""
        ...

    async def foreign_end(self, processed: int) -> int:
        """Return the offset up to which other programs may have appended records; 0 if there are none.

        `processed` is the offset up to which the shard is processed. Own records that are appended but not processed
        yet go first: if they were read from the log as well, they would look like redeliveries.
        """
        ...

    def replay(self, offset: int, until: int) -> AsyncIterator[Appended]:
        """Yield the records with offset <= seq < until, in order."""
        ...


class Journal(Protocol):
    """A durable log, for its writer."""

    async def append(self, batch: Batch, also: Sequence[Write] = ()) -> list[Appended]:
        """Append a batch durably; return the part of each shard. Wait for a log that does not answer.

        `also` runs in the transaction of the append. A log outside the database runs it after the append: then a crash
        in between loses its rows, and never the batch. It may run again after a fault of the database.

        Raises Fenced if another process has taken the log.
        """
        ...

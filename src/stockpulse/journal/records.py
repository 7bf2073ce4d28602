"""The records of the log, and the protocols of a log: one for its writer, one for its readers."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl

from stockpulse.market.times import EARLIEST, LATEST


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


Batch = Ticks | Bars | End | Forget
"""Records that are appended in one call."""


def with_seqs(batch: Ticks | Bars, base: int) -> Ticks | Bars:
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

    async def append(self, batch: Batch) -> list[Appended]:
        """Append a batch durably; return the part of each shard. Wait for a log that does not answer.

        Raises Fenced if another process has taken the log.
        """
        ...

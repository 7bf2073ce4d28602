"""What the log holds, and what a log can do."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl


@dataclass(frozen=True)
class Ticks:
    """Ticks: a frame of `frames.LOGGED_TICKS`, without `seq` until they are appended."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class Bars:
    """A provider's own bars: a frame of `frames.LOGGED_BARS`, without `seq` until they are appended."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)


@dataclass(frozen=True)
class End:
    """A recording is over: what its provider has sent may close."""

    provider: str

    def __len__(self) -> int:
        return 1


@dataclass(frozen=True)
class Unreadable:
    """Records that somebody else put into the log and that cannot be taken: `seq`, `reason`, `raw`."""

    frame: pl.DataFrame

    def __len__(self) -> int:
        return len(self.frame)


Batch = Ticks | Bars | End
"""What is appended at once."""


@dataclass(frozen=True)
class Appended:
    """A batch of one shard with its offsets: `before` is the end of the log that it follows, `after` the new end."""

    shard: int
    batch: Batch | Unreadable
    before: int
    after: int


class ShardLog(Protocol):
    """The log of one shard, as its reader sees it."""

    @property
    def identity(self) -> str:
        """Which log this is; a checkpoint of another one is refused."""
        ...

    @property
    def head(self) -> int:
        """The offset that the next record gets, as far as is known without asking."""
        ...

    async def end(self) -> int:
        """The same, asked for."""
        ...

    async def foreign_end(self, processed: int) -> int:
        """Up to where there may be records that others appended, which nobody hands on; 0 if there are none.

        What was appended here and is not worked in yet comes first: read as well, it would be taken for redelivered.
        """
        ...

    def replay(self, offset: int, until: int) -> AsyncIterator[Appended]:
        """The records with offset <= `seq` < until, in order."""
        ...


class Journal(Protocol):
    """A durable log, as its writer sees it."""

    async def append(self, batch: Batch) -> list[Appended]:
        """Append a batch, durably; returns what each shard got, once it is on disk. An outage is waited for.

        Raises Fenced when another process has the log.
        """
        ...

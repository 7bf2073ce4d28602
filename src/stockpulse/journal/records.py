"""What the log holds, and what a log can do."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

import polars as pl


@dataclass(frozen=True)
class Ticks:
    """Ticks: a frame of `frames.LOGGED_TICKS`, without `seq` until they are appended."""

    frame: pl.DataFrame


@dataclass(frozen=True)
class Bars:
    """A provider's own bars: a frame of `frames.LOGGED_BARS`, without `seq` until they are appended."""

    frame: pl.DataFrame


Batch = Ticks | Bars


@dataclass(frozen=True)
class Appended:
    """A batch with its offsets. `before` is the head of the log that it follows, `after` the one it leaves."""

    batch: Batch
    before: int
    after: int


class Journal(Protocol):
    """A durable log of one shard."""

    @property
    def identity(self) -> str:
        """Which log this is; a checkpoint of another one is refused."""
        ...

    @property
    def head(self) -> int:
        """The offset that the next record gets, or less than it."""
        ...

    async def append(self, batch: Batch) -> Appended:
        """Append a batch, durably; returns once it is. Raises Fenced when another process has the shard."""
        ...

    def replay(self, offset: int) -> AsyncIterator[Appended]:
        """The records from this offset to the head, in order."""
        ...

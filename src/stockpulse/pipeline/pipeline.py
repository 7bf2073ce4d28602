"""The whole flow in this process, from a submitted batch to stored bars.

submit ───► assign_ids ───► append ───► step ───► flush
(checked)   (encoded)       (durable)   (bars)    (stored)
└────────────── Ingestor ───────────┘   └──── Shards ────┘
all shards                  each shard
"""

import asyncio
import time
from dataclasses import dataclass
from typing import Final

from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shards import Shards
from stockpulse.telemetry.counters import Counters, Lag

_DRAIN_POLL_SECONDS: Final = 0.01


@dataclass(frozen=True)
class Pipeline:
    """The parts between a submitted batch and stored bars."""

    ingestor: Ingestor | None
    """None in a process that takes no ticks."""
    shards: Shards
    clocks: ProviderClocks
    counters: Counters

    @property
    def intake(self) -> Ingestor:
        """The ingestor of a process that takes ticks."""
        if self.ingestor is None:
            raise RuntimeError("this process takes no ticks")
        return self.ingestor

    async def drain(self, seconds: float) -> bool:
        """Wait until everything submitted is processed, then let the flushes end; return False if time ran out."""
        deadline = time.monotonic() + seconds
        while not self._is_drained() and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(_DRAIN_POLL_SECONDS)
        self.shards.end_flushes()
        return self._is_drained()

    def _is_drained(self) -> bool:
        unanswered = self.ingestor.unanswered if self.ingestor is not None else 0
        return not unanswered and self.shards.is_drained()

    def lag(self) -> Lag:
        """Return the rows that wait between the stages."""
        submitted, with_ids = self.ingestor.lag() if self.ingestor is not None else (0, 0)
        lags = [processor.lag() for processor in self.shards.processors.values()]
        unprocessed, unflushed, behind = (sum(lag[at] for lag in lags) for at in range(3))
        return Lag(submitted, with_ids, unprocessed, unflushed, behind)

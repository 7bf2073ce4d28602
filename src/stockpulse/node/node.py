"""The objects that the parts of every role share: settings, database, log, tasks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime

from stockpulse.aio.steady_clock import SteadyClock
from stockpulse.aio.supervisor import Supervisor
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.ingest.corrected_trades import CorrectedTrades
from stockpulse.ingest.redelivery import Redeliveries
from stockpulse.journal.backends import LogParts
from stockpulse.market.clocks import utc_now
from stockpulse.pipeline.events import Listener
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.latest_prices import LatestPrices
from stockpulse.pipeline.shard_writer import FLUSH_SECONDS
from stockpulse.pipeline.sources import Sources
from stockpulse.postgres.database import Database
from stockpulse.settings import Settings
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.rejected_kinds import RejectedKinds
from stockpulse.telemetry.counters import Counters


@dataclass(frozen=True)
class Timing:
    """The clock of the process, and the time between its flushes; tests set both."""

    now: Callable[[], datetime] = field(default_factory=SteadyClock)
    flush_seconds: float | None = FLUSH_SECONDS


@dataclass(frozen=True)
class Node:
    """One process: its settings, its database and log, both open, and its tasks."""

    settings: Settings
    spec: EngineSpec
    database: Database
    log: LogParts
    tasks: Supervisor
    timing: Timing
    partitions: Partitions
    listeners: tuple[Listener, ...] = ()
    """The receivers of all events of the shards of this process."""
    sources: Sources = field(default_factory=Sources)
    prices: LatestPrices = field(default_factory=lambda: LatestPrices(utc_now))
    feeds: dict[str, FeedState] = field(default_factory=dict)
    """The states of the live feeds of this process, by provider."""
    counters: Counters = field(default_factory=Counters)
    rejected_kinds: RejectedKinds = field(default_factory=RejectedKinds)
    redeliveries: Redeliveries = field(default_factory=Redeliveries)
    corrected: CorrectedTrades = field(default_factory=CorrectedTrades)

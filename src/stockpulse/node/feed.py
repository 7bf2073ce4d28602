"""The feed of the configured provider: its missing history first, then its live ticks."""

from functools import partial

import structlog

from stockpulse.node.node import Node
from stockpulse.pipeline.backfill import Backfill
from stockpulse.pipeline.live_feed import follow
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.providers.base import Capabilities, Provider, ProviderConfig
from stockpulse.providers.registry import NO_PROVIDER, installed_providers
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.run_log import RunLog

log = structlog.get_logger(__name__)


def start_feed(node: Node, pipeline: Pipeline, bars: BarReader) -> None:
    """Start the feed of the configured provider, if there is one."""
    settings = node.settings
    if settings.provider == NO_PROVIDER or not settings.symbols:
        return
    entry = installed_providers().named(settings.provider)
    config = ProviderConfig(settings.symbols, settings.simulated_rate, settings.simulated_seed, node.timing.now)
    provider = entry.create(config)
    feed = partial(_feed, provider, entry.capabilities, node, pipeline, bars)
    node.tasks.start(f"feed:{provider.name}", feed, stage="feed", transient=entry.transient)


async def _feed(provider: Provider, has: Capabilities, node: Node, pipeline: Pipeline, bars: BarReader) -> None:
    """Load the missing history of the provider, then follow its stream."""
    runs = RunLog(node.database.pool)
    if has.history:
        await _fill_history(provider, node, pipeline, bars, runs)
    if has.ticks:
        await follow(provider, pipeline.intake, node.counters, runs, node.timing.now)


async def _fill_history(provider: Provider, node: Node, pipeline: Pipeline, bars: BarReader, runs: RunLog) -> None:
    now = node.timing.now
    started = now()
    backfill = Backfill(provider, pipeline.intake, bars, node.database.names)
    count = await backfill.run(node.settings.symbols, started)
    if count:
        await runs.record(f"backfill:{provider.name}", count, started, now())
        log.info("history filled", provider=provider.name, bars=count, seconds=(now() - started).total_seconds())

"""The live feeds, a task for each provider: its missing history first, then its live ticks."""

from functools import partial

import structlog

from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.node.node import Node
from stockpulse.pipeline.backfill import Backfill
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.live_feed import LiveFeed
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.sources import Source
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.run_log import RunLog

log = structlog.get_logger(__name__)


def start_feeds(node: Node, pipeline: Pipeline, bars: BarReader) -> None:
    """Start the feeds of the settings. Raises CannotStart for an option of a provider that is not valid."""
    try:
        sources = node.sources.feeds
    except InvalidInput as wrong:
        raise CannotStart(str(wrong)) from None
    for source in sources:
        state = node.feeds[source.name] = FeedState(len(source.symbols))
        live = LiveFeed(
            source.provider,
            source.feed,
            pipeline.intake,
            node.counters,
            RunLog(node.database.pool),
            node.timing.now,
            state,
        )
        feed = partial(_feed, source, live, node, pipeline, bars)
        node.tasks.start(f"feed:{source.name}", feed, stage="feed", transient=source.entry.transient)


async def _feed(source: Source, live: LiveFeed, node: Node, pipeline: Pipeline, bars: BarReader) -> None:
    """Load the missing history of the provider, then follow its stream."""
    if source.has.history:
        await _fill_history(source, node, pipeline, bars, live.runs)
    if source.has.ticks:
        await live.follow()
    else:
        live.state.end()


async def _fill_history(source: Source, node: Node, pipeline: Pipeline, bars: BarReader, runs: RunLog) -> None:
    now = node.timing.now
    started = now()
    backfill = Backfill(source.provider, pipeline.intake, bars, node.database.names, source.feed)
    count = await backfill.run(source.symbols, started)
    if count:
        await runs.record(f"backfill:{source.name}", count, started, now())
        log.info("history filled", provider=source.name, bars=count, seconds=(now() - started).total_seconds())

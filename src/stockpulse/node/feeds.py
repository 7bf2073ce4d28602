"""The live feeds: a task for each provider, and for a stream two more, which list its gaps and fill them."""

from functools import partial
from types import MappingProxyType

from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.node.node import Node
from stockpulse.pipeline.feed_gap_log import FeedGapLog
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.gap_filler import GapFiller
from stockpulse.pipeline.live_feed import LiveFeed
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.polled_feed import PolledFeed
from stockpulse.pipeline.sources import Source
from stockpulse.providers.base import Provider
from stockpulse.storage.feed_gaps import FeedGaps
from stockpulse.storage.run_log import RunLog
from stockpulse.storage.stored_trades import StoredTrades


def start_feeds(node: Node, pipeline: Pipeline) -> None:
    """Start the feeds of the settings. Raises CannotStart for an option of a provider that is not valid."""
    try:
        sources = node.sources.feeds
    except InvalidInput as wrong:
        raise CannotStart(str(wrong)) from None
    for source in sources:
        refused = partial(getattr, source.provider, "refused_symbols", MappingProxyType({}))
        state = node.feeds[source.name] = FeedState(len(source.symbols), refused)
        if source.has.ticks:
            gap_log = FeedGapLog(source.provider, FeedGaps(node.database.pool), state, node.timing.now)
            _start(source.provider, source, gap_log, state, node, pipeline)
            _start_filling(source, gap_log, state, node, pipeline)
        elif source.has.latest:  # its prices are samples; missing bars are a matter of the backfill
            _start(PolledFeed(source, node.prices), source, None, state, node, pipeline)
        else:
            state.end()


def _start(
    provider: Provider, source: Source, gap_log: FeedGapLog | None, state: FeedState, node: Node, pipeline: Pipeline
) -> None:
    runs, now = RunLog(node.database.pool), node.timing.now
    live = LiveFeed(provider, source.feed, pipeline.intake, node.counters, runs, gap_log, now, state)
    node.tasks.start(f"feed:{source.name}", live.follow, stage="feed", transient=source.entry.transient)


def _start_filling(source: Source, gap_log: FeedGapLog, state: FeedState, node: Node, pipeline: Pipeline) -> None:
    pool, names, now = node.database.pool, node.database.names, node.timing.now
    stored = StoredTrades(pool, names)
    filler = GapFiller(source, FeedGaps(pool), stored, pipeline.intake, names, state, now, gap_log.ended)
    node.tasks.start(f"gaps:{source.name}", gap_log.run, stage="feed")
    node.tasks.start(f"fill:{source.name}", filler.run, stage="feed")

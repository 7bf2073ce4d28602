"""The live feeds, a task for each provider."""

from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.node.node import Node
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.live_feed import LiveFeed
from stockpulse.pipeline.pipeline import Pipeline
from stockpulse.pipeline.polled_feed import PolledFeed
from stockpulse.storage.run_log import RunLog


def start_feeds(node: Node, pipeline: Pipeline) -> None:
    """Start the feeds of the settings. Raises CannotStart for an option of a provider that is not valid."""
    try:
        sources = node.sources.feeds
    except InvalidInput as wrong:
        raise CannotStart(str(wrong)) from None
    runs, now = RunLog(node.database.pool), node.timing.now
    for source in sources:
        state = node.feeds[source.name] = FeedState(len(source.symbols))
        if not source.has.ticks and not source.has.latest:
            state.end()
            continue
        provider = source.provider if source.has.ticks else PolledFeed(source, node.prices)
        live = LiveFeed(provider, source.feed, pipeline.intake, node.counters, runs, now, state)
        node.tasks.start(f"feed:{source.name}", live.follow, stage="feed", transient=source.entry.transient)

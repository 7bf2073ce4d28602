"""A live feed over the parts of a stack."""

from stockpulse.pipeline.live_feed import LiveFeed, feed_of
from stockpulse.storage.run_log import RunLog


def live_feed(parts, provider, **options):
    """Return the live feed of a provider into the pipeline of these parts."""
    return LiveFeed(
        provider,
        feed_of(provider),
        parts.ingestor,
        parts.pipeline.counters,
        RunLog(parts.pool),
        parts.clock,
        **options,
    )

"""A live feed over the parts of a stack, with the gaps of its stream."""

from dataclasses import dataclass

from stockpulse.pipeline.feed_gap_log import FeedGapLog
from stockpulse.pipeline.feed_state import FeedState
from stockpulse.pipeline.gap_filler import GapFiller
from stockpulse.pipeline.live_feed import LiveFeed, feed_of
from stockpulse.pipeline.sources import Source
from stockpulse.providers.base import Capabilities, ProviderEntry
from stockpulse.storage.feed_gaps import FeedGaps
from stockpulse.storage.run_log import RunLog
from stockpulse.storage.stored_trades import StoredTrades


def live_feed(parts, provider, **options):
    """Return the live feed of a provider into the pipeline of these parts."""
    state = FeedState()
    log = FeedGapLog(provider, FeedGaps(parts.pool), state, parts.clock)
    return LiveFeed(
        provider,
        feed_of(provider),
        parts.ingestor,
        parts.pipeline.counters,
        RunLog(parts.pool),
        log,
        parts.clock,
        state,
        **options,
    )


@dataclass
class HealingFeed:
    """A live feed, and the filler of its gaps."""

    live: LiveFeed
    filler: GapFiller
    gaps: FeedGaps

    @property
    def state(self):
        return self.live.state

    async def fill(self):
        """Write all interruptions, and fill all gaps that have ended."""
        await self.live.gaps.write()
        while await self.filler.fill_newest():
            pass


def healing_feed(parts, provider, symbols, has: Capabilities, sleep, **options):
    """Return the live feed of a provider with this data; `sleep` stands for all waits."""
    live = live_feed(parts, provider, sleep=sleep, **options)
    entry = ProviderEntry(provider.name, lambda _config: provider, capabilities=has)
    source = Source(entry, provider, tuple(symbols), live.feed)
    gaps = FeedGaps(parts.pool)
    filler = GapFiller(
        source,
        gaps,
        StoredTrades(parts.pool, parts.names),
        parts.ingestor,
        parts.names,
        live.state,
        parts.clock,
        live.gaps.ended,
        sleep,
    )
    return HealingFeed(live, filler, gaps)

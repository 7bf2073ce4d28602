"""The live feeds on /health."""

from collections.abc import Mapping
from datetime import datetime

from pydantic import BaseModel, Field

from stockpulse.pipeline.feed_state import FeedState


class FeedReport(BaseModel):
    """One live feed."""

    state: str = Field(
        examples=["live"],
        description="connecting, live, waiting (the stream broke and is opened again), refused (until the next start),"
        " or ended",
    )
    why: str | None = Field(None, examples=["the stream of alpaca is broken off"], description="null if all is well")
    until: datetime | None = Field(
        None, examples=["2026-11-24T15:00:30Z"], description="the time at which a waiting feed is opened again"
    )
    symbols: int = Field(examples=[2], description="number of symbols that the feed follows")
    messages_sent: int = Field(
        examples=[3_600], description="ticks, bars and corrections that the provider has sent since the start"
    )
    last_message_at: datetime | None = Field(None, examples=["2026-11-24T15:00:00Z"])
    reconnects: int = Field(0, examples=[0], description="interruptions since the start")


def feed_reports(feeds: Mapping[str, FeedState]) -> dict[str, FeedReport]:
    """Return the report of each feed, by provider."""
    return {
        name: FeedReport(
            state=feed.phase.value,
            why=feed.why,
            until=feed.until,
            symbols=feed.symbols,
            messages_sent=feed.messages,
            last_message_at=feed.last_message_at,
            reconnects=feed.reconnects,
        )
        for name, feed in feeds.items()
    }

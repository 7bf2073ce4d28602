"""The live feeds on /health."""

import itertools
from collections.abc import Mapping
from datetime import datetime
from typing import Final

from pydantic import BaseModel, Field

from stockpulse.pipeline.feed_state import FeedState

_LISTED: Final = 100


class GapReport(BaseModel):
    """A range of event time in which data of a feed may be missing."""

    symbol: str | None = Field(None, examples=["AAPL"], description="null: all symbols of the feed")
    start: datetime = Field(examples=["2026-11-24T15:00:00Z"])
    end: datetime | None = Field(examples=["2026-11-24T15:01:30Z"], description="null while no data flows")
    state: str = Field(examples=["open"], description="open, filling, or cannot: the provider cannot give the data")
    why: str = Field(examples=["the stream of alpaca is broken off"], description="reason of the interruption")
    problem: str | None = Field(
        None, examples=["alpaca does not answer"], description="reason why the gap is not filled; or null"
    )


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
    refused_symbols: dict[str, str] = Field(
        {},
        examples=[{"SPX": "alpaca: symbol limit exceeded"}],
        description="the symbols that the stream cannot follow, each with the reason; the first hundred",
    )
    messages_sent: int = Field(
        examples=[3_600], description="ticks, bars and corrections that the provider has sent since the start"
    )
    last_message_at: datetime | None = Field(None, examples=["2026-11-24T15:00:00Z"])
    reconnects: int = Field(0, examples=[0], description="interruptions since the start")
    gaps: dict[str, int] = Field(
        examples=[{"filled": 3, "open": 1}],
        description="the number of gaps by state, those of earlier starts included",
    )
    unfilled: list[GapReport] = Field(description="the newest ten gaps that are not filled, newest first")


def feed_reports(feeds: Mapping[str, FeedState]) -> dict[str, FeedReport]:
    """Return the report of each feed, by provider."""
    return {
        name: FeedReport(
            state=feed.phase.value,
            why=feed.why,
            until=feed.until,
            symbols=feed.symbols,
            refused_symbols=dict(itertools.islice(feed.refused_symbols().items(), _LISTED)),
            messages_sent=feed.messages,
            last_message_at=feed.last_message_at,
            reconnects=feed.reconnects,
            gaps=feed.gaps,
            unfilled=[
                GapReport(
                    symbol=gap.symbol,
                    start=gap.start,
                    end=gap.end,
                    state=gap.state,
                    why=gap.why,
                    problem=gap.problem,
                )
                for gap in feed.unfilled
            ],
        )
        for name, feed in feeds.items()
    }

"""A process that only answers requests passes the bars and ticks of other processes on to its listeners."""

from collections.abc import AsyncIterator

import numpy as np
import polars as pl
import pytest
from test_followed_bars import CODEC, bar

from stockpulse.engine.step import BarEvents
from stockpulse.market.clocks import Clock
from stockpulse.market.schemas import LOGGED_TICKS, PRIMARY
from stockpulse.market.symbology import Names, ProviderName, Symbol, TickKind
from stockpulse.pipeline.events import Listener
from stockpulse.pipeline.followed_bars import FollowedBars
from stockpulse.pipeline.followed_events import FollowedEvents


class Recorder(Listener):
    def __init__(self):
        self.bars = []
        self.ticks = []

    def on_bars(self, bars: BarEvents) -> None:
        kind = "removed" if bars.removed else "revised" if bars.revised else "closed"
        for row in bars.rows:
            self.bars.append((kind if row["final"] else "forming", int(row["symbol_id"]), int(row["revision"])))

    def on_ticks(self, ticks: pl.DataFrame) -> None:
        self.ticks += ticks["seq"].to_list()


@pytest.fixture
def names():
    names = Names()
    names.add_symbols([Symbol(1, "AAPL", "XNYS")])
    names.add_provider(ProviderName(7, "alpaca", Clock.WALL, 0))
    names.add_kinds([(1, TickKind(7, "", "", PRIMARY))])
    return names


async def followed(names, *batches):
    async def records() -> AsyncIterator[list[bytes | None]]:
        for batch in batches:
            yield batch

    heard = Recorder()
    bars = FollowedBars(records, CODEC, names, FollowedEvents(names, heard))
    await bars.run()
    return heard, bars


async def test_bars_form_close_are_revised_and_removed(names):
    heard, _ = await followed(
        names,
        [bar(0, revision=1, final=False)],
        [bar(0, revision=2, final=False)],
        [bar(0, revision=2, final=True)],
        [bar(0, revision=4, final=True)],
        [bar(0, revision=5, final=True, deleted=True)],
    )
    assert heard.bars == [("forming", 1, 1), ("forming", 1, 2), ("closed", 1, 2), ("revised", 1, 4), ("removed", 1, 5)]


async def test_a_record_that_comes_again_is_no_event(names):
    heard, _ = await followed(names, [bar(0, revision=2)], [bar(0, revision=2)], [bar(0, revision=1)])
    assert heard.bars == [("closed", 1, 2)]


async def test_a_bar_that_is_older_than_the_kept_ones_was_revised(names):
    heard, _ = await followed(names, [bar(minute, revision=minute) for minute in (5, 6, 7)], [bar(0, revision=9)])
    assert heard.bars[-1] == ("revised", 1, 9)


async def test_bars_wait_for_the_name_of_their_symbol(names):
    heard, bars = await followed(names, [bar(0, symbol="TSLA", revision=3)])
    assert heard.bars == []
    names.add_symbols([Symbol(3, "TSLA", "XNYS")])
    bars._take(CODEC.decode_ohlcv([bar(1, revision=4)]))
    assert sorted(heard.bars) == [("closed", 1, 4), ("closed", 3, 3)]


def test_ticks_wait_for_their_names_and_keep_their_order(names):
    heard = Recorder()
    events = FollowedEvents(names, heard)
    ticks = pl.DataFrame({name: np.zeros(2, np.int64) for name in LOGGED_TICKS}).with_columns(symbol_id=pl.lit(1))
    events.tell_ticks(ticks.with_columns(seq=pl.Series([1, 2]), kind_id=pl.lit(1)))
    events.tell_ticks(ticks.with_columns(seq=pl.Series([3, 4]), kind_id=pl.lit(2)))
    events.tell_ticks(ticks.with_columns(seq=pl.Series([5, 6]), kind_id=pl.lit(1)))
    assert heard.ticks == [1, 2]
    names.add_kinds([(2, TickKind(7, "Q", "", PRIMARY))])
    events.tell_ticks(ticks.with_columns(seq=pl.Series([7, 8]), kind_id=pl.lit(1)))
    assert heard.ticks == [1, 2, 3, 4, 5, 6, 7, 8]

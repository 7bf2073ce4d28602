"""The newest ticks in memory."""

import numpy as np
import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from journal_log import ticks
from stockpulse.journal.recent import RecentTicks
from stockpulse.market.schemas import LOGGED_TICKS
from stockpulse.market.times import from_micros


def frames(sizes):
    """Make frames with consecutive offsets."""
    at, made = 0, []
    for size in sizes:
        frame = ticks(size, seed=at).frame
        seq = pl.Series("seq", np.arange(at, at + size))
        made.append(frame.with_columns(seq).select(list(LOGGED_TICKS)))
        at += size
    return made


@given(st.lists(st.tuples(st.integers(1, 30), st.booleans()), min_size=1, max_size=30))
def test_holds_what_was_appended_in_its_order(appends):
    recent, segment, of_segment = RecentTicks(), 1, {}
    whole = frames([size for size, _ in appends])
    for frame, (_, rolls) in zip(whole, appends, strict=True):
        segment += rolls
        recent.append(segment, frame)
        of_segment.setdefault(segment, []).append(frame)
    chunks = recent.chunks()
    assert pl.concat(chunk.frame for chunk in chunks).equals(pl.concat(whole))
    assert recent.segments() == set(of_segment)
    for number, parts in of_segment.items():
        mine = [chunk for chunk in chunks if chunk.segment == number]
        ts = pl.concat(parts)["ts"].to_physical()
        assert pl.concat(chunk.frame for chunk in mine).equals(pl.concat(parts))
        newest_append = parts[-1]["received_at"][-1]
        assert recent.bounds(number) == (from_micros(ts.min()), from_micros(ts.max()), newest_append)
        assert sum(map(len, mine)) == len(ts)
    for chunk in chunks:
        ts = chunk.frame["ts"].to_physical()
        assert (chunk.min_ts, chunk.max_ts) == (ts.min(), ts.max())
    recent.drop_segment(1)
    assert recent.segments() == set(of_segment) - {1}


def test_small_appends_make_few_chunks():
    recent = RecentTicks()
    for frame in frames([1] * 300):
        recent.append(1, frame)
    assert len(recent.chunks()) <= 10


def test_a_list_of_chunks_stays_what_it_is():
    recent = RecentTicks()
    first, *others = frames([3, 3, 3])
    recent.append(1, first)
    taken = recent.chunks()
    for frame in others:
        recent.append(1, frame)
    recent.drop_segment(1)
    assert [chunk.frame.equals(first) for chunk in taken] == [True]


def test_what_is_not_there():
    recent = RecentTicks()
    recent.drop_segment(7)
    assert (recent.chunks(), recent.segments()) == ([], set())

"""Requests within the limits of a provider, and the parts of them that are answered."""

import itertools
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.market.intervals import M1, M5
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.pipeline.backfill.answers import Answer, Answered
from stockpulse.pipeline.backfill.requests import Request, requests_for
from stockpulse.providers.base import History
from stockpulse.providers.faults import BadReply
from stockpulse.testing import bars_frame

SECOND = 1_000_000
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def request(symbols, start, end):
    return Request(tuple(symbols), M5, start * SECOND, end * SECOND)


def wanted(**spans):
    return {symbol: [(a * SECOND, b * SECOND) for a, b in parts] for symbol, parts in spans.items()}


def test_symbols_with_the_same_range_share_a_request():
    limits = History(timedelta(seconds=100), symbols=3)
    ranges = wanted(A=[(0, 50)], B=[(0, 50)], C=[(10, 50)], D=[(0, 50)], E=[(0, 50)], F=[])
    assert requests_for(ranges, M5, limits) == [request("ABD", 0, 50), request("E", 0, 50), request("C", 10, 50)]


def test_long_ranges_are_cut_from_their_end():
    """So that a symbol whose first bars are there already shares the later requests."""
    limits = History(timedelta(seconds=100), symbols=10)
    assert requests_for(wanted(A=[(0, 250)], B=[(120, 250)]), M5, limits) == [
        request("A", 0, 50),
        request("A", 50, 150),
        request("B", 120, 150),
        request("AB", 150, 250),
    ]


@given(
    st.dictionaries(st.sampled_from("ABCDEF"), st.tuples(st.integers(0, 50), st.integers(1, 300))),
    st.integers(1, 120),
    st.integers(1, 4),
)
def test_requests_cover_what_is_wanted_once(ranges, window, symbols):
    asked = requests_for(
        wanted(**{symbol: [(start, start + length)] for symbol, (start, length) in ranges.items()}),
        M5,
        History(timedelta(seconds=window), symbols=symbols),
    )
    assert all(one.end - one.start <= window * SECOND and len(one.symbols) <= symbols for one in asked)
    for symbol, (start, length) in ranges.items():
        parts = sorted((one.start, one.end) for one in asked if symbol in one.symbols)
        assert (parts[0][0], parts[-1][1]) == (start * SECOND, (start + length) * SECOND)
        assert all(one[1] == following[0] for one, following in itertools.pairwise(parts))


def bars(*rows):
    return bars_frame(
        *[{"symbol": symbol, "interval": "1m", "ts": EPOCH + timedelta(seconds=ts)} for symbol, ts in rows]
    )


def answered(symbol, start, end, found=True):
    return Answered(symbol, start * SECOND, end * SECOND, found)


class TestAnswer:
    def test_bars_before_the_last_row_are_complete(self):
        answer = Answer(Request(("A", "B", "C", "D"), M1, 0, 600 * SECOND))
        assert answer.after(bars(("A", 60), ("A", 120))) == [answered("A", 0, 120)]
        assert answer.after(bars(("A", 180), ("C", 0), ("C", 60))) == [
            answered("A", 120, 600),
            answered("B", 0, 600, found=False),
            answered("C", 0, 60),
        ]
        assert answer.after(bars()) == []
        assert answer.end() == [answered("C", 60, 600), answered("D", 0, 600, found=False)]

    def test_a_row_without_a_readable_time_completes_nothing(self):
        answer = Answer(Request(("A",), M1, 0, 600 * SECOND))
        unreadable = bars(("A", 0)).with_columns(ts=pl.lit(None, UTC_MICROS))
        assert answer.after(pl.concat([unreadable, bars(("A", 60))])) == [answered("A", 0, 60)]
        assert answer.after(unreadable) == []
        assert answer.end() == [answered("A", 60, 600)]

    def test_without_bars_there_is_nothing(self):
        answer = Answer(Request(("A",), M1, 0, 600 * SECOND))
        assert answer.end() == [answered("A", 0, 600, found=False)]

    @pytest.mark.parametrize("rows", [[("B", 0), ("A", 0)], [("X", 0)]])
    def test_of_another_order_is_refused(self, rows):
        with pytest.raises(BadReply, match="not asked for, or had come before"):
            Answer(Request(("A", "B"), M1, 0, 600 * SECOND)).after(bars(*rows))

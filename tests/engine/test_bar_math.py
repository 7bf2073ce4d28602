"""The arithmetic of bars, by plain examples."""

import math
from fractions import Fraction

import numpy as np
import pytest
from engine_reference import MINUTE, bits, micros, notional, properties, volume
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.engine.bar_math import (
    BAR,
    NEVER_CLOSED,
    NEVER_OPENED,
    from_provider,
    from_ticks,
    keys,
    merge,
    newest_of_each,
    pairs_in,
    roll_up,
    volume_of,
    vwap_of,
)
from stockpulse.engine.exact_sums import PICOS, UNKNOWN, split, total

T = micros("2024-03-05T15:00")
PRICES = ("open", "high", "low", "close")


def ticks(*rows):
    """1-minute bars of (symbol, ts, seq, price, size, flags)."""
    symbol, ts, seq, price, size, flags = zip(*rows, strict=True)
    whole = [np.array(column, np.int64) for column in (symbol, ts, seq)]
    return from_ticks(*whole, np.array(price, float), np.array(size, float), np.array(flags, np.uint16))


def given_bars(*rows):
    """Provider's 1-minute bars of (symbol, ts, seq, price, volume, trade_count, vwap)."""
    symbol, ts, seq, price, volume, count, vwap = (np.array(column) for column in zip(*rows, strict=True))
    columns = dict.fromkeys(PRICES, price.astype(float))
    columns |= {"symbol_id": symbol, "ts": ts, "volume": volume.astype(float), "vwap": vwap.astype(float)}
    columns |= {"trade_count": count, "provider_id": np.full(len(seq), 5)}
    return from_provider(columns, seq, ts + MINUTE)


def same(one, other):
    return [bits(row.item()) for row in one] == [bits(row.item()) for row in other]


class TestSplit:
    @pytest.mark.parametrize(
        ("value", "units", "picos"),
        [
            (0.0, 0, 0),
            (1.0, 1, 0),
            (0.1, 0, 100_000_000_000),
            (2.75, 2, 750_000_000_000),
            (1e-12, 0, 1),
            (1e-10, 0, 100),
            (4e-13, 0, 0),
            (6e-13, 0, 1),
            (1e12, 10**12, 0),
            (1e15, 10**15, 0),
            (1234.567890123456, 1234, 567890123456),
            (0.9999999999999, 0, PICOS),  # the carry is for who sums them
        ],
    )
    def test_examples(self, value, units, picos):
        assert [part.tolist() for part in split(np.array([value]))] == [[units], [picos]]

    @given(st.floats(0, 1e15))
    @properties()
    def test_to_the_nearest_trillionth(self, value):
        units, picos = (int(part[0]) for part in split(np.array([value])))
        assert abs(Fraction(value) - units - Fraction(picos, PICOS)) <= Fraction(51, 100 * PICOS)


class TestTotal:
    @pytest.mark.parametrize("value", [0.0, 0.1, 1.59, 1.84, 4.94, 5.56, 1.000000001, 9007199.25, 1e12, 123456.5])
    def test_gives_back_what_was_split(self, value):
        assert total(*split(np.array([value]))).tolist() == [value]

    def test_unknown(self):
        assert math.isnan(total(np.array([UNKNOWN]), np.array([0]))[0])

    @given(st.integers(0, 2 * 10**4), st.integers(0, PICOS - 1))
    @properties()
    def test_is_the_nearest_float(self, units, picos):
        assert total(np.array([units]), np.array([picos]))[0] == float(Fraction(units * PICOS + picos, PICOS))

    @given(st.integers(0, 10**16), st.integers(0, PICOS - 1))
    @properties()
    def test_is_within_one_step_of_it_however_large(self, units, picos):
        nearest = float(Fraction(units * PICOS + picos, PICOS))
        assert abs(total(np.array([units]), np.array([picos]))[0] - nearest) <= math.ulp(nearest)


class TestFromTicks:
    def test_an_empty_batch(self):
        none = np.empty(0, np.int64)
        assert len(from_ticks(none, none, none, none.astype(float), none.astype(float), none.astype(np.uint16))) == 0

    def test_open_and_close_by_time_then_by_offset(self):
        (bar,) = ticks((1, T + 5, 0, 5.0, 1, 7), (1, T, 1, 2.0, 1, 7), (1, T, 2, 9.0, 1, 7), (1, T + 5, 3, 4.0, 1, 7))
        assert [bar[name] for name in PRICES] == [2.0, 9.0, 2.0, 4.0]
        assert [bar[name] for name in ("open_ts", "open_seq", "close_ts", "close_seq")] == [T, 1, T + 5, 3]
        assert (bar["revision"], bar["trade_count"], bar["volume_units"], notional(bar)) == (3, 4, 4, 20)

    def test_symbols_and_minutes_apart_and_in_order(self):
        bars = ticks((2, T, 0, 1.0, 1, 7), (1, T + MINUTE, 1, 1.0, 1, 7), (1, T + MINUTE - 1, 2, 1.0, 1, 7))
        assert [(bar["symbol_id"], bar["ts"], bar["end"]) for bar in bars] == [
            (1, T, T + MINUTE),
            (1, T + MINUTE, T + 2 * MINUTE),
            (2, T, T + MINUTE),
        ]

    def test_what_counts_for_volume_alone_has_no_price(self):
        (bar,) = ticks((1, T, 0, 3.0, 2.5, 6))
        assert all(math.isnan(bar[name]) for name in PRICES)
        assert (bar["open_ts"], bar["open_seq"]) == (NEVER_OPENED, NEVER_OPENED)
        assert (bar["close_ts"], bar["close_seq"]) == (NEVER_CLOSED, NEVER_CLOSED)
        assert (volume(bar), volume(bar, "vwap"), notional(bar)) == (2.5, 0, 0)

    def test_what_counts_for_price_alone_has_no_volume(self):
        (bar,) = ticks((1, T, 0, 3.0, 2.5, 5))
        assert (bar["close"], volume(bar), volume(bar, "vwap"), bar["trade_count"]) == (3.0, 0, 0, 0)

    def test_revision_is_of_what_counts(self):
        (bar,) = ticks((1, T, 0, 3.0, 1, 7), (1, T, 1, 4.0, 1, 4), (1, T, 2, 5.0, 1, 3))
        assert (bar["revision"], bar["high"]) == (0, 3.0)

    def test_tenths_add_up(self):
        bars = ticks(*((1, T, seq, 0.1, 0.1, 7) for seq in range(1000)))
        assert volume_of(bars) == [100.0]
        assert vwap_of(bars) == [0.1]


class TestMerge:
    A = ticks((1, T, 0, 5.0, 0.7, 7))
    B = ticks((1, T + 9, 1, 7.0, 0.6, 7))
    C = ticks((1, T + 3, 2, 1.0, 1, 7))
    VOLUME_ONLY = ticks((1, T, 3, 2.0, 4, 6))

    def test_as_if_they_had_come_together(self):
        (bar,) = merge(self.A, self.B)
        assert [bar[name] for name in PRICES] == [5.0, 7.0, 5.0, 7.0]
        assert (volume(bar), bar["trade_count"], bar["revision"]) == (Fraction("1.3"), 2, 1)

    def test_in_any_order_and_grouping(self):
        parts = (self.A, self.B, self.C, self.VOLUME_ONLY)
        together = ticks(
            (1, T, 0, 5.0, 0.7, 7), (1, T + 9, 1, 7.0, 0.6, 7), (1, T + 3, 2, 1.0, 1, 7), (1, T, 3, 2.0, 4, 6)
        )
        a, b, c, d = parts
        for merged in (
            merge(merge(merge(a, b), c), d),
            merge(merge(d, c), merge(b, a)),
            merge(c, merge(merge(d, a), b)),
        ):
            assert same(merged, together)

    def test_two_without_a_price(self):
        (bar,) = merge(self.VOLUME_ONLY, self.VOLUME_ONLY)
        assert math.isnan(bar["open"])
        assert (bar["open_ts"], bar["close_ts"], bar["volume_units"]) == (NEVER_OPENED, NEVER_CLOSED, 8)

    def test_unknown_stays_unknown(self):
        silent = given_bars((1, T, 4, 5.0, 2.5, -1, math.nan))
        for bars in (merge(silent, self.A), merge(self.A, silent), merge(silent, silent)):
            assert (bars["trade_count"][0], notional(bars[0]), volume(bars[0], "vwap")) == (-1, None, None)
            assert bars["volume_units"][0] >= 3

    def test_leaves_its_arguments_alone(self):
        before = self.A.copy(), self.B.copy()
        merge(self.A, self.B)
        assert same(self.A, before[0])
        assert same(self.B, before[1])


class TestRollUp:
    def test_nothing(self):
        none = np.empty(0, np.int64)
        assert len(roll_up(np.empty(0, BAR), none, none)) == 0

    def test_minutes_as_their_bucket(self):
        minutes = ticks(
            (1, T, 0, 5.0, 0.7, 7),
            (1, T + MINUTE, 3, 9.0, 0.6, 6),  # no price
            (1, T + 2 * MINUTE, 2, 7.0, 0.6, 7),
            (1, T + 5 * MINUTE, 1, 6.0, 0.6, 7),
            (2, T, 4, 1.0, 1, 7),
        )
        start = minutes["ts"] // (5 * MINUTE) * (5 * MINUTE)
        bars = roll_up(minutes, start, start + 5 * MINUTE)
        assert bars[["symbol_id", "ts", "end"]].tolist() == [
            (1, T, T + 5 * MINUTE),
            (1, T + 5 * MINUTE, T + 10 * MINUTE),
            (2, T, T + 5 * MINUTE),
        ]
        assert [bars[0][name] for name in PRICES] == [5.0, 7.0, 5.0, 7.0]
        assert (volume(bars[0]), bars[0]["trade_count"], bars[0]["revision"]) == (Fraction("1.9"), 3, 3)
        assert volume(bars[0], "vwap") == Fraction("1.3")

    def test_no_price_in_the_whole_bucket(self):
        minutes = ticks((1, T, 0, 5.0, 1, 6), (1, T + MINUTE, 1, 9.0, 1, 6))
        (bar,) = roll_up(minutes, np.full(2, T), np.full(2, T + 5 * MINUTE))
        assert all(math.isnan(bar[name]) for name in PRICES)
        assert (bar["open_ts"], bar["close_seq"], bar["volume_units"]) == (NEVER_OPENED, NEVER_CLOSED, 2)

    def test_one_unknown_makes_the_sum_unknown(self):
        minutes = given_bars((1, T, 0, 5.0, 2.5, 4, 10.0), (1, T + MINUTE, 1, 5.0, 1.0, -1, math.nan))
        (bar,) = roll_up(minutes, np.full(2, T), np.full(2, T + 5 * MINUTE))
        assert (bar["trade_count"], notional(bar), volume(bar, "vwap")) == (-1, None, None)
        assert volume(bar) == 3.5

    def test_is_of_no_provider(self):
        minutes = given_bars((1, T, 0, 5.0, 2.5, 4, 10.0))
        assert minutes["provider_id"].tolist() == [5]
        assert roll_up(minutes, np.full(1, T), np.full(1, T + 5 * MINUTE))["provider_id"].tolist() == [0]


class TestFromProvider:
    def test_what_it_says(self):
        (bar,) = given_bars((3, T, 11, 5.0, 2.5, 4, 10.1))
        assert (bar["symbol_id"], bar["ts"], bar["end"], bar["provider_id"]) == (3, T, T + MINUTE, 5)
        assert [bar[name] for name in PRICES] == [5.0] * 4
        assert [bar[name] for name in ("open_ts", "open_seq", "close_ts", "close_seq")] == [T, 11, T + MINUTE - 1, 11]
        assert (volume(bar), bar["trade_count"], bar["revision"]) == (2.5, 4, 11)
        assert (notional(bar), volume(bar, "vwap")) == (Fraction(10.1 * 2.5), 2.5)
        assert not bar["final"]

    def test_what_it_does_not_say(self):
        (bar,) = given_bars((3, T, 11, 5.0, 2.5, -1, math.nan))
        assert (bar["trade_count"], notional(bar), volume(bar, "vwap")) == (-1, None, None)

    def test_a_sum_just_below_a_unit_is_carried(self):
        (bar,) = given_bars((3, T, 11, 5.0, 0.9999999999996, 1, 1.0))
        assert (bar["volume_units"], bar["volume_picos"]) == (1, 0)

    def test_the_newest_of_a_bucket_stays(self):
        bars = given_bars(
            (2, T, 0, 1.0, 1, 1, 1), (1, T, 1, 2.0, 1, 1, 1), (2, T, 2, 3.0, 1, 1, 1), (1, T - MINUTE, 3, 4.0, 1, 1, 1)
        )
        assert bars["open"].tolist() == [4.0, 2.0, 3.0]


class TestNewestOfEach:
    def test_nothing(self):
        assert len(newest_of_each(np.empty(0, BAR))) == 0

    def test_the_last_in_the_array_sorted(self):
        bars = np.zeros(4, BAR)
        bars["symbol_id"], bars["ts"], bars["open"] = [2, 1, 2, 2], [T, T, T, 0], [1, 2, 3, 4]
        assert newest_of_each(bars)["open"].tolist() == [2, 4, 3]


class TestKeys:
    def test_sort_by_symbol_then_time(self):
        symbol, ts = np.array([1, 1, 2, 2**31 - 1]), np.array([T, T + MINUTE, 0, micros("2099-12-31T23:59")])
        key = keys(symbol, ts)
        assert (np.diff(key) > 0).all()
        assert key[0] == keys(symbol[:1], ts[:1] + MINUTE - 1)[0]

    def test_pairs_in(self):
        bars = ticks((1, T, 0, 1.0, 1, 7), (2, T, 1, 1.0, 1, 7))
        asked = np.array([1, 2, 3, 2]), np.array([T, T + MINUTE, T, T])
        assert pairs_in(*asked, bars).tolist() == [True, False, False, True]

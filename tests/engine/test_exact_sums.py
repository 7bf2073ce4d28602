"""Sums of sizes and of price x size, against fractions."""

import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from engine_reference import bits, exact, exact_product, joined_notional, micros, notional, properties, volume
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.engine.bar_math import from_ticks, merge, volume_of, vwap_of
from stockpulse.engine.exact_sums import add_notionals, digits_of, quotient, split, sum_notionals, sum_products

T = micros("2024-03-05T15:00")

#: Prices and sizes as markets write them, from fractions of a coin to the largest accepted trades.
decimal_prices = st.builds(
    lambda digits, places: float(Decimal(digits).scaleb(-places)), st.integers(1, 10**8), st.integers(0, 10)
).filter(lambda price: price <= 1e6)
decimal_sizes = st.one_of(
    st.builds(lambda digits, places: float(Decimal(digits).scaleb(-places)), st.integers(1, 10**8), st.integers(0, 10)),
    st.sampled_from([1e-10, 1.0, 100.0, 1e12, 999_999_999_999.0]),
)
trades = st.lists(st.tuples(decimal_prices, decimal_sizes), min_size=1, max_size=30)


def bars_of(trades, first=0):
    """The bar of trades that come one after the other in a minute."""
    count = len(trades)
    seq = np.arange(first, first + count)
    price, size = (np.array(column) for column in zip(*trades, strict=True))
    flags = np.full(count, 7, np.uint16)
    return from_ticks(np.ones(count, np.int64), T + seq, seq, price, size, flags)


class TestVwap:
    @given(trades)
    @properties(3)
    def test_is_the_mean_price_between_low_and_high(self, trades):
        bars = bars_of(trades)
        weights = [Fraction(exact(size), 10**12) for _, size in trades]
        mean = sum(Fraction(price) * weight for (price, _), weight in zip(trades, weights, strict=True)) / sum(weights)
        (vwap,) = vwap_of(bars)
        shown = Fraction(1, 2 * 10**12) if mean >= 1 else 0  # 12 decimals
        assert abs(Fraction(vwap) - mean) <= shown + 6 * Fraction(math.ulp(float(mean)))
        assert bars["low"][0] <= vwap <= bars["high"][0]

    @given(decimal_prices, st.lists(decimal_sizes, min_size=1, max_size=20))
    @properties(2)
    def test_of_one_price_is_that_price(self, price, sizes):
        assert vwap_of(bars_of([(price, size) for size in sizes])).tolist() == [price]

    @pytest.mark.parametrize(
        ("price", "size"),
        [(66010.57, 1e-8), (0.00000823, 0.001), (0.01, 1e-8), (3000.0, 1e-10), (1e6, 1e12), (1e-8, 1e-10), (0.7, 3.0)],
    )
    def test_of_one_trade_is_its_price_however_small(self, price, size):
        bars = bars_of([(price, size)])
        assert vwap_of(bars).tolist() == [price]
        assert volume_of(bars).tolist() == [size]

    @pytest.mark.parametrize(
        ("trades", "vwap"),
        [
            ([(10.0, 100.0), (11.0, 100.0)], 10.5),
            ([(0.1, 3.0), (0.3, 1.0)], 0.15),
            ([(3000.0, 1e-10), (3001.0, 3e-10)], 3000.75),
            ([(0.00000823, 0.001), (0.00000825, 0.001)], 0.00000824),
            ([(1e6, 1e12), (1e6 - 1, 1e12)], 999_999.5),
        ],
    )
    def test_decimal_numbers_stay_decimal(self, trades, vwap):
        assert vwap_of(bars_of(trades)).tolist() == [vwap]

    def test_trades_without_size_have_none(self):
        assert np.isnan(vwap_of(bars_of([(10.0, 0.0)]))).all()


class TestSums:
    @given(trades, st.data())
    @properties()
    def test_any_split_and_order_gives_the_same_bytes(self, trades, data):
        whole = bars_of(trades)
        cut = data.draw(st.integers(0, len(trades)))
        parts = [bars_of(part, at) for part, at in ((trades[:cut], 0), (trades[cut:], cut)) if part]
        for order in (parts, parts[::-1]):
            merged = order[0] if len(order) == 1 else merge(*order)
            assert bits(merged[0].item()) == bits(whole[0].item())

    @given(trades)
    @properties()
    def test_are_those_of_fractions(self, trades):
        (bar,) = bars_of(trades)
        assert volume(bar) == sum(Fraction(exact(size), 10**12) for _, size in trades)
        assert notional(bar) == Fraction(sum(exact_product(*trade) for trade in trades), 2**100)

    @given(st.lists(st.floats(0, 1e18), min_size=1, max_size=50))
    @properties()
    def test_of_products_of_any_size_at_once(self, products):
        (high,), (middle,), (low,) = sum_products(np.array(products), np.array([0]))
        assert joined_notional(int(high), int(middle), int(low)) == sum(
            round(Fraction(one) * 2**100) for one in products
        )

    def test_of_many_of_the_largest_trades(self):
        count = 200_000
        price, size = np.full(count, 1e6), np.full(count, 1e12)
        sums = sum_products(price * size, np.array([0]))
        for _ in range(8):  # 256 times as many
            sums = add_notionals(sums, sums)
        units, picos = (np.array([int(part[0]) * count]) for part in split(np.array([1e12])))
        assert quotient(sums, (units * 32, picos)).tolist() == [8e6]  # not 256 times: the units have no room for more

    def test_of_groups(self):
        values = np.random.default_rng(7).uniform(1e-9, 1e15, 5000)
        first = np.array([0, 1, 17, 4000])
        parts = sum_products(values.copy(), first)
        together = sum_notionals(*parts, np.array([0]))
        assert [part.tolist() for part in together] == [
            part.tolist() for part in sum_products(values.copy(), np.array([0]))
        ]

    @given(st.integers(0, 10**30), st.integers(1, 10**12))
    @properties()
    def test_digits_of_a_fraction(self, numerator, denominator):
        high, middle, low = digits_of(numerator, denominator)
        assert (high * 2**62 + middle) * 2**62 + low == numerator * 2**100 // denominator


def test_sizes_below_a_trillionth_are_rounded():
    assert volume_of(bars_of([(1.0, 4e-13), (1.0, 6e-13)])).tolist() == [1e-12]

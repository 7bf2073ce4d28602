"""The noise of 32-bit floats goes; numbers that are no such print stay."""

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.providers.float32 import without_noise


def cleaned(*prices):
    return without_noise(pl.Series(prices, dtype=pl.Float64)).to_list()


@pytest.mark.parametrize(
    ("sent", "price"),
    [
        (231.74001, 231.74),
        (230.89999, 230.9),
        (4123.8501, 4123.85),
        (148.85001, 148.85),
        (4111.6499, 4111.65),
        (175.6997, 175.6997),
        (118250.12345, 118250.12345),
        (118250.01, 118250.01),
        (5.9152179e-8, 5.9152179e-8),
        (1.16215, 1.16215),
        (231.0, 231.0),
        (0.0, 0.0),
        (-1.5, -1.5),
        (1e300, 1e300),
    ],
)
def test_examples(sent, price):
    assert cleaned(sent) == [price]


def test_nulls_and_not_finite_numbers_stay():
    assert cleaned(None, float("inf"), 231.74001) == [None, float("inf"), 231.74]
    assert cleaned() == []


@given(st.integers(1, 99_999))
def test_cents_come_back_from_32_bits_at_five_decimals(cents):
    price = cents / 100
    assert cleaned(float(f"{np.float32(price):.5f}")) == [price]


@given(st.floats(1e-6, 1e9))
def test_no_price_moves_by_more_than_a_32_bit_float_can_tell(price):
    assert cleaned(price)[0] == pytest.approx(price, rel=2**-23)

"""Removes the traces of 32-bit floats from prices: 231.74001 is 231.74 after a vendor has kept it in 32 bits.

A 32-bit float has about seven digits, so the further digits that it prints are noise. A price is replaced by the
shortest number with the same 32-bit float, if the price is exactly what that float prints and the shortest number
has at least two digits less. 118250.12345 is no such print, and stays.
"""

from typing import Final

import numpy as np
import polars as pl

_LEAST_SAVED: Final = 2
_LARGEST: Final = 1e30
_SMALLEST: Final = 1e-30


def without_noise(prices: pl.Series) -> pl.Series:
    """Return Float64 prices without the noise of 32-bit floats; nulls stay."""
    usual = pl.select(pl.when(prices.is_between(_SMALLEST, _LARGEST)).then(prices)).to_series()
    single = usual.cast(pl.Float32)
    shortest = single.cast(pl.String)
    digits = _digits(usual.cast(pl.String))
    shorter = (digits - _digits(shortest)) >= _LEAST_SAVED
    if not shorter.any():
        return prices
    values = usual.fill_null(1.0).to_numpy()
    last_digit = 10.0 ** (np.floor(np.log10(values)) + 1 - digits.fill_null(0).to_numpy())
    printed = np.abs(single.cast(pl.Float64).fill_null(1.0).to_numpy() - values) <= last_digit / 2
    replaced = shorter.fill_null(value=False) & pl.Series(printed)
    return shortest.cast(pl.Float64).zip_with(replaced, prices).alias(prices.name)


def _digits(texts: pl.Series) -> pl.Series:
    """Return the number of significant digits of numbers as text."""
    mantissas = texts.str.replace(r"[eE].*$", "").str.replace(".", "", literal=True)
    return mantissas.str.strip_chars("0").str.len_bytes().cast(pl.Int64)

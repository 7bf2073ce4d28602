"""Exact sums: of sizes, and of price x size for the vwap.

The sums are integers, so that any order and any grouping of the addends gives the same bytes. Floats appear
only where a bar leaves the system.

A *volume* is a decimal number in two columns: whole units, and trillionths of a unit (picos). Sizes are decimal
numbers, so 0.1 + 0.2 is 0.3. It is exact for sizes of up to 12 decimals, and holds up to 9e18 units.

A *notional* is a binary number in three columns, the digits of a number to the base 2^62 whose last digit counts
2^-100 (about 8e-31). Each product of price and size is rounded once, to a float; the floats are added without
any further rounding. It holds up to 1.5e26, more than ten million trades of 1e12 shares at 1e6 a share.

In both, a first column below zero means that the sum is unknown.
"""

from typing import Final

import numpy as np

from stockpulse.market.arrays import Floats, Ints, Mask

PICOS: Final = 1_000_000_000_000
"""Parts of a whole unit."""
UNKNOWN: Final = -1

Volume = tuple[Ints, Ints]
"""Whole units and picos of each sum."""
Notional = tuple[Ints, Ints, Ints]
"""The digits of each sum: high, middle, low."""

_DIGIT_BITS: Final = 62
_DIGIT: Final = (1 << _DIGIT_BITS) - 1
_HALF_BITS: Final = 31
_HALF: Final = (1 << _HALF_BITS) - 1
_LAST_BIT: Final = -100
_HALVES: Final = tuple(_LAST_BIT + _HALF_BITS * place for place in range(6))
"""The exponents of half digits, from the last to the first."""

_EXACT_UNITS: Final = (1 << 53) // PICOS
"""Fewer units than these are, in picos, an exact float."""
_DECIMALS: Final = 12
"""Mean prices from 1 on have no more decimals: further decimals are errors of the division, or not significant."""
_DIGITS: Final = 15
"""Every decimal number of this many digits is unchanged by a conversion to a float and back."""


# Volumes --------------------------------------------------------------------------------------------


def split(value: Floats) -> Volume:
    """Split each value into whole units and picos, rounded to the nearest one; there may be a whole unit of them."""
    units = np.floor(value)
    picos = np.rint((value - units) * PICOS)
    return units.astype(np.int64), picos.astype(np.int64)


def carry(units: Ints, picos: Ints) -> Volume:
    """Return the same volumes with less than a unit of picos."""
    return units + picos // PICOS, picos % PICOS


def sum_volumes(units: Ints, picos: Ints, first: Ints) -> Volume:
    """Sum the volumes of each group that starts at one of `first`; unknown where one of them is."""
    unknown = np.minimum.reduceat(units, first) < 0
    total_units, total_picos = carry(np.add.reduceat(units, first), np.add.reduceat(picos, first))
    return np.where(unknown, UNKNOWN, total_units), np.where(unknown, 0, total_picos)


def add_volumes(a: Volume, b: Volume) -> Volume:
    """Add two volumes in each row; unknown where one of them is."""
    unknown = (a[0] < 0) | (b[0] < 0)
    units, picos = carry(a[0] + b[0], a[1] + b[1])
    return np.where(unknown, UNKNOWN, units), np.where(unknown, 0, picos)


def total(units: Ints, picos: Ints) -> Floats:
    """Return the float nearest to each volume; NaN where it is unknown."""
    # As one integer a small sum is exact, and rounded only once; for a large sum the second rounding is too small.
    small = units < _EXACT_UNITS
    nearest = np.where(small, (np.where(small, units, 0) * PICOS + picos) / PICOS, units + picos / PICOS)
    return np.where(units < 0, np.nan, nearest)


# Notionals ------------------------------------------------------------------------------------------


def sum_products(products: Floats, first: Ints) -> Notional:
    """Sum floats of each group that starts at one of `first`, without rounding. Overwrites `products`."""
    sums = np.zeros((len(_HALVES), len(first)), np.int64)
    largest, rest = products.max(initial=0.0), products
    rounded = np.empty_like(rest)
    for place in reversed(range(len(_HALVES))):
        unit = 2.0 ** _HALVES[place]
        if largest < unit / 2:
            continue
        # Adding and subtracting a large number leaves a float rounded to a multiple of `unit`. These multiples
        # are small enough that their sums are exact, and so is what remains.
        shift = 1.5 * 2.0**52 * unit
        np.add(rest, shift, out=rounded)
        rounded -= shift
        rest -= rounded
        sums[place] = np.add.reduceat(rounded, first) / unit
        if not rest.any():
            break
    return _digits(sums)


def _digits(halves: Ints) -> Notional:
    """Return sums of half digits, from the last to the first, as digits."""
    pairs = []
    over = np.zeros_like(halves[0])
    for place in (0, 2):
        low = halves[place] + over
        high = halves[place + 1] + (low >> _HALF_BITS)
        pairs.append((low & _HALF) | ((high & _HALF) << _HALF_BITS))
        over = high >> _HALF_BITS
    return halves[4] + over + (halves[5] << _HALF_BITS), pairs[1], pairs[0]


def digits_of(numerator: int, denominator: int) -> tuple[int, int, int]:
    """Return the digits of a fraction that is not negative, rounded down."""
    number = (numerator << -_LAST_BIT) // denominator
    return number >> 2 * _DIGIT_BITS, number >> _DIGIT_BITS & _DIGIT, number & _DIGIT


def sum_notionals(high: Ints, middle: Ints, low: Ints, first: Ints) -> Notional:
    """Sum the notionals of each group that starts at one of `first`; unknown where one of them is."""
    unknown = np.minimum.reduceat(high, first) < 0
    halves = [low & _HALF, low >> _HALF_BITS, middle & _HALF, middle >> _HALF_BITS, high]
    sums = np.zeros((len(_HALVES), len(first)), np.int64)
    for place, half in enumerate(halves):
        sums[place] = np.add.reduceat(half, first)
    return _where_known(unknown, _digits(sums))


def add_notionals(a: Notional, b: Notional) -> Notional:
    """Add two notionals in each row. The sum is unknown if one of them is unknown."""
    unknown = (a[0] < 0) | (b[0] < 0)
    low = a[2] + b[2]
    middle = a[1] + b[1] + (low >> _DIGIT_BITS)
    high = a[0] + b[0] + (middle >> _DIGIT_BITS)
    return _where_known(unknown, (high, middle & _DIGIT, low & _DIGIT))


def _where_known(unknown: Mask, digits: Notional) -> Notional:
    high, middle, low = digits
    return np.where(unknown, UNKNOWN, high), np.where(unknown, 0, middle), np.where(unknown, 0, low)


def quotient(notional: Notional, volume: Volume) -> Floats:
    """Return the mean price of each row; NaN where it is unknown or the volume is 0."""
    high, middle, low = notional
    shares = total(*volume)
    value = high * 2.0**24 + (middle * 2.0**-38 + low * 2.0**-100)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean: Floats = np.where((high >= 0) & (shares > 0), value / shares, np.nan)
    mean = _as_decimal(mean)
    return np.where(mean >= 1, np.round(mean, _DECIMALS), mean)


def _as_decimal(value: Floats) -> Floats:
    """Round each value to 15 digits, unless it differs from that number by more than rounding errors."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        scale = 10.0 ** (_DIGITS - 1 - np.floor(np.log10(value)))
        decimal = np.rint(value * scale) / scale
        return np.where(np.abs(decimal - value) <= 4 * np.spacing(value), decimal, value)

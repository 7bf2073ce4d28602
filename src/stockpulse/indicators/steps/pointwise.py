"""Steps without state: arithmetic, comparisons and nulls, one value at a time.

Conditions are numbers: 1 where they hold, 0 where they do not, null where they are unknown. No comparison with a null
is true, so most functions need not ask for nulls.
"""

from math import isnan, nan


def divide(a: float, b: float) -> float:
    """Return a / b; null where b is zero."""
    return nan if b == 0.0 else a / b


def ratio(a: float, b: float, limit: float) -> float:
    """Return a / b; `limit` where b is zero."""
    if b != 0.0:
        return a / b
    return nan if isnan(a) else limit


def difference(a: float, b: float) -> float:
    """Return a - b; zero where they differ by rounding only: by 1e-14 of their size, which is TA-Lib's measure."""
    return 0.0 if abs(a - b) <= 1e-14 * (abs(a) + abs(b)) else a - b


def greater(a: float, b: float) -> float:
    """Condition: a > b."""
    otherwise = 0.0 if a <= b else nan
    return 1.0 if a > b else otherwise


def at_least(a: float, b: float) -> float:
    """Condition: a >= b."""
    otherwise = 0.0 if a < b else nan
    return 1.0 if a >= b else otherwise


def equal(a: float, b: float) -> float:
    """Condition: a == b."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a == b else 0.0


def both(a: float, b: float) -> float:
    """Condition: a and b hold."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a != 0.0 and b != 0.0 else 0.0


def either(a: float, b: float) -> float:
    """Condition: a or b holds."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a != 0.0 or b != 0.0 else 0.0


def where(condition: float, a: float, b: float) -> float:
    """Return a where the condition holds, b where it does not; null where it is unknown."""
    chosen = nan if isnan(condition) else a
    return b if condition == 0.0 else chosen


def where_greater(a: float, b: float, x: float, y: float) -> float:
    """Return x where a > b, y where not; null where that is unknown."""
    otherwise = y if a <= b else nan
    return x if a > b else otherwise


def given(x: float, other: float) -> float:
    """Return x; null where `other` is null."""
    return nan if isnan(other) else x


def known_or(x: float, other: float) -> float:
    """Return x; `other` where x is null."""
    return other if isnan(x) else x


def larger(a: float, b: float) -> float:
    """Return the larger value."""
    if isnan(a):
        return nan
    return a if a > b else b  # noqa: FURB136  (it returns b if that is null; and builtins are slower to compile)


def smaller(a: float, b: float) -> float:
    """Return the smaller value."""
    if isnan(a):
        return nan
    return a if a < b else b  # noqa: FURB136

"""Steps without state: arithmetic, comparisons and nulls, one value at a time.

Conditions are numbers: 1 where they hold, 0 where they do not, null where they are unknown.
"""

from math import isnan, nan


def divide(a: float, b: float) -> float:
    """Return a / b; null where b is zero."""
    return nan if b == 0.0 else a / b


def ratio(a: float, b: float, limit: float) -> float:
    """Return a / b; `limit` where b is zero."""
    if isnan(a) or isnan(b):
        return nan
    return limit if b == 0.0 else a / b


def difference(a: float, b: float) -> float:
    """Return a - b; zero where they differ by rounding only: by 1e-14 of their size, which is TA-Lib's measure."""
    if isnan(a) or isnan(b):
        return nan
    return 0.0 if abs(a - b) <= 1e-14 * (abs(a) + abs(b)) else a - b


def greater(a: float, b: float) -> float:
    """Condition: a > b."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a > b else 0.0


def at_least(a: float, b: float) -> float:
    """Condition: a >= b."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a >= b else 0.0


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
    if isnan(condition):
        return nan
    return a if condition != 0.0 else b


def given(x: float, other: float) -> float:
    """Return x; null where `other` is null."""
    return nan if isnan(other) else x


def known_or(x: float, other: float) -> float:
    """Return x; `other` where x is null."""
    return other if isnan(x) else x


def larger(a: float, b: float) -> float:
    """Return the larger value."""
    if isnan(a) or isnan(b):
        return nan
    return a if a > b else b  # noqa: FURB136  (as in C: builtins are slower to compile)


def smaller(a: float, b: float) -> float:
    """Return the smaller value."""
    if isnan(a) or isnan(b):
        return nan
    return a if a < b else b  # noqa: FURB136

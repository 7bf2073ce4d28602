"""Steps over all values so far: the value before, sums, and exponential averages."""

from math import isnan, nan


def previous(known: int, last: float, x: float) -> tuple[int, float, float]:
    """Return the value before."""
    if isnan(x):
        return known, last, nan
    return 1, x, last if known else nan


def skip(seen: int, x: float, n: int) -> tuple[int, float]:
    """Return null for the first n values, then x."""
    if isnan(x):
        return seen, nan
    if seen < n:
        return seen + 1, nan
    return seen, x


def cumsum(total: float, x: float) -> tuple[float, float]:
    """Return the sum of all values so far."""
    if isnan(x):
        return total, nan
    total += x
    return total, total


def session_sum(total: float, day: float, x: float, session: float) -> tuple[float, float, float]:
    """Return the sum of the session's values so far."""
    if isnan(x):
        return total, day, nan
    total = total + x if session == day else x
    return total, session, total


def ema(known: int, value: float, x: float, n: int, alpha: float) -> tuple[int, float, float]:
    """Return the exponential average, seeded with the mean of the first n values."""
    if isnan(x):
        return known, value, nan
    if known < n:
        value += x
        known += 1
        if known < n:
            return known, value, nan
        value /= n
        return known, value, value
    value += alpha * (x - value)
    return known, value, value


def ema_of_all(known: int, value: float, x: float, alpha: float) -> tuple[int, float, float]:
    """Return the exponential average, seeded with the first value."""
    if isnan(x):
        return known, value, nan
    value = value + alpha * (x - value) if known else x
    return 1, value, value


def adaptive_ema(known: int, value: float, x: float, alpha: float, seed: float) -> tuple[int, float, float]:
    """Return the exponential average by an alpha that changes from bar to bar, seeded with `seed`."""
    if isnan(x) or isnan(alpha) or isnan(seed):
        return known, value, nan
    if not known:
        value = seed
    value += alpha * (x - value)
    return 1, value, value


def wilder_sum(known: int, value: float, x: float, n: int) -> tuple[int, float, float]:
    """Return Wilder's running sum: it starts with n - 1 values, then drops an n-th of itself as each value comes."""
    if isnan(x):
        return known, value, nan
    if known < n - 1:
        return known + 1, value + x, nan
    value = value - value / n + x
    return known, value, value

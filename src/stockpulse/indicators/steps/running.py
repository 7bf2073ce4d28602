"""Steps over all values so far: the value before, sums, and exponential averages.

A mean of equal values is that value, exactly. So averages are seeded by a running mean, which adds nothing while values
are equal. And where a value no longer changes the average, the answer is that value: rounding has stopped the average a
few last bits away from it. The state keeps the average itself, so that the next bar need not wait for this comparison.
"""

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
    result = total + x
    return total if isnan(x) else result, result


def session_mean(
    day: float, weight: float, base: float, total: float, x: float, w: float, session: float, counts: float
) -> tuple[float, float, float, float, float]:
    """Return the session's mean so far of the values that count, weighted by w; null where all weights are zero.

    It sums the distances from the first value, so that the mean of equal values is exact.
    """
    if isnan(x) or isnan(w) or isnan(counts):
        return day, weight, base, total, nan
    if session != day:
        day, weight = session, 0.0
    if counts != 0.0:
        if weight == 0.0:
            base, total = x, 0.0
        weight += w
        total += (x - base) * w
    return day, weight, base, total, nan if weight == 0.0 else base + total / weight


def approach(value: float, x: float, alpha: float) -> tuple[float, float]:
    """Return the average, moved towards x by alpha of the distance, and the answer: x where nothing moved any more."""
    moved = value + alpha * (x - value)
    return moved, x if moved == value else moved


def ema(known: int, value: float, x: float, n: int, alpha: float) -> tuple[int, float, float]:
    """Return the exponential average, seeded with the mean of the first n values."""
    if isnan(x):
        return known, value, nan
    if known < n:
        known += 1
        value += (x - value) / known
        return known, value, nan if known < n else value
    value, shown = approach(value, x, alpha)
    return known, value, shown


def ema_of_all(known: int, value: float, x: float, alpha: float) -> tuple[int, float, float]:
    """Return the exponential average, seeded with the first value."""
    moved, shown = approach(value, x, alpha if known else 1.0)  # the first value is reached at once, from zero
    return (known, value, nan) if isnan(x) else (1, moved, shown)


def adaptive_ema(known: int, value: float, x: float, alpha: float, seed: float) -> tuple[int, float, float]:
    """Return the exponential average by an alpha that changes from bar to bar, seeded with `seed`."""
    if isnan(x) or isnan(alpha) or isnan(seed):
        return known, value, nan
    if not known:
        value = seed
    value, shown = approach(value, x, alpha)
    return 1, value, shown


def wilder_sum(known: int, value: float, x: float, n: int) -> tuple[int, float, float]:
    """Return Wilder's running sum: it starts with n - 1 values, then drops an n-th of itself as each value comes."""
    if isnan(x):
        return known, value, nan
    if known < n - 1:
        return known + 1, value + x, nan
    value = value - value / n + x
    return known, value, value

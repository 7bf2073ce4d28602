"""The arithmetic of the primitives: what each does with one more value.

A step takes its state, its slots of a symbol's memory, one value of each input and its constants; it gives
the new state and the output. These functions run as they stand, or compiled into the loop of an indicator;
nothing else calculates, so a bar gives the same bits in a batch over history and in a live stream.

A null is NaN. A step leaves its state alone on a null and answers null. All state begins as zeros.
A step may write to the one slot that it would write to again if it came to the same bar once more, and to no
other: so a bar can be looked at, and the state before it is as good as new.

Sliding windows hold the values of the running block as they came and, of the block before, what is left of
it already combined from its end ("two stacks"): the window is the one combined with the other. So nothing is
ever subtracted, no error builds up, and a window of zeros sums to exactly zero.
"""

from math import isnan, nan
from typing import Any

Slots = Any
"""A row of float64: the memory of one symbol. An indicator's own slots begin at `at`."""


# One value and the last ------------------------------------------------------------------------


def divide(a: float, b: float) -> float:
    """A / b; null where b is zero."""
    return nan if b == 0.0 else a / b


def ratio(a: float, b: float, limit: float) -> float:
    """A / b; `limit` where b is zero."""
    if isnan(a) or isnan(b):
        return nan
    return limit if b == 0.0 else a / b


def gap(a: float, b: float) -> float:
    """A - b; zero where the two differ by no more than rounding, 1e-14 of their size (TA-Lib's measure)."""
    if isnan(a) or isnan(b):
        return nan
    return 0.0 if abs(a - b) <= 1e-14 * (abs(a) + abs(b)) else a - b


def greater(a: float, b: float) -> float:
    """1 where a > b, 0 where not, null where either is null."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a > b else 0.0


def at_least(a: float, b: float) -> float:
    """1 where a >= b."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a >= b else 0.0


def equal(a: float, b: float) -> float:
    """1 where a == b."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a == b else 0.0


def both(a: float, b: float) -> float:
    """1 where both conditions hold."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a != 0.0 and b != 0.0 else 0.0


def either(a: float, b: float) -> float:
    """1 where one of the conditions holds."""
    if isnan(a) or isnan(b):
        return nan
    return 1.0 if a != 0.0 or b != 0.0 else 0.0


def where(condition: float, a: float, b: float) -> float:
    """A where the condition holds, b where not; null where that is unknown."""
    if isnan(condition):
        return nan
    return a if condition != 0.0 else b


def given(x: float, other: float) -> float:
    """X where the other value is known too."""
    return nan if isnan(other) else x


def known_or(x: float, other: float) -> float:
    """X, or the other value where x is null."""
    return other if isnan(x) else x


def larger(a: float, b: float) -> float:
    """The larger one."""
    if isnan(a) or isnan(b):
        return nan
    return a if a > b else b  # noqa: FURB136  (as in C: builtins are slower to compile)


def smaller(a: float, b: float) -> float:
    """The smaller one."""
    if isnan(a) or isnan(b):
        return nan
    return a if a < b else b  # noqa: FURB136


def previous(known: int, last: float, x: float) -> tuple[int, float, float]:
    """The value before."""
    if isnan(x):
        return known, last, nan
    return 1, x, last if known else nan


def lag(slot: int, known: int, memory: Slots, at: int, x: float, n: int) -> tuple[int, int, float]:
    """The value n before; one slot more than n, so that a look overwrites nothing."""
    if isnan(x):
        return slot, known, nan
    memory[at + slot] = x
    slot = slot + 1 if slot < n else 0
    if known < n:
        return slot, known + 1, nan
    return slot, known, memory[at + slot]


def skip(seen: int, x: float, n: int) -> tuple[int, float]:
    """Null for the first n values."""
    if isnan(x):
        return seen, nan
    if seen < n:
        return seen + 1, nan
    return seen, x


# Over all that came ----------------------------------------------------------------------------


def cumsum(total: float, x: float) -> tuple[float, float]:
    """The sum of all values so far."""
    if isnan(x):
        return total, nan
    total += x
    return total, total


def session_sum(total: float, day: float, x: float, session: float) -> tuple[float, float, float]:
    """The sum of all values of the session so far."""
    if isnan(x):
        return total, day, nan
    total = total + x if session == day else x
    return total, session, total


def ema(known: int, value: float, x: float, n: int, alpha: float) -> tuple[int, float, float]:
    """Exponential smoothing, seeded with the mean of the first n values."""
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
    """Exponential smoothing, seeded with the first value."""
    if isnan(x):
        return known, value, nan
    value = value + alpha * (x - value) if known else x
    return 1, value, value


def wilder_sum(known: int, value: float, x: float, n: int) -> tuple[int, float, float]:
    """Wilder's running sum: the first n - 1 values summed, from then on a nth of it goes as each value comes."""
    if isnan(x):
        return known, value, nan
    if known < n - 1:
        return known + 1, value + x, nan
    value = value - value / n + x
    return known, value, value


# Over the last n -------------------------------------------------------------------------------
#
# Each has a `settle_` beside it, which combines a block that is full from its end. It is called before the next
# value comes, and before the state is stored: so a bar that is only looked at never finds a full block.


def settle_window_sum(slot: int, full: int, total: float, memory: Slots, at: int, n: int) -> tuple[int, int, float]:
    """Turn a full block into the sums from each of its values to its end."""
    if slot < n:
        return slot, full, total
    running = memory[at + n - 1]
    for i in range(at + n - 2, at - 1, -1):
        running += memory[i]
        memory[i] = running
    return 0, 1, 0.0


def window_sum(
    slot: int, full: int, total: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float]:
    """The sum of the last n values."""
    if isnan(x):
        return slot, full, total, nan
    if slot == n:
        slot, full, total = settle_window_sum(slot, full, total, memory, at, n)
    memory[at + slot] = x
    slot += 1
    total += x
    if slot == n:
        return slot, full, total, total
    return slot, full, total, memory[at + slot] + total if full else nan


def settle_window_max(slot: int, full: int, top: float, memory: Slots, at: int, n: int) -> tuple[int, int, float]:
    """Turn a full block into the greatest from each of its values to its end."""
    if slot < n:
        return slot, full, top
    running = memory[at + n - 1]
    for i in range(at + n - 2, at - 1, -1):
        running = larger(running, memory[i])
        memory[i] = running
    return 0, 1, 0.0


def window_max(
    slot: int, full: int, top: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float]:
    """The greatest of the last n values."""
    if isnan(x):
        return slot, full, top, nan
    if slot == n:
        slot, full, top = settle_window_max(slot, full, top, memory, at, n)
    memory[at + slot] = x
    top = x if slot == 0 or x > top else top
    slot += 1
    if slot == n:
        return slot, full, top, top
    if not full:
        return slot, full, top, nan
    return slot, full, top, larger(memory[at + slot], top)


def settle_since_max(
    slot: int, full: int, number: int, top: float, top_number: int, memory: Slots, at: int, n: int
) -> tuple[int, int, int, float, int]:
    """Turn a full block of (value, number) into the greatest from each to its end; the newest of equals."""
    if slot < n:
        return slot, full, number, top, top_number
    running, running_number = memory[at + 2 * n - 2], memory[at + 2 * n - 1]
    for i in range(at + 2 * n - 4, at - 1, -2):
        if memory[i] > running:
            running, running_number = memory[i], memory[i + 1]
        memory[i], memory[i + 1] = running, running_number
    return 0, 1, number, top, top_number


def since_max(
    slot: int, full: int, number: int, top: float, top_number: int, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, int, float, int, float]:
    """How many values ago the greatest of the last n came; the newest of equals."""
    if isnan(x):
        return slot, full, number, top, top_number, nan
    if slot == n:
        slot, full, number, top, top_number = settle_since_max(slot, full, number, top, top_number, memory, at, n)
    number += 1
    memory[at + 2 * slot] = x
    memory[at + 2 * slot + 1] = number
    if slot == 0 or x >= top:
        top = x
        top_number = number
    slot += 1
    if slot == n:
        return slot, full, number, top, top_number, float(number - top_number)
    if not full:
        return slot, full, number, top, top_number, nan
    older = at + 2 * slot
    found = float(top_number) if top >= memory[older] else memory[older + 1]
    return slot, full, number, top, top_number, float(number) - found


def settle_weighted_sum(
    slot: int, full: int, total: float, weighted: float, memory: Slots, at: int, n: int
) -> tuple[int, int, float, float]:
    """Turn a full block into (sum, sum weighted 1, 2, ...) from each of its values to its end."""
    if slot < n:
        return slot, full, total, weighted
    running = running_weighted = 0.0
    for i in range(at + 2 * n - 2, at - 1, -2):
        running += memory[i]
        running_weighted += running  # all that come after weigh one more
        memory[i] = running
        memory[i + 1] = running_weighted
    return 0, 1, 0.0, 0.0


def weighted_sum(
    slot: int, full: int, total: float, weighted: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float, float]:
    """The sum of the last n values, weighted 1, 2, ..., n from the oldest to the newest."""
    if isnan(x):
        return slot, full, total, weighted, nan
    if slot == n:
        slot, full, total, weighted = settle_weighted_sum(slot, full, total, weighted, memory, at, n)
    memory[at + 2 * slot] = x
    slot += 1
    total += x
    weighted += slot * x
    if slot == n:
        return slot, full, total, weighted, weighted
    if not full:
        return slot, full, total, weighted, nan
    # The older part comes first: the newer ones weigh as many more as it has values.
    return slot, full, total, weighted, memory[at + 2 * slot + 1] + (weighted + (n - slot) * total)


def settle_variance(
    slot: int, full: int, mean: float, squares: float, memory: Slots, at: int, n: int
) -> tuple[int, int, float, float]:
    """Turn a full block into (mean, sum of squared deviations) from each of its values to its end."""
    if slot < n:
        return slot, full, mean, squares
    count = running = running_squares = 0.0
    for i in range(at + 2 * n - 2, at - 1, -2):
        x = memory[i]
        count += 1.0
        off = x - running
        running += off * (1.0 / count)
        running_squares += off * (x - running)
        memory[i] = running
        memory[i + 1] = running_squares
    return 0, 1, 0.0, 0.0


def variance(
    slot: int, full: int, mean: float, squares: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float, float]:
    """The population variance of the last n values.

    Welford's update within the block, Chan's formula to combine it with the rest of the one before: no
    difference of large numbers. B. P. Welford, Technometrics 4 (1962); T. F. Chan et al., COMPSTAT 1982.
    """
    if isnan(x):
        return slot, full, mean, squares, nan
    if slot == n:
        slot, full, mean, squares = settle_variance(slot, full, mean, squares, memory, at, n)
    memory[at + 2 * slot] = x
    slot += 1
    off = x - mean
    mean += off * (1.0 / slot)  # the division waits for nothing, so it costs less than off / slot
    squares += off * (x - mean)
    if slot == n:
        return slot, full, mean, squares, squares / n
    if not full:
        return slot, full, mean, squares, nan
    off = mean - memory[at + 2 * slot]
    result = (memory[at + 2 * slot + 1] + squares + off * off * (slot * (n - slot)) / n) / n
    return slot, full, mean, squares, result


def mean_deviation(
    slot: int, known: int, memory: Slots, at: int, x: float, mean: float, n: int
) -> tuple[int, int, float]:
    """The mean distance of the last n values from `mean`; it reads all of them."""
    if isnan(x):
        return slot, known, nan
    memory[at + slot] = x
    slot = slot + 1 if slot < n else 0
    if known < n - 1:
        return slot, known + 1, nan
    total = 0.0
    for i in range(n + 1):
        if i != slot:  # the slot that is written next holds a value that has left the window
            total += abs(memory[at + i] - mean)
    return slot, known, total / n


# What has a rule of its own --------------------------------------------------------------------


def adaptive(known: int, value: float, x: float, alpha: float, seed: float) -> tuple[int, float, float]:
    """Exponential smoothing by an alpha that changes, seeded with a value given."""
    if isnan(x) or isnan(alpha) or isnan(seed):
        return known, value, nan
    if not known:
        value = seed
    value += alpha * (x - value)
    return 1, value, value


def adx(known: int, value: float, x: float, moves: float, n: int) -> tuple[int, float, float]:
    """Wilder's mean of the directional index, which stays where it is while nothing moves either way."""
    if isnan(x) or isnan(moves):
        return known, value, nan
    if known < n:
        value += x
        known += 1
        if known < n:
            return known, value, nan
        value /= n
    elif moves != 0.0:
        value = (value * (n - 1) + x) / n
    return known, value, value


def parabolic_sar(
    known: int,
    long: int,
    sar: float,
    extreme: float,
    factor: float,
    last_high: float,
    last_low: float,
    high: float,
    low: float,
    acceleration: float,
    maximum: float,
) -> tuple[int, int, float, float, float, float, float, float]:
    """Wilder's stop and reverse. It begins long unless the first move down is larger than the one up."""
    if isnan(high) or isnan(low):
        return known, long, sar, extreme, factor, last_high, last_low, nan
    if known == 0:
        return 1, long, sar, extreme, factor, high, low, nan
    if known == 1:
        down, up = last_low - low, high - last_high
        long = 0 if down > 0.0 and down > up else 1
        extreme = high if long else low
        sar = last_low if long else last_high
        factor = acceleration
        last_high, last_low = high, low  # as TA-Lib: the second bar is also the one before itself
    if long and low <= sar:
        long = 0
        result = larger(larger(extreme, last_high), high)
        factor, extreme = acceleration, low
        sar = larger(larger(result + factor * (extreme - result), last_high), high)
    elif not long and high >= sar:
        long = 1
        result = smaller(smaller(extreme, last_low), low)
        factor, extreme = acceleration, high
        sar = smaller(smaller(result + factor * (extreme - result), last_low), low)
    else:
        result = sar
        if long and high > extreme:
            factor, extreme = smaller(factor + acceleration, maximum), high
        elif not long and low < extreme:
            factor, extreme = smaller(factor + acceleration, maximum), low
        sar = result + factor * (extreme - result)
        sar = smaller(smaller(sar, last_low), low) if long else larger(larger(sar, last_high), high)
    return 2, long, sar, extreme, factor, high, low, result


def supertrend(
    known: int,
    up: int,
    upper: float,
    lower: float,
    last_close: float,
    close: float,
    basic_upper: float,
    basic_lower: float,
) -> tuple[int, int, float, float, float, float, float]:
    """The band that trails the close, and on which side of it the close is: 1 above, -1 below. It begins below."""
    if isnan(close) or isnan(basic_upper) or isnan(basic_lower):
        return known, up, upper, lower, last_close, nan, nan
    if not known:
        return 1, 0, basic_upper, basic_lower, close, basic_upper, -1.0
    if basic_upper < upper or last_close > upper:
        upper = basic_upper
    if basic_lower > lower or last_close < lower:
        lower = basic_lower
    up = (1 if close >= lower else 0) if up else (1 if close > upper else 0)
    if up:
        return 1, up, upper, lower, close, lower, 1.0
    return 1, up, upper, lower, close, upper, -1.0

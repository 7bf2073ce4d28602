"""Steps over the last `n` values.

A window is two blocks ("two stacks"). The running block keeps its values as they came. The block before it keeps, in
each slot, the combination of the values from that slot to its end. The window is the rest of the old block combined
with the running block. Nothing is ever subtracted, so no error builds up, and a window of zeros sums to exactly zero.

Each windowed step has a `fold_` beside it, which combines a full block from its end. It runs before the next value
comes, and before the state is stored, so a bar that is only previewed never finds a full block.
"""

from math import isnan, nan
from typing import Any

Slots = Any
"""The memory of one symbol, a row of float64. The slots of a step begin at `at`."""


def index(place: int) -> int:
    """Return a place that is never negative. Compiled code then does not check whether it counts from the end."""
    return place


def lag(slot: int, known: int, memory: Slots, at: int, x: float, n: int) -> tuple[int, int, float]:
    """Return the value n before. It uses n + 1 slots, so that a preview overwrites nothing that is still needed."""
    if isnan(x):
        return slot, known, nan
    memory[index(at + slot)] = x
    slot = slot + 1 if slot < n else 0
    if known < n:
        return slot, known + 1, nan
    return slot, known, memory[index(at + slot)]


def shift(slot: int, seen: int, memory: Slots, at: int, x: float, n: int) -> tuple[int, int, float]:
    """Return the value of n bars before. Unlike other steps it takes a null as a value."""
    memory[index(at + slot)] = x
    slot = slot + 1 if slot < n else 0
    if seen < n:
        return slot, seen + 1, nan
    return slot, seen, memory[index(at + slot)]


def known_run(run: int, x: float, n: int) -> tuple[int, float]:
    """Return 1 if the last n bars have a value, else null. Unlike other steps it counts nulls."""
    run = 0 if isnan(x) else run + 1 if run < n else n
    return run, 1.0 if run == n else nan


def is_flat(run: int, last: float, x: float, n: int) -> tuple[int, float, float]:
    """Condition: the last n values are equal."""
    if isnan(x):
        return run, last, nan
    run = run + 1 if x == last else 1
    return run, x, 1.0 if run >= n else 0.0


def fold_window_sum(slot: int, full: int, total: float, memory: Slots, at: int, n: int) -> tuple[int, int, float]:
    """Turn a full block into sums: of each value and those behind it."""
    if slot < n:
        return slot, full, total
    running = memory[index(at + n - 1)]
    for i in range(at + n - 2, at - 1, -1):
        running += memory[index(i)]
        memory[index(i)] = running
    return 0, 1, 0.0


def window_sum(
    slot: int, full: int, total: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float]:
    """Return the sum of the last n values."""
    if isnan(x):
        return slot, full, total, nan
    if slot == n:
        slot, full, total = fold_window_sum(slot, full, total, memory, at, n)
    memory[index(at + slot)] = x
    slot += 1
    total += x
    if slot == n:
        return slot, full, total, total
    return slot, full, total, memory[index(at + slot)] + total if full else nan


def fold_window_max(slot: int, full: int, top: float, memory: Slots, at: int, n: int) -> tuple[int, int, float]:
    """Turn a full block into maxima: of each value and those behind it."""
    if slot < n:
        return slot, full, top
    running = memory[index(at + n - 1)]
    for i in range(at + n - 2, at - 1, -1):
        x = memory[index(i)]
        running = x if x > running else running  # noqa: FURB136  (no value is null here)
        memory[index(i)] = running
    return 0, 1, 0.0


def window_max(
    slot: int, full: int, top: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float]:
    """Return the maximum of the last n values."""
    if isnan(x):
        return slot, full, top, nan
    if slot == n:
        slot, full, top = fold_window_max(slot, full, top, memory, at, n)
    memory[index(at + slot)] = x
    top = x if slot == 0 or x > top else top
    slot += 1
    if slot == n:
        return slot, full, top, top
    if not full:
        return slot, full, top, nan
    older = memory[index(at + slot)]
    return slot, full, top, older if older > top else top  # noqa: FURB136


def fold_window_sums(
    slot: int, full: int, total: float, other: float, memory: Slots, at: int, n: int
) -> tuple[int, int, float, float]:
    """Turn a full block of pairs into sums: of each pair and those behind it."""
    if slot < n:
        return slot, full, total, other
    running, running_other = memory[index(at + 2 * n - 2)], memory[index(at + 2 * n - 1)]
    for i in range(at + 2 * n - 4, at - 1, -2):
        running += memory[index(i)]
        running_other += memory[index(i + 1)]
        memory[index(i)] = running
        memory[index(i + 1)] = running_other
    return 0, 1, 0.0, 0.0


def window_sums(
    slot: int, full: int, total: float, other: float, memory: Slots, at: int, x: float, y: float, n: int
) -> tuple[int, int, float, float, float, float]:
    """Return the sums of the last n values of two series that are known together."""
    if isnan(x) or isnan(y):
        return slot, full, total, other, nan, nan
    if slot == n:
        slot, full, total, other = fold_window_sums(slot, full, total, other, memory, at, n)
    memory[index(at + 2 * slot)] = x
    memory[index(at + 2 * slot + 1)] = y
    slot += 1
    total += x
    other += y
    if slot == n:
        return slot, full, total, other, total, other
    if not full:
        return slot, full, total, other, nan, nan
    older = at + 2 * slot
    return slot, full, total, other, memory[index(older)] + total, memory[index(older + 1)] + other


def fold_window_range(
    slot: int, full: int, top: float, bottom: float, memory: Slots, at: int, n: int
) -> tuple[int, int, float, float]:
    """Turn a full block of (high, low) into maxima and minima: of each pair and those behind it."""
    if slot < n:
        return slot, full, top, bottom
    running_top, running_bottom = memory[index(at + 2 * n - 2)], memory[index(at + 2 * n - 1)]
    for i in range(at + 2 * n - 4, at - 1, -2):
        high, low = memory[index(i)], memory[index(i + 1)]
        running_top = high if high > running_top else running_top  # noqa: FURB136
        running_bottom = low if low < running_bottom else running_bottom  # noqa: FURB136
        memory[index(i)] = running_top
        memory[index(i + 1)] = running_bottom
    return 0, 1, 0.0, 0.0


def window_range(
    slot: int, full: int, top: float, bottom: float, memory: Slots, at: int, high: float, low: float, n: int
) -> tuple[int, int, float, float, float, float]:
    """Return the maximum of one series and the minimum of another over the last n bars at which both are known."""
    if isnan(high) or isnan(low):
        return slot, full, top, bottom, nan, nan
    if slot == n:
        slot, full, top, bottom = fold_window_range(slot, full, top, bottom, memory, at, n)
    memory[index(at + 2 * slot)] = high
    memory[index(at + 2 * slot + 1)] = low
    top = high if slot == 0 or high > top else top
    bottom = low if slot == 0 or low < bottom else bottom
    slot += 1
    if slot == n:
        return slot, full, top, bottom, top, bottom
    if not full:
        return slot, full, top, bottom, nan, nan
    older_top, older_bottom = memory[index(at + 2 * slot)], memory[index(at + 2 * slot + 1)]
    highest = older_top if older_top > top else top  # noqa: FURB136
    lowest = older_bottom if older_bottom < bottom else bottom  # noqa: FURB136
    return slot, full, top, bottom, highest, lowest


def fold_since_max(
    slot: int, full: int, number: int, top: float, top_number: int, memory: Slots, at: int, n: int
) -> tuple[int, int, int, float, int]:
    """Turn a full block of (value, number) into maxima: of each value and those behind it; of equals the newest."""
    if slot < n:
        return slot, full, number, top, top_number
    running, running_number = memory[index(at + 2 * n - 2)], memory[index(at + 2 * n - 1)]
    for i in range(at + 2 * n - 4, at - 1, -2):
        if memory[index(i)] > running:
            running, running_number = memory[index(i)], memory[index(i + 1)]
        memory[index(i)], memory[index(i + 1)] = running, running_number
    return 0, 1, number, top, top_number


def since_max(
    slot: int, full: int, number: int, top: float, top_number: int, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, int, float, int, float]:
    """Return the age of the maximum of the last n values, in values; of equal values, the newest counts."""
    if isnan(x):
        return slot, full, number, top, top_number, nan
    if slot == n:
        slot, full, number, top, top_number = fold_since_max(slot, full, number, top, top_number, memory, at, n)
    number += 1
    memory[index(at + 2 * slot)] = x
    memory[index(at + 2 * slot + 1)] = number
    if slot == 0 or x >= top:
        top = x
        top_number = number
    slot += 1
    if slot == n:
        return slot, full, number, top, top_number, float(number - top_number)
    if not full:
        return slot, full, number, top, top_number, nan
    older = at + 2 * slot
    found = float(top_number) if top >= memory[index(older)] else memory[index(older + 1)]
    return slot, full, number, top, top_number, float(number) - found


def fold_weighted_sum(
    slot: int, full: int, total: float, weighted: float, memory: Slots, at: int, n: int
) -> tuple[int, int, float, float]:
    """Turn a full block into (sum, sum weighted 1, 2, ...): of each value and those behind it."""
    if slot < n:
        return slot, full, total, weighted
    running = running_weighted = 0.0
    for i in range(at + 2 * n - 2, at - 1, -2):
        running += memory[index(i)]
        running_weighted += running  # each value behind weighs one more
        memory[index(i)] = running
        memory[index(i + 1)] = running_weighted
    return 0, 1, 0.0, 0.0


def weighted_sum(
    slot: int, full: int, total: float, weighted: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float, float, float]:
    """Return the sum of the last n values, weighted 1, 2, ..., n from the oldest to the newest, and their plain sum."""
    if isnan(x):
        return slot, full, total, weighted, nan, nan
    if slot == n:
        slot, full, total, weighted = fold_weighted_sum(slot, full, total, weighted, memory, at, n)
    memory[index(at + 2 * slot)] = x
    slot += 1
    total += x
    weighted += slot * x
    if slot == n:
        return slot, full, total, weighted, weighted, total
    if not full:
        return slot, full, total, weighted, nan, nan
    # The old block comes first: each value of the running block weighs n - slot more, its length.
    older, older_weighted = memory[index(at + 2 * slot)], memory[index(at + 2 * slot + 1)]
    return slot, full, total, weighted, older_weighted + (weighted + (n - slot) * total), older + total


def fold_variance(
    slot: int, full: int, mean: float, squares: float, memory: Slots, at: int, n: int
) -> tuple[int, int, float, float]:
    """Turn a full block into (mean, sum of squared deviations): of each value and those behind it."""
    if slot < n:
        return slot, full, mean, squares
    count = running = running_squares = 0.0
    for i in range(at + 2 * n - 2, at - 1, -2):
        x = memory[index(i)]
        count += 1.0
        off = x - running
        running += off * (1.0 / count)
        running_squares += off * (x - running)
        memory[index(i)] = running
        memory[index(i + 1)] = running_squares
    return 0, 1, 0.0, 0.0


def variance(
    slot: int, full: int, mean: float, squares: float, memory: Slots, at: int, x: float, n: int
) -> tuple[int, int, float, float, float]:
    """Return the population variance of the last n values.

    It takes no difference of large numbers: Welford's update within a block, Chan's formula to combine two blocks.
    B. P. Welford, Technometrics 4 (1962); T. F. Chan et al., COMPSTAT 1982.
    """
    if isnan(x):
        return slot, full, mean, squares, nan
    if slot == n:
        slot, full, mean, squares = fold_variance(slot, full, mean, squares, memory, at, n)
    memory[index(at + 2 * slot)] = x
    slot += 1
    off = x - mean
    mean += off * (1.0 / slot)  # cheaper than off / slot: this division need not wait for `off`
    squares += off * (x - mean)
    if slot == n:
        return slot, full, mean, squares, squares / n
    if not full:
        return slot, full, mean, squares, nan
    off = mean - memory[index(at + 2 * slot)]
    result = (memory[index(at + 2 * slot + 1)] + squares + off * off * (slot * (n - slot) * (1.0 / n))) / n
    return slot, full, mean, squares, result


def mean_deviation(
    slot: int, known: int, memory: Slots, at: int, x: float, mean: float, n: int
) -> tuple[int, int, float]:
    """Return the mean distance of the last n values from `mean`. It reads all of them.

    It takes four sums at once, because each addition to a sum waits for the one before.
    """
    if isnan(x):
        return slot, known, nan
    memory[index(at + slot)] = x
    slot = slot + 1 if slot < n - 1 else 0
    if known < n - 1:
        return slot, known + 1, nan
    a = b = c = d = 0.0
    rest = at + n - n % 4
    for i in range(at, rest, 4):
        a += abs(memory[index(i)] - mean)
        b += abs(memory[index(i + 1)] - mean)
        c += abs(memory[index(i + 2)] - mean)
        d += abs(memory[index(i + 3)] - mean)
    for i in range(rest, at + n):
        a += abs(memory[index(i)] - mean)
    return slot, known, ((a + b) + (c + d)) / n

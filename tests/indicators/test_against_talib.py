"""The indicators that TA-Lib has are equal to it.

Where they differ, an exact calculation must show that ours is right: TA-Lib's sliding sums lose digits after a huge
value, and it decides ties in its Parabolic SAR by the last bit.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cache
from typing import Any

import numpy as np
import pytest
from formulas import FORMULAS
from indicator_data import (
    EXCERPT,
    FILES,
    MISSING,
    Array,
    Bars,
    calculated_for_all,
    generated_bars,
    instance,
    is_real_data_there,
    random_values,
    random_walk,
    real_bars,
)
from talib_table import TALIB

from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.definition import Value

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def ta() -> Any:
    return pytest.importorskip("talib", reason="TA-Lib, which the indicators are compared with, is not installed")


@cache
def made_up() -> dict[str, Bars]:
    return generated_bars()


REAL = [
    pytest.param("excerpt"),
    pytest.param("all", marks=[pytest.mark.slow, pytest.mark.skipif(not is_real_data_there(), reason=MISSING)]),
]
"""The real bars that the repository contains, and all that may be on this machine."""


@cache
def real(source: str) -> dict[str, Bars]:
    return real_bars(FILES if source == "all" else EXCERPT)


def test_every_indicator_has_something_to_be_compared_with():
    outputs = {name: one.outputs for name, one in CATALOGUE.items()}
    in_talib = {name: {*outputs[name]} - {*one.lacking} for name, one in TALIB.items()}
    compared = in_talib | {name: {*outputs[name]} for name in FORMULAS}
    assert compared == {name: {*some} for name, some in outputs.items()}


@pytest.mark.parametrize("name", TALIB)
def test_made_up_series(ta, compiler, name):
    for values in ({}, *TALIB[name].others):
        compare(ta, compiler, name, values, made_up())


@pytest.mark.parametrize("name", TALIB)
def test_any_parameters(ta, compiler, name):
    random = np.random.default_rng(1)
    series = {str(seed): some_bars(seed) for seed in range(60)}
    for longest in (8, 20, 50, 8, 20, 50):
        values = random_values(CATALOGUE[name], random, longest=longest)
        if "volume_factor" in values:
            values["volume_factor"] = min(1.0, values["volume_factor"])  # as TA-Lib takes it
        compare(ta, compiler, name, values, series)


@pytest.mark.parametrize("source", REAL)
@pytest.mark.parametrize("name", TALIB)
def test_real_series(ta, compiler, name, source):
    for values in ({}, *TALIB[name].others):
        compare(ta, compiler, name, values, real(source))


def some_bars(seed: int) -> Bars:
    """Series full of ties, of flat stretches, and of bars without volume."""
    random = np.random.default_rng(seed)
    bars = int(random.integers(1, 200))
    tick = (0.0, 0.01, 0.25)[seed % 3]
    found = random_walk(seed, bars, price=(5, 1, 1e-4, 1e6)[seed % 4], step=(0.02, 0.002)[seed % 2], tick=tick)
    if seed % 5 == 0:
        repeated = np.where(np.arange(bars) // 10 % 3 == 0, np.arange(bars) // 10 * 10, np.arange(bars))
        found |= {name: found[name][repeated] for name in ("open", "high", "low", "close")}
    if seed % 2:
        found["volume"] = np.where(random.random(bars) < 0.3, 0.0, found["volume"])
    return found


def compare(ta: Any, compiler: Compiler, name: str, values: dict[str, Value], series: dict[str, Bars]) -> None:
    one = instance(name, **values)
    ours = calculated_for_all(compiler, one, series)
    outputs = [output for output in one.indicator.outputs if output not in TALIB[name].lacking]
    for label, bars in series.items():
        scale = TALIB[name].scale_of(bars)
        for output, theirs in zip(outputs, TALIB[name].call(ta, bars, **one.values), strict=True):
            mine, said = ours[label][output], f"{one.label} {output}, {label}"
            assert np.array_equal(np.isnan(mine), np.isnan(theirs)), f"nulls of {said}"
            wrong = differing(mine, theirs, scale)
            if len(wrong):
                at, got, expected = wrong[0], mine[wrong[0]], theirs[wrong[0]]
                assert name in EXACT, f"{said}: {len(wrong)}, the first at {at}: {got}, TA-Lib {expected}"
                exact = EXACT[name](bars, mine, **one.values)
                still = np.intersect1d(wrong, differing(mine, exact, scale))
                assert len(still) == 0, f"{said} at {still[0]}: {mine[still[0]]}, exactly {exact[still[0]]}"


def differing(a: Array, b: Array, scale: float) -> Any:
    """The places of different values."""
    return np.flatnonzero(np.abs(a - b) > TOLERANCE * np.maximum(np.abs(b), scale))


# Exactly ---------------------------------------------------------------------------------------


def windows(values: Array, size: int) -> Iterator[list[float]]:
    """Each value with those before it, as far as there are enough."""
    return (values[end - size : end].tolist() for end in range(size, len(values) + 1))


def exact_sums(values: Array, size: int) -> Array:
    """The sums of windows, rounded once. The first are null."""
    sums = [math.fsum(window) for window in windows(values, size)]
    return np.array([math.nan] * (len(values) - len(sums)) + sums)


def exact_mfi(bars: Bars, _: Array, period: int) -> Array:
    typical = (bars["high"] + bars["low"] + bars["close"]) / 3
    change = np.diff(typical, prepend=math.nan)
    money = typical * bars["volume"]
    rising = exact_sums(np.where(change > 0, money, 0)[1:], period)
    falling = exact_sums(np.where(change < 0, money, 0)[1:], period)
    return np.concatenate([[math.nan], 100 * rising / (rising + falling)])


def exact_ultimate(bars: Bars, _: Array, short: int, medium: int, long: int) -> Array:
    before = bars["close"][:-1]
    floor, ceiling = np.minimum(bars["low"][1:], before), np.maximum(bars["high"][1:], before)
    pressure, reach = bars["close"][1:] - floor, ceiling - floor
    shares = [exact_sums(pressure, n) / exact_sums(reach, n) for n in sorted((short, medium, long))]
    return np.concatenate([[math.nan], 100 * (4 * shares[0] + 2 * shares[1] + shares[2]) / 7])


def exact_kama(bars: Bars, _: Array, period: int) -> Array:
    close = bars["close"]
    value, found = float(close[period - 1]), [math.nan] * period
    for now in range(period, len(close)):
        changes = np.abs(np.diff(close[now - period : now + 1]))
        efficiency = abs(close[now] - close[now - period]) / math.fsum(changes)
        value += (efficiency * (2 / 3 - 2 / 31) + 2 / 31) ** 2 * (close[now] - value)
        found.append(value)
    return np.array(found)


def exact_volume_sma(bars: Bars, _: Array, period: int) -> Array:
    return exact_sums(bars["volume"], period) / period


def exact_cci(bars: Bars, _: Array, period: int) -> Array:
    """Without rounding: over two bars that nearly touch, TA-Lib's mean deviation keeps few digits."""
    columns = [[Fraction(price) for price in bars[name].tolist()] for name in ("high", "low", "close")]
    typical = [sum(prices) / 3 for prices in zip(*columns, strict=True)]
    found = [math.nan] * (period - 1)
    for now in range(period - 1, len(typical)):
        window = typical[now - period + 1 : now + 1]
        mean = sum(window) / period
        deviation = sum(abs(price - mean) for price in window) / period
        found.append(float((typical[now] - mean) / deviation / Fraction(15, 1000)) if deviation else 0.0)
    return np.array(found)


def exact_sar(bars: Bars, ours: Array, acceleration: float, maximum: float) -> Array:
    """Without rounding. Where the bar just touches the stop, either answer is right, and ours is taken."""
    high, low = ([Fraction(price) for price in bars[name].tolist()] for name in ("high", "low"))
    down, up = low[0] - low[1], high[1] - high[0]
    long = not (down > 0 and down > up)
    stop, extreme, factor = (low[0], high[1], acceleration) if long else (high[0], low[1], acceleration)
    found = [math.nan]
    for now in range(1, len(high)):
        before = max(now - 1, 1)
        recent = max(high[before], high[now]) if long else min(low[before], low[now])
        touched = low[now] - stop if long else stop - high[now]
        turned = max(extreme, recent) if long else min(extreme, recent)
        if abs(touched) <= stop * Fraction(1e-14):
            turns = abs(turned - ours[now].item()) < abs(stop - ours[now].item())
        else:
            turns = touched <= 0
        if turns:
            long, factor, extreme = not long, acceleration, high[now] if not long else low[now]
            found.append(float(turned))
            stop = turned
        else:
            found.append(float(stop))
            further = max(extreme, high[now]) if long else min(extreme, low[now])
            if further != extreme:
                factor, extreme = min(factor + acceleration, maximum), further
        stop += Fraction(factor) * (extreme - stop)
        stop = min(stop, low[before], low[now]) if long else max(stop, high[before], high[now])
    return np.array(found)


EXACT: dict[str, Callable[..., Array]] = {
    "mfi": exact_mfi,
    "ultimate": exact_ultimate,
    "kama": exact_kama,
    "volume_sma": exact_volume_sma,
    "cci": exact_cci,
    "sar": exact_sar,
}


@pytest.mark.parametrize("name", EXACT)
def test_what_is_said_to_be_exact_is_the_indicator(ta, name):
    bars = made_up()["walk"]
    one = instance(name)
    (theirs,) = TALIB[name].call(ta, bars, **one.values)
    exact = EXACT[name](bars, theirs, **one.values)
    assert np.array_equal(np.isnan(exact), np.isnan(theirs))
    assert len(differing(exact, theirs, TALIB[name].scale_of(bars))) == 0

"""Indicators that TA-Lib does not have equal their published formulas, and many others equal another library."""

import math
from fractions import Fraction
from functools import cache

import numpy as np
import polars as pl
import pytest
from formulas import FORMULAS
from indicator_data import (
    EXCERPT,
    FILES,
    MISSING,
    OURS,
    Array,
    Bars,
    bars_of,
    calculated,
    calculated_for_all,
    generated_bars,
    instance,
    is_real_data_there,
    nulls_first,
    random_values,
    random_walk,
    real_bars,
)

from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.definition import Value

TOLERANCE = 1e-9
UNITLESS = {"tsi", "historical_volatility", "ulcer"}
OF_ONE = {"cmf", "bb_percent", "bb_width", "supertrend_direction"}
GOLDEN = pl.read_parquet(OURS / "golden_indicators.parquet")
"""Daily bars, and the results of the other library as columns `file.field`."""


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
    # The formulas are slow, and say nothing new about a third thousand of bars.
    found = real_bars(FILES if source == "all" else EXCERPT)
    return {label: {name: one[-1500:] for name, one in bars.items()} for label, bars in found.items()}


def scale_of(name: str, output: str, bars: Bars) -> float:
    """The unit of differences."""
    if name in UNITLESS:
        return 100
    if output in OF_ONE:
        return 1
    price = float(bars["close"].max())
    return price * float(bars["volume"].max()) if name == "force_index" else price


def compare(compiler: Compiler, name: str, values: dict[str, Value], series: dict[str, Bars]) -> None:
    one = instance(name, **values)
    ours = calculated_for_all(compiler, one, series)
    for label, bars in series.items():
        for output, theirs in zip(one.indicator.outputs, FORMULAS[name](bars, **one.values), strict=True):
            mine, said = ours[label][output], f"{one.label} {output}, {label}"
            assert np.array_equal(np.isnan(mine), np.isnan(theirs)), f"nulls of {said}"
            limit = TOLERANCE * np.maximum(np.abs(theirs), scale_of(name, output, bars))
            wrong = np.flatnonzero(np.abs(mine - theirs) > limit)
            assert len(wrong) == 0, f"{said}: {len(wrong)}, {mine[wrong[0]]} is not {theirs[wrong[0]]} at {wrong[0]}"


@pytest.mark.parametrize("name", FORMULAS)
def test_made_up_series(compiler, name):
    compare(compiler, name, {}, made_up())


@pytest.mark.parametrize("name", FORMULAS)
def test_any_parameters(compiler, name):
    random = np.random.default_rng(1)
    series = {label: made_up()[label] for label in ("walk", "ticks", "flat without volume", "15 bars", "one price")}
    series = {label: {field: one[:300] for field, one in bars.items()} for label, bars in series.items()}
    for longest in (6, 10, 20, 60, 120):
        compare(compiler, name, random_values(CATALOGUE[name], random, longest=longest), series)


@pytest.mark.parametrize("multiplier", [0.5, 1.0, 2.0, 3.0])
def test_supertrend_where_the_close_is_just_at_the_band(compiler, multiplier):
    # True ranges of one bar and whole numbers are exact: what touches the band does so in both.
    series = {label: made_up()[label] for label in ("whole numbers", "to and fro", "up", "down")}
    compare(compiler, "supertrend", {"period": 1, "multiplier": multiplier}, series)


@pytest.mark.parametrize("source", REAL)
@pytest.mark.parametrize("name", FORMULAS)
def test_real_series(compiler, name, source):
    compare(compiler, name, {}, real(source))


def test_deviation_of_high_prices_that_hardly_move_is_right_to_their_last_bit(compiler):
    bars = random_walk(1, 300, price=1e6, step=1e-8)
    found = calculated(compiler, instance("stddev", period=20), bars)["stddev"]
    for now in range(19, 300):
        window = [Fraction(price) for price in bars["close"][now - 19 : now + 1].tolist()]
        mean = sum(window) / 20
        exact = math.sqrt(sum((one - mean) ** 2 for one in window) / 20)
        assert abs(found[now] - exact) <= math.ulp(1e6)


def test_sums_forget_what_has_left_them(compiler):
    bars = random_walk(1, 400)
    bars["volume"][50] = 1e17
    found = calculated(compiler, instance("volume_sma", period=20), bars)["volume_sma"]
    assert [value * 20 for value in found[70:]] == [math.fsum(bars["volume"][i - 19 : i + 1]) for i in range(70, 400)]


# Another library -------------------------------------------------------------------------------

# Its names, for each of ours; and from which bar on it is equal, where its seeds are others than TA-Lib's:
# - ADX: it begins Wilder's sums with n true ranges and moves, TA-Lib with n - 1.
# - MACD: its fast EMA begins with bars 0 to 11, TA-Lib's with bars 14 to 25; and its line begins before the signal.
PUBLISHED: dict[str, tuple[str, dict[str, Value], dict[str, str], int]] = {
    "sma": ("sma", {}, {"sma": "sma"}, 0),
    "ema": ("ema", {}, {"ema": "ema"}, 0),
    "macd": ("macd", {}, {"macd": "macd", "macd_signal": "signal", "macd_histogram": "histogram"}, 200),
    "adx": ("adx", {}, {"adx": "adx", "plus_di": "pdi", "minus_di": "mdi"}, 400),
    "rsi": ("rsi", {}, {"rsi": "rsi"}, 0),
    "stoch": ("stoch", {"k": 14}, {"stoch_k": "oscillator", "stoch_d": "signal"}, 0),
    "bollinger": (
        "bb",
        {},
        {
            "bb_upper": "upperBand",
            "bb_middle": "sma",
            "bb_lower": "lowerBand",
            "bb_percent": "percentB",
            "bb_width": "width",
        },
        0,
    ),
    "atr": ("atr", {}, {"atr": "atr"}, 0),
    "natr": ("atr", {}, {"natr": "atrp"}, 0),
    "trange": ("atr", {}, {"true_range": "tr"}, 0),
}


def quotes() -> Bars:
    return bars_of(*(GOLDEN[name].to_numpy() for name in ("close", "high", "low", "volume")))


def published(file: str, field: str) -> Array:
    return GOLDEN[f"{file}.{field}"].fill_null(math.nan).to_numpy()


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_results(compiler, name):
    file, values, fields, settled = PUBLISHED[name]
    ours = calculated(compiler, instance(name, **values), quotes())
    for output, field in fields.items():
        theirs = published(file, field)
        # TA-Lib gives the lines of MACD and stochastic from where their signal is known.
        late = {"macd": "signal", "stoch_k": "signal"}.get(output, field)
        assert nulls_first(ours[output]) == nulls_first(published(file, late)), output
        start = max(settled, nulls_first(ours[output]))
        assert np.allclose(ours[output][start:], theirs[start:], rtol=1e-9, atol=1e-9), output


def test_published_on_balance_volume_begins_with_zero_instead_of_the_first_volume(compiler):
    bars = quotes()
    ours = calculated(compiler, instance("obv"), bars)["obv"]
    assert np.array_equal(ours - bars["volume"][0], published("obv", "obv"))


def test_all_that_is_published_is_compared():
    assert {name.partition(".")[0] for name in GOLDEN.columns if "." in name} == {
        file for file, *_ in PUBLISHED.values()
    } | {"obv"}

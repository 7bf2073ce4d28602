"""Bars to calculate indicators on, real and made up, and the way from bars to values."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.definition import Indicator, Value
from stockpulse.indicators.evaluation import Bundle, Functions, Instance

Array = npt.NDArray[np.float64]
Bars = dict[str, Array]

FOLDER = Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
MISSING = f"the data that may not be passed on is not in {FOLDER} (STOCKPULSE_REAL_DATA names its folder)"
FILES = {name: FOLDER / f"{name}.parquet" for name in ("daily", "bars_1m", "bars_1m_av2019")}
OURS = Path(__file__).parents[1] / "data"
"""Excerpts with a licence that lets us pass them on; the README there names it."""
EXCERPT = {"bars_1m_eqker": OURS / "bars_1m_eqker.parquet"}


def is_real_data_there() -> bool:
    """Return True if the data that may not be passed on is on this machine."""
    return all(file.exists() for file in FILES.values())


def bars_of(
    close: npt.ArrayLike,
    high: npt.ArrayLike | None = None,
    low: npt.ArrayLike | None = None,
    volume: npt.ArrayLike | None = None,
    session: npt.ArrayLike | None = None,
) -> Bars:
    """Return bars. By default all prices are the close, the volume is 1000, and a session has 30 bars, all regular."""
    closes = np.array(close, np.float64)
    others = {
        "high": closes if high is None else high,
        "low": closes if low is None else low,
        "volume": np.full(len(closes), 1000.0) if volume is None else volume,
        "session": np.arange(len(closes)) // 30 + 1.0 if session is None else session,
        "regular": np.ones(len(closes)),
        "bars_per_year": np.full(len(closes), 252.0),
    }
    return {"open": closes, "close": closes} | {name: np.array(one, np.float64) for name, one in others.items()}


def real_bars(files: Mapping[str, Path]) -> dict[str, Bars]:
    """Return the series of these files, by file and symbol."""
    found = {}
    for name, file in files.items():
        frame = pl.read_parquet(file)
        day = pl.col("date") if "date" in frame.columns else pl.col("ts").dt.convert_time_zone("America/New_York")
        session = day.cast(pl.Date).to_physical().cast(pl.Float64)
        frame = frame.with_columns(session=session, regular=pl.lit(1.0), bars_per_year=pl.lit(252.0))
        for (symbol,), rows in frame.group_by("symbol", maintain_order=True):
            found[f"{name} {symbol}"] = {field: rows[field].to_numpy() for field in INPUTS}
    return found


def random_walk(seed: int, bars: int, *, price: float = 100.0, step: float = 0.01, tick: float = 0.0) -> Bars:
    """A walk of closes with the highs and lows around them; rounded to ticks if there are any."""
    random = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(random.normal(0, step, bars)))
    open_ = np.concatenate([[price], close[:-1]])[:bars]
    high = np.maximum(open_, close) * (1 + np.abs(random.normal(0, step / 2, bars)))
    low = np.minimum(open_, close) * (1 - np.abs(random.normal(0, step / 2, bars)))
    if tick:
        close, high, low = (np.maximum(np.round(one / tick), 1) * tick for one in (close, high, low))
        high, low = np.maximum(high, close), np.minimum(low, close)
    return bars_of(close, high, low, random.integers(1, 100_000, bars))


def _with_gaps(bars: Bars, seed: int) -> Bars:
    """From time to time everything jumps by up to a third."""
    random = np.random.default_rng(seed)
    count = len(bars["close"])
    jumps = np.exp(np.cumsum(np.where(random.random(count) < 0.03, random.uniform(-0.3, 0.3, count), 0)))
    return bars | {name: bars[name] * jumps for name in ("open", "high", "low", "close")}


def _flat(bars: Bars, first: int, last: int) -> Bars:
    """The same price for a while."""
    bars = {name: one.copy() for name, one in bars.items()}
    for name in ("open", "high", "low", "close"):
        bars[name][first:last] = bars["close"][first]
    return bars


def _within(bars: Bars, first: int, last: int) -> Bars:
    """The same range again and again: movement, but in no direction."""
    bars = _flat(bars, first, last)
    bars["high"][first:last] *= 1.01
    bars["low"][first:last] *= 0.99
    return bars


def _whole_numbers(seed: int, bars: int) -> Bars:
    """Prices of a few dollars without cents: full of ties."""
    random = np.random.default_rng(seed)
    low, reach = random.integers(1, 5, bars), random.integers(0, 3, (2, bars))
    return bars_of(low + reach[0], low + reach.sum(axis=0), low, random.integers(0, 3, bars) * 100)


def _with_one(bars: Bars, at: int, **values: float) -> Bars:
    """One bar is far out of line."""
    bars = {name: one.copy() for name, one in bars.items()}
    for name, value in values.items():
        bars[name][at] = value
    return bars


def _silent(bars: Bars, first: int, last: int) -> Bars:
    """No volume for a while."""
    bars = {name: one.copy() for name, one in bars.items()}
    bars["volume"][first:last] = 0
    return bars


def generated_bars() -> dict[str, Bars]:
    """Generated series: cases that are rare in real data, without any folder."""
    walk = random_walk(1, 700)
    ticks = random_walk(2, 700, price=20, step=0.001, tick=0.01)
    return {
        "walk": walk,
        "ticks": ticks,
        "wild": random_walk(3, 700, step=0.1),
        "gaps": _with_gaps(random_walk(4, 700), 5),
        "flat in the middle": _flat(walk, 200, 420),
        "flat at first": _flat(ticks, 0, 300),
        "flat again and again": _flat(_flat(_flat(ticks, 50, 60), 100, 140), 300, 500),
        "no volume in the middle": _silent(walk, 150, 400),
        "no volume at first": _silent(ticks, 0, 250),
        "flat without volume": _silent(_flat(walk, 200, 420), 180, 450),
        "no volume at all": _silent(walk, 0, 700),
        "flat for long": _flat(random_walk(10, 1300), 300, 1200),
        "no way for long": _within(random_walk(10, 1300), 300, 1200),
        "whole numbers": _whole_numbers(11, 300),
        "a volume out of line": _with_one(walk, 100, volume=1e15),
        "a price out of line": _with_one(random_walk(9, 400), 100, open=1e5, high=1e5, low=1e5, close=1e5),
        "one price": bars_of(np.full(300, 12.34)),
        "one price, no volume": bars_of(np.full(300, 0.1), volume=np.zeros(300)),
        "up": bars_of(np.arange(1, 301) / 4, np.arange(1, 301) / 4 + 0.25, np.arange(1, 301) / 4 - 0.25),
        "down": bars_of(np.arange(301, 1, -1) / 4, np.arange(301, 1, -1) / 4 + 1, np.arange(301, 1, -1) / 4 - 0.25),
        "to and fro": bars_of(10 + np.arange(300) % 2),
        "tiny": random_walk(6, 700, price=1e-6),
        "huge": random_walk(7, 700, price=1e9),
        **{f"{count} bars": random_walk(8 + count, count) for count in (1, 2, 3, 5, 15, 30)},
    }


def together(series: Mapping[str, Bars]) -> tuple[Bars, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """All series in one, and where each begins and ends."""
    sizes = np.array([len(bars["close"]) for bars in series.values()], np.int64)
    last = np.cumsum(sizes)
    joined = {name: np.concatenate([bars[name] for bars in series.values()]) for name in INPUTS}
    return joined, last - sizes, last


def instance(name: str, **values: Value) -> Instance:
    return Instance(CATALOGUE[name], values)


def calculated(functions: Functions, one: Instance, bars: Bars) -> dict[str, Array]:
    """The values of an indicator on the bars of one symbol, by the names of its outputs."""
    return calculated_for_all(functions, one, {"": bars})[""]


def calculated_for_all(functions: Functions, one: Instance, series: Mapping[str, Bars]) -> dict[str, dict[str, Array]]:
    """The same for several symbols, in one calculation."""
    bundle = Bundle([one])
    bars, first, last = together(series)
    out = bundle.calculate(functions, bundle.fresh(len(first)), np.arange(len(first)), first, last, bars)
    return {
        name: dict(zip(one.indicator.outputs, out[:, a:b], strict=True))
        for name, a, b in zip(series, first, last, strict=True)
    }


def random_values(indicator: Indicator, random: np.random.Generator, *, longest: int = 40) -> dict[str, Value]:
    """Parameters within their bounds, not too long; periods differ from each other, the quick one comes first."""
    whole = [one for one in indicator.parameters if one.is_integer]
    least = max((int(one.minimum) for one in whole), default=0)
    periods = [int(n) for n in random.choice(np.arange(least, longest + 1), len(whole), replace=False)]
    values: dict[str, Value] = dict(zip((one.name for one in whole), periods, strict=True))
    if values.get("fast", 0) > values.get("slow", 0):
        values["fast"], values["slow"] = values["slow"], values["fast"]
    for one in indicator.parameters:
        if one.is_flag:
            values[one.name] = bool(random.integers(2))
        elif not one.is_integer:
            values[one.name] = (one.default or 1000.0) * random.uniform(0.3, 3)
    return values


def nulls_first(values: Sequence[float] | Array) -> int:
    """The number of nulls before the first value; the length if all are null."""
    known = np.flatnonzero(~np.isnan(values))
    return int(known[0]) if len(known) else len(values)

"""Indicators: the close of one bar of many symbols, ten years of daily bars of many symbols, and the first start.

Compared in the same run with TA-Lib for the indicators that it has, called for each symbol: over windows of 250 bars
for a close; over the whole history for the batch, with one process for each core.

    python tests/bench/indicators.py [--symbols 10000] [--rounds 7] [--batch-symbols 500] [--batch-bars 2520]
        [--cache FOLDER] [--starts]
"""

import argparse
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "indicators"))

import httpx2
import numpy as np
import talib
from indicator_data import Bars, random_walk, together
from talib_table import TALIB

from bench import AppProcess, report
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.indicator_track import Track, TrackSpec
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import M5

WINDOW = 250
PART = 8  # symbols at a time: about the number of bars of a catch-up in the app
ALL = [Instance(one) for one in CATALOGUE.values()]
IN_TALIB = [Instance(CATALOGUE[name]) for name in TALIB]


def best(rounds: int, work: Callable[[], object]) -> list[float]:
    """Return the milliseconds of each round, the quickest first."""
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return sorted(round(1000 * one, 2) for one in seconds)


def in_talib(series: list[Bars]) -> None:
    """Calculate the indicators of TA-Lib for one symbol after another; keep the values of a few symbols at a time."""
    for at in range(0, len(series), PART):
        kept = [
            TALIB[one.indicator.name].call(talib, bars, **one.values)
            for bars in series[at : at + PART]
            for one in IN_TALIB
        ]
        assert len(kept) >= len(IN_TALIB)


def bar_close(compiler: Compiler, symbols: int, rounds: int) -> dict[str, object]:
    """Close one bar of every symbol, through the track of the engine: state, values and revisions included."""
    walks = [random_walk(seed, WINDOW + rounds + 3) for seed in range(200)]
    stack = {name: np.stack([walk[name] for walk in walks]) for name in walks[0]}
    number = np.arange(symbols) % len(walks)

    def closed(at: int) -> np.ndarray:
        rows = np.zeros(symbols, BAR)
        rows["symbol_id"] = np.arange(1, symbols + 1)
        rows["ts"] = (at + 1) * M5.micros
        for name in ("open", "high", "low", "close"):
            rows[name] = stack[name][number, at]
        rows["volume_units"] = stack["volume"][number, at]
        return rows

    calendar = trading_calendar("XNYS")
    track = Track(TrackSpec("bench", M5, Bundle(ALL), "all"), lambda ids: [(calendar, np.arange(len(ids)))])
    track.functions = compiler
    for at in range(WINDOW):
        track.apply(closed(at))
    track.take_changes()
    closes = [closed(WINDOW + at) for at in range(rounds + 1)]
    track.apply(closes.pop(0))
    ours = best(rounds, lambda: track.apply(closes.pop(0)))
    some = [{name: one[:WINDOW].copy() for name, one in walk.items()} for walk in walks]
    peer = best(3, lambda: in_talib(some))
    whole = peer[0] * symbols / len(some)
    return {
        "symbols": symbols,
        "indicators": len(ALL),
        "ms": ours,
        "talib_indicators": len(IN_TALIB),
        "talib_ms": round(whole, 1),
        "times_talib": round(whole / ours[len(ours) // 2], 1),
    }


def batch(compiler: Compiler, rounds: int, symbols: int, bars_of_each: int) -> dict[str, object]:
    """Calculate all indicators of daily bars of many symbols, from the first bar on."""
    series = {str(seed): random_walk(seed, bars_of_each) for seed in range(symbols)}
    names = list(series)
    parts_of_ours = [together({name: series[name] for name in names[at : at + PART]}) for at in range(0, symbols, PART)]

    def ours(instances: list[Instance]) -> Callable[[], object]:
        bundle = Bundle(instances)

        def run() -> None:
            for bars, first, last in parts_of_ours:
                bundle.calculate(compiler, bundle.fresh(len(first)), np.arange(len(first)), first, last, bars)

        return run

    for instances in (IN_TALIB, ALL):
        ours(instances)()  # loads the loops
    cores = multiprocessing.cpu_count()
    parts = [list(series.values())[core::cores] for core in range(cores)]
    with multiprocessing.get_context("fork").Pool(cores) as pool:
        pool.map(in_talib, [part[:1] for part in parts])
        sent = best(3, lambda: pool.map(len, parts))[0]  # the time to hand the bars over is not TA-Lib's
        common, whole, peer = [], [], []
        for _ in range(rounds):
            common += best(1, ours(IN_TALIB))
            whole += best(1, ours(ALL))
            peer += [best(1, lambda: pool.map(in_talib, parts))[0] - sent]
    middle = rounds // 2
    return {
        "symbols": symbols,
        "bars": bars_of_each,
        "cores": cores,
        "common_indicators": len(IN_TALIB),
        "common_ms": sorted(common),
        "talib_ms": sorted(round(one, 1) for one in peer),
        "share_of_talib": round(sorted(common)[middle] / sorted(peer)[middle], 2),
        "whole_catalogue": len(ALL),
        "whole_ms": sorted(whole),
    }


def starts() -> dict[str, object]:
    """Start the app without a cache and with one; measure until it is ready and until its indicators are compiled."""
    figures: dict[str, object] = {}
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as folder:
        for name in ("first", "second"):
            app = AppProcess(Path(folder) / "data", cache_dir=f"{folder}/cache", provider="simulated")
            began = time.perf_counter()
            with app:
                ready = time.perf_counter() - began
                while not httpx2.get(f"{app.url}/health").json()["analytics"]["compiled"]:
                    time.sleep(0.05)
                compiled = time.perf_counter() - began
                while httpx2.get(f"{app.url}/health").json()["analytics"]["behind"]:
                    time.sleep(0.05)
                figures[f"{name}_start"] = {
                    "ready_s": round(ready, 2),
                    "compiled_s": round(compiled, 2),
                    "analytics_complete_s": round(time.perf_counter() - began, 2),
                }
    return figures


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch-symbols", type=int, default=500)
    parser.add_argument("--batch-bars", type=int, default=2520)
    parser.add_argument("--cache", type=Path, help="folder of compiled indicators; without it they are compiled anew")
    parser.add_argument("--starts", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sp-bench-") as cache:
        loops = Compiler((arguments.cache or Path(cache)) / "loops")
        results = {
            "bar_close": bar_close(loops, arguments.symbols, arguments.rounds),
            "batch": batch(loops, arguments.rounds, arguments.batch_symbols, arguments.batch_bars),
        }
    report("indicators", **results, **(starts() if arguments.starts else {}))

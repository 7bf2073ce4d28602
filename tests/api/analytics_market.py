"""A small market that is sent over HTTP, and what its indicators must be: one calculation over the bars of /data."""

import asyncio
import time
from datetime import UTC, datetime, timedelta
from datetime import time as time_of_day

import numpy as np
import orjson
import polars as pl

from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.compiler import Compiler
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.indicators.stored import STORED_INDICATORS

FIRST_DAY = datetime(2025, 6, 1, tzinfo=UTC)
DAYS = 130
MINUTE = timedelta(minutes=1)
BARS_PER_YEAR = {"1m": 365.0 * 1440, "5m": 365.0 * 288, "1d": 365.0}
"""The values of a symbol that always trades."""
NEW_YORK_HOURS = time_of_day(9, 30), time_of_day(16)


def tick(symbol, ts, price, size=1.0):
    return {"symbol": symbol, "ts": ts.isoformat(), "price": price, "size": size}


def walk(symbol="BTC/USD", *, seed=1, days=DAYS):
    """Days with bars of 5 minutes at 0, 7, 14 and 21 o'clock, three trades in each; a day has a range too."""
    random = np.random.default_rng(seed)
    starts = [FIRST_DAY + timedelta(days=day, hours=hour) for day in range(days) for hour in (0, 7, 14, 21)]
    times = [start + timedelta(seconds=20 * i) for start in starts for i in range(3)]
    prices = np.round(100 * np.exp(np.cumsum(random.normal(0, 0.01, len(times)))), 2)
    sizes = random.integers(1, 1000, len(times)) / 8
    return [tick(symbol, *one) for one in zip(times, prices.tolist(), sizes.tolist(), strict=True)]


async def send(client, rows, *, provider="tape", **params):
    """POST of a recording, and a wait until it is in bars."""
    answer = await client.post(
        "/ticks",
        params={"clock": "event", "provider": provider, **params},
        content=orjson.dumps(rows),
        headers={"Content-Type": "application/json"},
    )
    assert answer.json() == {"accepted": len(rows), "duplicates": 0, "rejected": []}
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)


async def get(client, path, **params):
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def frame(client, path, **params):
    answer = await client.get(path, params={"format": "arrow", **params})
    assert answer.status_code == 200, answer.text
    return pl.read_ipc_stream(answer.content)


async def until(check, seconds=20):
    """Wait for a coroutine function to give something, neither None nor False, and return it."""
    deadline = time.monotonic() + seconds
    while (found := await check()) is None or found is False:
        assert time.monotonic() < deadline, f"{check.__name__}: not in {seconds} s"
        await asyncio.sleep(0.05)
    return found


async def settled(client, *symbols):
    """Wait until the indicators of all closed bars of these symbols are stored."""

    async def stored():
        health = (await client.get("/health")).json()
        if not health["analytics"]["compiled"] or health["analytics"]["behind"] or health["tasks"]["flush"]["lag"]:
            return False
        for symbol in symbols:
            for path, interval in (("intraday", "5m"), ("daily", "1d")):
                bars = (await frame(client, f"/data/{symbol}", interval=interval)).filter("final")
                rows = await frame(client, f"/analytics/{path}/{symbol}", start=0)
                if rows["ts"].to_list() != bars["ts"].to_list():
                    return False
        return True

    await until(stored, 60)


def stored_instances():
    return [Instance(one) for one in CATALOGUE.values() if set(one.outputs) <= set(STORED_INDICATORS)]


def calculated(cache_dir, instances, bars, *, zone="UTC"):
    """One calculation over these served bars from the first on: an array for each output. Null is NaN."""
    columns = {name: bars[name].fill_null(0).to_numpy().copy() for name in INPUTS[:5]}
    local = bars["ts"].dt.convert_time_zone(zone)
    columns["session"] = local.dt.date().to_physical().cast(pl.Float64).to_numpy().copy()
    in_session = (local.dt.time() >= NEW_YORK_HOURS[0]) & (local.dt.time() < NEW_YORK_HOURS[1])
    columns["regular"] = in_session.cast(pl.Float64).to_numpy().copy() if zone != "UTC" else np.ones(bars.height)
    columns["bars_per_year"] = np.full(bars.height, BARS_PER_YEAR.get(bars["interval"][0], 1.0))
    bundle = Bundle(instances)
    first, last = np.zeros(1, np.int64), np.array([bars.height])
    return bundle.calculate(Compiler(cache_dir / "loops"), bundle.fresh(1), np.zeros(1, np.int64), first, last, columns)


def same(frame, names, values):
    """Return True if these columns of a frame equal these arrays, bit for bit."""
    for name, expected in zip(names, values, strict=True):
        assert frame[name].is_null().to_numpy().tolist() == np.isnan(expected).tolist(), name
        found = frame[name].fill_null(np.nan).to_numpy()
        assert np.array_equal(found, expected, equal_nan=True), name

"""Measures a backfill of Alpaca's history: requests, kills and restarts, and the delay of live trades meanwhile.

The server is a fake of Alpaca on loopback, in a process of its own, with Alpaca's pages of 10,000 bars and its limit of
requests per minute. Its minutes are shorter (`--hurry`), so that the benchmark ends. The app loads daily and 5-minute
bars of `--symbols` symbols, and is killed at random moments and started again. Live trades come over the stream of the
same provider; their delay is the time from the fake until /ticks/latest shows them. `again` counts bars that were in
the log twice: at most the last bar of the page before a kill may be.

    python tests/bench/backfill.py [--symbols 500] [--years 10] [--days-5m 548] [--kills 10] [--hurry 60]
"""

from bench import quantiles, report  # isort: skip - it finds the modules of the tests

import argparse
import asyncio
import base64
import bisect
import contextlib
import itertools
import multiprocessing
import random
import sys
import time
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from math import ceil
from multiprocessing.connection import Connection

import asyncpg
import numpy as np
import orjson
import uvloop
from starlette.responses import Response

from crash.crash_harness import App, data_folder
from providers.fakes.alpaca import FakeAlpaca, error
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M5
from stockpulse.market.times import from_micros, micros
from stockpulse.pipeline.backfill.expected import expected_bars

PAGE = 10_000
LIVE = 20
LIVE_PAUSE_SECONDS = 0.1
PER_MINUTE = 200
READY_SECONDS = 300
INTERVALS = {"1Day": D1, "5Min": M5}
CALENDAR = trading_calendar("XNYS")


def names_of(symbols: int) -> list[str]:
    """Return names as Alpaca takes them: letters."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return ["S" + "".join(one) for one in itertools.islice(itertools.product(letters, repeat=3), symbols)]


class Vendor(FakeAlpaca):
    """A fake with a bar of each bucket of every session, made as it is asked for, and a limit of requests."""

    def __init__(self, per_minute: int, minute_seconds: float) -> None:
        super().__init__()
        self.pages: dict[str, int] = dict.fromkeys(INTERVALS, 0)
        self.refused = 0
        self._rows: dict[str, tuple[list[int], list[bytes]]] = {}
        self._limit, self._minute = per_minute, minute_seconds
        self._asked: deque[float] = deque()

    def _routed(self, path: str, params: dict[str, str]) -> Response:
        now = time.monotonic()
        while self._asked and self._asked[0] < now - self._minute:
            self._asked.popleft()
        if len(self._asked) >= self._limit:
            self.refused += 1
            return error(429, "too many requests.")
        self._asked.append(now)
        self.switches.remaining = self._limit - len(self._asked)
        if path == "/v2/stocks/bars" and params["timeframe"] in INTERVALS:
            self.pages[params["timeframe"]] += 1
            return self._bars_of(params)
        return super()._routed(path, params)

    def _bars_of(self, params: dict[str, str]) -> Response:
        times, rows = self._all(params["timeframe"])
        first, last = (micros(datetime.fromisoformat(params[name][:26] + "+00:00")) for name in ("start", "end"))
        begin, end = bisect.bisect_left(times, first), bisect.bisect_right(times, last)
        symbols = params["symbols"].split(",")
        symbol, at = 0, begin
        if token := params.get("page_token"):
            symbol, at = orjson.loads(base64.b64decode(token))
        parts, left = [], PAGE
        while left and symbol < len(symbols):
            some = rows[at : min(end, at + left)]
            if some:
                parts.append(b'"%s":[%s]' % (symbols[symbol].encode(), b",".join(some)))
            left, at = left - len(some), at + len(some)
            if at >= end:
                symbol, at = symbol + 1, begin
        more = symbol < len(symbols) and begin < end
        following = orjson.dumps(base64.b64encode(orjson.dumps([symbol, at])).decode() if more else None)
        body = b'{"bars":{%s},"next_page_token":%s}' % (b",".join(parts), following)
        return Response(body, media_type="application/json")

    def _all(self, timeframe: str) -> tuple[list[int], list[bytes]]:
        """Return the times of all bars, and the bars as JSON; they are the same for all symbols."""
        if timeframe not in self._rows:
            now = datetime.now(UTC)
            span = (micros(now - timedelta(days=4100)), micros(now))
            times = expected_bars(CALENDAR, INTERVALS[timeframe], *span).starts.tolist()
            walk = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.001, len(times))))
            self._rows[timeframe] = times, [_row(ts, price) for ts, price in zip(times, walk.tolist(), strict=True)]
        return self._rows[timeframe]


def _row(ts: int, price: float) -> bytes:
    low, high = round(price * 0.999, 2), round(price * 1.001, 2)
    row = {"t": f"{from_micros(ts):%Y-%m-%dT%H:%M:%SZ}", "o": low, "h": high, "l": low, "c": high}
    return orjson.dumps(row | {"v": 1000, "n": 10, "vw": round(price, 4)})


def serve(pipe: Connection, live: list[str], per_minute: int, minute_seconds: float) -> None:
    """Run the fake, and send its options and the time of each live trade over the pipe; answer with its counts."""

    async def run() -> None:
        async with Vendor(per_minute, minute_seconds) as vendor:
            for timeframe in INTERVALS:
                vendor._all(timeframe)
            await asyncio.to_thread(pipe.send, vendor.options)
            publishing = asyncio.create_task(_publish(vendor, live, pipe))
            while await asyncio.to_thread(pipe.recv) != "end":
                pipe.send(("counts", dict(vendor.pages), vendor.refused))
            publishing.cancel()

    asyncio.run(run())


async def _publish(vendor: Vendor, live: list[str], pipe: Connection) -> None:
    """Send a trade of each live symbol, ten times a second; the size of the first one's is a number."""
    for number in itertools.count(1):
        now = datetime.now(UTC)
        trade = {"x": "V", "p": 100.0, "s": number, "c": ["@"], "z": "C", "t": f"{now:%Y-%m-%dT%H:%M:%S.%fZ}"}
        await vendor.publish({"T": "t", "S": one, "i": number, **trade} for one in live)
        pipe.send(("sent", number, time.time()))
        await asyncio.sleep(LIVE_PAUSE_SECONDS)


class Fake:
    """The fake in its own process."""

    def __init__(self, live: list[str], hurry: float) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=serve, args=(theirs, live, PER_MINUTE, 60 / hurry), daemon=True)
        self._process.start()
        self.options: dict[str, str] = self._pipe.recv()
        self.sent: dict[int, float] = {}
        self._counts: deque[tuple[dict[str, int], int]] = deque()

    def read(self) -> None:
        """Take what the fake has sent."""
        while self._pipe.poll():
            kind, *values = self._pipe.recv()
            if kind == "sent":
                self.sent[values[0]] = values[1]
            else:
                self._counts.append((values[0], values[1]))

    async def counts(self) -> tuple[dict[str, int], int]:
        """Return the pages of bars that were asked for, and the number of refused requests."""
        self._pipe.send("counts")
        while not self._counts:
            await asyncio.sleep(0.005)
            self.read()
        return self._counts.popleft()

    def end(self) -> None:
        """End the process."""
        self._pipe.send("end")
        self._process.terminate()


async def watch(app: App, fake: Fake, symbol: str, into: list[float]) -> None:
    """Note the delay of each trade of a symbol until /ticks/latest shows it."""
    seen = 0
    while True:
        if app.ready.is_set():
            with contextlib.suppress(Exception):  # the app may be killed at any moment
                status, body = await app.get(f"/ticks/latest?symbol={symbol}&limit=1")
                now = time.time()
                ticks = body["ticks"] if status == 200 else []
                newest = int(ticks[0]["volume"]) if ticks else seen
                fake.read()
                if newest > seen and newest in fake.sent:
                    into.append(now - fake.sent[newest])
                    seen = newest
        await asyncio.sleep(0.004)


async def history_done(app: App) -> bool:
    """Return True if no backfill runs and one has ended."""
    _, body = await app.get("/backfill")
    runs = body["backfills"]
    return bool(runs) and all(run["completed_at"] for run in runs)


async def stored(app: App) -> None:
    """Wait until all bars are stored."""
    while True:
        _, body = await app.get("/health")
        if not any(shard["unprocessed"] or shard["unflushed"] for shard in body["shards"].values()):
            return
        await asyncio.sleep(0.1)


def moments(pages: int, kills: int) -> Iterator[int]:
    """Return the numbers of pages after which the app is killed."""
    chosen = random.Random(7)
    return iter(sorted(chosen.sample(range(1, max(pages, kills + 1)), kills)))


async def measured(options: argparse.Namespace) -> dict[str, object]:
    names = names_of(options.symbols)
    live = names[:LIVE]
    fake = Fake(live, options.hurry)
    settings = {f"alpaca_{name}": value for name, value in fake.options.items()}
    settings |= {"feeds": f"alpaca: {', '.join(names)}", "alpaca_channels": "trades", "backfill_1m_days": 0}
    settings |= {"alpaca_per_minute": int(PER_MINUTE * options.hurry), "provider": "none"}
    days = {"backfill_daily_days": int(365.25 * options.years), "backfill_5m_days": options.days_5m}
    with data_folder() as folder:
        alone = await delays_alone(App(folder, **settings | dict.fromkeys(days, 0)), fake, live[0], options)
        app = App(folder, **settings | days)
        figures = await killed_and_restarted(app, fake, live[0], options)
        figures |= await compared(app.dsn, fake)
        await app.terminate()
    fake.end()
    return {"live_alone": alone} | figures


async def delays_alone(app: App, fake: Fake, symbol: str, options: argparse.Namespace) -> dict[str, float]:
    """Return the delays of live trades without a backfill."""
    app.spawn()
    await app.wait_ready(READY_SECONDS)
    found: list[float] = []
    watching = asyncio.create_task(watch(app, fake, symbol, found))
    await app.caught_up()
    found.clear()
    await asyncio.sleep(options.alone_seconds)
    watching.cancel()
    await app.terminate()
    return quantiles(found)


async def killed_and_restarted(app: App, fake: Fake, symbol: str, options: argparse.Namespace) -> dict[str, object]:
    """Load the whole history, with kills on the way; return the figures of it."""
    now = datetime.now(UTC)
    spans = {"1Day": 365.25 * options.years, "5Min": options.days_5m}
    bars = {
        name: len(expected_bars(CALENDAR, INTERVALS[name], micros(now - timedelta(days=days)), micros(now)).starts)
        for name, days in spans.items()
    }
    least = sum(ceil(count * options.symbols / PAGE) for count in bars.values())
    kill_at = moments(least, options.kills)
    upcoming, kills = next(kill_at, None), 0
    found: list[float] = []
    started = time.monotonic()
    app.spawn()
    await app.wait_ready(READY_SECONDS)
    watching = asyncio.create_task(watch(app, fake, symbol, found))
    while not await history_done(app):
        pages, _ = await fake.counts()
        if upcoming is not None and sum(pages.values()) >= upcoming:
            await app.kill()
            await asyncio.sleep(0.2)
            app.spawn()
            await app.wait_ready(READY_SECONDS)
            upcoming, kills = next(kill_at, None), kills + 1
            print(f"killed and restarted {kills} times, after {pages}", file=sys.stderr, flush=True)
        await asyncio.sleep(0.05)
    watching.cancel()
    pages, refused = await fake.counts()
    seconds = time.monotonic() - started
    await stored(app)
    return {
        "seconds": round(seconds, 1),
        "kills": kills,
        "least_requests": least,
        "requests": pages | {"refused": refused},
        "requests_to_least": round(sum(pages.values()) / least, 3),
        "live_meanwhile": quantiles(found),
    }


async def compared(dsn: str, fake: Fake) -> dict[str, object]:
    """Compare the bars in the log and in the tables with those of the fake."""
    connection = await asyncpg.connect(dsn)
    try:
        logged = await connection.fetchrow(
            "SELECT sum(n) AS bars, sum(n - 1) AS again FROM"
            " (SELECT count(*) AS n FROM provider_bars GROUP BY symbol_id, minutes, ts) AS one"
        )
        stored = {
            table: await connection.fetchval(f"SELECT count(*) FROM {table} WHERE provider_id > 0")
            for table in ("historical_ohlcv", "intraday_ohlcv")
        }
        symbols = await connection.fetch(
            "SELECT symbol_id, count(*) AS n FROM intraday_ohlcv WHERE provider_id > 0 GROUP BY 1"
        )
        ranges = await connection.fetch("SELECT outcome, count(*) AS n FROM asked_ranges GROUP BY 1")
    finally:
        await connection.close()
    return {
        "logged_bars": int(logged["bars"] or 0),
        "again": int(logged["again"] or 0),
        "stored": stored,
        "bars_of_each_symbol": sorted({row["n"] for row in symbols}),
        "asked_ranges": {row["outcome"]: row["n"] for row in ranges},
    }


async def main(options: argparse.Namespace) -> None:
    figures = await measured(options)
    report("backfill", options=vars(options), **figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--symbols", type=int, default=500)
    parser.add_argument("--years", type=float, default=10)
    parser.add_argument("--days-5m", type=int, default=548)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--hurry", type=float, default=60, help="how many times as fast the vendor's minutes pass")
    parser.add_argument("--alone-seconds", type=float, default=20)
    uvloop.run(main(parser.parse_args()))

"""Breaks the stream of a provider in every way, again and again, and compares what is stored with all that was traded.

A server that speaks Alpaca's protocol makes trades of a few symbols, some of them cancelled or corrected later. Between
it and the app, which runs as a whole, lies a network that fails: latency of half a second, resets, black holes, peers
that vanish without a word, streams that stay open and mute, close frames, slow clients being dropped, refused
handshakes and logins, too many connections. The faults are drawn with a seed.

In the end all gaps must be filled: each trade is stored once, and the bars are those of an independent computation
over all trades that the server ever made.

    python tests/bench/broken_streams.py [--faults 200] [--seed 1] [--encoding json]
"""

import argparse
import asyncio
import os
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import uvloop
from prometheus_client import CollectorRegistry
from starlette.responses import JSONResponse

from bench import fresh_database, quantiles, report
from providers.fakes.alpaca import FakeAlpaca, Row, nanos, text_of
from providers.fakes.rough_network import RoughNetwork
from stockpulse.api.context import Context
from stockpulse.market.intervals import M1, M5
from stockpulse.market.times import micros
from stockpulse.node.lifecycle import running
from stockpulse.pipeline import live_feed
from stockpulse.pipeline.feed_state import Phase
from stockpulse.providers.alpaca import stream
from stockpulse.settings import Settings

SYMBOLS = ("AAPL", "BRK.B", "IBM", "MSFT", "SPY")
TRADES_PER_SECOND = 40
HEARTBEAT_SECONDS = 0.5
SILENCE_SECONDS = 1.0
LATENCY_SECONDS = 0.5
DEADLINE_SECONDS = 60.0

BREAKS = ("reset", "cut", "black_hole", "half_open", "mute", "drop", "close_1011", "error_407", "error_500")
OBSTACLES = ("login_406", "login_404", "no_greeting", "handshake_429", "handshake_502", "rest_500", "rest_429")
"""What meets the next connections, or the requests that fill the gap, after a break."""
MILD = ("latency",)
"""Faults that need not break a stream."""


@dataclass
class Figures:
    """The results."""

    faults: Counter[str] = field(default_factory=Counter)
    noticed: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """Seconds from a break until the feed knew."""
    recovered: list[float] = field(default_factory=list)
    """Seconds from a break until data came again."""


class Trader:
    """Makes trades, and cancels and corrects some of them."""

    def __init__(self, fake: FakeAlpaca, seed: int) -> None:
        self._fake = fake
        self._random = random.Random(seed)
        self._number = 0
        self.cancelled = 0
        self.corrected = 0

    async def run(self) -> None:
        """Trade until cancelled."""
        while True:
            await asyncio.sleep(self._random.expovariate(TRADES_PER_SECOND))
            self._number += 1
            await self._fake.trade(self._random.choice(SYMBOLS), self._row())

    def _row(self) -> Row:
        odd = self._random.random() < 0.2
        return {
            "t": text_of(time.time_ns()),
            "x": self._random.choice("VQD"),
            "p": self._random.randrange(9_000, 11_000) / 100,
            "s": self._random.randrange(1, 99) if odd else 100 * self._random.randrange(1, 9),
            "c": ["@", "I"] if odd else ["@"],
            "i": self._number,
            "z": "C",
        }

    async def amend(self) -> None:
        """Cancel one recent trade and correct another one, while the stream is whole."""
        symbol = self._random.choice(SYMBOLS)
        valid = [row for row in self._fake.trades.get(symbol, [])[-20:] if "u" not in row]
        if len(valid) < 2:
            return
        wrong, other = self._random.sample(valid, 2)
        await self._fake.cancel(symbol, wrong)
        self._number += 1
        await self._fake.correct(symbol, other, other["p"] + 1, other["s"] + 100, self._number)
        self.cancelled += 1
        self.corrected += 1


class Breaker:
    """Breaks the stream, and waits until data flow again."""

    def __init__(self, fake: FakeAlpaca, network: RoughNetwork, context: Context, seed: int) -> None:
        self._fake = fake
        self._network = network
        self._feed = context.feeds["alpaca"]
        self._pool = context.pool
        self._random = random.Random(seed)
        self.figures = Figures()

    async def run(self, faults: int, trader: Trader) -> None:
        """Break the stream so many times."""
        kinds = [*BREAKS, *OBSTACLES, *MILD]
        await self._until(lambda: self._feed.phase is Phase.LIVE)
        for number in range(faults):
            await trader.amend()
            await self._are_stored(trader.cancelled + trader.corrected)
            await asyncio.sleep(self._random.uniform(0.2, 0.6))
            kind = kinds[number % len(kinds)] if number < len(kinds) else self._random.choice(kinds)
            self.figures.faults[kind] += 1
            await (self._slow() if kind in MILD else self._broken(kind))

    async def _are_stored(self, corrections: int) -> None:
        """Wait until all cancels and corrections have arrived: one that a break swallows cannot be asked for later."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self._pool.fetchval("SELECT count(*) FROM corrections") < corrections:
                await asyncio.sleep(0.02)

    async def _slow(self) -> None:
        self._network.latency_seconds = LATENCY_SECONDS
        await asyncio.sleep(1.0)
        self._network.latency_seconds = 0.0
        await self._flowing(time.perf_counter(), self._feed.messages)

    async def _broken(self, kind: str) -> None:
        way = kind if kind in BREAKS else self._random.choice(BREAKS)
        reconnects, messages = self._feed.reconnects, self._feed.messages
        self._prepare(kind)
        began = time.perf_counter()
        await self._break(way)
        await self._until(lambda: self._feed.reconnects > reconnects)
        self.figures.noticed[way].append(time.perf_counter() - began)
        await asyncio.sleep(self._random.uniform(0.0, 0.3))
        self._network.heal()
        self._fake.switches.mute = False
        await self._past_the_obstacle(kind)
        await self._flowing(began, messages)

    def _prepare(self, kind: str) -> None:
        switches = self._fake.switches
        if kind.startswith("login"):
            switches.auth_error = int(kind[-3:])
            switches.closes_after_error = self._random.random() < 0.5
        elif kind == "no_greeting":
            switches.greeting = None
        elif kind.startswith("handshake"):
            switches.handshake = (int(kind[-3:]), "not now")
        elif kind.startswith("rest"):
            switches.answers = [JSONResponse({"message": "not now"}, int(kind[-3:])) for _ in range(2)]

    async def _break(self, way: str) -> None:
        if way in ("reset", "cut", "black_hole", "half_open"):
            getattr(self._network, way)()
        elif way == "mute":
            self._fake.switches.mute = True
        elif way == "drop":
            self._fake.drop_all()
        elif way == "close_1011":
            await self._fake.close_all(1011)
        else:
            await self._fake.fail(int(way[-3:]))

    async def _past_the_obstacle(self, kind: str) -> None:
        """Leave the obstacle in place until it has stopped a connection; then remove it."""
        switches = self._fake.switches
        if not kind.startswith("rest") and kind in OBSTACLES:
            handshakes, reconnects = self._network.connections, self._feed.reconnects
            await self._until(lambda: self._feed.reconnects > reconnects and self._network.connections > handshakes)
        switches.auth_error, switches.handshake, switches.greeting = None, None, "connected"

    async def _flowing(self, began: float, messages: int) -> None:
        await self._until(lambda: self._feed.phase is Phase.LIVE and self._feed.messages > messages)
        self.figures.recovered.append(time.perf_counter() - began)

    async def _until(self, true: Any) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not true():
                await asyncio.sleep(0.002)


def recompute(trades: dict[str, list[Row]], minutes: int) -> dict[tuple[str, datetime], tuple[float, ...]]:
    """Return the bars of all trades that count, computed one trade at a time.

    An odd lot counts for volume and number of trades only.
    """
    length = timedelta(minutes=minutes)
    by_bar: dict[tuple[str, datetime], list[Row]] = defaultdict(list)
    for symbol, rows in trades.items():
        for row in sorted(rows, key=lambda row: nanos(row["t"]) // 1000):
            if row.get("u") not in ("canceled", "incorrect"):
                at = datetime.fromtimestamp(nanos(row["t"]) // 1_000_000_000, UTC)
                by_bar[symbol, at - (at - datetime(1970, 1, 1, tzinfo=UTC)) % length].append(row)
    bars = {}
    for key, rows in by_bar.items():
        prices = [row["p"] for row in rows if "I" not in row["c"]]
        if prices:
            volume = sum(row["s"] for row in rows)
            bars[key] = (prices[0], max(prices), min(prices), prices[-1], float(volume), len(rows))
    return bars


async def stored_bars(context: Context, interval: Any, since: datetime) -> dict[tuple[str, datetime], tuple[Any, ...]]:
    """Return the bars that the app serves."""
    found = {}
    for name in SYMBOLS:
        symbol = context.names.symbols[name]
        rows = await context.bars.latest(symbol, interval, 5000, datetime.now(UTC) + timedelta(minutes=10))
        for row in rows.iter_rows(named=True):
            if row["ts"] >= since:
                found[name, row["ts"]] = tuple(
                    row[column] for column in ("open", "high", "low", "close", "volume", "trade_count")
                )
    return found


async def stored_trades(context: Context, since: datetime) -> Counter[tuple[str, str]]:
    """Return the number of times that each trade is stored, by symbol and id."""
    rows = await context.pool.fetch(
        "SELECT symbol_id, trade_id FROM realtime_prices WHERE ts >= $1", since - timedelta(seconds=1)
    )
    return Counter((context.names.symbol_by_id[row["symbol_id"]].name, row["trade_id"]) for row in rows)


@asynccontextmanager
async def environment(**variables: str) -> AsyncIterator[None]:
    """Set environment variables for a while."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


async def measured(dsn: str, faults: int, seed: int, encoding: str) -> dict[str, Any]:
    """Break the stream `faults` times; return the figures, with the differences of the data."""
    live_feed._TAKEN_SECONDS = 1.0  # 15 in truth: Alpaca may hold a broken connection for 90 seconds
    stream.ANSWER_SECONDS = 2.0  # 10 in truth
    started, since = time.perf_counter(), datetime.now(UTC)
    async with FakeAlpaca() as fake, RoughNetwork(fake.stream_port) as network:
        options = fake.options | {
            "stream_url": f"ws://127.0.0.1:{network.port}",
            "feed": "test",  # its market never closes, so the watch for mute streams is always armed
            "channels": "trades",
            "encoding": encoding,
            "per_minute": "100000",
            "heartbeat_seconds": str(HEARTBEAT_SECONDS),
            "silence_seconds": str(SILENCE_SECONDS),
        }
        variables = {f"STOCKPULSE_ALPACA_{name.upper()}": value for name, value in options.items()}
        settings = Settings(
            _env_file=None,
            database_url=dsn,
            provider="alpaca",
            symbols=",".join(SYMBOLS),
            signal_rules={},
            log_format="json",
        )
        async with environment(**variables), running(settings, CollectorRegistry()) as context:
            trader = Trader(fake, seed)
            trading = asyncio.create_task(trader.run())
            breaker = Breaker(fake, network, context, seed)
            await breaker.run(faults, trader)
            fake.switches.answers = []
            await all_filled(context)
            gaps = await context.pool.fetch("SELECT state, count(*) FROM feed_gaps GROUP BY state")
            trading.cancel()
            await all_processed(context)
            return breaker_figures(breaker.figures, context) | {
                "gaps": {row["state"]: row["count"] for row in gaps},
                "seconds": round(time.perf_counter() - started, 1),
                "cancelled": trader.cancelled,
                "corrected": trader.corrected,
                **await differences(fake, context, since),
            }


async def all_filled(context: Context) -> None:
    """Wait until all gaps are filled. The market goes on meanwhile."""
    async with asyncio.timeout(1200):
        while await context.pool.fetchval("SELECT count(*) FROM feed_gaps WHERE state <> 'filled'"):
            await asyncio.sleep(0.5)


async def all_processed(context: Context) -> None:
    """Wait until the last trades have arrived and are processed."""
    await asyncio.sleep(2 * LATENCY_SECONDS)
    while (lag := context.pipeline.lag()).unprocessed or lag.behind:
        await asyncio.sleep(0.05)


def breaker_figures(figures: Figures, context: Context) -> dict[str, Any]:
    """Return the times of the breaks."""
    feed = context.feeds["alpaca"]
    return {
        "faults": dict(figures.faults),
        "heartbeat_ms": HEARTBEAT_SECONDS * 1000,
        "silence_ms": SILENCE_SECONDS * 1000,
        "noticed": {way: {"count": len(times)} | quantiles(times) for way, times in sorted(figures.noticed.items())},
        "recovered": quantiles(figures.recovered),
        "reconnects": feed.reconnects,
        "messages": feed.messages,
    }


async def differences(fake: FakeAlpaca, context: Context, since: datetime) -> dict[str, Any]:
    """Return the numbers of trades and bars, and of those that are missing, doubled or wrong."""
    made = {(symbol, str(row["i"])) for symbol, rows in fake.trades.items() for row in rows}
    counted = {
        (symbol, str(row["i"]))
        for symbol, rows in fake.trades.items()
        for row in rows
        if row.get("u") not in ("canceled", "incorrect")
    }
    stored = await stored_trades(context, since)
    filled = await context.pool.fetchval("SELECT coalesce(sum(rows), 0) FROM feed_gaps")
    wrong = {}
    bars = 0
    for interval, minutes in ((M1, 1), (M5, 5)):
        first = datetime.fromtimestamp(micros(since) // 1_000_000 // (60 * minutes) * 60 * minutes, UTC)
        expected, found = recompute(fake.trades, minutes), await stored_bars(context, interval, first)
        bars += len(expected)
        wrong[interval.name] = [
            (*key, expected.get(key), found.get(key))
            for key in sorted(expected.keys() | found.keys())
            if expected.get(key) != found.get(key)
        ]
    return {
        "trades": len(made),
        "trades_filled_in": int(filled),
        "trades_missing": len(counted - stored.keys()),
        "trades_doubled": sum(1 for count in stored.values() if count > 1),
        "trades_unknown": len(stored.keys() - made),
        "bars": bars,
        "bars_wrong": sum(map(len, wrong.values())),
        "examples": [str(one) for some in wrong.values() for one in some[:3]],
    }


async def main(faults: int, seed: int, encoding: str) -> None:
    async with fresh_database() as dsn:
        report("broken_streams", seed=seed, encoding=encoding, **await measured(dsn, faults, seed, encoding))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--encoding", choices=("json", "msgpack"), default="json")
    arguments = parser.parse_args()
    uvloop.run(main(arguments.faults, arguments.seed, arguments.encoding))

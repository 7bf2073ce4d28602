"""The parts of the crash tests: the app as a process to kill, a client that never gives up, and a market to send.

The checks recompute the bars from the log, one tick at a time, with code that shares nothing with the app, and the
indicators and signals from the bars, in one calculation.
"""

import asyncio
import contextlib
import functools
import json
import math
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import asyncpg
import numpy as np
import orjson
import polars as pl
import psutil

from derived_recompute import differences, recomputed
from derived_recompute import stored as stored_derived
from stockpulse.indicators.compiler import Compiler
from stockpulse.node import parts
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.settings import Settings

READY_SECONDS = 60
CAUGHT_UP_SECONDS = 120
CACHE = "STOCKPULSE_CACHE_DIR"
SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
PICOS = 10**12


def seed_of(default: int) -> int:
    """Return STOCKPULSE_CRASH_SEED or the default; print it, so that a failure can be repeated."""
    seed = int(os.environ.get("STOCKPULSE_CRASH_SEED", default))
    print(f"STOCKPULSE_CRASH_SEED={seed}")
    return seed


def kills_wanted(default: int) -> int:
    return int(os.environ.get("STOCKPULSE_CRASH_KILLS", default))


def spread(values: list[float]) -> str:
    if not values:
        return "none"
    return f"min {min(values):.2f} median {statistics.median(values):.2f} max {max(values):.2f} ({len(values)})"


# The app as a process ---------------------------------------------------------------------------


@contextlib.contextmanager
def data_folder() -> Iterator[Path]:
    """Yield a new folder with a path short enough for a socket. Afterwards remove it and kill every process on it."""
    folder = Path(tempfile.mkdtemp(prefix="sp-crash-"))
    try:
        yield folder
    finally:
        for process in processes_of(folder):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGCONT)
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Return the processes of this data folder: the app, the postmaster and its children, known by their titles."""
    marks = [str(folder)]
    with contextlib.suppress(OSError):
        cluster = (folder / "postgres").stat()
        marks.append(f"stockpulse-{cluster.st_dev:x}-{cluster.st_ino:x}")
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        environment = process.info["environ"] or {}
        ours = environment.get("STOCKPULSE_DATA_DIR") == str(folder)
        if process.pid != os.getpid() and (ours or any(mark in words for mark in marks)):
            found.append(process)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class App:
    """The app under attack, on its own data folder."""

    def __init__(self, folder: Path, **settings: object) -> None:
        self.folder = folder
        self.port = free_port()
        self.log = folder / "app.log"
        self.settings = {f"STOCKPULSE_{name.upper()}": str(value) for name, value in settings.items()}
        self.process: subprocess.Popen[bytes] | None = None
        self.restart_seconds: list[float] = []
        self.ready = asyncio.Event()

    @property
    def dsn(self) -> str:
        return EmbeddedPostgres(self.folder).dsn

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def spawn(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STOCKPULSE_")}
        environment |= {name: os.environ[name] for name in [CACHE] if name in os.environ}
        environment |= {"STOCKPULSE_DATA_DIR": str(self.folder), "STOCKPULSE_PROVIDER": "none"} | self.settings
        command = [sys.executable, "-m", "uvicorn", "stockpulse.app:app", "--no-access-log"]
        command += ["--port", str(self.port)]
        self.ready.clear()
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, cwd=self.folder, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )

    async def start(self) -> float:
        """Start the app and wait until it is ready; return the seconds that it took."""
        started = time.monotonic()
        self.spawn()
        await self.wait_ready()
        return time.monotonic() - started

    async def wait_ready(self, seconds: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if self.process is not None and self.process.poll() is not None:
                raise AssertionError(f"the app ended with {self.process.returncode}:\n{self.tail()}")
            with contextlib.suppress(NoAnswer):
                status, _ = await asyncio.wait_for(self.get("/ready"), 5)
                if status == 200:
                    self.ready.set()
                    return
            await asyncio.sleep(0.02)
        raise AssertionError(f"not ready after {seconds} s:\n{self.tail()}")

    async def analytics(self) -> dict[str, object]:
        """Return the state of its indicators: `compiled`, and the number of symbols that are `behind`."""
        status, health = await self.get("/health")
        assert status == 200
        assert isinstance(health, dict)
        found: dict[str, object] = health["analytics"]
        return found

    async def caught_up(self, seconds: float = CAUGHT_UP_SECONDS) -> None:
        """Wait until no symbol is behind."""
        deadline = time.monotonic() + seconds
        while (said := await self.analytics()) != {"compiled": True, "behind": 0}:
            assert time.monotonic() < deadline, f"not caught up after {seconds} s: {said}\n{self.tail()}"
            assert self.process is not None
            assert self.process.poll() is None, self.tail()
            await asyncio.sleep(0.1)

    async def get(self, path: str) -> tuple[int, object]:
        caller = Caller(self.port)
        try:
            return await caller.call("GET", path)
        finally:
            caller.close()

    async def kill(self) -> None:
        """Send SIGKILL and wait until the process is gone."""
        assert self.process is not None
        self.ready.clear()
        self.process.kill()
        await asyncio.to_thread(self.process.wait)

    async def terminate(self, seconds: float = 30) -> tuple[int, float]:
        """Send SIGTERM; return the exit status and the seconds that the stop took."""
        assert self.process is not None
        started = time.monotonic()
        self.ready.clear()
        self.process.terminate()
        try:
            status = await asyncio.to_thread(self.process.wait, seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"does not stop within {seconds} s:\n{self.tail()}") from None
        return status, time.monotonic() - started

    def postmaster(self) -> int | None:
        """Return the process id of its PostgreSQL, or None if none runs."""
        try:
            pid = int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return None
        return pid if psutil.pid_exists(pid) else None

    def tail(self, size: int = 6000) -> str:
        return self.log.read_bytes()[-size:].decode(errors="replace")

    def said(self, words: str) -> list[dict[str, object]]:
        """Return the log lines whose event contains these words."""
        lines = []
        for line in self.log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and words in str(entry.get("event", "")):
                    lines.append(entry)
        return lines


@contextlib.asynccontextmanager
async def running_app(**settings: object) -> AsyncIterator[App]:
    """Yield a started app; print its log after an error."""
    with data_folder() as folder:
        app = App(folder, **settings)
        try:
            await app.start()
            yield app
        except BaseException:
            print(app.tail(20_000))
            raise
        finally:
            if app.process is not None and app.process.poll() is None:
                app.process.kill()
                app.process.wait()


# The client -------------------------------------------------------------------------------------


class NoAnswer(Exception):
    """The connection ended before the answer: the request may have been carried out or not."""


class Caller:
    """One connection to the app, opened again when it breaks. Plain HTTP/1.1, so that no library hides a fault."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        on_sent: Callable[[], None] = lambda: None,
    ) -> tuple[int, object]:
        try:
            if self._streams is None:
                self._streams = await asyncio.open_connection("127.0.0.1", self._port)
            reader, writer = self._streams
            head = (
                f"{method} /api/v1{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\n"
                f"Content-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            await writer.drain()
            on_sent()
            status = int((await reader.readuntil(b"\r\n")).split()[1])
            headers = {}
            while (line := (await reader.readuntil(b"\r\n")).strip()) != b"":
                name, _, value = line.partition(b":")
                headers[name.lower()] = value.strip()
            content = await reader.readexactly(int(headers[b"content-length"]))
            if headers.get(b"connection") == b"close":
                self.close()
            return status, orjson.loads(content)
        except (OSError, EOFError, IndexError, ValueError, KeyError) as fault:
            self.close()
            raise NoAnswer(repr(fault)) from fault
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


# The market -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A provider with its symbols, calendar and condition codes."""

    name: str
    symbols: tuple[str, ...]
    calendar: str
    rule: str
    codes: tuple[str | None, ...]
    exchanges: tuple[str | None, ...]

    def path(self, *, end: bool = False) -> str:
        query = f"provider={self.name}&calendar={self.calendar}&conditions={self.rule}&clock=event"
        return f"/ticks?{query}{'&end_of_stream=true' if end else ''}"


STOCKS = tuple(f"S{number:02}" for number in range(30))
PAIRS = tuple(f"C{number:02}" for number in range(20))
#: Some symbols come from two providers, of which only one may build the bars.
SOURCES = (
    Source("alpha", STOCKS[:20], "XNYS", "algoseek", ("0", "20", "40", "2020", "1000000", None), ("Q", "N", None)),
    Source("gamma", STOCKS[15:], "XNYS", "alpaca", ("@", "@,I", "M", "@,T", "U", None), ("Q", None)),
    Source("coins", PAIRS, "24/7", "all", (None,), (None,)),
)
RIGHT_FLAGS = {
    ("alpha", ""): 3, ("alpha", "0"): 3, ("alpha", "20"): 2, ("alpha", "40"): 0, ("alpha", "2020"): 3,
    ("alpha", "1000000"): 0, ("gamma", ""): 3, ("gamma", "@"): 3, ("gamma", "@,I"): 2, ("gamma", "M"): 0,
    ("gamma", "@,T"): 3, ("gamma", "U"): 2, ("coins", ""): 3,
    ("kafka", ""): 3, ("wire", "all"): 3, ("wire", "odd"): 2,  # of other programs on a topic
}  # fmt: skip
#: A quarter of an hour before New York closes early, the day after Thanksgiving.
BEGIN = datetime(2024, 11, 29, 17, 45, tzinfo=UTC)
FORMATS = ("application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream")

SENT = ("provider", "trade_id", "symbol", "exchange", "conditions", "ts", "price", "size")


@dataclass
class Batch:
    """The ticks of one POST, its answer, and the number of times that it was sent."""

    source: Source
    ticks: pl.DataFrame
    body: bytes
    content_type: str
    poison: int
    in_parts: bool = False
    """True if a part of it may be stored without the rest: on several partitions, or as several pieces of history."""
    tries: int = 0
    receipt: dict[str, object] | None = None

    def take(self, receipt: object) -> None:
        """Check and keep a definite answer: the good ticks are all new or, if a batch lands whole, all duplicates."""
        assert isinstance(receipt, dict)
        self.receipt = receipt
        good = len(self.ticks)
        assert len(receipt["rejected"]) == self.poison, receipt
        assert receipt["accepted"] + receipt["duplicates"] == good, receipt
        assert self.in_parts or good in {receipt["accepted"], receipt["duplicates"]}, receipt
        if self.tries == 1:
            assert receipt["accepted"] == good, f"sent once, and yet {receipt}"


#: Pairs with enough 5-minute bars for the app to store anchors of their indicators.
OLD_PAIRS = PAIRS[:3]
OLD_BARS = 4500


class Market:
    """Makes batches: most ticks are current, a few are minutes or days late, some batches are long pieces of history.

    Some batches contain an invalid tick. The first batches are the last two weeks of a few pairs.
    """

    def __init__(
        self,
        seed: int,
        *,
        least: int = 100,
        most: int = 2000,
        formats: tuple[str, ...] = FORMATS,
        in_parts: bool = False,
    ) -> None:
        self._in_parts = in_parts
        self._random = np.random.default_rng(seed)
        self._clock = dict.fromkeys((source.name for source in SOURCES), int(BEGIN.timestamp()) * SECOND)
        self._number = 0
        self._sizes = (least, most)
        self._formats = formats
        self._old_pairs = list(OLD_PAIRS)

    def batch(self) -> Batch:
        pick = self._random
        source = SOURCES[pick.integers(len(SOURCES))]
        if self._old_pairs:
            ts = int(BEGIN.timestamp()) * SECOND + np.arange(-OLD_BARS, 0) * 5 * MINUTE
            old = self._batch(SOURCES[2], self._of_symbol(SOURCES[2], self._old_pairs.pop(), ts))
            return replace(old, in_parts=True)  # it makes more bars than one piece of a large batch
        if pick.random() < 0.04:
            start = self._clock[source.name] - int(pick.integers(1, 20 * DAY))
            ts = start + np.arange(int(np.exp(pick.uniform(2, 7.5)))) * MINUTE
            return self._batch(source, self._of_symbol(source, source.symbols[pick.integers(len(source.symbols))], ts))
        count = int(np.exp(pick.uniform(*np.log(self._sizes))))
        return self._batch(source, self._ticks(source, count))

    def _of_symbol(self, source: Source, symbol: str, ts: np.ndarray) -> pl.DataFrame:
        """Return one tick for each of these times that is not in the future."""
        ts = ts[ts < self._clock[source.name]]
        return self._frame(source, [symbol] * len(ts), ts)

    def _batch(self, source: Source, ticks: pl.DataFrame) -> Batch:
        pick = self._random
        content_type = self._formats[pick.integers(len(self._formats))]
        poison = int(pick.random() < 0.05)
        sent = pl.concat([ticks, ticks.tail(1).with_columns(price=pl.lit(-1.0))]) if poison else ticks
        body = _encoded(sent.drop("provider"), content_type)
        return Batch(source, ticks, body, content_type, poison, self._in_parts)

    def _ticks(self, source: Source, count: int) -> pl.DataFrame:
        pick = self._random
        # Less than the redelivery window passes while a few batches are under way.
        now = self._clock[source.name]
        span = int(pick.integers(SECOND, 8 * SECOND))
        self._clock[source.name] = now + span
        ts = (
            now
            + np.sort(pick.integers(0, span, count))
            - pick.integers(0, 3 * SECOND, count) * (pick.random(count) < 0.3)
        )
        late = pick.random(count) < 0.02
        ts = ts - np.where(late, np.exp(pick.uniform(np.log(MINUTE), np.log(20 * DAY), count)), 0).astype(np.int64)
        return self._frame(source, pick.choice(source.symbols, count).tolist(), ts)

    def _frame(self, source: Source, symbols: list[str], ts: np.ndarray) -> pl.DataFrame:
        pick, count = self._random, len(ts)
        price = np.round(np.exp(pick.normal(4, 0.02, count)), 2)
        size = np.round(pick.exponential(100, count)) if source.calendar == "XNYS" else pick.exponential(1, count)
        first, self._number = self._number, self._number + count
        return pl.DataFrame(
            {
                "provider": pl.repeat(source.name, count, eager=True),
                "trade_id": [f"{source.name}-{number}" for number in range(first, first + count)],
                "symbol": symbols,
                "exchange": pl.Series(
                    [source.exchanges[at] for at in pick.integers(len(source.exchanges), size=count)], dtype=pl.String
                ),
                "conditions": pl.Series(
                    [source.codes[at] for at in pick.integers(len(source.codes), size=count)], dtype=pl.String
                ),
                "ts": pl.Series(ts).cast(pl.Datetime("us", "UTC")),
                "price": price,
                "size": size,
            }
        )


def _encoded(ticks: pl.DataFrame, content_type: str) -> bytes:
    if content_type.endswith("stream"):
        return bytes(ticks.write_ipc_stream(None).getvalue())
    rows = ticks.with_columns(pl.col("ts").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")).to_dicts()
    return orjson.dumps(rows) if content_type.endswith("/json") else b"\n".join(map(orjson.dumps, rows))


# The load ---------------------------------------------------------------------------------------


@dataclass
class Load:
    """Several connections that send batches, and repeat each one until it gets a definite answer."""

    app: App
    market: Market
    connections: int = 6
    batches: list[Batch] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    serving_seconds: float = 0.0
    gives_up: bool = False
    """True if batches without an answer are not repeated, because the app does not come back."""
    _finish: bool = False
    _sent: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ticks(self) -> int:
        return sum(len(batch.ticks) for batch in self.batches if batch.receipt)

    @property
    def rate(self) -> float:
        """Acknowledged ticks per second of the time in which the app was ready."""
        return self.ticks / self.serving_seconds if self.serving_seconds else math.nan

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Send as long as this lasts; at its end every batch is acknowledged."""
        async with asyncio.TaskGroup() as group:
            meter = group.create_task(self._meter())
            senders = [group.create_task(self._send_all()) for _ in range(self.connections)]
            try:
                yield
            finally:
                self._finish = True
            await asyncio.wait(senders)
            meter.cancel()

    async def _meter(self) -> None:
        """Count the seconds in which the app is ready; nothing can be sent while it is down."""
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            now = time.monotonic()
            self.serving_seconds += (now - last) * self.app.ready.is_set()
            last = now

    async def _send_all(self) -> None:
        caller = Caller(self.app.port)
        while not self._finish:
            batch = self.market.batch()
            self.batches.append(batch)
            await self._send(caller, batch)
        caller.close()

    async def _send(self, caller: Caller, batch: Batch) -> None:
        while batch.receipt is None:
            batch.tries += 1
            try:
                status, answer = await caller.call(
                    "POST", batch.source.path(), batch.body, batch.content_type, self._sent.set
                )
            except NoAnswer:
                self.answers["none"] += 1
                if self.gives_up:
                    return
                await asyncio.sleep(0.05)
                continue
            if status == 503:
                assert isinstance(answer, dict)
                self.answers[answer["error"]["code"]] += 1
                await asyncio.sleep(0.1)
                continue
            assert status == 200, f"{status}: {answer}"
            self.answers["200"] += 1
            batch.take(answer)

    def finish(self) -> None:
        """Start no more batches."""
        self._finish = True

    async def sent(self) -> None:
        """Wait until the next POST has left."""
        self._sent.clear()
        await self._sent.wait()

    async def end(self) -> None:
        """End all recordings, and wait until their last bars are stored."""
        caller = Caller(self.app.port)
        for source in SOURCES:
            status, answer = await caller.call("POST", source.path(end=True))
            assert status == 200, answer
        caller.close()

    async def settle(self) -> None:
        """End all recordings, and wait until the indicators have caught up and everything is stored."""
        await self.end()
        started = time.monotonic()
        await self.app.caught_up()
        print(f"caught up in {time.monotonic() - started:.1f} s")
        await self.end()


async def until(holds: Callable[[], bool], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        await asyncio.sleep(0.05)


async def until_true(holds: Callable[[], Awaitable[bool]], what: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"not after {seconds} s: {what}"
        await asyncio.sleep(0.05)


# Stored data ------------------------------------------------------------------------------------

TABLES = {"1m": "bars_1m", "5m": "intraday_ohlcv", "1d": "historical_ohlcv"}
BAR = (
    "symbol_id", "ts", "ends_at", "open", "high", "low", "close", "open_us", "open_seq", "close_us", "close_seq",
    "volume_units", "volume_picos", "vwap_units", "vwap_picos", "notional_high", "notional_middle", "notional_low",
    "trade_count", "revision", "provider_id", "by_minutes",
)  # fmt: skip
_MICROS = "(extract(epoch FROM {0}) * 1000000)::bigint AS {0}"

Bars = dict[str, dict[tuple[int, int], tuple[object, ...]]]


@dataclass(frozen=True)
class Tick:
    """A tick of the log."""

    seq: int
    symbol_id: int
    calendar: str
    flags: int
    ts: int
    price: float
    size: float


@dataclass(frozen=True)
class Stored:
    """The contents of the database."""

    log: list[Tick]
    sent: pl.DataFrame
    bars: Bars
    parts: int
    head: int
    checkpoint: int


async def read_stopped(folder: Path) -> Stored:
    """Read the database that a stopped app has left."""
    server = EmbeddedPostgres(folder)
    await server.start()
    try:
        return await read(server.dsn)
    finally:
        await server.stop()


async def read(dsn: str) -> Stored:
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            rows = await connection.fetch(
                f"SELECT seq, symbol_id, calendar, flags, {_MICROS.format('ts')}, price, size,"
                " p.name, t.trade_id, s.symbol, nullif(k.exchange, ''), nullif(k.conditions, '')"
                " FROM realtime_prices t JOIN symbols s ON s.id = symbol_id JOIN tick_kinds k ON k.id = kind_id"
                " JOIN providers p ON p.id = k.provider_id ORDER BY seq"
            )
            columns = [_MICROS.format(name) if name in ("ts", "ends_at") else name for name in BAR]
            bars = {
                interval: {
                    (row["symbol_id"], row["ts"]): _bits(tuple(row))
                    for row in await connection.fetch(f"SELECT {', '.join(columns)} FROM {table}")
                }
                for interval, table in TABLES.items()
            }
            head = await connection.fetchval("SELECT head FROM journal_heads")
            checkpoint = await connection.fetchval("SELECT journal_offset FROM checkpoints")
            parts = await connection.fetchval("SELECT count(*) FROM checkpoint_parts")
    finally:
        await connection.close()
    log = [Tick(*tuple(row)[:7]) for row in rows]
    assert len({tick.seq for tick in log}) == len(log), "an offset stands twice"
    schema = {
        "provider": pl.String, "trade_id": pl.String, "symbol": pl.String, "exchange": pl.String,
        "conditions": pl.String, "ts": pl.Int64, "price": pl.Float64, "size": pl.Float64,
    }  # fmt: skip
    values = [(*tuple(row)[7:], row["ts"], row["price"], row["size"]) for row in rows]
    for row in rows:
        assert row["flags"] & 3 == RIGHT_FLAGS[row["name"], row[11] or ""], row
    return Stored(log, pl.DataFrame(values, schema=schema, orient="row"), bars, parts, head, checkpoint)


def assert_each_once(stored: Stored, batches: list[Batch]) -> None:
    """Assert that the log has every acknowledged tick once, the others at most once, and nothing else."""
    order = ["provider", "trade_id"]
    every = pl.concat([batch.ticks.with_columns(acknowledged=batch.receipt is not None) for batch in batches])
    sent = every.with_columns(pl.col("ts").dt.epoch("us"))
    doubled = stored.sent.filter(pl.struct(order).is_duplicated())
    lost = sent.filter("acknowledged").join(stored.sent, on=order, how="anti")
    made_up = stored.sent.join(sent, on=order, how="anti")
    assert (len(doubled), len(lost), len(made_up)) == (0, 0, 0), (
        f"{len(doubled)} rows stand more than once, {len(lost)} are lost, {len(made_up)} were never sent:"
        f"\n{doubled.head()}\n{lost.head()}\n{made_up.head()}"
    )
    there = sent.join(stored.sent, on=order, how="semi").select(SENT)
    assert there.sort(order).equals(stored.sent.select(SENT).sort(order)), "a tick is not as it was sent"


def assert_bars_right(stored: Stored) -> None:
    """Assert that the stored bars equal a recomputation from the log, bit for bit."""
    wanted = bars_of(stored.log)
    for interval, bars in wanted.items():
        have = stored.bars[interval]
        missing, more = sorted(bars.keys() - have.keys()), sorted(have.keys() - bars.keys())
        assert not missing, f"{len(missing)} of {len(bars)} bars {interval} are missing: {missing[:5]}"
        assert not more, f"{len(more)} bars {interval} should not be: {more[:5]}"
        wrong = [key for key in bars if bars[key] != have[key]]
        assert not wrong, f"{len(wrong)} of {len(bars)} bars {interval} are wrong: " + "\n".join(
            f"{key}: {name} is {got!r}, not {want!r}"
            for key in wrong[:5]
            for name, got, want in zip(BAR, have[key], bars[key], strict=True)
            if got != want
        )


async def assert_derived_right(app: App) -> None:
    """Assert that stored indicators and signals equal one calculation over the stored bars."""
    spec = parts.build_engine_spec(Settings(_env_file=None))
    compiler = Compiler(Path(app.settings.get(CACHE) or os.environ[CACHE]) / "loops")
    connection = await asyncpg.connect(app.dsn)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            have = await stored_derived(connection, spec)
            want = await recomputed(connection, spec, compiler)
            anchors = await connection.fetch("SELECT track, count(*) FROM indicator_states GROUP BY track")
    finally:
        await connection.close()
    counts = {name: len(table.rows) for name, table in want.items()}
    print(f"derived: {counts}, anchors {dict(map(tuple, anchors))}")
    wrong = differences(have, want)
    assert not wrong, "\n".join(wrong)
    assert all(counts.values()), counts


def _bits(values: tuple[object, ...]) -> tuple[object, ...]:
    """Return the values with floats as their bits, so that NaN equals NaN and nothing is rounded."""
    return tuple(value.hex() if isinstance(value, float) else value for value in values)


# The bars, one tick at a time -------------------------------------------------------------------

_FOREVER = 2**63 - 1
_NEVER = (math.nan, math.nan, math.nan, math.nan, _FOREVER, _FOREVER, -(2**63), -(2**63))


class Fold:
    """A bar under construction; ticks may arrive in any order."""

    def __init__(self) -> None:
        self.first: tuple[int, int, float] | None = None
        self.last: tuple[int, int, float] | None = None
        self.high, self.low = -math.inf, math.inf
        self.volume = self.averaged = self.notional = self.count = self.revision = self.end = 0

    def add(self, tick: Tick, counts: int, end: int) -> None:
        """`counts`: 1 prices, 2 volume, 4 high and low and the first price, 8 the open of its minute."""
        priced = bool(counts & 13)
        if priced:
            stamps = [(tick.ts, tick.seq, tick.price)]
            if counts & 8:
                stamps.append((tick.ts // MINUTE * MINUTE - 1, -tick.seq, tick.price))
            self.first = min([*stamps, *([self.first] if self.first else [])])
            self.high, self.low = max(self.high, tick.price), min(self.low, tick.price)
        if counts & 1:
            self.last = max((tick.ts, tick.seq, tick.price), self.last or (tick.ts, -1, 0.0))
        if counts & 2:
            self.volume += trillionths(tick.size)
            self.count += 1
        if counts & 2 and priced:
            self.averaged += trillionths(tick.size)
            self.notional += round(Fraction(tick.price * tick.size) * 2**100)
        self.revision = max(self.revision, tick.seq)
        self.end = max(self.end, end)

    def row(self, symbol_id: int, start: int) -> tuple[object, ...]:
        if self.first is None:
            prices = _NEVER
        else:
            open_us, open_seq, opened = self.first
            close_us, close_seq, closed = self.last or (-(2**63), -(2**63), opened)
            prices = (opened, self.high, self.low, closed, open_us, open_seq, close_us, close_seq)
        digits = (self.notional >> 124, self.notional >> 62 & 2**62 - 1, self.notional & 2**62 - 1)
        sums = (*divmod(self.volume, PICOS), *divmod(self.averaged, PICOS), *digits)
        return (symbol_id, start, self.end, *prices, *sums, self.count, self.revision, 0, False)


def trillionths(value: float) -> int:
    units = math.floor(value)
    return units * PICOS + round((value - units) * 1e12)


def bars_of(log: list[Tick]) -> Bars:
    """Return all final bars of a log."""
    folds: dict[str, dict[tuple[int, int], Fold]] = {"1m": {}, "5m": {}, "1d": {}}

    def add(interval: str, tick: Tick, counts: int, start: int, end: int) -> None:
        folds[interval].setdefault((tick.symbol_id, start), Fold()).add(tick, counts, end)

    for tick in log:
        if not tick.flags & 4:
            continue
        intraday, apart = tick.flags & 3, bool(tick.flags & 8)
        if intraday:
            for interval, length in (("1m", MINUTE), ("5m", 5 * MINUTE)):
                start = tick.ts // length * length
                add(interval, tick, intraday, start, start + length)
        day = _day_of(tick.calendar, tick.ts // MINUTE * MINUTE, apart)
        daily = tick.flags >> 4 & 15 if apart else intraday
        if day is not None and (intraday or daily):
            add("1d", tick, daily, *day)
    return {
        interval: {key: _bits(fold.row(*key)) for key, fold in of_one.items()} for interval, of_one in folds.items()
    }


def _day_of(calendar: str, minute: int, by_date: bool) -> tuple[int, int] | None:
    """Label and end of the daily bar that a minute belongs to, by the session's hours or by its date."""
    if calendar == "24/7":
        return minute // DAY * DAY, minute // DAY * DAY + DAY
    new_york = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=minute)).astimezone(
        ZoneInfo("America/New_York")
    )
    opened, closed = sessions().get(new_york.date().isoformat(), (0, 0))
    if not (by_date and closed) and not opened <= minute < closed:
        return None
    midnight = new_york.replace(hour=0, minute=0, second=0, microsecond=0)
    next_midnight = midnight + timedelta(days=1)  # by the hands of the clock
    return int(midnight.timestamp()) * SECOND, int(next_midnight.timestamp()) * SECOND if by_date else closed


@functools.cache
def sessions() -> dict[str, tuple[int, int]]:
    """Return open and close of New York's sessions by date, from the calendar library itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars

        calendar = exchange_calendars.get_calendar("XNYS", start="2024-10-01", end="2024-12-31")
        return {
            str(day.date()): (calendar.session_open(day).value // 1000, calendar.session_close(day).value // 1000)
            for day in calendar.sessions
        }

"""Three days of real trades become the bars that the vendor made of them.

The data may not be passed on, so it is looked for in STOCKPULSE_REAL_DATA, or else beside the repository.
"""

import asyncio
import io
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import polars as pl
import pytest

from app_process import AppProcess
from stockpulse.postgres.embedded.server import EmbeddedPostgres

FOLDER = Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[2] / "shared" / "data"))
DAYS = [date(2013, 10, day) for day in (7, 8, 9)]
FILES = [FOLDER / f"trades_2013100{day}.parquet" for day in (7, 8, 9)]
SYMBOLS = ("AIG", "BAC", "IBM", "SPY")
FIELDS = ("open", "high", "low", "close", "volume")

REAL_DATA = pytest.mark.skipif(
    not all(file.exists() for file in [*FILES, FOLDER / "bars_1m.parquet", FOLDER / "daily.parquet"]),
    reason=f"the real data is not in {FOLDER} (STOCKPULSE_REAL_DATA says where it is)",
)
pytestmark = [pytest.mark.slow, REAL_DATA, pytest.mark.xdist_group("real data")]

# The trades that the vendor leaves out, by its own flags; see providers/trade_conditions.py.
AUCTION = 0x40 | 0x80 | 0x1000000 | 0x4000000
SWEEP = 0x20 | 0x20000000
EXTENDED_HOURS = 0x2000


@pytest.fixture(scope="module")
def app() -> Iterator[AppProcess]:
    # The path of pytest's own folder may be too long for a socket.
    with (
        tempfile.TemporaryDirectory(prefix="stockpulse-") as folder,
        AppProcess(Path(folder) / "data", provider="simulated") as running,
    ):
        yield running


@pytest.fixture(scope="module")
def replayed(app: AppProcess) -> AppProcess:
    command = [sys.executable, "-m", "stockpulse", "replay", *FILES, "--speed", "max", "--url", app.url]
    started = time.monotonic()
    done = subprocess.run([*command, "--conditions", "algoseek"], check=False, capture_output=True, text=True)
    print(f"\n{done.stdout.strip()} (with the start of the command {time.monotonic() - started:.1f} s)")
    assert done.returncode == 0, done.stderr
    return app


@pytest.fixture(scope="module")
def trades() -> pl.DataFrame:
    flags = pl.col("conditions").str.to_integer(base=16)
    auction = flags & AUCTION != 0
    sweep = (flags & SWEEP != 0) & (flags & EXTENDED_HOURS == 0)
    return pl.read_parquet(FILES).with_columns(for_price=~auction & ~sweep, for_volume=~auction)


def aggregated(trades: pl.DataFrame) -> pl.DataFrame:
    """The minute bars of the trades by the same rules, made offline; the files are in time order."""
    price = pl.col("price").filter("for_price")
    return (
        trades.group_by("symbol", ts=pl.col("ts").dt.truncate("1m"), maintain_order=True)
        .agg(
            open=price.first(),
            high=price.max(),
            low=price.min(),
            close=price.last(),
            volume=pl.col("size").filter("for_volume").sum(),
            trade_count=pl.col("for_volume").sum().cast(pl.Int64),
        )
        .sort("symbol", "ts")
    )


def served(app: AppProcess, interval: str) -> pl.DataFrame:
    """The bars of these days as the API gives them."""
    query = {"interval": interval, "start": "2013-10-07", "end": "2013-10-10", "format": "arrow"}
    answers = [httpx2.get(f"{app.url}/api/v1/data/{symbol}", params=query, timeout=30) for symbol in SYMBOLS]
    return pl.concat(pl.read_ipc_stream(io.BytesIO(answer.raise_for_status().content)) for answer in answers)


def fetch(app: AppProcess, query: str) -> list[tuple[Any, ...]]:
    async def fetch_all() -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(EmbeddedPostgres(app.data_dir).dsn)
        rows = await connection.fetch(query)
        await connection.close()
        return [tuple(row) for row in rows]

    return asyncio.run(fetch_all())


def counter(app: AppProcess, name: str) -> int:
    text = httpx2.get(f"{app.url}/metrics").raise_for_status().text
    return int(float(re.search(rf"^stockpulse_{name} (\S+)$", text, re.MULTILINE)[1]))


def shares(ours: pl.DataFrame, theirs: pl.DataFrame, on: list[str]) -> pl.DataFrame:
    """For each symbol and for all: the number of bars in both, and the share of equal values of each field."""
    both = ours.join(theirs, on=on, suffix="_vendor")
    equal = [(pl.col(name) == pl.col(f"{name}_vendor")).mean().alias(name) for name in FIELDS]
    by_symbol = both.group_by("symbol").agg(pl.len().alias("bars"), *equal).sort("symbol")
    return pl.concat([by_symbol, both.select(pl.lit("all").alias("symbol"), pl.len().alias("bars"), *equal)])


def test_all_trades_are_stored_and_none_is_rejected(replayed, trades):
    assert len(trades) == 1_684_116
    assert counter(replayed, "rejected_total") == counter(replayed, "duplicates_total") == 0
    for symbol, count in trades["symbol"].value_counts().iter_rows():
        stored = fetch(replayed, f"SELECT count(*) FROM stock_ticks WHERE symbol = '{symbol}'")
        assert stored == [(count,)]
    assert fetch(replayed, "SELECT count(*) FROM dead_letters") == [(0,)]


def test_minute_bars_are_those_of_an_offline_aggregation(replayed, trades):
    expected = aggregated(trades).drop_nulls("open")  # a minute without a price has no bar
    bars = served(replayed, "1m")
    assert bars.select(expected.columns).equals(expected)
    assert bars["final"].all()


def test_minute_bars_are_those_of_the_vendor(replayed):
    vendor = pl.read_parquet(FOLDER / "bars_1m.parquet").filter(pl.col("ts").dt.date().is_in(DAYS))
    bars = served(replayed, "1m")
    table = shares(bars, vendor, ["symbol", "ts"])
    print(f"\n{table}")
    assert table["bars"].last() == len(bars) == len(vendor)
    assert min(table.tail(1).select(FIELDS).row(0)) >= 0.995


def listing_print(trades: pl.DataFrame, flag: int) -> pl.DataFrame:
    """The opening or closing print of the listing exchange on each day: the largest one."""
    day = pl.col("ts").dt.convert_time_zone("America/New_York").dt.date()
    prints = trades.filter(pl.col("conditions").str.to_integer(base=16) & flag != 0)
    return prints.sort("size").group_by("symbol", date=day).agg(pl.col("price", "ts").last())


def test_daily_opens_and_closes_are_the_official_ones(replayed, trades):
    """They are the prices of the auctions, except for two opening prints that came after the first minute."""
    vendor = pl.read_parquet(FOLDER / "daily.parquet").filter(pl.col("date").is_in(DAYS))
    bars = served(replayed, "1d").with_columns(date=pl.col("ts").dt.convert_time_zone("America/New_York").dt.date())
    both = bars.join(vendor, on=["symbol", "date"], suffix="_vendor")
    assert len(both) == len(SYMBOLS) * len(DAYS)
    assert both["open"].equals(both["open_vendor"])
    assert both["close"].equals(both["close_vendor"])
    closing = both.join(listing_print(trades, 0x80), on=["symbol", "date"])
    assert len(closing) == len(both)
    assert closing["close"].equals(closing["price"])
    opening = both.join(listing_print(trades, 0x40), on=["symbol", "date"])
    late = opening.filter(pl.col("ts_right").dt.minute() > 30)
    assert late.select("symbol", pl.col("date").dt.day()).sort("symbol").rows() == [("AIG", 7), ("IBM", 8)]
    in_time = opening.filter(pl.col("ts_right").dt.minute() == 30)
    assert in_time["open"].equals(in_time["price"])


def test_daily_bars_beside_those_of_the_vendor(replayed):
    # The vendor's days have the auctions in them, and were made of another feed: they only have to be near.
    vendor = pl.read_parquet(FOLDER / "daily.parquet").filter(pl.col("date").is_in(DAYS))
    bars = served(replayed, "1d").with_columns(date=pl.col("ts").dt.convert_time_zone("America/New_York").dt.date())
    both = bars.join(vendor, on=["symbol", "date"], suffix="_vendor")
    with pl.Config(tbl_rows=-1, tbl_cols=-1, tbl_width_chars=200):
        print("\n", shares(bars, vendor, ["symbol", "date"]))
        print(both.select("symbol", "date", *(name for field in FIELDS for name in (field, f"{field}_vendor"))))
    assert len(bars) == len(SYMBOLS) * len(DAYS)
    for field in FIELDS[:-1]:
        assert ((both[field] / both[f"{field}_vendor"] - 1).abs() < 0.003).all()

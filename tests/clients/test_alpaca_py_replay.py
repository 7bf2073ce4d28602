"""A real day as a live stream through Alpaca's Python library: the trades and bars as they are stored."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

pytest.importorskip("alpaca", reason="alpaca-py is not installed")

from alpaca.data.historical import StockHistoricalDataClient
from alpaca.data.requests import StockBarsRequest, StockTradesRequest
from alpaca.data.timeframe import TimeFrame
from client_streams import Received, running, subscribed

from app_process import AppProcess

FOLDER = Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[3] / "shared" / "data"))
FILE = FOLDER / "trades_20131007.parquet"
DAY = "2013-10-07"
SYMBOLS = ["AIG", "IBM"]
START, END = datetime(2013, 10, 7, 4, tzinfo=UTC), datetime(2013, 10, 8, 3, 59, 59, tzinfo=UTC)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.thorough,
    pytest.mark.xdist_group("clients"),
    pytest.mark.skipif(not FILE.exists(), reason=f"the real data is not in {FOLDER} (STOCKPULSE_REAL_DATA)"),
]


@pytest.fixture(scope="module")
def recorded(compiled: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AppProcess]:
    """Return a running app with the trades of the day."""
    with AppProcess(tmp_path_factory.mktemp("recorded") / "data", cache_dir=str(compiled)) as app:
        command = [sys.executable, "-m", "stockpulse", "replay", FILE, "--speed", "max", "--url", app.url]
        subprocess.run([*command, "--conditions", "algoseek"], check=True, capture_output=True)
        yield app


def test_two_clients_get_the_day_as_it_is_stored(recorded: AppProcess) -> None:
    stocks = StockHistoricalDataClient("key", "secret", url_override=recorded.url)
    of_day = {"symbol_or_symbols": SYMBOLS, "start": START, "end": END}
    trades = stocks.get_stock_trades(StockTradesRequest(**of_day)).data
    bars = stocks.get_stock_bars(StockBarsRequest(timeframe=TimeFrame.Minute, **of_day)).data
    days = stocks.get_stock_bars(StockBarsRequest(timeframe=TimeFrame.Day, **of_day)).data
    assert {name: len(found) for name, found in trades.items()} == {"AIG": 25_351, "IBM": 24_293}
    assert {name: len(found) for name, found in days.items()} == dict.fromkeys(SYMBOLS, 1)

    fast, of_fast = subscribed(f"{recorded.url}/v2/replay/{DAY}?speed=max", *SYMBOLS)
    slow, of_slow = subscribed(f"{recorded.url}/v2/replay/{DAY}?speed=3600", *SYMBOLS)
    with running(fast), running(slow):
        began = time.perf_counter()
        for received in (of_fast, of_slow):
            wait_for_all(received, sum(map(len, trades.values())), sum(map(len, bars.values())))
            print(f"{time.perf_counter() - began:.1f} s")
    for received in (of_fast, of_slow):
        for name in SYMBOLS:
            assert [trade for trade in received.rows["trades"] if trade.symbol == name] == trades[name]
            assert [bar for bar in received.rows["bars"] if bar.symbol == name] == bars[name]
            assert [bar for bar in received.rows["daily"] if bar.symbol == name] == days[name]
        assert received.rows["updated"] == []


def wait_for_all(received: Received, trades: int, bars: int) -> None:
    received.wait_for("bars", lambda rows: len(rows) >= bars)
    received.wait_for("trades", lambda rows: len(rows) >= trades)
    received.wait_for("daily", lambda rows: len(rows) >= len(SYMBOLS))

"""Alpaca's Python library, unchanged, receives StockPulse's stream: only its address is another one."""

import re
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

pytest.importorskip("alpaca", reason="alpaca-py is not installed")

from client_server import START, price_of, send, ticks
from client_streams import WAIT_SECONDS, Received, running, subscribed

from app_process import AppProcess

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.xdist_group("clients")]

FEED = {"provider": "recorded", "clock": "event"}


def test_trades_and_all_kinds_of_bars_and_a_restart(compiled: Path, tmp_path: Path) -> None:
    with AppProcess(tmp_path / "data", cache_dir=str(compiled)) as app:
        stream, received = subscribed(f"{app.url}/v2/iex", "*")
        with running(stream):
            seen = sent_until_seen(app, received, range(3))
            assert [trade.price for trade in seen] == [price_of("AAPL", at) for at in range(3)]
            bars = received.wait_for("bars", lambda rows: len(rows) >= 2)
            assert [(bar.timestamp, bar.close, bar.volume) for bar in bars] == [
                (START + timedelta(minutes=at), price_of("AAPL", at), 100 + at) for at in range(2)
            ]
            late = ticks("AAPL", range(1))[0] | {"trade_id": "7", "price": 150.0, "ts": START.isoformat()}
            send(app, [late], **FEED)
            (updated,) = received.wait_for("updated", len)
            assert (updated.timestamp, updated.open, updated.high, updated.trade_count) == (START, 150.0, 150.0, 2)
            day = received.wait_for("daily", lambda rows: rows and rows[-1].trade_count == 4)[-1]
            assert (day.timestamp, day.high, day.close) == (START - timedelta(hours=9, minutes=30), 150.0, 100.02)

            app.stop()
            app.start()
            known = len(received.rows["trades"])
            after = sent_until_seen(app, received, range(10, 12), known)
            assert [trade.price for trade in after] == [price_of("AAPL", at) for at in (10, 11)]


def sent_until_seen(app: AppProcess, received: Received, minutes: range, known: int = 0) -> list[Any]:
    """Send ticks as soon as the client has subscribed; return its trades."""
    deadline = time.monotonic() + WAIT_SECONDS
    while topics(app) == 0:
        assert time.monotonic() < deadline, "the client does not subscribe"
        time.sleep(0.1)
    send(app, ticks("AAPL", minutes), **FEED)
    return received.wait_for("trades", lambda rows: len(rows) >= known + len(minutes))[known:]


def topics(app: AppProcess) -> float:
    """Return the number of topics that clients of the stream read."""
    text = httpx2.get(f"{app.url}/metrics", timeout=WAIT_SECONDS).raise_for_status().text
    found = re.search(r"^stockpulse_stream_topics (.*)$", text, re.MULTILINE)
    assert found, text
    return float(found[1])


def test_the_test_feed_has_data_at_any_hour(filled: AppProcess) -> None:
    stream, received = subscribed(f"{filled.url}/v2/test", "FAKEPACA")
    for channel in ("updatedBars", "dailyBars"):  # this feed does not have them
        stream._handlers[channel].clear()
    with running(stream):
        trades = received.wait_for("trades", lambda rows: len(rows) >= 2)
        assert {trade.symbol for trade in trades} == {"FAKEPACA"}
        (bar, *_) = received.wait_for("bars", len)
        assert bar.low <= bar.open <= bar.high
        assert bar.trade_count == 60

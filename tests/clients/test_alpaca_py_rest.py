"""Alpaca's Python library, unchanged, reads from StockPulse: only its base URL is another one."""

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("alpaca", reason="alpaca-py is not installed")

from alpaca.common.exceptions import APIError
from alpaca.data.enums import MarketType, MostActivesBy
from alpaca.data.historical import ScreenerClient, StockHistoricalDataClient
from alpaca.data.historical.corporate_actions import CorporateActionsClient
from alpaca.data.requests import (
    CorporateActionsRequest,
    MarketMoversRequest,
    MostActivesRequest,
    StockBarsRequest,
    StockLatestBarRequest,
    StockLatestQuoteRequest,
    StockLatestTradeRequest,
    StockQuotesRequest,
    StockSnapshotRequest,
    StockTradesRequest,
)
from alpaca.data.timeframe import TimeFrame, TimeFrameUnit
from client_server import MINUTES, START, SYMBOLS, price_of

from app_process import AppProcess

pytestmark = [pytest.mark.slow, pytest.mark.thorough, pytest.mark.xdist_group("clients")]

END = START + timedelta(minutes=MINUTES)


@pytest.fixture(scope="module")
def stocks(filled: AppProcess) -> StockHistoricalDataClient:
    return StockHistoricalDataClient("key", "secret", url_override=filled.url)


def test_bars_of_three_symbols_over_all_pages(stocks: StockHistoricalDataClient) -> None:
    request = StockBarsRequest(symbol_or_symbols=list(SYMBOLS), timeframe=TimeFrame.Minute, start=START, end=END)
    bars = stocks.get_stock_bars(request).data
    assert list(bars) == list(SYMBOLS)
    for symbol in SYMBOLS:
        assert [bar.timestamp for bar in bars[symbol]] == [START + timedelta(minutes=at) for at in range(MINUTES)]
        assert [bar.close for bar in bars[symbol]] == [price_of(symbol, at) for at in range(MINUTES)]
        first = bars[symbol][0]
        assert (first.open, first.high, first.low, first.vwap) == (first.close,) * 4
        assert (first.volume, first.trade_count) == (100, 1)


def test_both_ends_of_a_range_are_included(stocks: StockHistoricalDataClient) -> None:
    end = START + timedelta(minutes=3)
    request = StockBarsRequest(symbol_or_symbols="AAPL", timeframe=TimeFrame.Minute, start=START, end=end)
    assert len(stocks.get_stock_bars(request).data["AAPL"]) == 4


def test_a_limit_counts_the_bars_of_all_symbols(stocks: StockHistoricalDataClient) -> None:
    request = StockBarsRequest(
        symbol_or_symbols=["MSFT", "AAPL"], timeframe=TimeFrame.Minute, start=START, end=END, limit=MINUTES + 3
    )
    bars = stocks.get_stock_bars(request).data
    assert {symbol: len(found) for symbol, found in bars.items()} == {"AAPL": MINUTES, "MSFT": 3}


def test_longer_bars_add_up(stocks: StockHistoricalDataClient) -> None:
    request = StockBarsRequest(
        symbol_or_symbols="TSLA", timeframe=TimeFrame(5, TimeFrameUnit.Minute), start=START, end=END, limit=2
    )
    first, second = stocks.get_stock_bars(request).data["TSLA"]
    assert first.volume == sum(100 + at % 7 for at in range(5))
    assert (second.timestamp - first.timestamp, second.trade_count) == (timedelta(minutes=5), 5)


def test_days_are_labelled_by_midnight_in_new_york(stocks: StockHistoricalDataClient) -> None:
    request = StockBarsRequest(
        symbol_or_symbols="AAPL", timeframe=TimeFrame.Day, start=START - timedelta(hours=10), end=END
    )
    days = [bar.timestamp for bar in stocks.get_stock_bars(request).data["AAPL"]]
    assert days[0] == datetime(2026, 7, 6, 4, tzinfo=UTC)
    assert all(day.hour == 4 for day in days)


def test_trades_over_all_pages(stocks: StockHistoricalDataClient) -> None:
    end = START + timedelta(minutes=11_000)
    request = StockTradesRequest(symbol_or_symbols=["MSFT", "TSLA"], start=START, end=end)
    trades = stocks.get_stock_trades(request).data
    for symbol in ("MSFT", "TSLA"):
        assert [trade.price for trade in trades[symbol]] == [price_of(symbol, at) for at in range(11_000)]
        assert [trade.id for trade in trades[symbol]] == [10**12 + at for at in range(11_000)]
    trade = trades["MSFT"][0]
    assert trade.timestamp == START + timedelta(seconds=5, microseconds=208_000)
    assert (trade.size, trade.conditions, trade.exchange, trade.tape) == (100, ["@"], "V", "C")


def test_the_newest_trades_and_bars(stocks: StockHistoricalDataClient) -> None:
    names = ["AAPL", "TSLA", "UNKNOWN"]
    trades = stocks.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=names))
    bars = stocks.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols=names))
    assert {name: trade.price for name, trade in trades.items()} == {
        name: price_of(name, MINUTES - 1) for name in ("AAPL", "TSLA")
    }
    assert bars["TSLA"].timestamp == END - timedelta(minutes=1)
    assert bars.keys() == trades.keys()


def test_snapshots(stocks: StockHistoricalDataClient) -> None:
    found = stocks.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=["MSFT", "UNKNOWN"]))
    assert list(found) == ["MSFT"]
    snapshot = found["MSFT"]
    assert snapshot.latest_trade.price == snapshot.minute_bar.close == price_of("MSFT", MINUTES - 1)
    assert snapshot.previous_daily_bar.timestamp < snapshot.daily_bar.timestamp
    assert snapshot.latest_quote is None


def test_quotes_and_corporate_actions_are_empty(stocks: StockHistoricalDataClient, filled: AppProcess) -> None:
    assert stocks.get_stock_quotes(StockQuotesRequest(symbol_or_symbols="AAPL", start=START)).data == {}
    assert stocks.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="AAPL")) == {}
    actions = CorporateActionsClient("key", "secret", url_override=filled.url)
    assert actions.get_corporate_actions(CorporateActionsRequest(symbols=["AAPL"])).data == {}


def test_screeners(filled: AppProcess) -> None:
    screener = ScreenerClient("key", "secret", url_override=filled.url)
    movers = screener.get_market_movers(MarketMoversRequest(top=2, market_type=MarketType.STOCKS))
    assert {one.symbol for one in movers.gainers + movers.losers} <= set(SYMBOLS)
    assert movers.gainers or movers.losers
    active = screener.get_most_actives(MostActivesRequest(top=2, by=MostActivesBy.TRADES)).most_actives
    assert len(active) == 2
    assert active[0].trade_count >= active[1].trade_count > 0


def test_an_error_has_its_message(stocks: StockHistoricalDataClient) -> None:
    request = StockBarsRequest(symbol_or_symbols=["AAPL", "A APL"], timeframe=TimeFrame.Minute, start=START)
    with pytest.raises(APIError) as raised:
        stocks.get_stock_bars(request)
    assert raised.value.status_code == 400
    assert raised.value.message == "invalid symbol: 'A APL'"

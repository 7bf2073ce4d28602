"""The vendors' rules for trade conditions in minute and daily bars."""

import math

import numpy as np
import pytest

from bare_sink import run_step
from stockpulse.engine.bar_engine import BarEngine
from stockpulse.engine.bar_math import BAR, volume_of, vwap_of
from stockpulse.engine.step import TickBatch
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5
from stockpulse.market.schemas import PRIMARY
from stockpulse.providers.trade_conditions import PRICE_ONLY, algoseek, alpaca, prices_and_trades

CALENDAR = "XNYS"
OPEN = "2026-07-14T13:30"  # 09:30 in New York
CLOSE = "2026-07-14T20:00"
DAY = "2026-07-14T04:00"
PRICES = ("open", "high", "low", "close")


@pytest.fixture(scope="module", autouse=True)
def _calendar():
    trading_calendar(CALENDAR)


def at(text):
    return int(np.datetime64(text, "us").astype(np.int64))


def bars_of(rule, *trades, batches=1):
    """The bars of (time, price, size, conditions, tape), in order of arrival, in this number of batches."""
    engine = BarEngine()
    engine.learn(1, trading_calendar(CALENDAR))
    size_of_batch = -(-len(trades) // batches)
    numbered = list(enumerate(trades))
    for first in range(0, len(trades), size_of_batch):
        rows = numbered[first : first + size_of_batch]
        seq, ts, price, size, flags = zip(
            *((seq, at(ts), price, size, rule(*codes) | PRIMARY) for seq, (ts, price, size, *codes) in rows),
            strict=True,
        )
        ones = np.ones(len(rows), np.int64)
        columns = (np.array(seq), ones, ones, np.array(ts), np.array(price, float), np.array(size, float))
        batch = TickBatch(*columns, np.array(flags, np.uint16))
        run_step(engine.step(batch, {}), lambda _: np.empty(0, BAR))
    return {interval: engine.resident(interval) for interval in BASE_INTERVALS}


def shown(rows):
    """Open, high, low, close, volume and vwap of the only bar."""
    (row,) = rows
    return (*(float(row[name]) for name in PRICES), volume_of(rows)[0], vwap_of(rows)[0])


class TestAlpacasFaq:
    FIRST = (f"{OPEN}:01", 10.0, 100, "@", "C")

    def test_an_average_price_trade_counts_for_volume_alone(self):
        bars = bars_of(alpaca, self.FIRST, (f"{OPEN}:02", 12.0, 1000, "@,W", "C"))
        for interval in BASE_INTERVALS:
            assert shown(bars[interval]) == (10, 10, 10, 10, 1100, 10)

    def test_a_corrected_close_updates_nothing_in_minute_bars(self):
        bars = bars_of(alpaca, self.FIRST, (f"{OPEN}:02", 12.0, 1_000_000, "9", "C"))
        assert shown(bars[M1]) == shown(bars[M5]) == (10, 10, 10, 10, 100, 10)
        assert bars[M1]["trade_count"].tolist() == [1]

    def test_a_corrected_close_is_the_close_of_its_day(self):
        bars = bars_of(alpaca, self.FIRST, ("2026-07-14T20:30", 12.0, 1_000_000, "9", "C"))
        assert shown(bars[D1]) == (10, 12, 10, 12, 100, 10)
        assert len(bars[M1]) == 1

    def test_an_odd_lot_counts_for_volume_but_not_for_the_vwap(self):
        bars = bars_of(alpaca, self.FIRST, (f"{OPEN}:02", 12.0, 99, "@,I", "C"))
        for interval in BASE_INTERVALS:
            assert shown(bars[interval]) == (10, 10, 10, 10, 199, 10)

    @pytest.mark.parametrize(("tape", "high"), [("A", 10.0), ("C", 12.0)])
    def test_the_tape_tells_average_price_from_bunched(self, tape, high):
        bars = bars_of(alpaca, (f"{OPEN}:01", 10.0, 100, " ", tape), (f"{OPEN}:02", 12.0, 100, "B", tape))
        assert bars[M1]["high"].tolist() == bars[D1]["high"].tolist() == [high]

    @pytest.mark.parametrize("code", ["G", "P", "Z", "4"])
    def test_first_only_conditions_open_a_day_that_has_no_price_yet(self, code):
        bars = bars_of(alpaca, (f"{OPEN}:01", 12.0, 10, code, "C"), (f"{OPEN}:02", 13.0, 10, code, "C"))
        assert shown(bars[D1]) == (12, 13, 12, 12, 20, 12.5)
        assert math.isnan(bars[M1]["open"][0])
        assert volume_of(bars[M1]).tolist() == [20]

    @pytest.mark.parametrize("batches", [1, 3])
    def test_first_only_conditions_leave_open_and_close_to_others(self, batches):
        trades = [
            (f"{OPEN}:01", 12.0, 10, "G", "C"),
            (f"{OPEN}:02", 10.0, 10, "@", "C"),
            (f"{OPEN}:03", 9.0, 10, "Z", "C"),
        ]
        bars = bars_of(alpaca, *trades, batches=batches)
        assert shown(bars[D1]) == (12, 12, 9, 10, 30, pytest.approx(31 / 3, rel=1e-15))
        assert shown(bars[M1])[:4] == (10, 10, 10, 10)

    def test_a_day_has_the_volume_of_extended_hours_and_not_their_prices(self):
        trades = [
            ("2026-07-14T08:00", 5.0, 7, "@,T", "C"),  # 04:00 in New York
            self.FIRST,
            ("2026-07-14T23:59:59", 50.0, 3, "@,T", "C"),  # 19:59:59
        ]
        bars = bars_of(alpaca, *trades)
        assert shown(bars[D1]) == (10, 10, 10, 10, 110, 10)
        assert bars[M1]["close"].tolist() == [5, 10, 50]

    def test_the_closing_print_is_the_close_of_the_day_though_it_comes_late(self):
        trades = [self.FIRST, (f"{CLOSE}:00.5", 11.0, 500, "6", "A"), (f"{CLOSE}:09", 11.5, 500, "M", "A")]
        bars = bars_of(alpaca, *trades)
        assert shown(bars[D1]) == (10, 11, 10, 11, 600, pytest.approx(6500 / 600, rel=1e-15))

    def test_the_day_is_that_of_new_york(self):
        bars = bars_of(alpaca, ("2026-07-14T03:59:59", 9.0, 1, "@", "C"), ("2026-07-14T04:00", 8.0, 1, "@", "C"))
        assert bars[D1]["ts"].tolist() == [at("2026-07-13T04:00"), at(DAY)]

    def test_what_comes_without_conditions_belongs_to_the_session(self):
        bars = bars_of(alpaca, ("2026-07-14T12:00", 9.0, 1, "", "C"), (f"{OPEN}:00", 8.0, 1, "", "C"))
        assert shown(bars[D1]) == (8, 8, 8, 8, 1, 8)


class TestAlgoseek:
    @pytest.mark.parametrize("batches", [1, 2, 4])
    def test_the_last_closing_print_is_the_close_of_the_day(self, batches):
        trades = [
            (f"{OPEN}:00", 10.0, 1, "1"),
            (f"{CLOSE}:00.2", 11.0, 5, "20200080"),  # of another exchange
            (f"{CLOSE}:01", 12.0, 1, "2001"),  # extended hours: no part of the day
            (f"{CLOSE}:04", 10.5, 900, "80"),
            (f"{CLOSE}:05", 13.0, 900, "1000000"),  # states the official close, which is no trade
        ]
        bars = bars_of(algoseek, *trades, batches=batches)
        assert shown(bars[D1])[:5] == (10, 11, 10, 10.5, 906)
        assert bars[M1]["close"].tolist() == [10, 12]

    @pytest.mark.parametrize("batches", [1, 2, 3])
    def test_the_opening_print_of_the_first_minute_is_the_open_of_the_day(self, batches):
        trades = [
            (f"{OPEN}:00", 10.0, 1, "1"),
            (f"{OPEN}:20", 10.2, 10, "20200040"),  # of another exchange
            (f"{OPEN}:16", 10.1, 900, "40"),
        ]
        bars = bars_of(algoseek, *trades, batches=batches)
        assert shown(bars[D1])[:5] == (10.1, 10.2, 10, 10.2, 911)
        assert bars[M1]["open"].tolist() == [10]

    def test_an_opening_print_of_a_later_minute_comes_too_late(self):
        bars = bars_of(algoseek, (f"{OPEN}:00", 10.0, 1, "1"), ("2026-07-14T13:31:13", 10.1, 900, "40"))
        assert bars[D1]["open"].tolist() == [10]

    def test_a_minute_of_ineligible_trades_keeps_its_volume(self):
        bars = bars_of(algoseek, (f"{OPEN}:00", 10.0, 5, "20"), ("2026-07-14T13:31", 11.0, 1, "1"))
        assert [volume_of(bars[interval]).tolist() for interval in BASE_INTERVALS] == [[5, 1], [6], [6]]
        assert vwap_of(bars[M5]).tolist() == [11]


class TestPricesWithoutTrades:
    @pytest.mark.parametrize("batches", [1, 3])
    def test_a_price_alone_adds_no_volume_and_no_trade(self, batches):
        trade, high, low = (
            (f"{OPEN}:01", 10.0, 100, ""),
            (f"{OPEN}:02", 11.0, 0, PRICE_ONLY),
            (f"{OPEN}:03", 9, 0, PRICE_ONLY),
        )
        bars = bars_of(prices_and_trades, trade, high, low, batches=batches)
        for interval in (M1, M5, D1):
            assert shown(bars[interval]) == (10.0, 11.0, 9.0, 9.0, 100.0, 10.0)
            assert bars[interval]["trade_count"].tolist() == [1]

    def test_prices_alone_make_a_bar_without_volume(self):
        bars = bars_of(prices_and_trades, (f"{OPEN}:01", 10.0, 0, PRICE_ONLY))
        *prices, volume, vwap = shown(bars[M1])
        assert prices == [10.0] * 4
        assert volume == 0
        assert math.isnan(vwap)
        assert bars[M1]["trade_count"].tolist() == [0]

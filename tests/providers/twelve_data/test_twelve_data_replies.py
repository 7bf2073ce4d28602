"""Twelve Data's replies as frames: recorded ones, all variants of good ones, and any other bytes."""

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import orjson
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.any_json import any_json, broken, mutated
from stockpulse.ingest.validate import validate_bars, validate_ticks
from stockpulse.market.rows import PARSED_TICKS
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.faults import BadReply, ProviderFault, UnknownSymbol
from stockpulse.providers.transport.rest_client import Reply
from stockpulse.providers.twelve_data.faults import read_fault
from stockpulse.providers.twelve_data.replies import Series, parts_of, quote_of, series_of, usage_of
from stockpulse.providers.twelve_data.stream import PriceStream

EXCERPTS = Path(__file__).parents[2] / "data" / "payloads" / "twelvedata"
RECORDED = (
    Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[4] / "shared" / "data")) / "payloads/twelvedata"
)
AT = datetime(2026, 7, 14, 18, 0, tzinfo=UTC)
PARSED_BARS = pl.Schema({**BARS, "problem": pl.String(), "raw": pl.String()})
PRICES = ["open", "high", "low", "close"]


def recorded():
    return sorted({path.name: path for folder in (EXCERPTS, RECORDED) for path in folder.glob("*.json")}.values())


def reply_of(body, status=200):
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return Reply("twelvedata", "/time_series", {}, status, {}, content, AT)


class TestRecorded:
    @pytest.mark.parametrize("path", recorded(), ids=lambda path: path.name)
    def test_each_is_parsed(self, path):
        body = orjson.loads(path.read_bytes())
        assert read_fault(reply_of(body)) is None
        if "event" in body:
            self.check_message(body, PriceStream(("AAPL",)).read(path.read_bytes(), AT))
        elif "data" in body:  # the hours of exchanges, which we do not ask for
            assert isinstance(series_of(body, "AAPL", "1m", AT), BadReply)
        elif "values" in body:
            self.check_series(body, series_of(body, "JPY/BTC", "1m", AT))
        else:
            for name, part in parts_of(body, list(body)).items():
                self.check_part(name, part)

    def check_message(self, body, frame):
        if body["event"] != "price":
            assert frame is None
            return
        assert frame.schema == TICKS
        assert frame.select("symbol", "ts", "price", "size").row(0) == (
            "AAPL", datetime.fromtimestamp(body["timestamp"], UTC), body["price"], 0.0
        )  # fmt: skip

    def check_part(self, name, part):
        if part.get("status") == "error":
            assert isinstance(series_of(part, name, "1d", AT), UnknownSymbol)
        elif "values" in part:
            self.check_series(part, series_of(part, name, "1d" if part["meta"]["interval"] == "1day" else "1m", AT))
        else:
            quote = quote_of(part, name, AT)
            assert quote.schema == TICKS
            assert quote["price"].to_list() == [float(part.get("close", part.get("price")))]

    def check_series(self, body, series):
        bars = series.bars
        assert bars.schema == BARS
        assert len(bars) == series.rows == len(body["values"])
        assert bars["ts"].is_sorted()
        assert bars["ts"].n_unique() == len(bars)
        sent = [float(row["close"]) for row in reversed(body["values"])]
        assert bars["close"].to_list() == pytest.approx(sent, rel=1e-7)

    def test_hours_of_the_exchange_become_utc(self):
        path = RECORDED / "time_series_multi_real_0.json"
        if not path.exists():
            pytest.skip(f"{path} is not there (STOCKPULSE_REAL_DATA says where it is)")
        body = orjson.loads(path.read_bytes())
        series = series_of(body["SPX"], "SPX", "5m", AT, intraday_zone=None)
        assert series.bars["ts"].max() == datetime(2023, 5, 12, 19, 30, tzinfo=UTC)
        assert series.bars.select("open", "high", "low", "close", "volume").row(-1) == (
            4111.65, 4124.44, 4111.65, 4123.85, 262548323.0
        )  # fmt: skip


def values(*times, **more):
    row = {"open": "231.12", "high": "231.98", "low": "230.89999", "close": "231.75", "volume": "482113"}
    return [{"datetime": time, **row, **more} for time in times]


def body_of(rows, **meta):
    return {"meta": {"symbol": "AAPL", "exchange_timezone": "America/New_York", **meta}, "values": rows, "status": "ok"}


class TestSeries:
    @pytest.mark.parametrize(
        ("time", "zone", "ts"),
        [
            ("2026-07-14 09:30:00", None, "2026-07-14T13:30"),
            ("2026-01-14 09:30:00", None, "2026-01-14T14:30"),
            ("2026-07-14 13:30:00", ZoneInfo("UTC"), "2026-07-14T13:30"),
            ("2026-07-14T13:30:00", ZoneInfo("UTC"), "2026-07-14T13:30"),
            ("2025-11-02 01:30:00", None, "2025-11-02T05:30"),
        ],
    )
    def test_intraday_times(self, time, zone, ts):
        series = series_of(body_of(values(time)), "AAPL", "1m", AT, zone)
        assert series.bars["ts"].to_list() == [datetime.fromisoformat(f"{ts}+00:00")]

    @pytest.mark.parametrize(
        ("date", "zone", "ts"),
        [
            ("2026-07-13", "America/New_York", "2026-07-13T04:00"),
            ("2026-01-14", "America/New_York", "2026-01-14T05:00"),
            ("2026-07-13", "Asia/Tokyo", "2026-07-12T15:00"),
            ("2026-07-13", None, "2026-07-13T04:00"),
            ("2024-09-08", "America/Santiago", "2024-09-08T04:00"),  # its clock goes from 00:00 to 01:00
        ],
    )
    def test_days_are_never_shifted(self, date, zone, ts):
        series = series_of(body_of(values(date), exchange_timezone=zone), "AAPL", "1d", AT)
        assert series.bars["ts"].to_list() == [datetime.fromisoformat(f"{ts}+00:00")]

    @pytest.mark.parametrize(
        ("symbol", "meta"),
        [("EUR/USD", {}), ("EURUSD", {"currency_base": "Euro", "currency_quote": "US Dollar"})],
    )
    def test_currencies_have_days_of_utc_and_no_volume(self, symbol, meta):
        (row,) = values("2026-07-13")
        del row["volume"]
        series = series_of({"meta": {"type": "Physical Currency", **meta}, "values": [row]}, symbol, "1d", AT)
        assert series.bars.select("ts", "volume").row(0) == (datetime(2026, 7, 13, tzinfo=UTC), None)

    def test_a_zone_that_does_not_exist_is_a_fault_and_no_wrong_date(self):
        for zone in ("Mars/Olympus", "../etc", 5, ["UTC"], "\0"):
            fault = series_of(body_of(values("2026-07-13"), exchange_timezone=zone), "AAPL", "1d", AT)
            assert isinstance(fault, BadReply)
            assert "the zone of the exchange is unknown" in str(fault)

    def test_the_noise_of_floats_is_gone(self):
        series = series_of(body_of(values("2026-07-14 13:30:00", open="231.74001")), "AAPL", "1m", AT)
        assert series.bars.select(PRICES).row(0) == (231.74, 231.98, 230.9, 231.75)

    @pytest.mark.parametrize("body", [{"values": None, "status": "ok"}, {"values": [], "status": "ok"}])
    def test_no_values(self, body):
        assert series_of(body, "AAPL", "1m", AT).rows == 0

    @pytest.mark.parametrize("body", [None, [], {}, "x", {"values": {}}, {"values": "x"}, {"price": "1"}])
    def test_what_is_no_series(self, body):
        assert isinstance(series_of(body, "AAPL", "1m", AT), BadReply)


# Variants of good replies -------------------------------------------------------------------------------


@st.composite
def good_series(draw):
    """Bars as (ts, open, high, low, close, volume), and a reply that states them in one of the ways that are valid."""
    minutes = draw(st.lists(st.integers(0, 10_000), max_size=8, unique=True).map(sorted))
    start = datetime(2026, 7, 1, tzinfo=UTC)
    bars, rows = [], []
    for minute in minutes:
        ts = start + timedelta(minutes=minute)
        low, high = sorted(draw(st.tuples(*[st.integers(1, 10**6)] * 2)))
        open_, close = draw(st.integers(low, high)), draw(st.integers(low, high))
        volume = draw(st.none() | st.integers(0, 10**9))
        bars.append((ts, *(cents / 100 for cents in (open_, high, low, close)), volume))
        row = {"datetime": draw(st.sampled_from([f"{ts:%Y-%m-%d %H:%M:%S}", f"{ts:%Y-%m-%dT%H:%M:%S}"]))}
        row |= {name: draw(spelled(cents)) for name, cents in zip(PRICES, (open_, high, low, close), strict=True)}
        if volume is not None:
            row["volume"] = draw(st.sampled_from([str(volume), volume, f" {volume}"]))
        elif draw(st.booleans()):
            row["volume"] = None
        rows.append(row | draw(st.sampled_from([{}, {"previous_close": "1.0"}, {"extra": [1, {}]}])))
    rows = draw(st.permutations(rows)) if draw(st.booleans()) else rows[::-1]
    body = {"values": rows}
    if draw(st.booleans()):
        body["status"] = "ok"
    if draw(st.booleans()):
        body["meta"] = draw(st.sampled_from([{}, {"symbol": "AAPL"}, {"exchange_timezone": "Asia/Tokyo"}, None]))
    return bars, body


def spelled(cents):
    """The spellings of a price: as text, with zeros, as a number."""
    text = f"{cents / 100:.2f}"
    return st.sampled_from([text, f"{text}000", cents / 100, f"{cents / 100:.5f}"])


@given(good_series())
def test_all_variants_of_a_series_are_the_same_bars(drawn):
    bars, body = drawn
    found = series_of(orjson.loads(orjson.dumps(body)), "AAPL", "1m", AT).bars
    assert found.schema == BARS
    assert found.select("ts", *PRICES, "volume").rows() == bars
    assert found["symbol"].to_list() == ["AAPL"] * len(bars)


@given(good_series())
def test_a_batch_states_the_same_as_its_parts(drawn):
    _, body = drawn
    alone = series_of(body, "AAPL", "1m", AT).bars
    for batch, symbols in (({"AAPL": body}, ["AAPL"]), (body, ["AAPL"]), ({"B": None, "AAPL": body}, ["B", "AAPL"])):
        assert series_of(parts_of(batch, symbols)["AAPL"], "AAPL", "1m", AT).bars.equals(alone)


# Any other payload --------------------------------------------------------------------------------------

GOOD_BODY = body_of(values("2026-07-14 13:30:00", "2026-07-14 13:31:00"))
GOOD_QUOTE = {"symbol": "AAPL", "close": "231.88000", "last_quote_at": 1784037900, "is_market_open": True}
GOOD_PRICE = {"event": "price", "symbol": "AAPL", "timestamp": 1784037907, "price": 231.88, "day_volume": 12}
GOOD_STATUS = {"event": "subscribe-status", "status": "ok", "success": [{"symbol": "AAPL"}], "fails": [{"symbol": "B"}]}
GOOD_USAGE = {"current_usage": 3, "plan_limit": 8, "daily_usage": 57, "plan_daily_limit": 800}


def check_bars(found):
    if isinstance(found, ProviderFault):
        return
    assert isinstance(found, Series)
    frame = found.bars
    assert frame.schema in (BARS, PARSED_BARS)
    checked = validate_bars(frame, AT, timedelta(seconds=5))
    assert len(checked.good) + len(checked.rejected) == len(frame)
    assert checked.rejected["reason"].str.len_bytes().min() != 0
    if "problem" in frame.columns:
        unreadable = frame["problem"].is_not_null()
        assert frame.filter(unreadable)["raw"].null_count() == 0
        assert frame.filter(~unreadable).select("ts", *PRICES).null_count().sum_horizontal()[0] == 0


def check_ticks(frame):
    assert frame.schema in (TICKS, PARSED_TICKS)
    checked = validate_ticks(frame, AT, timedelta(seconds=5))
    assert len(checked.good) + len(checked.rejected) == len(frame)


@given(any_json() | mutated(GOOD_BODY), st.sampled_from(["1m", "5m", "1d"]))
@example({"values": [{"datetime": 10**30}], "meta": {"exchange_timezone": "America/New_York"}}, "1d")
@example({"values": [{"datetime": "2200-12-31"}], "meta": {}}, "1d")
@example({"values": [{"datetime": "1970-01-01"}], "meta": {"exchange_timezone": "Asia/Tokyo"}}, "1d")
@example({"values": [[], None, 5, {}], "meta": []}, "1m")
def test_any_series_is_bars_with_reasons_or_a_fault(body, interval):
    check_bars(series_of(body, "AAPL", interval, AT))
    check_bars(series_of(body, "AAPL", interval, AT, intraday_zone=None))


@given(any_json() | mutated(GOOD_QUOTE))
def test_any_quote_is_a_tick_or_a_fault(body):
    found = quote_of(body, "AAPL", AT)
    if not isinstance(found, ProviderFault):
        assert found.schema == TICKS
        assert len(found) <= 1
        check_ticks(found)


@given(any_json() | mutated({"AAPL": GOOD_QUOTE, "MSFT": GOOD_BODY}))
def test_any_batch_has_a_part_for_each_symbol_or_is_a_fault(body):
    try:
        parts = parts_of(body, ["AAPL", "MSFT"])
    except ProviderFault:
        return
    assert list(parts) == ["AAPL", "MSFT"]


@given(any_json() | mutated(GOOD_USAGE))
def test_any_usage_is_a_sentence_or_a_fault(body):
    with contextlib.suppress(BadReply):
        assert "credits of this minute are used" in usage_of(body)


@given(
    st.binary() | broken(GOOD_BODY) | any_json().map(orjson.dumps),
    st.sampled_from([200, 302, 400, 401, 403, 404, 414, 429, 500, 599]),
)
def test_any_reply_is_data_or_a_fault(content, status):
    fault = read_fault(reply_of(content, status))
    assert isinstance(fault, ProviderFault | None)
    if fault is None:
        orjson.loads(content)


@given(
    st.lists(
        st.binary() | broken(GOOD_PRICE) | (any_json() | mutated(GOOD_PRICE) | mutated(GOOD_STATUS)).map(orjson.dumps),
        max_size=5,
    )
)
def test_any_message_is_a_tick_or_ignored_or_a_fault(messages):
    stream = PriceStream(("AAPL", "B"))
    for message in messages:
        try:
            frame = stream.read(message, AT)
        except ProviderFault:
            continue
        if frame is not None:
            assert len(frame) == 1
            check_ticks(frame)

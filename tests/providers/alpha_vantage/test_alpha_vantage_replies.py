"""Alpha Vantage's replies as frames: recorded ones, and any other bytes."""

import os
from datetime import UTC, datetime
from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.market.schemas import BARS
from stockpulse.providers.alpha_vantage.replies import bars_of, bulk_quotes_of, number_of_percent, quote_of
from stockpulse.providers.faults import BadReply, ProviderFault, UnknownSymbol

FOLDER = Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
RECORDED = sorted((FOLDER / "payloads" / "alphavantage").glob("*"))

DAILY = b"""timestamp,open,high,low,close,volume\r
2026-07-14,287.2000,289.0000,286.5000,288.0500,3011224\r
2026-07-13,286.1000,287.0000,285.9000,286.9000,2811224\r
"""


@pytest.mark.skipif(not RECORDED, reason=f"no recorded replies in {FOLDER} (STOCKPULSE_REAL_DATA says where they are)")
@pytest.mark.parametrize("path", RECORDED or [None], ids=lambda path: path.name if path else "none")
def test_recorded_replies(path):
    body, name = path.read_bytes(), path.name.lower()
    if "quote" in name:
        price, day = quote_of(body, "IBM")
        assert price > 0
        assert datetime.fromisoformat(day)
    elif "daily" in name or "intraday" in name:
        interval = "5m" if "intraday" in name else "1d"
        found = bars_of(body, "IBM", interval)
        assert found.schema == BARS
        assert len(found) == len(body.split()) - (1 if interval == "1d" else len(body.splitlines()))
        assert found["ts"].is_sorted()
        assert found["ts"].n_unique() == len(found)
        assert (found["high"] >= found["low"]).all()
        assert found.select("ts", "open", "high", "low", "close", "volume").null_count().sum_horizontal()[0] == 0
    else:
        with pytest.raises(BadReply, match="without a series"):
            bars_of(body, "IBM", "1d")


def test_a_series_as_a_table():
    found = bars_of(DAILY, "IBM", "1d")
    assert found.columns == list(BARS)
    assert found.rows() == [
        ("IBM", "1d", datetime(2026, 7, 13, 4, tzinfo=UTC), 286.1, 287.0, 285.9, 286.9, 2811224.0, None, None),
        ("IBM", "1d", datetime(2026, 7, 14, 4, tzinfo=UTC), 287.2, 289.0, 286.5, 288.05, 3011224.0, None, None),
    ]


def test_a_quote_as_a_table():
    header = "symbol,open,high,low,price,volume,latestDay,previousClose,change,changePercent"
    body = f"{header}\r\nIBM,287.2,289.0,286.5,288.05,3011224,2026-07-14,286.9,1.15,0.4008%\r\n".encode()
    assert quote_of(body, "IBM") == (288.05, "2026-07-14")
    with pytest.raises(UnknownSymbol):
        quote_of(f"{header}\r\n".encode(), "IBM")


def test_an_adjusted_series_has_its_volume_in_another_place():
    row = {
        "1. open": "4.0",
        "2. high": "5.0",
        "3. low": "3.0",
        "4. close": "4.5",
        "5. adjusted close": "2.25",
        "6. volume": "700",
        "7. dividend amount": "0.0000",
        "8. split coefficient": "1.0",
    }
    body = orjson.dumps({"Meta Data": {}, "Time Series (Daily)": {"2026-07-14": row}})
    assert bars_of(body, "IBM", "1d").row(0)[3:8] == (4.0, 5.0, 3.0, 4.5, 700.0)


@pytest.mark.parametrize("name", ["Weekly Time Series", "Monthly Adjusted Time Series", "Time Series (5min)"])
def test_a_series_is_found_by_its_name(name):
    row = {"1. open": "4", "2. high": "5", "3. low": "3", "4. close": "4.5", "5. volume": "7"}
    assert len(bars_of(orjson.dumps({"Meta Data": {"x": 1}, name: {"2026-07-14": row}}), "IBM", "1d")) == 1


def test_times_of_summer_and_winter():
    row = {"1. open": "4", "2. high": "5", "3. low": "3", "4. close": "4.5", "5. volume": "7"}
    rows = {"2026-07-14 09:30:00": row, "2026-03-08 02:30:00": row, "2026-01-14 09:30:00": row}
    found = bars_of(orjson.dumps({"Time Series (5min)": rows}), "IBM", "5m")
    assert found["ts"].to_list() == [
        None,  # the clock skips this hour
        datetime(2026, 1, 14, 14, 30, tzinfo=UTC),
        datetime(2026, 7, 14, 13, 30, tzinfo=UTC),
    ]


def test_numbers_are_those_nearest_to_their_text():
    body = orjson.dumps({"Time Series (Daily)": {"2026-07-14": {"1. open": "0.1000", "2. high": 0.3, "3. low": True}}})
    assert bars_of(body, "IBM", "1d").row(0)[3:7] == (0.1, 0.3, None, None)


def test_percentages():
    assert [number_of_percent(text) for text in ("0.4008%", "-1.5%", "2", "None")] == [0.4008, -1.5, 2.0, None]


def test_bulk_quotes_are_texts_and_rows_without_a_price_are_left_out():
    rows = [
        {"symbol": "IBM", "timestamp": "2026-07-14 16:05:01.250", "close": "288.05"},
        {"symbol": "AAPL", "timestamp": "2026-07-14 16:05:01", "close": None},
    ]
    assert bulk_quotes_of(orjson.dumps({"data": rows})).select("symbol", "price").rows() == [("IBM", 288.05)]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["Time Series (Daily)", "Global Quote", "data", "2026-07-14", "1. open", "05. price", "symbol"]
            )
            | st.text(),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@given(JSON)
def test_no_json_raises_anything_but_a_fault(content):
    body = orjson.dumps(content, default=str, option=orjson.OPT_NON_STR_KEYS) if _fits(content) else b"{}"
    _parse_all(body)


@given(
    st.binary(max_size=300)
    | st.text(alphabet="timestamp,openhighlowclosevolume\n0123456789.-", max_size=200).map(str.encode)
)
def test_no_bytes_raise_anything_but_a_fault(body):
    _parse_all(body)
    _parse_all(b"timestamp,open,high,low,close,volume\n" + body)


def _fits(content):
    try:
        orjson.dumps(content)
    except TypeError:
        return False
    return True


def _parse_all(body):
    for parse in (
        lambda: bars_of(body, "IBM", "1d"),
        lambda: bars_of(body, "IBM", "5m", end_labels=True),
        lambda: quote_of(body, "IBM"),
        lambda: bulk_quotes_of(body),
    ):
        try:
            parsed = parse()
        except ProviderFault:
            continue
        assert isinstance(parsed, pl.DataFrame | tuple)

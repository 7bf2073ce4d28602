"""Yahoo's charts as bars and prices: recorded ones, its known oddities, and any other JSON."""

import contextlib
import os
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.fakes.yahoo import chart
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.faults import BadReply, ProviderFault
from stockpulse.providers.yahoo.replies import bars_of, price_of

FOLDER = Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[4] / "shared" / "data"))
RECORDED = sorted((FOLDER / "payloads" / "yahoo").glob("*.json"))

OPEN = 1784035800  # 2026-07-14 09:30 in New York


def parsed(reply, interval="1m", **how):
    return bars_of(orjson.dumps(reply), "AAPL", interval, **how)


def rows_of(frame):
    return frame.select("ts", "open", "high", "low", "close", "volume").rows()


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.skipif(not RECORDED, reason=f"no recorded replies in {FOLDER} (STOCKPULSE_REAL_DATA says where they are)")
@pytest.mark.parametrize("path", RECORDED or [None], ids=lambda path: path.name if path else "none")
def test_recorded_replies(path):
    content = orjson.loads(path.read_bytes())
    body = orjson.dumps(content["body"])
    interval = "1m" if "interval-1m" in path.name else "1d"
    found = bars_of(body, "AAPL", interval)
    (result,) = content["body"]["chart"]["result"]
    assert found.schema == BARS
    assert len(found) == len(result.get("timestamp", []))
    assert found["ts"].is_sorted()
    assert (found["high"] >= found["low"]).all()
    assert found["close"].to_list() == [
        round(close / (100 if result["meta"]["currency"] == "GBp" else 1), 4)
        for close in (result["indicators"]["quote"][0].get("close", []) if "timestamp" in result else [])
    ] or not path.name.startswith("chart-AAPL")
    ticks = price_of(body, "AAPL")
    assert ticks.schema == TICKS
    assert len(ticks) == 1


@pytest.mark.skipif(not RECORDED, reason=f"no recorded replies in {FOLDER} (STOCKPULSE_REAL_DATA says where they are)")
@pytest.mark.parametrize(
    ("name", "date", "close"),
    [
        ("chart-0P000071W8.TO-2020-01-01-to-2020-01-03.json", "2020-01-02T05:00", 73.72),
        ("chart-AAPL-2020-01-01-to-2020-01-03.json", "2020-01-02T05:00", 75.0875),
        ("chart-WSKT.JK-2020-01-01-to-2020-01-03.json", "2020-01-02T05:00", 1505.0),
        ("chart-OCDO.L-2020-01-01-to-2020-01-03.json", "2020-01-02T05:00", 12.595),
        ("chart-ORSTED.CO-2020-01-01-to-2020-01-03.json", "2020-01-02T05:00", 681.0),
    ],
)
def test_the_date_of_recorded_days(name, date, close):
    found = bars_of(orjson.dumps(orjson.loads((FOLDER / "payloads/yahoo" / name).read_bytes())["body"]), "X", "1d")
    assert found.select("ts", "close").rows() == [(at(date), close)]


# Rows -------------------------------------------------------------------------------------------


def test_rows_without_a_price_are_left_out():
    rows = [
        (OPEN, 231.1199951171875, 231.97999572753906, 230.89999389648438, 231.75, 482113),
        (OPEN + 60, 231.74000549316406, 232.0500030517578, 231.60000610351562, 231.89999389648438, None),
        (OPEN + 120, None, None, None, None, None),
        (OPEN + 180, 231.0, 232.0, None, 231.5, 10),
    ]
    assert rows_of(parsed(chart(rows))) == [
        (at("2026-07-14T13:30"), 231.12, 231.98, 230.9, 231.75, 482113.0),
        (at("2026-07-14T13:31"), 231.74, 232.05, 231.6, 231.9, 0.0),
    ]


@pytest.mark.parametrize(
    "reply",
    [
        chart(None),
        chart([]),
        {"chart": {"result": [{"meta": {}, "timestamp": [], "indicators": {}}], "error": None}},
        {"chart": {"result": [{"meta": {}, "indicators": {"quote": [{"close": [1]}]}}], "error": None}},
        {"chart": {"result": None, "error": {"code": "Bad Request", "description": "Data doesn't exist for x"}}},
    ],
)
def test_a_range_without_sessions_is_empty(reply):
    assert len(parsed(reply)) == len(parsed(reply, "1d")) == 0


def broken(**changes):
    reply = chart([(OPEN, 100), (OPEN + 60, 101)])
    quote = reply["chart"]["result"][0]["indicators"]["quote"][0]
    for name, value in changes.items():
        if name == "timestamp":
            reply["chart"]["result"][0][name] = value
        else:
            quote[name] = value
    return reply


@pytest.mark.parametrize(
    "reply",
    [
        broken(close=[1.0]),
        broken(volume=[1, 2, 3]),
        broken(open=None),
        broken(open=["1", 2]),
        broken(high=[True, 2]),
        broken(timestamp=[OPEN, None]),
        broken(timestamp=[OPEN, -1]),
        broken(timestamp=[OPEN, 1e300]),
        broken(timestamp="soon"),
        {"chart": {"result": [{"timestamp": [OPEN], "indicators": {"quote": [{}]}}]}},
        {"chart": {"result": [{"timestamp": [OPEN], "indicators": {"quote": []}}]}},
        {"chart": {"result": [{"timestamp": [OPEN]}]}},
        {"chart": {"result": [7]}},
        {"chart": 7},
        [],
    ],
)
def test_another_shape_is_a_fault(reply):
    with pytest.raises(BadReply):
        parsed(reply)


def test_a_chart_without_volumes_has_none():
    reply = chart([(OPEN, 100)])
    del reply["chart"]["result"][0]["indicators"]["quote"][0]["volume"]
    assert parsed(reply)["volume"].to_list() == [0.0]


# The live point ---------------------------------------------------------------------------------


def test_a_live_point_joins_its_bucket():
    rows = [(OPEN, 100, 102, 99, 101, 1000), (OPEN + 60, 101, 102, 100, 101, 500), (OPEN + 83, 105, 105, 99, 104, 70)]
    assert rows_of(parsed(chart(rows)))[1:] == [(at("2026-07-14T13:31"), 101.0, 105.0, 99.0, 104.0, 570.0)]


def test_its_volume_is_not_added_if_it_repeats_that_of_the_bucket():
    rows = [(OPEN, 101, 102, 100, 101, 1000), (OPEN + 23, 105, 105, 99, 104, 1020)]
    assert parsed(chart(rows))["volume"].to_list() == [1020.0]


def test_a_live_point_of_another_bucket_is_left_out():
    rows = [(OPEN, 101, 102, 100, 101, 1000), (OPEN + 83, 105, 105, 99, 104, 70)]
    assert [row[1] for row in rows_of(parsed(chart(rows)))] == [101.0]
    assert len(parsed(chart(rows[1:]))) == 0


def test_a_live_point_of_five_minutes():
    rows = [(OPEN, 101, 102, 100, 101, 1000), (OPEN + 299, 105, 105, 99, 104, 70)]
    assert rows_of(parsed(chart(rows), "5m")) == [(at("2026-07-14T13:30"), 101.0, 105.0, 99.0, 104.0, 1070.0)]


# Sessions ---------------------------------------------------------------------------------------

HALF_DAY = 1795789800  # 2026-11-27 09:30 in New York, until 13:00
PERIOD = {"timezone": "EST", "start": HALF_DAY, "end": HALF_DAY + 12_600, "gmtoffset": -18000}


@pytest.mark.parametrize(
    "periods",
    [
        [[PERIOD]],
        [PERIOD],
        {"pre": [[{"start": HALF_DAY - 19_800, "end": HALF_DAY}]], "regular": [[PERIOD]], "post": [[]]},
    ],
)
def test_rows_outside_the_session_of_a_half_day_are_left_out(periods):
    offsets = (-120, -60, -30, 0, 12_540, 12_600, 12_660)
    reply = chart([(HALF_DAY + offset - offset % 60, 100) for offset in offsets], meta={"tradingPeriods": periods})
    kept = [(int(ts.timestamp()) - HALF_DAY) for ts in parsed(reply)["ts"]]
    assert kept == [0, 12_540]
    assert len(parsed(reply, extended=True)) == len(offsets)


@pytest.mark.parametrize("periods", [None, [], [[]], "x", {"regular": None}, [[{"start": "x", "end": 1}]]])
def test_without_sessions_all_rows_stay(periods):
    assert len(parsed(chart([(HALF_DAY + 12_600, 100)], meta={"tradingPeriods": periods}))) == 1


def test_days_whose_session_is_not_given_keep_their_rows():
    reply = chart([(HALF_DAY - 86_400, 99), (HALF_DAY, 100)], meta={"tradingPeriods": [[PERIOD]]})
    assert len(parsed(reply)) == 2


# Days -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "t", "stamp"),
    [
        ("America/New_York", "2026-01-14T14:30", "2026-01-14T05:00"),
        ("America/New_York", "2026-07-14T13:30", "2026-07-14T04:00"),
        ("Asia/Tokyo", "2026-07-14T00:00", "2026-07-14T04:00"),
        ("Asia/Jakarta", "2026-07-14T02:00", "2026-07-14T04:00"),
        ("Europe/London", "2026-07-13T22:00", "2026-07-14T04:00"),  # 23:00 of the day before
        ("Europe/London", "2026-07-13T23:00", "2026-07-14T04:00"),
        ("UTC", "2026-07-14T00:00", "2026-07-14T04:00"),
        ("America/Mexico_City", "2026-07-14T14:30", "2026-07-14T06:00"),
        ("Pacific/Auckland", "2026-07-13T22:00", "2026-07-14T04:00"),
        ("no such zone", "2026-07-14T13:30", "2026-07-14T04:00"),
        ("America", "2026-07-14T13:30", "2026-07-14T04:00"),
        (None, "2026-07-14T13:30", "2026-07-14T04:00"),
    ],
)
def test_the_date_of_a_day_is_the_exchanges(zone, t, stamp):
    reply = chart([(int(at(t).timestamp()), 100)], meta={"exchangeTimezoneName": zone, "gmtoffset": -99})
    assert parsed(reply, "1d")["ts"].to_list() == [at(stamp)]


def test_of_two_rows_of_the_last_date_the_newest_counts():
    rows = [(OPEN - 86_400, 99), (OPEN, 100), (OPEN + 23_401, 101)]
    reply = chart(rows, meta={"regularMarketTime": OPEN + 23_401})
    assert parsed(reply, "1d").select("ts", "open").rows() == [
        (at("2026-07-13T04:00"), 99.0),
        (at("2026-07-14T04:00"), 101.0),
    ]


def test_a_live_row_late_in_the_evening_is_of_that_day():
    late = int(at("2026-07-14T22:40").timestamp())
    meta = {"exchangeTimezoneName": "UTC", "regularMarketTime": late}
    assert parsed(chart([(late, 100)], meta=meta), "1d")["ts"].to_list() == [at("2026-07-14T04:00")]


# Minor currencies -------------------------------------------------------------------------------


@pytest.mark.parametrize(("currency", "units"), [("GBp", 100), ("ZAc", 100), ("ILA", 100), ("KWF", 1000), ("GBP", 1)])
def test_pence_become_pounds(currency, units):
    meta = {"currency": currency, "regularMarketPrice": 1259.5, "regularMarketTime": OPEN}
    reply = chart([(OPEN, 1279.5, 1286.5, 1258.0, 1259.5, 7)], meta=meta)
    prices = tuple(price / units for price in (1279.5, 1286.5, 1258.0, 1259.5))
    assert rows_of(parsed(reply, "1d"))[0][1:] == (*prices, 7.0)
    assert price_of(orjson.dumps(reply), "OCDO.L")["price"].to_list() == [1259.5 / units]


def test_rows_that_are_in_pounds_already_stay():
    meta = {"currency": "GBp", "regularMarketPrice": 1259.5, "regularMarketTime": OPEN}
    assert parsed(chart([(OPEN, 12.79, 12.86, 12.58, 12.6, 7)], meta=meta), "1d")["close"].to_list() == [12.6]


def test_old_rows_are_compared_with_the_close_before_them():
    meta = {"currency": "GBp", "regularMarketPrice": 20_000.0, "regularMarketTime": OPEN, "chartPreviousClose": 201.0}
    old = [(OPEN - 5_000 * 86_400, 200.0, 202.0, 199.0, 200.0, 7)]
    assert parsed(chart(old, meta=meta), "1d")["close"].to_list() == [2.0]
    assert parsed(chart(old, meta={**meta, "chartPreviousClose": 20_100.0}), "1d")["close"].to_list() == [200.0]


def test_a_missing_currency_is_no_minor_one():
    meta = {"currency": None, "regularMarketPrice": 100.0, "regularMarketTime": OPEN}
    assert parsed(chart([(OPEN, 100)], meta=meta), "1d")["open"].to_list() == [100.0]


@pytest.mark.parametrize(
    "meta",
    [
        {"regularMarketPrice": None, "regularMarketTime": OPEN},
        {"regularMarketPrice": 0, "regularMarketTime": OPEN},
        {"regularMarketPrice": 1.5},
        {"regularMarketPrice": 1.5, "regularMarketTime": "now"},
        {},
    ],
)
def test_a_symbol_without_a_price_has_no_row(meta):
    assert len(price_of(orjson.dumps(chart([], meta=meta)), "AAPL")) == 0


# Anything ---------------------------------------------------------------------------------------

NAMES = ["chart", "result", "meta", "timestamp", "indicators", "quote", "error", "open", "tradingPeriods", "regular"]
LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=8)
JSON = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4)
)
COLUMN = st.lists(LEAVES, max_size=3) | LEAVES
RESULTS = st.fixed_dictionaries(
    {
        "meta": st.dictionaries(
            st.sampled_from(["currency", "exchangeTimezoneName", "regularMarketTime", "regularMarketPrice",
                             "chartPreviousClose", "tradingPeriods"]),
            JSON | st.sampled_from(["GBp", "Asia/Tokyo", OPEN]),
        ) | JSON,
        "timestamp": st.lists(st.integers(OPEN, OPEN + 90) | LEAVES, max_size=3) | LEAVES,
        "indicators": st.fixed_dictionaries(
            {"quote": st.lists(st.fixed_dictionaries(dict.fromkeys(("open", "high", "low", "close", "volume"), COLUMN)),
                               min_size=1, max_size=1)}
        ) | JSON,
    }
)  # fmt: skip


@given(JSON | RESULTS.map(lambda result: {"chart": {"result": [result], "error": None}}))
def test_no_json_raises_anything_but_a_fault(content):
    parse_all(orjson.dumps(content))


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_fault(body):
    parse_all(body)


def parse_all(body):
    for interval in ("1m", "5m", "1d"):
        with contextlib.suppress(ProviderFault):
            assert bars_of(body, "AAPL", interval).schema == BARS
    with contextlib.suppress(ProviderFault):
        assert price_of(body, "AAPL").schema == TICKS

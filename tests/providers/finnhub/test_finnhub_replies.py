"""Finnhub's replies and messages as frames: recorded ones, all variants of good ones, and any other bytes."""

import contextlib
import os
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import orjson
import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from providers.any_json import any_json, broken, mutated
from stockpulse.ingest.redelivery import RedeliveryWindow
from stockpulse.ingest.validate import validate_bars, validate_ticks
from stockpulse.market.rows import PARSED_TICKS
from stockpulse.market.schemas import BARS, TICKS
from stockpulse.providers.faults import BadReply, NotEntitled, ProviderFault
from stockpulse.providers.finnhub.conditions import finnhub
from stockpulse.providers.finnhub.exchanges import zone_of
from stockpulse.providers.finnhub.faults import pause_seconds, read_fault
from stockpulse.providers.finnhub.replies import candles_of, market_of, quote_of
from stockpulse.providers.finnhub.stream import TradeStream, trades_of
from stockpulse.providers.transport.rest_client import Reply

EXCERPTS = Path(__file__).parents[2] / "data" / "payloads" / "finnhub"
RECORDED = (
    Path(os.environ.get("STOCKPULSE_REAL_DATA", Path(__file__).parents[4] / "shared" / "data")) / "payloads/finnhub"
)
AT = datetime(2026, 7, 14, 18, 0, tzinfo=UTC)
EPOCH = int(AT.timestamp())
PARSED_BARS = pl.Schema({**BARS, "problem": pl.String(), "raw": pl.String()})
OTHERS = {"peers-AAPL-industry.json", "profile-AAPL.json", "search-apple.json", "stock-symbol-US.json"}
"""Replies to requests that we do not make."""


def recorded():
    return sorted({path.name: path for folder in (EXCERPTS, RECORDED) for path in folder.glob("*.json*")}.values())


def reply_of(body, status=200, headers=None):
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    return Reply("finnhub", "/quote", {}, status, headers or {}, content, AT)


class TestRecorded:
    @pytest.mark.parametrize("path", recorded(), ids=lambda path: path.name)
    def test_each_is_parsed(self, path):
        if path.suffix == ".jsonl":
            self.check_messages(path.read_bytes().splitlines())
            return
        body = orjson.loads(path.read_bytes())
        fault = read_fault(reply_of(body))
        if path.name in OTHERS:
            assert fault is None
            for read in (lambda: quote_of(body, "AAPL", AT), lambda: candles_of(body, "AAPL", "1d", AT)):
                with pytest.raises(BadReply):
                    read()
        elif "error" in body:
            assert isinstance(fault, NotEntitled)
        elif "s" in body:
            assert candles_of(body, "AAPL", "1d", AT).equals(BARS.to_frame())
        else:
            assert fault is None
            quote = quote_of(body, "AAPL", AT)
            assert quote.schema == TICKS
            rows = [(body["c"], datetime.fromtimestamp(body["t"], UTC))] if body["c"] else []
            assert quote.select("price", "ts").rows() == rows

    def check_messages(self, messages):
        stream, window = TradeStream(("AAPL", "AMZN")), RedeliveryWindow()
        sent = [trade for message in messages for trade in orjson.loads(message).get("data", [])]
        frames = [frame for message in messages if (frame := stream.read(message)) is not None]
        assert len(frames) == sum(b'"trade"' in message for message in messages)
        new = [row for frame in frames for row in frame.filter(pl.Series(window.sift(frame))).rows()]
        distinct = {(trade["s"], trade["t"], trade["p"], trade["v"]) for trade in sent}
        assert len(new) == len(distinct)
        assert {(row[0], int(row[1].timestamp() * 1000 + 0.5), row[2], row[3]) for row in new} == distinct


# Variants of good messages ------------------------------------------------------------------------------


@st.composite
def good_trades(draw):
    """Trades as (symbol, ms, price, size, codes), and a message that states them in one of the ways that are valid."""
    expected, sent = [], []
    for _ in range(draw(st.integers(1, 8))):
        symbol, ms = draw(st.sampled_from(["AAPL", "BINANCE:BTCUSDT"])), EPOCH * 1000 - draw(st.integers(0, 5_000))
        price, size = draw(st.integers(1, 10**6)) / 100, draw(st.sampled_from([0, 1, 100, 0.00231, 1e-8]))
        codes = draw(st.lists(st.sampled_from(["1", "12", "24"]), unique=True))
        sent_codes = [codes] if codes else [None, [], "absent"]
        row = {"s": symbol, "p": draw(as_number(price)), "t": draw(as_number(ms)), "v": draw(as_number(size))}
        if (how := draw(st.sampled_from(sent_codes))) != "absent":
            row["c"] = how
        shuffled = draw(st.permutations(list(row.items())))
        expected.append((symbol, ms, price, float(size), ",".join(codes)))
        sent.append(dict(shuffled) | draw(st.sampled_from([{}, {"x": "more"}])))
    body = {"type": "trade", "data": sent}
    return expected, body if draw(st.booleans()) else dict(reversed(body.items()))


def as_number(value):
    """The spellings of a number: a whole one also with a point."""
    return st.sampled_from([value, float(value)])


@given(good_trades())
def test_all_variants_of_trades_are_the_same_ticks(drawn):
    expected, body = drawn
    frame = TradeStream(("AAPL",)).read(orjson.dumps(body))
    assert frame.schema == TICKS
    found = [
        (
            symbol,
            round(ts.timestamp() * 1000),
            price,
            size,
            ",".join(c for c in (codes or "").split(",") if c != "price-only"),
        )
        for symbol, ts, price, size, _, _, _, codes in frame.rows()
    ]
    assert found == sorted(expected, key=lambda one: one[1])
    assert all(
        ("price-only" in (codes or "")) == (size == 0) for size, codes in frame.select("size", "conditions").rows()
    )
    assert len(validate_ticks(frame, AT, timedelta(seconds=5)).rejected) == 0
    new = RedeliveryWindow().sift(frame)
    assert new.sum() == len({one[:4] for one in expected})


@given(st.lists(st.integers(0, 9_000), min_size=1, max_size=8, unique=True), st.data())
def test_all_variants_of_candles_are_the_same_bars(minutes, data):
    times = [EPOCH - 60 * (minute + 1) for minute in minutes]
    prices = [minute + 1 for minute in minutes]
    body = {"s": "ok", "t": times, "o": prices, "h": prices, "l": prices, "c": prices, "v": minutes}
    for name in "ohlcv":
        if data.draw(st.booleans()):
            body[name] = [float(value) for value in body[name]]
    if without_volume := data.draw(st.sampled_from([False, None, [], "absent"])) in (None, [], "absent"):
        body["v"] = None
    found = candles_of(orjson.loads(orjson.dumps(body)), "AAPL", "1m", AT)
    assert found.schema == BARS
    rows = sorted(zip(times, prices, [None] * len(times) if without_volume else minutes, strict=True))
    assert found.select(pl.col("ts").dt.epoch("s"), "close", "volume").rows() == rows


@given(
    st.dates(date(1990, 1, 2), date(2026, 7, 13)),
    st.sampled_from(["AAPL", "VOD.L", "7203.T", "X.NZ", "R.NS"]),
    st.data(),
)
def test_all_stamps_of_a_day_are_its_midnight(day, symbol, data):
    zone = zone_of(symbol)
    midnight, opening = (datetime(day.year, day.month, day.day, *clock, tzinfo=zone) for clock in ((0, 0), (9, 30)))
    in_utc = datetime(day.year, day.month, day.day, tzinfo=UTC)
    stamp = int(data.draw(st.sampled_from([midnight, opening, in_utc])).timestamp())
    body = {"s": "ok", "t": [stamp], "o": [1], "h": [1], "l": [1], "c": [1], "v": [1]}
    assert candles_of(body, symbol, "1d", AT)["ts"].to_list() == [midnight]


# Any other payload --------------------------------------------------------------------------------------

GOOD_QUOTE = {"c": 231.88, "d": 1.37, "dp": 0.5943, "h": 232.4, "l": 230.9, "o": 231.12, "pc": 230.51, "t": 1784037900}
GOOD_CANDLES = {"s": "ok", "t": [EPOCH - 120, EPOCH - 60]} | {name: [1.5, 2.5] for name in "ohlcv"}
GOOD_TRADES = {
    "type": "trade",
    "data": [
        {"s": "AAPL", "p": 231.88, "t": EPOCH * 1000, "v": 100, "c": ["1", "12"]},
        {"s": "AAPL", "p": 231.88, "t": EPOCH * 1000, "v": 0, "c": None},
    ],
}
GOOD_ERROR = {"type": "error", "msg": "Invalid symbol AAPL"}


def check_ticks(frame):
    assert frame.schema in (TICKS, PARSED_TICKS)
    checked = validate_ticks(frame, AT, timedelta(seconds=5))
    assert len(checked.good) + len(checked.rejected) == len(frame)
    assert checked.rejected["reason"].str.len_bytes().min() != 0
    for codes in checked.good["conditions"]:
        assert finnhub(codes or "") >= 0


@given(any_json() | mutated(GOOD_QUOTE))
def test_any_quote_is_a_tick_or_a_fault(body):
    with contextlib.suppress(ProviderFault):
        frame = quote_of(body, "AAPL", AT)
        assert frame.schema == TICKS
        assert len(frame) <= 1
        check_ticks(frame)


@given(
    any_json() | mutated(GOOD_CANDLES), st.sampled_from(["1m", "5m", "1d"]), st.sampled_from(["AAPL", "FPH.NZ", "A:B"])
)
@example(GOOD_CANDLES | {"t": [2**63, 10**25]}, "1d", "AAPL")
@example(GOOD_CANDLES | {"t": [0, 1]}, "1d", "AAPL")
@example(GOOD_CANDLES | {"t": [7289654399, 1e308]}, "1d", "FPH.NZ")
def test_any_candles_are_bars_with_reasons_or_a_fault(body, interval, symbol):
    with contextlib.suppress(ProviderFault):
        frame = candles_of(body, symbol, interval, AT)
        assert frame.schema in (BARS, PARSED_BARS)
        checked = validate_bars(frame, AT, timedelta(seconds=5))
        assert len(checked.good) + len(checked.rejected) == len(frame)


@given(any_json() | mutated({"isOpen": True, "session": "regular", "holiday": None}))
def test_any_status_is_a_text_or_a_fault(body):
    with contextlib.suppress(BadReply):
        assert market_of(body).startswith(("open", "closed"))


@given(
    st.binary()
    | broken(GOOD_CANDLES)
    | (any_json() | st.builds(lambda error: {"error": error}, any_json())).map(orjson.dumps),
    st.sampled_from([200, 302, 400, 401, 403, 404, 422, 429, 500, 524]),
    st.dictionaries(
        st.sampled_from(["retry-after", "x-ratelimit-remaining", "x-ratelimit-reset"]),
        st.text() | st.integers().map(str) | st.just("0"),
    ),
)
def test_any_reply_is_data_or_a_fault(content, status, headers):
    reply = reply_of(content, status, headers)
    fault = read_fault(reply)
    assert isinstance(fault, ProviderFault | None)
    if fault is None:
        orjson.loads(content)
    assert 0 <= pause_seconds(reply) <= 61


@given(
    st.lists(
        st.binary() | broken(GOOD_TRADES) | (any_json() | mutated(GOOD_TRADES) | mutated(GOOD_ERROR)).map(orjson.dumps),
        max_size=4,
    )
)
def test_any_message_is_ticks_or_ignored_or_a_fault(messages):
    stream = TradeStream(("AAPL", "B"))
    for message in messages:
        with contextlib.suppress(ProviderFault):
            frame = stream.read(message)
            if frame is not None:
                check_ticks(frame)
                assert frame["ts"].drop_nulls().is_sorted()


@given(st.lists(any_json() | mutated(GOOD_TRADES["data"][0]), max_size=6))
def test_a_good_trade_comes_through_among_any_others(others):
    good = {"s": "MSFT", "p": 500.25, "t": EPOCH * 1000, "v": 7}
    frame = trades_of(orjson.loads(orjson.dumps([*others[:3], good, *others[3:]])))
    assert len(frame) == len(others) + 1
    problems = frame["problem"] if "problem" in frame.columns else pl.Series([None] * len(frame), dtype=pl.String)
    (row,) = frame.filter((pl.col("symbol") == "MSFT") & (pl.col("price") == 500.25) & problems.is_null()).rows()
    assert row[:4] == ("MSFT", AT, 500.25, 7.0)

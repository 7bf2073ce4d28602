"""Indicators of the real app on a real database: the stored ones, and any others over any history."""

import asyncio
import math
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import asyncpg
import numpy as np
import polars as pl
import pytest
from analytics_market import (
    DAYS,
    FIRST_DAY,
    MINUTE,
    calculated,
    frame,
    get,
    same,
    send,
    settled,
    stored_instances,
    tick,
    until,
    walk,
)

from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Instance
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.ingest.feed import Feed
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.schemas import BARS
from stockpulse.node import maintenance
from stockpulse.storage.analytics_reader import SERVED_ANALYTICS, SERVED_REALTIME

TIERS = {"intraday": "5m", "daily": "1d"}
ALL = ",".join(one.indicator.name for one in stored_instances())
OUTPUTS = [output for one in stored_instances() for output in one.indicator.outputs]


@pytest.fixture(scope="module", autouse=True)
def _calendar_made():
    """Not first while the app does the same in a thread: filters of warnings are shared by all threads."""
    trading_calendar("XNYS")


@pytest.fixture
async def market(compiled, client):
    """BTC/USD, of which the indicators of all closed bars are stored."""
    await send(client, walk())
    await settled(client, "BTC/USD")
    return client


async def submit_minutes(context, client, closes, *, symbol="BTC/USD", provider="vendor"):
    """A provider's own minute bars, two minutes apart, and a wait until they are stored."""
    closes = np.asarray(closes, np.float64)
    count = len(closes)
    random = np.random.default_rng(3)
    start = datetime(2024, 1, 1, tzinfo=UTC)
    bars = pl.DataFrame(
        {
            "symbol": [symbol] * count,
            "interval": ["1m"] * count,
            "ts": [start + 2 * i * MINUTE for i in range(count)],
            "open": np.roll(closes, 1),
            "high": np.maximum(closes, np.roll(closes, 1)) * 1.001,
            "low": np.minimum(closes, np.roll(closes, 1)) * 0.999,
            "close": closes,
            "volume": random.integers(1, 1000, count).astype(np.float64),
            "trade_count": [1] * count,
            "vwap": closes,
        }
    )
    await context.pipeline.intake.submit(bars.cast(dict(BARS)), Feed(provider, "24/7", Clock.EVENT), of_bars=True)
    while (await client.get("/health")).json()["tasks"]["flush"]["lag"]:
        await asyncio.sleep(0.02)


# --- stored indicators -------------------------------------------------------------------------


@pytest.mark.thorough
async def test_stored_values_are_those_of_one_calculation_over_all_closed_bars(market, compiled):
    assert set(OUTPUTS) == set(STORED_INDICATORS)
    for tier, interval in TIERS.items():
        bars = await frame(market, "/data/BTC/USD", interval=interval)
        closed = bars.filter("final")
        assert closed.height == bars.height - 1 >= DAYS - 1
        stored = await frame(market, f"/analytics/{tier}/BTC/USD", start=0)
        assert stored.schema == SERVED_ANALYTICS
        assert stored["ts"].to_list() == closed["ts"].to_list()
        same(stored, OUTPUTS, calculated(compiled, stored_instances(), closed))
        asked = await frame(market, "/indicators/BTC/USD", type=ALL, interval=interval)
        same(asked, OUTPUTS, calculated(compiled, stored_instances(), bars))
        assert asked.filter("final").select("ts", *OUTPUTS).equals(stored.select("ts", *OUTPUTS))
        # The records of a bar came with it, or before it.
        assert stored["revision"].to_list() == closed["revision"].cum_max().to_list()


@pytest.mark.thorough
async def test_stored_values_are_those_of_ta_lib(market):
    talib = pytest.importorskip("talib")
    for tier, interval in TIERS.items():
        bars = (await frame(market, "/data/BTC/USD", interval=interval)).filter("final")
        stored = await frame(market, f"/analytics/{tier}/BTC/USD", start=0)
        high, low, close, volume = (bars[name].to_numpy().copy() for name in ("high", "low", "close", "volume"))
        upper, middle, lower = talib.BBANDS(close, 20, 2, 2)
        expected = {
            "sma": talib.SMA(close, 20),
            "ema": talib.EMA(close, 20),
            "rsi": talib.RSI(close, 14),
            "adx": talib.ADX(high, low, close, 14),
            "atr": talib.ATR(high, low, close, 14),
            "cci": talib.CCI(high, low, close, 14),
            "mfi": talib.MFI(high, low, close, volume, 14),
            "obv": talib.OBV(close, volume),
            "bb_upper": upper,
            "bb_middle": middle,
            "bb_lower": lower,
        }
        for name, values in expected.items():
            found = stored[name].fill_null(np.nan).to_numpy()
            np.testing.assert_allclose(found[80:], values[80:], rtol=1e-8, atol=1e-8, err_msg=name)


@pytest.mark.thorough
async def test_values_are_null_before_there_is_enough_history(market):
    described = {one["name"]: one for one in (await get(market, "/indicators"))["indicators"]}
    for tier in TIERS:
        stored = await frame(market, f"/analytics/{tier}/BTC/USD", start=0)
        for name, one in described.items():
            if not set(one["outputs"]) <= set(STORED_INDICATORS):
                continue
            full = stored.select(pl.all_horizontal(pl.col(one["outputs"]).is_not_null())).to_series()
            assert full.arg_max() == one["lookback"], name
            assert full[one["lookback"] :].all(), name


async def test_the_newest_of_every_tier(market):
    async def with_realtime():  # which is calculated about once a second
        body = await get(market, "/api/v1/analytics/BTC/USD")
        return body if body["realtime"] else None

    body = await until(with_realtime)
    assert list(body) == ["symbol", "realtime", "intraday", "daily"]
    assert body["symbol"] == "BTC/USD"
    assert list(body["realtime"]) == list(SERVED_REALTIME)
    for tier in TIERS:
        rows = (await get(market, f"/analytics/{tier}/BTC/USD"))["analytics"]
        assert body[tier] == rows[-1]
        assert list(body[tier]) == list(SERVED_ANALYTICS)
    assert body["intraday"]["ts"] == "2025-10-08T14:00:00Z"
    assert body["daily"]["ts"] == "2025-10-07T00:00:00Z"
    there = await get(market, "/analytics/BTC/USD", tz="Asia/Kolkata")
    assert there["daily"] == body["daily"] | {"ts": "2025-10-07T05:30:00+05:30"}
    assert there["realtime"]["price_at"] == "2025-10-09T02:30:40+05:30"


async def test_ranges_and_limits_of_what_is_stored(market):
    for tier, interval in TIERS.items():
        path = f"/analytics/{tier}/BTC/USD"
        whole = await get(market, path, start=0)
        rows = whole["analytics"]
        assert list(whole) == ["symbol", "interval", "analytics"]
        assert (whole["symbol"], whole["interval"]) == ("BTC/USD", interval)
        newest = await get(market, path)
        assert list(newest) == ["symbol", "interval", "count", "analytics"]
        assert (newest["count"], newest["analytics"]) == (100, rows[-100:])
        assert (await get(market, path, limit=3))["analytics"] == rows[-3:]
        assert (await get(market, path, limit=10_000))["analytics"] == rows
        middle = [rows[50]["ts"], rows[60]["ts"]]
        assert (await get(market, path, start=middle[0], end=middle[1]))["analytics"] == rows[50:60]
        assert (await get(market, path, start=middle[0], limit=4))["analytics"] == rows[-4:]
        assert (await get(market, path, start=middle[0], end=middle[1], limit=4))["analytics"] == rows[56:60]
        assert (await get(market, path, end=middle[1]))["analytics"] == rows[:60][-100:]
        assert (await get(market, path, start="2100-01-01"))["analytics"] == []
        assert (await get(market, path, start=middle[0], end=middle[0]))["analytics"] == []
        assert (await get(market, path, end="1970-01-02"))["count"] == 0
        in_tokyo = (await get(market, path, limit=1, tz="Asia/Tokyo"))["analytics"][0]
        assert in_tokyo["ts"].endswith("+09:00")
        assert datetime.fromisoformat(in_tokyo["ts"]) == datetime.fromisoformat(rows[-1]["ts"])


@pytest.mark.thorough
async def test_a_late_trade_changes_all_that_follows_from_its_bar(market, compiled):
    before = await frame(market, "/analytics/daily/BTC/USD", start=0)
    late = FIRST_DAY + timedelta(days=100, hours=9)
    await send(market, [tick("BTC/USD", late, 500.0, 3.0)])

    async def revised():
        closed = (await frame(market, "/data/BTC/USD", interval="1d")).filter("final")
        after = await frame(market, "/analytics/daily/BTC/USD", start=0)
        return after if after["revision"].to_list() == closed["revision"].cum_max().to_list() else None

    after = await until(revised)
    await settled(market, "BTC/USD")  # there is one more of 5 minutes
    assert after[:100].equals(before[:100])
    assert (after["revision"][100:] > before["revision"][100:]).all()
    for tier, interval in TIERS.items():
        closed = (await frame(market, "/data/BTC/USD", interval=interval)).filter("final")
        assert closed["high"].max() == 500

        async def recalculated(tier=tier, closed=closed):
            stored = await frame(market, f"/analytics/{tier}/BTC/USD", start=0)
            return stored if stored["revision"].to_list() == closed["revision"].cum_max().to_list() else None

        same(await until(recalculated), OUTPUTS, calculated(compiled, stored_instances(), closed))


async def test_what_is_stored_is_there_after_a_restart(serve, postgres_dsn, compiled):
    rows = walk(days=40)
    async with serve(postgres_dsn) as client:
        await send(client, rows[:-6])
        await settled(client, "BTC/USD")
        before = {tier: await frame(client, f"/analytics/{tier}/BTC/USD", start=0) for tier in TIERS}
    async with serve(postgres_dsn) as client:
        for tier in TIERS:
            after = await frame(client, f"/analytics/{tier}/BTC/USD", start=0)
            assert after[: before[tier].height].equals(before[tier])
        await send(client, rows[-6:])
        await settled(client, "BTC/USD")
        for tier, interval in TIERS.items():
            closed = (await frame(client, "/data/BTC/USD", interval=interval)).filter("final")

            async def complete(tier=tier, closed=closed):
                stored = await frame(client, f"/analytics/{tier}/BTC/USD", start=0)
                return stored if stored["revision"].to_list() == closed["revision"].cum_max().to_list() else None

            same(await until(complete), OUTPUTS, calculated(compiled, stored_instances(), closed))


# --- formats -----------------------------------------------------------------------------------


@pytest.mark.thorough
async def test_the_four_formats_say_the_same(market):
    for path, key in (
        ("/analytics/intraday/BTC/USD?limit=30", "analytics"),
        ("/analytics/daily/BTC/USD?start=0", "analytics"),
        ("/analytics/daily/BTC/USD?start=2100-01-01", "analytics"),
        ("/indicators/BTC/USD?type=rsi,macd(3,7,2),rsi(7)", "values"),
        ("/indicators/BTC/USD?type=vwap&start=2100-01-01", "values"),
        ("/indicators/BTC/USD?type=ichimoku&interval=5m&limit=7", "values"),
        ("/indicators/BTC/USD?type=ichimoku&interval=5m&limit=7&start=2100-01-01", "values"),
    ):
        by_format = {name: await market.get(f"{path}&format={name}") for name in ("json", "csv", "arrow", "parquet")}
        assert {answer.status_code for answer in by_format.values()} == {200}
        arrow = pl.read_ipc_stream(by_format["arrow"].content)
        assert pl.read_parquet(by_format["parquet"].content).equals(arrow)
        rows = by_format["json"].json()[key]
        assert [row | {"ts": datetime.fromisoformat(row["ts"])} for row in rows] == arrow.to_dicts()
        csv = pl.read_csv(by_format["csv"].content, schema_overrides=dict.fromkeys(arrow.columns, pl.String))
        assert csv.columns == arrow.columns
        for name, dtype in arrow.schema.items():
            column = csv[name].str.to_datetime(time_zone="UTC") if name == "ts" else csv[name]
            column = column == "true" if dtype == pl.Boolean else column
            assert column.cast(dtype).to_list() == arrow[name].to_list()
    for path, filename in (
        ("/analytics/intraday/BTC/USD", "BTC_USD_analytics_5m"),
        ("/analytics/daily/BTC/USD", "BTC_USD_analytics_1d"),
        ("/indicators/BTC/USD?type=rsi&interval=60m", "BTC_USD_indicators_1h"),
    ):
        answer = await market.get(path, headers={"Accept": "text/csv"})
        assert answer.headers["content-disposition"] == f'attachment; filename="{filename}.csv"'


# --- the real-time tier ------------------------------------------------------------------------


async def realtime_at(client, symbol, price_at):
    """The real-time tier, once it has come to a price."""

    async def come():
        found = (await get(client, f"/analytics/{symbol}"))["realtime"]
        return found if found and found["price_at"] == price_at else None

    return await until(come, 10)


async def test_the_mean_of_the_last_five_prices(compiled, client):
    start = datetime(2025, 11, 28, 15, tzinfo=UTC)
    prices = [101.0, 102.5, 99.25, 100.0, 104.0, 107.75, 103.5]
    for count, price in enumerate(prices, 1):
        ts = start + count * timedelta(seconds=1)
        await send(client, [tick("AAPL", ts, price)])
        found = await realtime_at(client, "AAPL", ts.isoformat().replace("+00:00", "Z"))
        assert found["price"] == price
        assert found["moving_average"] == (sum(prices[count - 5 : count]) / 5 if count >= 5 else None)
    assert datetime.fromisoformat(found["calculated_at"]) > datetime.now(UTC) - timedelta(minutes=1)


async def test_indicators_of_the_bar_that_is_forming(market):
    for count in (1, 2):
        price_at = FIRST_DAY + timedelta(days=DAYS, minutes=2, seconds=count)
        await send(market, [tick("BTC/USD", price_at, 99.5 + count, 2.0)])
        found = await realtime_at(market, "BTC/USD", price_at.isoformat().replace("+00:00", "Z"))
        (forming,) = (await get(market, "/indicators/BTC/USD", type=ALL, interval="5m", limit=1))["values"]
        assert (forming["final"], forming["close"]) == (False, found["price"])
        assert found["ts"] == forming["ts"] == "2025-10-09T00:00:00Z"
        assert {name: found[name] for name in OUTPUTS} == {name: forming[name] for name in OUTPUTS}
        assert None not in [found[name] for name in OUTPUTS]


async def test_indicators_of_the_bar_that_is_forming_come_when_those_before_it_have(
    compiled, monkeypatch, serve, postgres_dsn
):
    """No further trade is needed: a symbol may be quiet when the loops are compiled, or when it has caught up."""
    gate = asyncio.Event()
    compile_indicators = maintenance.compile_indicators

    async def late(*arguments):
        await gate.wait()
        await compile_indicators(*arguments)

    monkeypatch.setattr(maintenance, "compile_indicators", late)
    async with serve(postgres_dsn) as client:
        rows = walk(days=40)
        await send(client, rows)
        found = await realtime_at(client, "BTC/USD", rows[-1]["ts"].replace("+00:00", "Z"))
        assert (found["ts"], found["rsi"]) == (None, None)
        gate.set()
        await settled(client, "BTC/USD")
        (forming,) = (await get(client, "/indicators/BTC/USD", type="rsi", interval="5m", limit=1))["values"]
        assert forming["final"] is False

        async def known():
            found = (await get(client, "/analytics/BTC/USD"))["realtime"]
            return (found["ts"], found["rsi"]) == (forming["ts"], forming["rsi"])

        assert await until(known, 5)


async def test_the_newest_bar_has_values_though_it_closed_before_the_loops_were_compiled(
    compiled, monkeypatch, serve, postgres_dsn
):
    """A recording that ends closes its bars: no bar is forming when the loops are there."""
    gate = asyncio.Event()
    compile_indicators = maintenance.compile_indicators

    async def late(*arguments):
        await gate.wait()
        await compile_indicators(*arguments)

    monkeypatch.setattr(maintenance, "compile_indicators", late)
    async with serve(postgres_dsn) as client:
        rows = walk(days=40)
        await send(client, rows, calendar="24/7", end_of_stream=True)
        await realtime_at(client, "BTC/USD", rows[-1]["ts"].replace("+00:00", "Z"))
        gate.set()

        async def known():
            found = await get(client, "/analytics/BTC/USD")
            both = found["realtime"], found["intraday"]
            return both if both[1] and both[0]["ts"] == both[1]["ts"] else None

        realtime, intraday = await until(known, 30)
        assert {name: realtime[name] for name in OUTPUTS} == {name: intraday[name] for name in OUTPUTS}
        assert None not in [realtime[name] for name in OUTPUTS]


async def test_a_late_trade_does_not_become_the_newest_price(compiled, client):
    start = datetime(2026, 11, 24, 15, 5, tzinfo=UTC)
    params = {"calendar": "24/7", "end_of_stream": True}
    await send(client, [tick("LATE", start + i * timedelta(seconds=1), 10.0) for i in range(6)], **params)
    newest = "2026-11-24T15:05:05Z"
    await realtime_at(client, "LATE", newest)
    await send(client, [tick("LATE", start - timedelta(hours=1, minutes=5), 1.0)], **params)
    await settled(client, "LATE")
    found = await realtime_at(client, "LATE", newest)
    assert (found["price"], found["moving_average"]) == (10, 10)
    # A later snapshot has the same.
    await send(client, [tick("LATE", start + timedelta(seconds=6), 10.0)], **params)
    found = await realtime_at(client, "LATE", "2026-11-24T15:05:06Z")
    assert (found["price"], found["moving_average"]) == (10, 10)


async def test_the_view_of_moving_averages(compiled, client, postgres_dsn):
    start = datetime(2025, 11, 28, 15, tzinfo=UTC)
    await send(client, [tick("AAPL", start + i * timedelta(seconds=1), 100.0 + i * i) for i in range(7)])
    await send(client, [tick("FEW", start, 1.0)])
    newest = start + timedelta(seconds=6)
    for symbol, ts in (("AAPL", newest), ("FEW", start)):
        await realtime_at(client, symbol, ts.isoformat().replace("+00:00", "Z"))
    connection = await asyncpg.connect(postgres_dsn)
    rows = [dict(row) for row in await connection.fetch("SELECT * FROM moving_averages")]
    await connection.close()
    assert len(rows) == 1  # of fewer than five prices there is no mean
    calculated_at = rows[0].pop("calculated_at")
    assert datetime.now(UTC) - timedelta(minutes=1) < calculated_at <= datetime.now(UTC)
    mean = sum(100.0 + i * i for i in range(2, 7)) / 5
    assert rows == [
        {"symbol": "AAPL", "price": 136.0, "moving_average": mean, "window_size": 5, "timestamp": newest},
    ]


# --- where there is nothing --------------------------------------------------------------------


async def test_a_symbol_without_closed_bars(compiled, client):
    # Before the open: in no daily bar, and its bar of 5 minutes is forming.
    await send(client, [tick("AAPL", datetime(2025, 11, 28, 9, tzinfo=UTC), 100.0)])
    body = await get(client, "/analytics/AAPL")
    assert (body["intraday"], body["daily"]) == (None, None)
    for tier, interval in TIERS.items():
        empty = {"symbol": "AAPL", "interval": interval}
        assert await get(client, f"/analytics/{tier}/AAPL") == empty | {"count": 0, "analytics": []}
        assert await get(client, f"/analytics/{tier}/AAPL", start=0) == empty | {"analytics": []}
        assert (await frame(client, f"/analytics/{tier}/AAPL")).schema == SERVED_ANALYTICS
    assert (await get(client, "/indicators/AAPL", type="rsi"))["values"] == []
    (row,) = (await get(client, "/indicators/AAPL", type="rsi,trange", interval="1m"))["values"]
    assert row == {"ts": "2025-11-28T09:00:00Z", "close": 100, "final": False, "rsi": None, "true_range": None}


@pytest.mark.thorough
@pytest.mark.timeout(600)
async def test_first_answers_do_not_wait_for_the_compiler(serve, postgres_dsn, tmp_path):
    """SLOW, half a minute: everything is compiled in an empty folder."""
    async with serve(postgres_dsn, cache_dir=tmp_path / "cache") as client:
        async with asyncio.timeout(5):
            health = await get(client, "/health")
            assert health["tasks"]["compiler"]["state"] == "running"
            assert (health["status"], health["analytics"]["compiled"]) == ("ok", False)
            await send(client, walk(days=30))
            assert len((await get(client, "/data/BTC/USD"))["bars"]) == 30
            body = await get(client, "/analytics/BTC/USD")
            assert (body["intraday"], body["daily"]) == (None, None)
            assert (await get(client, "/analytics/daily/BTC/USD"))["analytics"] == []
            assert (await get(client, "/signals"))["total"] == 0
            assert (await get(client, "/health"))["tasks"]["compiler"]["state"] == "running"

        async def done():
            return (await get(client, "/health"))["analytics"]["compiled"]

        await until(done, 110)
        await settled(client, "BTC/USD")
        assert (await get(client, "/analytics/daily/BTC/USD"))["count"] == 29
        assert (await get(client, "/health"))["tasks"]["compiler"]["state"] == "done"
        assert (tmp_path / "cache" / "loops").is_dir()


# --- the catalogue -----------------------------------------------------------------------------


async def test_the_catalogue(client):
    body = await get(client, "/api/v1/indicators")
    assert body["count"] == len(body["indicators"]) == len(CATALOGUE) == 47
    assert [one["name"] for one in body["indicators"]] == list(CATALOGUE)
    rsi = next(one for one in body["indicators"] if one["name"] == "rsi")
    assert rsi == {
        "name": "rsi",
        "title": "Relative strength index",
        "family": "momentum",
        "description": rsi["description"],
        "inputs": ["close"],
        "outputs": ["rsi"],
        "parameters": [
            {
                "name": "period",
                "default": 14,
                "minimum": 2,
                "maximum": 5000,
                "whole": True,
                "aliases": ["timeperiod", "length", "window"],
            }
        ],
        "lookback": 14,
        "units": "0 to 100",
        "source": "TA-Lib RSI",
        "flat": {"rsi": "0"},
        "aliases": [],
    }
    for one in body["indicators"]:
        assert all(one[name] for name in ("title", "family", "description", "inputs", "outputs", "units", "source"))
        for parameter in one["parameters"]:
            default = parameter["default"]
            assert (
                parameter["minimum"] <= (parameter["minimum"] if default is None else default) <= parameter["maximum"]
            )
    outputs = [output for one in body["indicators"] for output in one["outputs"]]
    assert len(outputs) == len(set(outputs))


# --- any indicators ----------------------------------------------------------------------------


async def test_several_indicators_with_parameters_of_their_own(market, compiled):
    body = await get(
        market, "/indicators/BTC/USD", type=" RSI, macd(3,7, signal=2),rsi(7) ,vwap,rsi(period=9)", period=5
    )
    assert list(body) == ["symbol", "interval", "indicators", "values"]
    assert (body["symbol"], body["interval"]) == ("BTC/USD", "1d")
    assert body["indicators"] == [
        {"type": "rsi", "parameters": {"period": 5}, "columns": ["rsi_5"]},
        {
            "type": "macd",
            "parameters": {"fast": 3, "slow": 7, "signal": 2},
            "columns": ["macd", "macd_signal", "macd_histogram"],
        },
        {"type": "rsi", "parameters": {"period": 7}, "columns": ["rsi_7"]},
        {"type": "vwap", "parameters": {"extended": False}, "columns": ["vwap"]},
        {"type": "rsi", "parameters": {"period": 9}, "columns": ["rsi_9"]},
    ]
    columns = [column for one in body["indicators"] for column in one["columns"]]
    assert list(body["values"][0]) == ["ts", "close", "final", *columns]
    bars = await frame(market, "/data/BTC/USD")
    given = [(one["type"], one["parameters"]) for one in body["indicators"]]
    expected = calculated(compiled, [Instance(CATALOGUE[name], values) for name, values in given], bars)
    answer = await frame(market, "/indicators/BTC/USD", type="rsi(5),macd(3,7,2),rsi(7),vwap,rsi(9)")
    same(answer, columns, expected)
    assert [row[name] for row in body["values"] for name in columns] == [
        row[name] for row in answer.to_dicts() for name in columns
    ]
    assert [row["final"] for row in body["values"]] == [True] * (DAYS - 1) + [False]
    assert [row["close"] for row in body["values"]] == bars["close"].to_list()


async def test_parameters_hold_for_all_that_have_them(market):
    body = await get(market, "/indicators/BTC/USD", type="sma,ema,macd,bollinger(10)", period=30, fast=5, limit=1)
    assert [one["parameters"] for one in body["indicators"]] == [
        {"period": 30},
        {"period": 30},
        {"fast": 5, "slow": 26, "signal": 9},
        {"period": 10, "deviations": 2},
    ]


async def test_the_same_indicator_twice_has_two_columns(market):
    """Otherwise the rows could not hold both."""
    for types in ("rsi,rsi", "rsi,rsi(14)", "sma(5),sma(period=5)", "vwap,vwap"):
        answer = await market.get("/indicators/BTC/USD", params={"type": types, "limit": 1})
        assert answer.status_code in (200, 422), (types, answer.text)
        if answer.status_code == 200:
            columns = [column for one in answer.json()["indicators"] for column in one["columns"]]
            assert list(answer.json()["values"][0]) == ["ts", "close", "final", *dict.fromkeys(columns)]


async def test_factors_that_hardly_differ_have_columns_of_their_own(market):
    types = "bollinger(20, 2.0000001),bollinger(20, 2.0000002)"
    body = await get(market, "/indicators/BTC/USD", type=types, limit=1)
    columns = [column for one in body["indicators"] for column in one["columns"]]
    assert len(set(columns)) == len(columns)
    assert list(body["values"][0]) == ["ts", "close", "final", *columns]


@pytest.mark.thorough
async def test_a_start_gives_the_tail_of_the_whole_history(market):
    for interval in ("1m", "5m", "30m", "1d", "1w", "1mo"):
        whole = await frame(market, "/indicators/BTC/USD", type=ALL, interval=interval)
        for at in (1, whole.height // 2, whole.height - 1):
            start = whole["ts"][at]
            tail = await frame(market, "/indicators/BTC/USD", type=ALL, interval=interval, start=start.isoformat())
            assert tail.equals(whole[at:])
            head = await frame(market, "/indicators/BTC/USD", type=ALL, interval=interval, end=start.isoformat())
            same(head, OUTPUTS, [whole[name][:at].fill_null(np.nan).to_numpy() for name in OUTPUTS])


@pytest.mark.thorough
async def test_every_interval(market, compiled):
    instances = [Instance(CATALOGUE[name]) for name in ("rsi", "vwap", "macd")]
    columns = ["rsi", "vwap", "macd", "macd_signal", "macd_histogram"]
    for symbol_names, name in (
        *(("1m", "1m"), ("7min", "7m"), ("5Min", "5m"), ("60m", "1h"), ("4Hour", "4h")),
        *(("daily", "1d"), ("weekly", "1w"), ("1M", "1mo")),
    ):
        bars = await frame(market, "/data/BTC/USD", interval=symbol_names)
        answer = await frame(market, "/indicators/BTC/USD", type="rsi,vwap,macd", interval=symbol_names)
        assert answer.select("ts", "close", "final").equals(bars.select("ts", "close", "final"))
        same(answer, columns, calculated(compiled, instances, bars))
        body = await get(market, "/indicators/BTC/USD", type="rsi", interval=symbol_names, limit=1)
        assert body["interval"] == name


async def test_limits_ranges_and_zones_of_what_is_calculated(market):
    whole = (await get(market, "/indicators/BTC/USD", type="ema,rsi"))["values"]
    assert len(whole) == DAYS
    for limit in (1, 2, DAYS, DAYS + 1, 100_000):
        assert (await get(market, "/indicators/BTC/USD", type="ema,rsi", limit=limit))["values"] == whole[-limit:]
    start, end = whole[40]["ts"], whole[60]["ts"]
    ranged = {"type": "ema,rsi", "start": start, "end": end}
    assert (await get(market, "/indicators/BTC/USD", **ranged))["values"] == whole[40:60]
    assert (await get(market, "/indicators/BTC/USD", **ranged, limit=5))["values"] == whole[55:60]
    assert (await get(market, "/indicators/BTC/USD", type="rsi", start="2100-01-01"))["values"] == []
    assert (await get(market, "/indicators/BTC/USD", type="rsi", end=0))["values"] == []
    (row,) = (await get(market, "/indicators/BTC/USD", type="rsi", limit=1, tz="America/New_York"))["values"]
    assert row["ts"] == "2025-10-07T20:00:00-04:00"


async def test_sessions_are_those_of_the_exchange(compiled, client):
    """vwap starts again with each session: a session of New York lasts beyond midnight in London."""
    opens = [datetime(2025, 11, day, 14, 30, tzinfo=UTC) for day in (24, 25, 26, 28)]
    times = [start + timedelta(minutes=m) for start in opens for m in (-120, 0, 5, 10, 200, 560)]
    rows = [tick("AAPL", ts, 100.0 + i * 1.5, 1.0 + i % 3) for i, ts in enumerate(times)]
    await send(client, rows)
    bars = await frame(client, "/data/AAPL", interval="5m")
    answer = await frame(client, "/indicators/AAPL", type="vwap,obv", interval="5m")
    instances = [Instance(CATALOGUE[name]) for name in ("vwap", "obv")]
    same(answer, ["vwap", "obv"], calculated(compiled, instances, bars, zone="America/New_York"))
    await settled(client, "AAPL")
    stored = await frame(client, "/analytics/intraday/AAPL", start=0)
    assert stored.select("ts", "vwap", "obv").equals(answer.filter("final").select("ts", "vwap", "obv"))


async def test_vwap_begins_at_the_open_of_the_regular_session(compiled, client):
    """Trades before the open count with `extended` only."""
    day = datetime(2026, 11, 24, tzinfo=UTC)
    times = [day + timedelta(hours=13), day + timedelta(hours=14, minutes=30), day + timedelta(hours=21, minutes=30)]
    rows = [tick("AAPL", ts, price, 100.0) for ts, price in zip(times, (10.0, 20.0, 60.0), strict=True)]
    await send(client, rows, calendar="XNYS", end_of_stream=True)
    await settled(client, "AAPL")
    answer = await get(client, "/indicators/AAPL", type="vwap,vwap(extended=true)", interval="5m")
    assert [one["columns"] for one in answer["indicators"]] == [["vwap_0"], ["vwap_1"]]
    assert [row["vwap_0"] for row in answer["values"]] == [None, 20, 20]
    assert [row["vwap_1"] for row in answer["values"]] == [10, 15, 30]
    stored = (await get(client, "/analytics/intraday/AAPL"))["analytics"]
    assert [row["vwap"] for row in stored] == [None, 20, 20]


@pytest.mark.parametrize(("calendar", "per_year"), [("24/7", 365 * 288), ("XNYS", 252 * 78)])
async def test_volatility_is_annualised_with_the_bars_in_a_year_of_the_calendar(compiled, client, calendar, per_year):
    start = datetime(2026, 11, 24, 15, tzinfo=UTC)
    closes = 100 * np.exp(np.cumsum(np.random.default_rng(1).normal(0, 0.001, 40)))
    rows = [tick("VOL", start + i * timedelta(minutes=5), close) for i, close in enumerate(closes.tolist())]
    await send(client, rows, calendar=calendar, end_of_stream=True)
    await settled(client, "VOL")
    deviation = np.std(np.diff(np.log(closes))[-20:], ddof=1)
    stored = (await get(client, "/analytics/intraday/VOL"))["analytics"][-1]["historical_volatility"]
    assert stored == pytest.approx(100 * deviation * math.sqrt(per_year))

    async def last(**params):
        answer = await get(client, "/indicators/VOL", type="historical_volatility", limit=1, **params)
        return answer["values"][0]["historical_volatility"]

    assert await last(interval="5m") == stored
    minutes = pytest.approx(100 * deviation * math.sqrt(365 * 1440 if calendar == "24/7" else 252 * 390))
    assert await last(interval="1m") == minutes
    for given in (252, 525_600 * 60):
        expected = pytest.approx(100 * deviation * math.sqrt(given))
        assert await last(interval="5m", bars_per_year=given) == expected


async def test_names_of_talib(market):
    """The answer has the names of the catalogue."""
    for asked, own in (
        ("bbands&timeperiod=5&nbdevup=2.5&nbdevdn=2.5", "bollinger(5,2.5)"),
        ("stochf&fastk_period=7&fastd_period=2", "stoch_fast(7,2)"),
        ("stoch&fastk_period=7&slowk_period=2&slowd_period=4", "stoch(7,2,4)"),
        ("stochrsi(timeperiod=9)", "stoch_rsi(9)"),
        ("willr(9)", "williams_r(9)"),
        ("mom&timeperiod=3", "momentum(3)"),
        ("linearreg_slope&timeperiod=9", "linreg_slope(9)"),
        ("ultosc&timeperiod1=3&timeperiod2=5&timeperiod3=9", "ultimate(3,5,9)"),
        ("macd&fastperiod=3&slowperiod=9&signalperiod=4", "macd(3,9,4)"),
        ("adosc", "chaikin"),
        ("t3&vfactor=0.5", "t3(volume_factor=0.5)"),
        ("PLUS_DI&timeperiod=7", "adx(7)"),
    ):
        answer = await market.get(f"/indicators/BTC/USD?limit=5&type={asked}")
        assert answer.status_code == 200, answer.text
        assert answer.json() == await get(market, "/indicators/BTC/USD", limit=5, type=own)
    refused = await market.get("/indicators/BTC/USD?type=bbands&nbdevup=2&nbdevdn=3")
    assert refused.status_code == 422
    assert "nbdevdn: got '3'; is deviations of bollinger, which is '2'" in refused.json()["error"]["message"]


async def test_a_bar_that_is_forming_says_so_and_leaves_no_trace(market):
    before = (await get(market, "/indicators/BTC/USD", type="ema,rsi,sar", interval="5m"))["values"]
    assert [row["final"] for row in before] == [True] * (len(before) - 1) + [False]
    await send(market, [tick("BTC/USD", FIRST_DAY + timedelta(days=DAYS - 1, hours=21, minutes=1), 500.0)])
    after = (await get(market, "/indicators/BTC/USD", type="ema,rsi,sar", interval="5m"))["values"]
    assert after[:-1] == before[:-1]
    assert (after[-1]["ts"], after[-1]["close"], after[-1]["final"]) == (before[-1]["ts"], 500, False)
    assert after[-1]["rsi"] > before[-1]["rsi"]


@pytest.mark.thorough
async def test_more_history_than_a_page(contexts, compiled, client):
    count = 45_000
    closes = 100 + np.cumsum(np.random.default_rng(9).normal(0, 0.05, count))
    await submit_minutes(contexts[0], client, np.maximum(closes, 1))
    names = ("rsi", "ema", "obv", "vwap", "sar", "macd", "supertrend", "kama")
    instances = [Instance(CATALOGUE[name]) for name in names]
    columns = [output for one in instances for output in one.indicator.outputs]
    bars = await frame(client, "/data/BTC/USD", interval="1m")
    assert bars.height == count
    query = {"type": ",".join(names), "interval": "1m"}
    whole = await frame(client, "/indicators/BTC/USD", **query)
    assert whole.select("ts", "close", "final").equals(bars.select("ts", "close", "final"))
    same(whole, columns, calculated(compiled, instances, bars))
    for at in (1, 19_999, 20_000, 20_001, 39_999, 40_000, 44_999):
        start = whole["ts"][at].isoformat()
        assert (await frame(client, "/indicators/BTC/USD", **query, start=start)).equals(whole[at:])
    for limit in (1, 4_999, 5_000, 5_001, 25_001, 100_000):
        assert (await frame(client, "/indicators/BTC/USD", **query, limit=limit)).equals(whole.tail(limit))
    # All bars have influence on these two: the screener reads them in pages.
    (match,) = (await get(client, "/screen", where="obv != 0.5 and sar > 0", interval="1m"))["matches"]
    assert (match["obv"], match["sar(0.02, 0.2)"], match["close"]) == tuple(whole.select("obv", "sar", "close").row(-1))
    hours = await frame(client, "/data/BTC/USD", interval="2m")
    by_two = await frame(client, "/indicators/BTC/USD", type=query["type"], interval="2m")
    same(by_two, columns, calculated(compiled, instances, hours))
    rows = (await get(client, "/indicators/BTC/USD", **query, start=whole["ts"][24_000].isoformat()))["values"]
    assert [row["rsi"] for row in rows] == whole["rsi"][24_000:].to_list()


@pytest.mark.thorough
async def test_more_stored_rows_than_a_page(contexts, compiled, client):
    count = 32_500  # two minutes apart: 13,000 of 5 minutes
    closes = 100 + np.cumsum(np.random.default_rng(9).normal(0, 0.05, count))
    await submit_minutes(contexts[0], client, np.maximum(closes, 1))
    await settled(client, "BTC/USD")
    bars = (await frame(client, "/data/BTC/USD", interval="5m")).filter("final")
    stored = await frame(client, "/analytics/intraday/BTC/USD", start=0)
    assert stored.height == bars.height > 12_900
    same(stored, OUTPUTS, calculated(compiled, stored_instances(), bars))
    for at in (1, 4_999, 5_000, 5_001, 7_999, 8_000):
        start = stored["ts"][at].isoformat()
        assert (await frame(client, "/analytics/intraday/BTC/USD", start=start)).equals(stored[at:])
    at, end = stored["ts"][1].isoformat(), stored["ts"][5_001].isoformat()
    assert (await frame(client, "/analytics/intraday/BTC/USD", start=at, end=end)).equals(stored[1:5_001])
    assert (await frame(client, "/analytics/intraday/BTC/USD", limit=10_000)).equals(stored.tail(10_000))


# --- special symbols ---------------------------------------------------------------------------


@pytest.mark.thorough
async def test_symbols_as_they_are_written(compiled, client):
    names = ["AAPL", "BRK.B", "BTC/USD", "EURUSD=X", "A^B", "AB/CD/EF"]
    for price, name in enumerate(names, 1):
        await send(client, [tick(name, datetime(2025, 11, 28, hour, tzinfo=UTC), price) for hour in (15, 16)])
    await settled(client, *names)
    for price, name in enumerate(names, 1):
        quoted = quote(name, safe="")
        for symbol_names in (name, quoted, name.lower(), f"{name}/"):
            for prefix in ("", "/api", "/api/v1"):
                body = await get(client, f"{prefix}/analytics/{symbol_names}")
                assert (body["symbol"], body["intraday"]["ts"]) == (name, "2025-11-28T15:00:00Z")
                assert body["intraday"]["vwap"] == price
                for tier, interval in TIERS.items():
                    body = await get(client, f"{prefix}/analytics/{tier}/{symbol_names}")
                    assert (body["symbol"], body["interval"]) == (name, interval)
                body = await get(client, f"{prefix}/indicators/{symbol_names}", type="vwap", interval="5m")
                assert (body["symbol"], [row["vwap"] for row in body["values"]]) == (name, [price, price])


async def test_symbols_named_like_a_part_of_a_path(compiled, client):
    names = ["INTRADAY", "DAILY", "SIGNALS"]
    for name in names:
        await send(client, [tick(name, datetime(2025, 11, 28, hour, tzinfo=UTC), 1.0) for hour in (15, 16)])
    await settled(client, *names)
    for name in names:
        for symbol_names in (name, name.lower()):
            assert (await get(client, f"/analytics/{symbol_names}"))["symbol"] == name
            for tier in TIERS:
                assert (await get(client, f"/analytics/{tier}/{symbol_names}"))["symbol"] == name
            assert (await get(client, f"/indicators/{symbol_names}", type="vwap"))["symbol"] == name
            assert (await get(client, f"/signals/{symbol_names}"))["total"] > 0
        assert (await get(client, f"/analytics/{name}/"))["symbol"] == name


async def test_symbols_that_are_none(market):
    for path in ("/analytics/", "/analytics/intraday/", "/analytics/daily/", "/indicators/", "/api/v1/analytics/"):
        for symbol in ("NOPE", "BTC", "USD", "BTC/USD/X", "intraday/BTC/USD", "%20", "*", "a" * 64, "%00"):
            if (path, symbol) in (("/analytics/", "intraday/BTC/USD"), ("/api/v1/analytics/", "intraday/BTC/USD")):
                continue
            answer = await market.get(f"{path}{symbol}?type=rsi")
            assert (answer.status_code, answer.json()["error"]["code"]) == (404, "NOT_FOUND"), (path, symbol)
            assert len(answer.json()["error"]["message"]) < 200


# --- refused requests --------------------------------------------------------------------------

WRONG = [
    ("type=nope", "type", "takes one or more of sma, ema"),
    ("type=", "type", "takes one or more of"),
    ("type=%20", "type", "takes one or more of"),
    ("type=rsi,", "type", "takes one or more of"),
    ("type=rsi,,sma", "type", "takes one or more of"),
    ("type=rsi(", "type", "takes one or more of"),
    ("type=rsi)", "type", "takes one or more of"),
    ("type=rsi((7))", "type", "takes one or more of"),
    ("type=rsi(7)sma", "type", "takes one or more of"),
    ("type=rsi;sma", "type", "takes one or more of"),
    ("type=%00", "type", "takes one or more of"),
    ("type=" + "sma," * 50 + "sma", "type", "takes 50 at most"),
    ("type=" + "a" * 1001, "type", "1000"),
    ("interval=1d", "type", "is required"),
    ("type=rsi&interval=2d", "interval", "takes 1m"),
    ("type=rsi&interval=", "interval", "takes 1m"),
    ("type=rsi&limit=0", "limit", "greater than or equal to 1"),
    ("type=rsi&limit=100001", "limit", "less than or equal to 100000"),
    ("type=rsi&limit=ten", "limit", "integer"),
    ("type=rsi&start=yesterday", "start", "takes RFC 3339"),
    ("type=rsi&end=nan", "end", "takes RFC 3339"),
    ("type=rsi&start=2025-11-28&end=2025-11-27", "end", "before start"),
    ("type=rsi&format=xml", "format", "takes json"),
    ("type=rsi&tz=Mars/Olympus", "tz", "takes an IANA time zone"),
    ("type=rsi&fast=3", "fast", "is not a parameter of the requested indicators (rsi: period)"),
    ("type=vwap&period=3", "period", "is not a parameter of the requested indicators (vwap: extended)"),
    ("type=rsi&symbol=AAPL", "symbol", "is not a parameter of the requested indicators"),
    ("type=rsi&Period=3", "Period", "is not a parameter of the requested indicators"),
    ("type=rsi&" + "p" * 5000 + "=3", "p" * 40, "is not a parameter of the requested indicators"),
    *((f"type=rsi&period={value}", "period", "takes a whole number from 2 to 5000") for value in (
        "0", "1", "-1", "5001", "1e9", "1e400", "9" * 400, "nan", "inf", "-inf", "abc", "", "%20", "2.5", "0x10", "%00",
    )),
    ("type=rsi(0)", "period", "takes a whole number from 2 to 5000"),
    ("type=rsi(nan)", "period", "takes a whole number from 2 to 5000"),
    ("type=rsi(period=abc)", "period", "takes a whole number from 2 to 5000"),
    ("type=rsi(7,8)", "rsi", "takes period"),
    ("type=rsi(7,period=8)", "rsi", "takes period"),
    ("type=rsi(size=8)", "rsi", "takes period"),
    ("type=rsi(,)", "rsi", "takes period"),
    ("type=obv(1)", "obv", "takes nothing"),
    ("type=macd&fast=30", "fast", "takes no more than slow, which is 26"),
    ("type=macd(30,20)", "fast", "takes no more than slow, which is 20"),
    ("type=macd(12,26,9,1)", "macd", "takes fast, slow, signal"),
    ("type=bollinger&deviations=0", "deviations", "takes a number from 0.0001 to 1000"),
    ("type=bollinger&deviations=nan", "deviations", "takes a number from"),
    ("type=bollinger&deviations=-2", "deviations", "takes a number from"),
    ("type=bollinger&deviations=1e9", "deviations", "takes a number from"),
]  # fmt: skip


async def test_what_is_not_taken_is_named(market):
    for query, field, said in WRONG:
        answer = await market.get(f"/indicators/BTC/USD?{query}")
        assert answer.status_code == 422, (query, answer.text)
        error = answer.json()["error"]
        details = error["details"] if isinstance(error["details"], list) else [error["details"]]
        assert [one["field"] for one in details] == [field], query
        assert error["message"].startswith(f"{field}: "), (query, error["message"])
        assert said in error["message"], (query, error["message"])
        assert len(error["message"]) < 800, query


async def test_what_is_not_taken_of_stored_analytics(market):
    for tier in TIERS:
        for query, field in (
            *((f"limit={value}", "limit") for value in ("0", "-1", "10001", "1e3", "nan", "ten", "")),
            *((f"start={value}", "start") for value in ("yesterday", "1969-12-31", "nan", "")),
            ("end=2201-01-01", "end"),
            ("start=2025-11-28&end=2025-11-27", "end"),
            ("format=xml", "format"),
            ("tz=Mars/Olympus", "tz"),
        ):
            answer = await market.get(f"/analytics/{tier}/BTC/USD?{query}")
            assert answer.status_code == 422, (query, answer.text)
            error = answer.json()["error"]
            details = error["details"] if isinstance(error["details"], list) else [error["details"]]
            assert [one["field"] for one in details] == [field], query
    answer = await market.get("/analytics/BTC/USD?tz=Mars/Olympus")
    assert (answer.status_code, answer.json()["error"]["details"]) == (422, {"field": "tz"})


async def test_the_ends_of_what_is_taken(market):
    for query in (
        "type=" + ",".join(f"sma({period})" for period in range(1, 51)),
        "type=rsi&period=2",
        "type=rsi&period=5000",
        "type=rsi&period=14.0",
        "type=rsi&period=1e2",
        "type=macd(26,26)",
        "type=bollinger(20,0.0001)",
        "type=bollinger(20,1000)",
        "type=RSI",
        "type=rsi()",
        "type=vwap()",
        "type=rsi&limit=100000",
    ):
        answer = await market.get(f"/indicators/BTC/USD?{query}")
        assert answer.status_code == 200, (query, answer.text)
        assert len(answer.json()["values"]) == DAYS


async def test_prices_so_small_or_large_that_numbers_end(compiled, client):
    """A value that cannot be computed is null; JSON has no NaN and no infinity."""
    start = datetime(2025, 11, 28, tzinfo=UTC)
    for symbol, prices in (("TINY/USD", [1e-9, 2e-9, 1e-9]), ("FLAT/USD", [5.0, 5.0, 5.0])):
        await send(client, [tick(symbol, start + i * 5 * MINUTE, prices[i % 3], 1e-9) for i in range(150)])
    await settled(client, "TINY/USD", "FLAT/USD")
    for symbol in ("TINY/USD", "FLAT/USD"):
        for path in (
            f"/analytics/{symbol}",
            f"/analytics/intraday/{symbol}",
            f"/indicators/{symbol}?interval=5m&type={ALL}",
        ):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert answer.json()
        values = await frame(client, f"/indicators/{symbol}", interval="5m", type=ALL)
        for name in OUTPUTS:
            assert all(value is None or math.isfinite(value) for value in values[name].to_list()), (symbol, name)

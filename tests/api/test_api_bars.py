"""Bars out of the real app on a real database, from ticks and provider's bars with known values."""

import asyncio
import json
from datetime import UTC, datetime, timedelta

import orjson
import polars as pl
import pytest

from stockpulse.ingest.feed import Feed
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS
from stockpulse.market.schemas import BARS
from stockpulse.storage.served_bars import SERVED_BARS

# New York opens at 14:30 UTC. Thursday is Thanksgiving, Friday closes at 18:00 UTC.
WEDNESDAY, FRIDAY = "2025-11-26", "2025-11-28"
AAPL = [
    (f"{WEDNESDAY}T14:00:00Z", 90.0, 7),  # before the open: in no daily bar
    (f"{WEDNESDAY}T14:30:00Z", 100.0, 10),
    (f"{WEDNESDAY}T14:30:30Z", 102.0, 20),
    (f"{WEDNESDAY}T14:32:00Z", 101.0, 5.5),
    (f"{WEDNESDAY}T20:59:59.999999Z", 99.5, 1),
    (f"{FRIDAY}T14:30:00Z", 98.0, 2),
    (f"{FRIDAY}T17:59:00Z", 97.0, 3),
    (f"{FRIDAY}T17:59:59Z", 96.0, 4),
]
BITCOIN = [
    ("2025-11-28T17:50:00Z", 90_000.0, 0.5),
    ("2025-11-28T17:55:00Z", 99_000.0, 0.25),
    ("2025-11-28T17:59:30Z", 81_000.0, 0.125),
]


@pytest.fixture(scope="module", autouse=True)
def _calendar_made():
    """Not first while the app does the same in a thread: filters of warnings are shared by all threads."""
    trading_calendar("XNYS")


def ticks(symbol, rows):
    return [{"symbol": symbol, "ts": ts, "price": price, "size": size} for ts, price, size in rows]


async def send(client, rows, **params):
    """POST of a recording, and a wait until it is in bars."""
    answer = await client.post(
        "/ticks",
        params={"clock": "event", "provider": "tape", **params},
        content=orjson.dumps(rows),
        headers={"Content-Type": "application/json"},
    )
    assert answer.json() == {"accepted": len(rows), "duplicates": 0, "rejected": []}
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)


@pytest.fixture
async def market(client):
    """AAPL on the exchange's calendar, BTC/USD around the clock; both have come to the close of Friday."""
    await send(client, ticks("AAPL", AAPL))
    await send(client, ticks("BTC/USD", BITCOIN))
    return client


async def get(client, path, **params):
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def bars_of(client, symbol="AAPL", **params):
    return (await get(client, f"/data/{symbol}", **params))["bars"]


def plain(bar):
    """Time, prices, volume and count of a bar."""
    return tuple(bar[name] for name in ("ts", "open", "high", "low", "close", "volume", "trade_count"))


# --- /data and /ohlc ---------------------------------------------------------------------------


async def test_minute_bars_of_known_ticks(market):
    body = await get(market, "/api/v1/data/AAPL", interval="1m")
    assert list(body) == ["symbol", "interval", "bars"]
    assert (body["symbol"], body["interval"]) == ("AAPL", "1m")
    assert [plain(bar) for bar in body["bars"]] == [
        ("2025-11-26T14:00:00Z", 90, 90, 90, 90, 7, 1),
        ("2025-11-26T14:30:00Z", 100, 102, 100, 102, 30, 2),
        ("2025-11-26T14:32:00Z", 101, 101, 101, 101, 5.5, 1),
        ("2025-11-26T20:59:00Z", 99.5, 99.5, 99.5, 99.5, 1, 1),
        ("2025-11-28T14:30:00Z", 98, 98, 98, 98, 2, 1),
        ("2025-11-28T17:59:00Z", 97, 97, 96, 96, 7, 2),
    ]
    assert list(body["bars"][0]) == list(SERVED_BARS)
    bar = body["bars"][1]
    assert bar["vwap"] == round((100 * 10 + 102 * 20) / 30, 12)
    assert (bar["symbol"], bar["interval"], bar["source"], bar["filled"]) == ("AAPL", "1m", "trades", False)
    assert [bar["final"] for bar in body["bars"]] == [True] * 5 + [False]


async def test_daily_bars_are_of_the_session_unless_the_market_never_closes(market):
    assert [plain(bar) for bar in await bars_of(market)] == [  # one day is the default
        ("2025-11-26T05:00:00Z", 100, 102, 99.5, 99.5, 36.5, 4),
        ("2025-11-28T05:00:00Z", 98, 98, 96, 96, 9, 3),
    ]
    assert [plain(bar) for bar in await bars_of(market, "BTC/USD")] == [
        ("2025-11-28T00:00:00Z", 90000, 99000, 81000, 81000, 0.875, 3),
    ]


INTERVALS = [
    ("1", "1m", ["14:00", "14:30", "14:32", "20:59", "14:30", "17:59"]),
    ("2Min", "2m", ["14:00", "14:30", "14:32", "20:58", "14:30", "17:58"]),
    ("5T", "5m", ["14:00", "14:30", "20:55", "14:30", "17:55"]),
    ("7min", "7m", ["13:55", "14:30", "20:55", "14:30", "17:53"]),
    ("60m", "1h", ["13:30", "14:30", "20:30", "14:30", "17:30"]),
    ("4Hour", "4h", ["10:30", "14:30", "18:30", "14:30"]),
    ("6h", "6h", ["08:30", "14:30", "20:30", "14:30"]),
    ("480m", "8h", ["06:30", "14:30", "14:30"]),
    ("12H", "12h", ["02:30", "14:30", "14:30"]),
    ("1Day", "1d", ["05:00", "05:00"]),
    ("weekly", "1w", ["05:00"]),
    ("1M", "1mo", ["04:00"]),  # the first of November, in summer time
]


async def test_every_interval_and_its_spellings(market):
    for interval, name, starts in INTERVALS:
        bars = await bars_of(market, interval=interval)
        assert [bar["ts"][11:16] for bar in bars] == starts
        assert {bar["interval"] for bar in bars} == {name}
        in_session = name in ("1d", "1w", "1mo")
        assert sum(bar["volume"] for bar in bars) == (45.5 if in_session else 52.5)
        assert sum(bar["trade_count"] for bar in bars) == (7 if in_session else 8)
        newest = await get(market, "/ohlc/AAPL", interval=interval, limit=2)
        assert (newest["interval"], newest["count"]) == (name, len(bars[-2:]))
        assert newest["bars"] == bars[-2:]


ONE_MINUTE_BEFORE_THE_CLOSE = [
    "2025-11-26T20:59:00Z",
    "2025-11-26T20:59:00.000000+00:00",
    "2025-11-26T15:59:00-05:00",
    "2025-11-26 20:59",
    "1764190740",
    "1764190740.0",
    "1764190740000",
]


async def test_a_range_begins_with_its_start_and_ends_before_its_end(market):
    for moment in ONE_MINUTE_BEFORE_THE_CLOSE:
        starts = [bar["ts"][8:16] for bar in await bars_of(market, interval="1m", start=moment)]
        assert starts == ["26T20:59", "28T14:30", "28T17:59"]
        starts = [bar["ts"][8:16] for bar in await bars_of(market, interval="1m", end=moment)]
        assert starts == ["26T14:00", "26T14:30", "26T14:32"]
        assert await bars_of(market, interval="1m", start=moment, end=moment) == []


async def test_ranges_of_dates_and_of_a_century(market):
    assert len(await bars_of(market, interval="1m", start="2025-11-26", end="2025-11-27")) == 4
    everything = await bars_of(market, interval="1m")
    assert await bars_of(market, interval="1m", start="1970-01-01", end="2200-12-31T23:59:59Z") == everything
    assert await bars_of(market, interval="1m", start="2100-01-01") == []
    assert await bars_of(market, interval="1w", start="1970-01-01", end="2200-01-01") == await bars_of(
        market, interval="1w"
    )
    # A bucket that begins in the range is whole, though its end is not in it.
    (bar,) = await bars_of(market, interval="1h", start="2025-11-26T14:30Z", end="2025-11-26T14:31Z")
    assert (bar["volume"], bar["high"]) == (35.5, 102)


async def test_times_in_the_zone_that_is_asked_for(market):
    bars = await bars_of(market, interval="1d", tz="America/New_York")
    assert [bar["ts"] for bar in bars] == ["2025-11-26T00:00:00-05:00", "2025-11-28T00:00:00-05:00"]
    (bar,) = (await get(market, "/bars/latest", symbol="AAPL", limit=1, tz="Asia/Kolkata"))["bars"]
    assert bar["bucket_start"] == "2025-11-28T23:29:00+05:30"


async def test_the_four_formats_say_the_same(market):
    for path, key in (
        ("/data/AAPL?interval=1m", "bars"),
        ("/data/AAPL?interval=1m&fill=forward", "bars"),
        ("/ohlc/AAPL?interval=5m&fill=forward", "bars"),
        ("/ohlc/AAPL?interval=5m", "bars"),
        ("/bars/latest?symbol=AAPL", "bars"),
        ("/ticks/latest?symbol=AAPL", "ticks"),
        ("/data/AAPL?interval=1m&start=2100-01-01", "bars"),
    ):
        by_format = {name: await market.get(f"{path}&format={name}") for name in ("json", "csv", "arrow", "parquet")}
        assert {answer.status_code for answer in by_format.values()} == {200}
        arrow = pl.read_ipc_stream(by_format["arrow"].content)
        assert pl.read_parquet(by_format["parquet"].content).equals(arrow)
        rows = by_format["json"].json()[key]
        times = {name for name, dtype in arrow.schema.items() if isinstance(dtype, pl.Datetime)}
        for row in rows:
            row.update({name: datetime.fromisoformat(row[name]) for name in times})
        assert rows == arrow.to_dicts()
        csv = pl.read_csv(by_format["csv"].content, schema_overrides=dict.fromkeys(arrow.columns, pl.String))
        assert csv.columns == arrow.columns
        for name, dtype in arrow.schema.items():
            column = csv[name].str.to_datetime(time_zone="UTC") if name in times else _parsed(csv[name], dtype)
            assert column.cast(dtype).to_list() == arrow[name].to_list()


def _parsed(column, dtype):
    return column == "true" if dtype == pl.Boolean else column


async def test_the_format_may_be_asked_for_by_header(market):
    for accept, content_type in (
        ("text/csv", "text/csv; charset=utf-8"),
        ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.stream"),
        ("text/html,*/*;q=0.8", "application/json"),
    ):
        answer = await market.get("/data/AAPL", headers={"Accept": accept})
        assert (answer.headers["content-type"], answer.headers["vary"]) == (content_type, "Accept")
    answer = await market.get("/data/BTC/USD?format=csv")
    assert answer.headers["content-disposition"] == 'attachment; filename="BTC_USD_1d.csv"'


# --- fill=forward ------------------------------------------------------------------------------


async def test_gaps_are_filled_in_the_session_alone(market):
    bars = await bars_of(market, interval="5m", fill="forward")
    real = [bar for bar in bars if not bar["filled"]]
    assert real == await bars_of(market, interval="5m") == await bars_of(market, interval="5m", fill="none")
    # From 14:30 to 21:00 on Wednesday, until 18:00 on Friday, and the bar before the open.
    assert len(bars) == 1 + 78 + 42
    filled = {bar["ts"]: bar for bar in bars if bar["filled"]}
    assert filled["2025-11-28T14:35:00Z"] == {
        **next(bar for bar in real if bar["ts"] == "2025-11-28T14:30:00Z"),
        "ts": "2025-11-28T14:35:00Z",
        "volume": 0,
        "trade_count": 0,
        "vwap": None,
        "source": None,
        "filled": True,
    }
    assert [bar["ts"][11:16] for bar in await bars_of(market, "BTC/USD", interval="1m", fill="forward")] == [
        f"17:{minute}" for minute in range(50, 60)
    ]


async def test_filled_bars_come_on_top_of_the_limit(market):
    bare = await get(market, "/ohlc/AAPL", interval="5m", limit=3)
    body = await get(market, "/ohlc/AAPL", interval="5m", limit=3, fill="forward")
    assert [bar for bar in body["bars"] if not bar["filled"]] == bare["bars"]
    assert body["count"] == len(body["bars"]) == 1 + 42
    assert set(body) == set(bare)


# --- special symbols ---------------------------------------------------------------------------


@pytest.mark.thorough
async def test_symbols_as_they_are_written(client):
    names = ["AAPL", "BRK.B", "BTC/USD", "EURUSD=X", "ES-MINI", "0700.HK", "A^B", "AB/CD/EF"]
    for price, name in enumerate(names, 1):
        await send(client, ticks(name, [(f"{FRIDAY}T15:00:00Z", float(price), 1)]))
    assert (await get(client, "/symbols"))["symbols"] == sorted(names)
    for price, name in enumerate(names, 1):
        quoted = name.replace("/", "%2F").replace("^", "%5E").replace("=", "%3D")
        for symbol_names in (name, quoted, name.lower(), f"{name}/"):
            for path in ("/data", "/api/v1/data", "/ohlc", "/api/ohlc"):
                body = await get(client, f"{path}/{symbol_names}")
                assert (body["symbol"], body["bars"][0]["close"]) == (name, price)
        for path in ("/bars/latest", "/ticks/latest", "/bars/summary", "/ticks/summary"):
            assert (await get(client, path, symbol=name.lower()))["symbol"] == name


# --- /bars and /movers -------------------------------------------------------------------------


async def test_latest_bars_have_the_documented_shape(market):
    body = await get(market, "/bars/latest", symbol="AAPL", limit=2)
    assert list(body) == ["symbol", "count", "bars"]
    assert body["count"] == 2
    newest, before = body["bars"]
    revision = newest.pop("revision")
    assert newest == {
        "symbol": "AAPL",
        "bucket_start": "2025-11-28T17:59:00Z",
        "open": 97,
        "high": 97,
        "low": 96,
        "close": 96,
        "volume_sum": 7,
        "tick_count": 2,
        "vwap": round((97 * 3 + 96 * 4) / 7, 12),
        "final": False,
        "source": "trades",
    }
    assert (before["bucket_start"], before["final"]) == ("2025-11-28T14:30:00Z", True)
    assert revision > before["revision"]
    assert len((await get(market, "/bars/latest", symbol="AAPL"))["bars"]) == 6


async def test_a_late_tick_revises_its_bar(market):
    before = (await bars_of(market, interval="1m"))[1]
    await send(market, ticks("AAPL", [(f"{WEDNESDAY}T14:30:15Z", 110.0, 1)]))
    after = (await bars_of(market, interval="1m"))[1]
    assert plain(after) == ("2025-11-26T14:30:00Z", 100, 110, 100, 102, 31, 3)
    assert after["revision"] > before["revision"]
    assert [bar["high"] for bar in await bars_of(market, interval="1d")] == [110, 98]


async def test_a_summary_of_bars(market):
    body = await get(market, "/bars/summary", symbol="AAPL", minutes=240)
    assert body == {
        "symbol": "AAPL",
        "window_minutes": 240,
        "bar_count": 2,
        "open": 98.0,
        "high": 98.0,
        "low": 96.0,
        "close": 96.0,
        "change_pct": -2.0408,
        "total_volume": 9.0,
        "total_ticks": 3,
        "as_of": "2025-11-28T17:59:59Z",
    }


ODD_LOTS = [("2025-11-25T14:30:10Z", 50, ["@", "I"]), ("2025-11-25T14:31:10Z", 100, ["@"])]


@pytest.mark.parametrize(
    ("later", "volumes"),
    [
        # Odd lots alone have no price. Their minute is not shown, but every longer bar has their volume.
        ("14:31", {"1m": [100], "2m": [150], "5m": [150], "10m": [150], "1h": [150], "4h": [150], "1d": [150]}),
        ("14:36", {"1m": [100], "2m": [100], "5m": [100], "10m": [150], "15m": [150], "1h": [150], "1d": [150]}),
    ],
)
async def test_trades_without_a_price_keep_their_volume_in_every_interval(client, later, volumes):
    sizes = [("14:30", 50, ["@", "I"]), (later, 100, ["@"])]
    rows = [
        {"symbol": "ODD", "ts": f"2025-11-25T{at}:10Z", "price": 10.0, "size": size, "conditions": conditions}
        for at, size, conditions in sizes
    ]
    await send(client, rows, conditions="alpaca", calendar="XNYS", end_of_stream="true")
    for interval, wanted in volumes.items():
        bars = await bars_of(client, "ODD", interval=interval, start="2025-11-25")
        assert [bar["volume"] for bar in bars] == wanted, interval
        assert {(bar["open"], bar["close"], bar["vwap"]) for bar in bars} == {(10.0, 10.0, 10.0)}
    weeks = await bars_of(client, "ODD", interval="1w", start="2025-11-24")
    assert [bar["volume"] for bar in weeks] == [150]
    newest = (await get(client, "/bars/latest", symbol="ODD"))["bars"]
    assert [bar["volume_sum"] for bar in newest] == [100]


async def test_a_summary_has_the_volume_of_trades_without_a_price(client):
    rows = [
        {"symbol": "ODD", "ts": ts, "price": 10.0, "size": size, "conditions": conditions}
        for ts, size, conditions in [*ODD_LOTS, ("2025-11-25T14:33:00Z", 7, ["@"])]
    ]
    await send(client, rows, conditions="alpaca")
    body = await get(client, "/bars/summary", symbol="ODD", minutes=60)
    assert (body["bar_count"], body["total_volume"], body["total_ticks"]) == (2, 157, 3)  # the newest tick is in it
    assert [body[name] for name in ("open", "high", "low", "close")] == [10.0] * 4


async def test_a_bucket_without_any_price_is_not_shown(client):
    rows = [
        {"symbol": "ODD", "ts": ts, "price": 10.0, "size": 5, "conditions": conditions}
        for ts, conditions in [("2025-11-25T14:30:10Z", ["@", "I"]), ("2025-11-25T15:30:10Z", ["@"])]
    ]
    await send(client, rows, conditions="alpaca")
    for interval in ("1m", "2m", "5m", "1h"):
        assert [bar["ts"][11:13] for bar in await bars_of(client, "ODD", interval=interval, start="2025-11-25")] == [
            "15"
        ]


async def test_conditions_that_cannot_be_read_are_counted(client):
    rows = [
        {"symbol": "ODD", "ts": "2025-11-25T14:30:10Z", "price": price, "size": 5, "conditions": conditions}
        for price, conditions in ((10.0, "@"), (99.0, "??"))
    ]
    await send(client, rows, conditions="alpaca")
    (bar,) = await bars_of(client, "ODD", interval="1m", start="2025-11-25")
    assert (bar["high"], bar["volume"]) == (10.0, 10.0)
    assert "\nstockpulse_unreadable_conditions_total 1.0\n" in (await client.get("/metrics")).text


async def test_a_summary_of_no_bars(market):
    await send(market, ticks("QUIET", [(f"{WEDNESDAY}T15:00:00Z", 1.0, 1)]), clock="wall", provider="live")
    body = await get(market, "/bars/summary", symbol="QUIET", minutes=1)
    assert (body["bar_count"], body["total_volume"], body["total_ticks"]) == (0, 0, 0)
    assert [body[name] for name in ("open", "high", "low", "close", "change_pct")] == [None] * 5


async def test_the_largest_move_comes_first_whatever_its_direction(market):
    for name, last in (("UP", 105.0), ("DOWN", 91.0), ("STILL", 100.0)):
        await send(market, ticks(name, [(f"{FRIDAY}T17:56:00Z", 100.0, 1), (f"{FRIDAY}T17:59:30Z", last, 1)]))
    body = await get(market, "/movers", minutes=60)
    assert set(body) == {"window_minutes", "movers", "as_of"}
    assert [(one["symbol"], one["change_pct"]) for one in body["movers"]] == [
        ("BTC/USD", -10.0),
        ("DOWN", -9.0),
        ("UP", 5.0),
        ("AAPL", -1.0309),
        ("STILL", 0.0),
    ]
    assert body["movers"][2] == {
        "symbol": "UP",
        "price_open": 100.0,
        "price_close": 105.0,
        "change_pct": 5.0,
        "as_of": "2025-11-28T17:59:59Z",
    }
    assert [one["symbol"] for one in (await get(market, "/movers", minutes=60, limit=2))["movers"]] == [
        "BTC/USD",
        "DOWN",
    ]


# --- a provider's own bars ---------------------------------------------------------------------


async def test_a_providers_bars_count_before_trades(contexts, client):
    (context,) = contexts
    start = datetime(2025, 11, 26, 14, 30, tzinfo=UTC)
    given = [
        ("AAPL", "1m", start, 10.0, 12.0, 9.0, 11.0, 1000.0, 42, 10.5),
        ("AAPL", "1m", start + timedelta(minutes=1), 11.0, 11.0, 11.0, 11.0, 5.0, None, None),
    ]
    feed = Feed("vendor", "XNYS", Clock.EVENT)
    receipt = await context.pipeline.intake.submit(pl.DataFrame(given, schema=BARS, orient="row"), feed, of_bars=True)
    assert receipt.accepted == 2
    await send(client, ticks("AAPL", [(f"{WEDNESDAY}T14:30:10Z", 500.0, 9), (f"{WEDNESDAY}T14:33:01Z", 20.0, 1)]))
    bars = await bars_of(client, interval="1m")
    assert [(plain(bar)[1:], bar["vwap"], bar["source"]) for bar in bars] == [
        ((10, 12, 9, 11, 1000, 42), 10.5, "vendor"),
        ((11, 11, 11, 11, 5, None), None, "vendor"),
        ((20, 20, 20, 20, 1, 1), 20, "trades"),
    ]
    body = await get(client, "/bars/summary", symbol="AAPL", minutes=60)
    assert (body["bar_count"], body["total_volume"], body["total_ticks"]) == (3, 1006, None)  # one count is not known
    (hour,) = await bars_of(client, interval="1h")
    assert (hour["source"], hour["trade_count"], hour["vwap"]) == ("trades", None, None)


@pytest.mark.thorough
async def test_more_bars_than_a_page(contexts, client):
    (context,) = contexts
    start = datetime(2024, 1, 1, tzinfo=UTC)
    count = 45_000
    frame = pl.DataFrame({"row": pl.arange(count, eager=True)}).select(
        pl.lit("BTC/USD").alias("symbol"),
        pl.lit("1m").alias("interval"),
        (pl.lit(start) + pl.duration(minutes=2 * pl.col("row"))).alias("ts"),
        *((100.0 + pl.col("row")).alias(name) for name in ("open", "high", "low", "close")),
        pl.lit(1.0).alias("volume"),
        pl.lit(1, pl.Int64).alias("trade_count"),
        (100.0 + pl.col("row")).alias("vwap"),
    )
    await context.pipeline.intake.submit(frame.cast(dict(BARS)), Feed("vendor", "24/7", Clock.EVENT), of_bars=True)
    while (await client.get("/health")).json()["tasks"]["flush"]["lag"]:
        await asyncio.sleep(0.02)
    bars = pl.read_ipc_stream((await client.get("/data/BTC/USD?interval=1m&format=arrow")).content)
    assert bars["close"].to_list() == [100.0 + row for row in range(count)]
    filled = pl.read_ipc_stream((await client.get("/data/BTC/USD?interval=1m&format=arrow&fill=forward")).content)
    assert filled.filter(~pl.col("filled")).equals(bars)
    assert filled.height == 2 * count - 1
    assert (filled["ts"].diff().drop_nulls() == timedelta(minutes=1)).all()
    rows = json.loads((await client.get("/data/BTC/USD?interval=1m")).content)["bars"]
    assert [row["close"] for row in rows] == bars["close"].to_list()
    assert (await get(client, "/ohlc/BTC/USD", interval="2m", limit=10_000))["count"] == 10_000
    hours = await bars_of(
        client, "BTC/USD", interval="1h", start=start.isoformat(), end=(start + timedelta(hours=2)).isoformat()
    )
    assert [bar["volume"] for bar in hours] == [30, 30]


# --- stored bars and bars in memory ------------------------------------------------------------


async def values_of(client, interval):
    """AAPL's bars but for `final`: a restart ends a recording, so sooner or later its last bars close."""
    return [{name: bar[name] for name in bar if name != "final"} for bar in await bars_of(client, interval=interval)]


async def test_bars_are_the_same_after_a_restart(serve, postgres_dsn):
    async with serve(postgres_dsn) as client:
        await send(client, ticks("AAPL", AAPL))
        before = {one.name: await values_of(client, one.name) for one in BASE_INTERVALS}
        newest = (await client.get("/ticks/latest?symbol=AAPL")).json()
        assert len(before) == 3
    async with serve(postgres_dsn) as client:
        assert {one.name: await values_of(client, one.name) for one in BASE_INTERVALS} == before
        assert (await client.get("/ticks/latest?symbol=AAPL")).json() == newest

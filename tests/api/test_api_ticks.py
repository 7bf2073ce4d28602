"""Ticks in and out of the real app on a real database."""

import asyncio
import io
import itertools
from datetime import UTC, datetime, timedelta

import orjson
import polars as pl
import pytest

from stockpulse.api import limits
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.symbology import SYMBOL_TAKES

JSON, LINES, ARROW = "application/json", "application/x-ndjson", "application/vnd.apache.arrow.stream"
OPEN = datetime(2025, 11, 28, 14, 30, tzinfo=UTC)
TICK = {"symbol": "AAPL", "ts": "2025-11-28T14:30:00Z", "price": 189.72, "size": 100}


@pytest.fixture(scope="module", autouse=True)
def _calendar_made():
    """Not first while the app does the same in a thread: filters of warnings are shared by all threads."""
    trading_calendar("XNYS")


def tick(seconds=0, price=189.72, size=100, symbol="AAPL", **more):
    ts = (OPEN + timedelta(seconds=seconds)).isoformat()
    return {"symbol": symbol, "ts": ts, "price": price, "size": size, **more}


async def send(client, body, content_type=JSON, **params):
    """POST of a recording, and a wait until its ticks are in bars."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    answer = await client.post(
        "/api/v1/ticks", params={"clock": "event", **params}, content=content, headers={"Content-Type": content_type}
    )
    await settled(client)
    return answer


async def settled(client):
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)


async def accepted(client, body, content_type=JSON, **params):
    answer = await send(client, body, content_type, **params)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def latest(client, symbol="AAPL", **params):
    answer = await client.get("/ticks/latest", params={"symbol": symbol, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()["ticks"]


def arrow(frame, **options):
    buffer = io.BytesIO()
    frame.write_ipc_stream(buffer, **options)
    return buffer.getvalue()


def taken(rows, duplicates=0):
    return {"accepted": rows, "duplicates": duplicates, "rejected": []}


# --- accepted ticks ----------------------------------------------------------------------------


async def test_a_tick_comes_back_as_it_was_sent(client):
    sent = tick(0.123456, exchange="Q", trade_id="52983525029461", conditions=["@", "I"], tape="C")
    assert await accepted(client, [sent], provider="tape") == taken(1)
    answer = await client.get("/ticks/latest?symbol=AAPL&limit=5")
    body = answer.json()
    assert list(body) == ["symbol", "count", "ticks"]
    assert (body["symbol"], body["count"]) == ("AAPL", 1)
    (found,) = body["ticks"]
    received_at, seq = found.pop("received_at"), found.pop("seq")
    assert found == {
        "symbol": "AAPL",
        "price": 189.72,
        "volume": 100,
        "event_time": "2025-11-28T14:30:00.123456Z",
        "provider": "tape",
        "exchange": "Q",
        "conditions": "@,I",
        "tape": "C",
        "trade_id": "52983525029461",
    }
    assert abs(datetime.fromisoformat(received_at) - datetime.now(UTC)) < timedelta(minutes=1)
    assert isinstance(seq, int)


async def test_every_way_to_send_says_the_same(client):
    rows = [tick(second, price=100 + second, symbol="") for second in range(3)]
    frame = pl.DataFrame(rows).with_columns(pl.col("ts").str.to_datetime(time_zone="UTC"))

    def of(symbol):
        return [{**row, "symbol": symbol} for row in rows]

    named = frame.with_columns(pl.lit("ARROW").alias("symbol"))
    assert await accepted(client, of("ARRAY")) == taken(3)
    assert await accepted(client, b"\n".join(map(orjson.dumps, of("LINES"))) + b"\r\n\n", LINES) == taken(3)
    assert await accepted(client, arrow(named), ARROW) == taken(3)
    for row in of("SINGLE"):
        assert await accepted(client, row) == taken(1)

    def plain(ticks):
        return [{**one, "symbol": "", "seq": 0, "received_at": ""} for one in ticks]

    array, *others = [plain(await latest(client, symbol)) for symbol in ("ARRAY", "LINES", "ARROW", "SINGLE")]
    assert [one["price"] for one in array] == [102, 101, 100]
    assert others == [array] * 3


async def test_nothing_sent_is_nothing_taken(client):
    empty = pl.DataFrame({"symbol": ["A"], "ts": [0], "price": [1.0], "size": [1.0]}).clear()
    for body, content_type in ((b"[]", JSON), (b"", LINES), (arrow(empty), ARROW)):
        assert await accepted(client, body, content_type) == taken(0)
    assert (await client.get("/symbols")).json() == {"symbols": []}


async def test_good_rows_are_taken_and_bad_ones_named_by_their_place(client):
    body = [
        tick(0),
        tick(1, price=0),
        tick(2, price="x"),
        {"symbol": "AAPL"},
        17,
        tick(3, symbol="no such name!"),
        tick(-40 * 365 * 86_400),
        {**tick(), "ts": (datetime.now(UTC) + timedelta(hours=1)).isoformat()},
        tick(4, size=-1),
        tick(5, price=190),
    ]
    answer = await accepted(client, body)
    assert (answer["accepted"], answer["duplicates"]) == (2, 0)
    reasons = {one["row"]: one["reason"] for one in answer["rejected"]}
    assert reasons == {
        1: "price: must be a number > 0 and <= 1e+12",
        2: "price: not a number: 'x'",
        3: "ts: missing; price: missing; size: missing",
        4: "not an object: 17",
        5: f"symbol: {SYMBOL_TAKES}",
        6: "ts: before 1990",
        7: "ts: in the future",
        8: "size: must be a number >= 0 and <= 1e+12",
    }
    assert [one["price"] for one in await latest(client)] == [190, 189.72]


async def test_a_line_that_is_no_json_does_not_harm_the_others(client):
    body = b"\n".join([orjson.dumps(tick(0)), b"{oops", b'"text"', orjson.dumps(tick(1))])
    answer = await accepted(client, body, LINES)
    assert answer["accepted"] == 2
    assert [one["row"] for one in answer["rejected"]] == [1, 2]


async def test_sent_again_a_trade_is_recognised_by_its_id(client):
    rows = [tick(second, trade_id=f"t{second}") for second in range(3)]
    assert await accepted(client, rows) == taken(3)
    assert await accepted(client, [*rows, tick(3, trade_id="t3")]) == taken(1, duplicates=3)
    another = await accepted(client, rows, provider="another")  # whose ids are its own
    assert "another provider builds its bars" in another.pop("warnings")[0]
    assert another == taken(3)
    assert await accepted(client, [tick(4), tick(4)]) == taken(2)  # nothing tells these apart
    assert await accepted(client, [tick(5, trade_id="x"), tick(5, trade_id="x")]) == taken(1, duplicates=1)


async def test_times_may_be_spelled_in_many_ways(client):
    noon = datetime(2025, 11, 28, 12, tzinfo=UTC)
    seconds = int(noon.timestamp())
    spellings = ["2025-11-28T12:00:00Z", "2025-11-28T07:00:00-05:00", "2025-11-28 12:00", seconds, float(seconds)]
    spellings += [f"{seconds}", seconds * 1000, seconds * 10**6, seconds * 10**9]
    assert await accepted(client, [{**tick(), "ts": one} for one in spellings]) == taken(len(spellings))
    assert {one["event_time"] for one in await latest(client)} == {"2025-11-28T12:00:00Z"}


async def test_arrow_of_every_kind(client):
    rows = pl.DataFrame([tick(0, symbol="aapl"), tick(60, symbol="MSFT")]).with_columns(
        pl.col("symbol").cast(pl.Categorical),
        pl.col("size").cast(pl.Int32),
        pl.lit(None).alias("exchange"),
        pl.Series("conditions", [["@", "I"], None]),
        pl.Series("trade_id", [1, 2], pl.UInt64),
        pl.Series("whatever", [{"a": [1]}, None]),
    )
    kinds = {"new": {}, "old": {"compat_level": pl.CompatLevel.oldest()}, "packed": {"compression": "zstd"}}
    for unit, zone in itertools.product(("ns", "us", "ms"), ("UTC", "America/New_York", None)):
        ts = pl.col("ts").str.to_datetime(time_unit=unit, time_zone="UTC")
        frame = rows.with_columns(ts.dt.convert_time_zone(zone) if zone else ts.dt.replace_time_zone(None))
        for kind, options in kinds.items():
            provider = f"{kind}_{unit}_{str(zone)[:2].lower()}"  # whose ids are its own
            answer = await accepted(client, arrow(frame, **options), ARROW, provider=provider)
            answer.pop("warnings", None)  # only one of the providers builds the bars
            assert answer == taken(2)
    found = await latest(client, "aapl")
    assert len(found) == 27
    assert {(one["event_time"], one["volume"], one["conditions"], one["trade_id"]) for one in found} == {
        ("2025-11-28T14:30:00Z", 100, "@,I", "1")
    }


async def test_arrow_columns_of_the_wrong_type_are_each_rows_problem(client):
    frame = pl.DataFrame([tick(0), tick(1)])
    for name, values in {"price": [True, False], "ts": [timedelta(1), None], "symbol": [b"AAPL", b"MSFT"]}.items():
        answer = await accepted(client, arrow(frame.with_columns(pl.Series(name, values))), ARROW)
        assert answer["accepted"] == 0
        assert [one["row"] for one in answer["rejected"]] == [0, 1]
        assert answer["rejected"][0]["reason"].startswith(f"{name}: cannot be read from a column of ")


# --- refused requests --------------------------------------------------------------------------


UNREADABLE = [
    (b"", JSON, "body"),
    (b"null", JSON, "body"),
    (b"17", JSON, "body"),
    (b"[}", JSON, "body"),
    (b'[{"price":NaN]', JSON, "body"),
    (b'[{"price":NaNs}]', JSON, "body"),
    (b"[{NaN:1}]", JSON, "body"),
    (b'[{"symbol":"\\ud800"}]', JSON, "body"),
    (b'[{"symbol":"\xed\xa0\x80"}]', JSON, "body"),
    (b"[" * 100_000, JSON, "body"),
    (b'{"a":' * 100_000, JSON, "body"),
    (b"[]", "text/csv", "Content-Type"),
    (b"[]", "multipart/form-data; boundary=x", "Content-Type"),
    (b"", ARROW, "body"),
    (b"[]", ARROW, "body"),
    (arrow(pl.DataFrame([TICK]))[:-200], ARROW, "body"),
]


async def test_a_body_that_cannot_be_read(client):
    for body, content_type, field in UNREADABLE:
        answer = await send(client, body, content_type)
        assert answer.status_code == 422, (body[:40], answer.text)
        error = answer.json()["error"]
        assert (error["code"], error["details"]) == ("INVALID_INPUT", {"field": field})
        assert len(answer.content) < 1000


async def test_a_compressed_body_is_refused_by_name(client):
    answer = await client.post("/ticks", content=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    assert answer.status_code == 422
    assert answer.json()["error"]["details"] == {"field": "Content-Encoding"}


async def test_too_many_rows(client):
    line = orjson.dumps(TICK) + b"\n"
    for body, content_type in (
        (b"[" + b",".join([b"{}"] * (limits.MAX_ROWS + 1)) + b"]", JSON),
        (line * (limits.MAX_ROWS + 1), LINES),
        (arrow(pl.select(pl.repeat(1.0, limits.MAX_ROWS + 1).alias("price"))), ARROW),
    ):
        answer = await send(client, body, content_type)
        assert answer.status_code == 413
        assert answer.json()["error"]["code"] == "TOO_LARGE"


async def test_a_body_is_refused_as_soon_as_it_is_too_large(client, monkeypatch):
    monkeypatch.setattr("stockpulse.api.received_rows.MAX_BODY_BYTES", 10_000)
    taken_pieces = 0

    async def endless():
        nonlocal taken_pieces
        while True:
            taken_pieces += 1
            yield b" " * 1000

    too_long = await client.post("/ticks", content=b" " * 10_001, headers={"Content-Type": JSON})
    assert too_long.status_code == 413
    answer = await asyncio.wait_for(client.post("/ticks", content=_pieces(20), headers={"Content-Type": JSON}), 5)
    assert answer.status_code == 413
    assert answer.json()["error"]["code"] == "TOO_LARGE"
    assert (
        await client.post("/ticks", content=b" " * 9_998 + b"[]", headers={"Content-Type": JSON})
    ).status_code == 200


async def _pieces(count):
    for _ in range(count):
        yield b" " * 1000


WRONG = [
    ({"provider": ""}, "provider"),
    ({"provider": "Nasdaq"}, "provider"),
    ({"provider": "a" * 33}, "provider"),
    ({"provider": "x'; DROP TABLE symbols; --"}, "provider"),
    ({"calendar": "NOPE"}, "calendar"),
    ({"calendar": "../../etc/passwd"}, "calendar"),
    ({"conditions": "nobody"}, "conditions"),
    ({"clock": "sun"}, "clock"),
    ({"end_of_stream": "perhaps"}, "end_of_stream"),
]


async def test_parameters_of_a_post(client):
    for params, field in WRONG:
        answer = await client.post("/ticks", params=params, content=orjson.dumps([TICK]))
        assert answer.status_code == 422, (params, answer.text)
        details = answer.json()["error"]["details"]
        assert field == (details[0]["field"] if isinstance(details, list) else details["field"])
    assert (await client.get("/symbols")).json() == {"symbols": []}


# --- many, and at once -------------------------------------------------------------------------


async def test_ten_thousand_new_symbols_in_one_request(client):
    rows = [tick(0, symbol=f"S{number}") for number in range(10_000)]
    assert await accepted(client, rows, calendar="24/7") == taken(10_000)
    assert len((await client.get("/symbols")).json()["symbols"]) == 10_000


@pytest.mark.thorough
async def test_requests_at_once_lose_nothing(client):
    async def one(number):
        rows = [tick(second, symbol=f"S{number}", trade_id=f"{second}") for second in range(50)]
        return (await accepted(client, rows))["accepted"]

    assert await asyncio.gather(*(one(number) for number in range(20))) == [50] * 20
    seqs = [found["seq"] for number in range(20) for found in await latest(client, f"S{number}")]
    assert len(set(seqs)) == 1000


async def test_a_recording_that_is_over_closes_its_bars(client):
    await accepted(client, [tick(0), tick(60)], calendar="24/7")
    bars = (await client.get("/bars/latest?symbol=AAPL")).json()["bars"]
    assert [bar["final"] for bar in bars] == [False, False]  # a late one may still come
    ended = await client.post("/ticks?clock=event&end_of_stream=true")
    assert (ended.status_code, ended.json()) == (200, taken(0))
    bars = (await client.get("/bars/latest?symbol=AAPL")).json()["bars"]
    assert [bar["final"] for bar in bars] == [True, True]


# --- out again ---------------------------------------------------------------------------------


async def test_latest_is_by_event_time_whatever_the_order_of_arrival(client):
    await accepted(client, [tick(5), tick(1), tick(9)])
    await accepted(client, [tick(3), tick(7)])
    assert [one["event_time"][17:19] for one in await latest(client)] == ["09", "07", "05", "03", "01"]
    assert [one["event_time"][17:19] for one in await latest(client, limit=2)] == ["09", "07"]
    (one,) = await latest(client, limit=1, tz="America/New_York")
    assert one["event_time"] == "2025-11-28T09:30:09-05:00"


async def test_a_summary_is_over_the_minutes_before_the_symbols_present(client):
    await accepted(client, [tick(0, 100, 1), tick(200, 110, 2), tick(300, 90, 4.5), tick(301, 101, 8)])
    body = (await client.get("/ticks/summary?symbol=AAPL&minutes=5")).json()
    # The market time of a recording is its newest tick, which is in the window.
    assert body == {
        "symbol": "AAPL",
        "window_minutes": 5,
        "count": 3,
        "avg_price": (110 + 90 + 101) / 3,
        "min_price": 90.0,
        "max_price": 110.0,
        "sum_volume": 14.5,
        "start_time": "2025-11-28T14:30:01Z",
        "end_time": "2025-11-28T14:35:01Z",
        "as_of": "2025-11-28T14:35:01Z",
        "eligible": False,
        "feeds": {"api": 3},
    }


async def test_a_summary_of_nothing(client):
    await accepted(client, [tick(0)], clock="wall")  # long before now
    body = (await client.get("/ticks/summary?symbol=AAPL&minutes=1")).json()
    assert (body["count"], body["sum_volume"]) == (0, 0)
    assert [body[name] for name in ("avg_price", "min_price", "max_price")] == [None] * 3

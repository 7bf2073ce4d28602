"""Plain dates in ranges: the exchange's own dates for bars of days, weeks and months."""

import asyncio
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import orjson
import pytest

MARKETS = {
    "XTKS": ("Asia/Tokyo", time(10, 0)),
    "XNYS": ("America/New_York", time(10, 0)),
    "XASX": ("Australia/Sydney", time(10, 30)),
    "BVMF": ("America/Sao_Paulo", time(11, 0)),
    "24/7": ("UTC", time(0, 0)),
}
DAYS = [date(2026, 10, 29), date(2026, 10, 30), date(2026, 11, 4), date(2026, 11, 5)]  # no holiday of any of them


@pytest.fixture
async def markets(client):
    """A tick on each day for a symbol of each market."""
    for calendar, (zone, at) in MARKETS.items():
        rows = [
            {
                "symbol": calendar.replace("/", "-"),
                "ts": datetime.combine(day, at, ZoneInfo(zone)).isoformat(),
                "price": day.day,
                "size": 1,
            }
            for day in DAYS
        ]
        answer = await client.post(
            "/ticks",
            params={"clock": "event", "calendar": calendar, "provider": f"p{list(MARKETS).index(calendar)}"},
            content=orjson.dumps(rows),
            headers={"Content-Type": "application/json"},
        )
        assert answer.json()["accepted"] == len(rows)
    while (await client.get("/health")).json()["tasks"]["step"]["lag"]:
        await asyncio.sleep(0.005)
    return client


async def closes(client, symbol, path="/data", key="bars", **params):
    answer = await client.get(f"{path}/{symbol}", params=params)
    assert answer.status_code == 200, answer.text
    return [row["close"] for row in answer.json()[key]]


RANGES = [
    ("2026-10-30", "2026-11-04", [30]),
    ("2026-10-30", "2026-11-05", [30, 4]),
    ("2026-10-29", "2026-10-30", [29]),
    ("20261030", "20261105", [30, 4]),
    ("2026-10-31", None, [4, 5]),
    (None, "2026-10-30", [29]),
    ("2026-10-30", "2026-10-30", []),
]


@pytest.mark.thorough
@pytest.mark.timeout(120)
async def test_a_date_is_the_exchanges_date(markets):
    for calendar in MARKETS:
        symbol = calendar.replace("/", "-")
        for start, end, wanted in RANGES:
            params = {name: value for name, value in (("start", start), ("end", end)) if value is not None}
            for tz in ("UTC", "America/New_York", "Asia/Tokyo"):
                found = await closes(markets, symbol, interval="1d", tz=tz, **params)
                assert found == wanted, (calendar, start, end, tz)
    # A week is labelled by its Monday, a month by its first.
    assert await closes(markets, "XTKS", interval="1w", start="2026-10-26", end="2026-11-02") == [30]
    assert await closes(markets, "XTKS", interval="1w", start="2026-11-02") == [5]
    assert await closes(markets, "XTKS", interval="1mo", start="2026-10-01", end="2026-11-01") == [30]
    assert await closes(markets, "XTKS", interval="1mo", start="2026-11-01", tz="America/New_York") == [5]


async def test_a_date_is_midnight_utc_for_shorter_bars(markets):
    midnight = {"start": "2026-10-30", "end": "2026-10-31"}
    assert await closes(markets, "XTKS", interval="1h", **midnight) == [30]
    evening = {"start": "2026-10-29T23:00:00Z", "end": "2026-10-30"}
    assert await closes(markets, "XASX", interval="1h", **evening) == [30]  # 10:30 in Sydney is 23:30 UTC of the eve
    assert await closes(markets, "XASX", interval="1d", start="2026-10-30", end="2026-10-31") == [30]


async def test_a_time_stays_a_time(markets):
    label = datetime.combine(date(2026, 10, 30), time(), ZoneInfo("Asia/Tokyo"))
    later = label + timedelta(microseconds=1)
    assert await closes(markets, "XTKS", interval="1d", start=label.isoformat(), end=later.isoformat()) == [30]
    assert await closes(markets, "XTKS", interval="1d", start=later.isoformat()) == [4, 5]
    assert await closes(markets, "XTKS", interval="1d", start=str(label.timestamp())) == [30, 4, 5]


@pytest.mark.parametrize("path", ["/data/XTKS?interval=1d", "/indicators/XTKS?type=sma", "/analytics/daily/XTKS?x=1"])
async def test_numbers_that_could_be_several_things_are_refused(markets, path):
    for text in ("2026", "202610", "1970", "220012"):
        answer = await markets.get(f"{path}&start={text}")
        error = answer.json()["error"]
        assert (answer.status_code, error["details"]) == (422, {"field": "start"})
        assert error["message"].startswith(f"start: got {text!r}, which could be a year, a month or seconds; takes ")
    for text in ("20261301", "20260230", "202613", "20261030T"):
        answer = await markets.get(f"{path}&end={text}")
        accepted = text == "202613"  # neither a date nor a month: seconds
        assert answer.status_code == (200 if accepted else 422), text
        if not accepted:
            assert answer.json()["error"]["details"] == {"field": "end"}
    backwards = (await markets.get(f"{path}&start=2026-11-02&end=20261030")).json()["error"]
    assert backwards["details"] == {"field": "end"}


async def test_indicators_take_the_same_dates(markets, compiled):
    found = await closes(
        markets, "XTKS", "/indicators", "values", type="sma(2)", interval="1d", start="2026-10-30", end="2026-11-05"
    )
    assert found == [30, 4]

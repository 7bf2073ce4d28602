from datetime import UTC, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import pytest
from fastapi import FastAPI
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from stockpulse.api import context, error_responses
from stockpulse.api.ranges import IntradayRange
from stockpulse.api.time_params import Zone, from_micros, micros, parse_time, parse_zone, read_date, read_time
from stockpulse.errors import InvalidInput
from stockpulse.market.symbology import Symbol

NOON = datetime(2026, 2, 27, 12, 5, tzinfo=UTC)
MOMENTS = st.datetimes(
    datetime(1970, 1, 1),  # noqa: DTZ001  # hypothesis takes bounds without a zone
    datetime(2200, 12, 31, 23, 59, 59, 999_999),  # noqa: DTZ001
    timezones=st.just(UTC),
)


@pytest.mark.parametrize(
    "text",
    [
        "2026-02-27T12:05:00Z",
        "2026-02-27t12:05:00z",
        "2026-02-27T12:05Z",
        "2026-02-27T12:05:00",
        "2026-02-27 12:05:00",
        "2026-02-27T14:05:00+02:00",
        "2026-02-27T14:05:00 02:00",  # a "+" that a URL turned into a space
        "2026-02-27 14:05:00 02:00",
        "2026-02-27T14:05:00+0200",
        "2026-02-27T07:05:00-05:00",
        "2026-02-27T12:05:00.000000000Z",
        "1772193900",
        "1772193900.0",
        "1772193900000",
        "1772193900000000",
        "1772193900000000000",
        " 1772193900 ",
    ],
)
def test_one_moment_in_many_spellings(text):
    assert parse_time(text, "start") == NOON


@pytest.mark.parametrize("text", ["19700100", "19700000", "00000101", "19691231", "22010101", "99999999"])
def test_eight_digits_that_are_no_date_are_seconds(text):
    assert read_date(text) is None
    assert parse_time(text, "start") == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=int(text))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-02-27", datetime(2026, 2, 27, tzinfo=UTC)),
        ("2026-02-27T12:05:00.5Z", NOON + timedelta(microseconds=500_000)),
        ("2026-02-27T12:05:00.123456999Z", NOON + timedelta(microseconds=123_456)),
        ("1772193900.123456", NOON + timedelta(microseconds=123_456)),
        ("1772193900123456789", NOON + timedelta(microseconds=123_456)),
        ("0", datetime(1970, 1, 1, tzinfo=UTC)),
        ("2200-12-31T23:59:59.999999Z", datetime(2200, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)),
    ],
)
def test_what_it_says(text, moment):
    assert parse_time(text, "start") == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026-02-30",
        "2026-02-27T25:00:00Z",
        "2026-02-27T12:05:00+24:00",
        "2026-02-27T12:05:00.1234567890Z",
        "2026-2-7",
        "1969-12-31T23:59:59Z",
        "2201-01-01",
        "1970-01-01T00:00:00+01:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "-1",
        "1e9",
        "nan",
        "9" * 19,
        "9" * 10_000,
        "２０２６-02-27",  # noqa: RUF001  # digits, but not ours
    ],
)
def test_what_it_does_not_take(text):
    with pytest.raises(InvalidInput, match=r"^end: got '.*; takes RFC 3339, a date or epoch seconds") as refused:
        parse_time(text, "end")
    assert refused.value.field == "end"
    assert len(str(refused.value)) < 250


@given(MOMENTS)
def test_every_moment_survives_text_and_microseconds(moment):
    assert from_micros(micros(moment)) == moment
    assert read_time(moment.isoformat()) == moment
    assert read_time(moment.astimezone(timezone(timedelta(hours=-5))).isoformat()) == moment


@given(st.text())
def test_any_text_is_a_time_or_none(text):
    moment = read_time(text)
    assert moment is None or moment.tzinfo is UTC


@pytest.mark.parametrize("name", ["UTC", "America/New_York", "Asia/Kolkata", "utc", "Z"])
def test_zones(name):
    assert isinstance(parse_zone(name), ZoneInfo)


@pytest.mark.parametrize("name", ["", "Mars/Olympus", "America", "../etc/passwd", "posixrules", "a\0b", "x" * 9999])
def test_no_zones(name):
    with pytest.raises(InvalidInput, match=r"^tz: got "):
        parse_zone(name)


def test_query_parameters():
    app = FastAPI()
    error_responses.install(app)

    app.dependency_overrides[context._from_path] = lambda: Symbol(1, "AAPL", "XNYS")

    @app.get("/")
    async def window(times: IntradayRange, zone: Zone):
        return [times.start and times.start.isoformat(), times.end, zone.key]

    client = TestClient(app)
    assert client.get("/").json() == [None, None, "UTC"]
    assert client.get("/?start=2026-02-27T14:05:00+02:00&tz=Asia/Tokyo").json() == [
        "2026-02-27T12:05:00+00:00",
        None,
        "Asia/Tokyo",
    ]
    assert client.get("/?end=noon").json()["error"]["details"] == {"field": "end"}
    names = {one["name"]: one for one in client.get("/openapi.json").json()["paths"]["/"]["get"]["parameters"]}
    assert set(names) == {"symbol", "start", "end", "tz"}
    assert names["tz"]["schema"]["type"] == "string"

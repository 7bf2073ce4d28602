import contextlib
import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.errors import InvalidInput
from stockpulse.market.intervals import (
    BASE_INTERVALS,
    D1,
    INTERVAL_OR_SECONDS_PATTERN,
    INTERVAL_PATTERN,
    M1,
    M5,
    MO1,
    STORED_INTERVAL_PATTERN,
    W1,
    Interval,
    parse_interval,
)
from stockpulse.market.times import MINUTE_MICROS

SPELLINGS = {
    "1m": "1m 1min 1Min 1MIN 1T 1t 1minute 1minutes 1Minute m min minute 1 01",
    "2m": "2m 2min 2T 2",
    "5m": "5m 5min 5Min 5mins 5T 5minutes 5",
    "15m": "15m 15Min 15 15T",
    "90m": "90m 90min 90",
    "1h": "60m 60min 60Min 60T 60 1h 1H 1hr 1hour 1Hour h hour hourly",
    "2h": "120m 2h 2H 2Hours 120",
    "4h": "240m 240min 4h 4H 4Hour 240",
    "6h": "360m 6h 6Hours 360",
    "8h": "480min 8h 8H",
    "12h": "720m 12h 12Hour 12hr",
    "1d": "1d 1D 1day 1Day 1days d D day Day daily Daily",
    "1w": "1w 1W 1wk 1week 1Week w W week weekly",
    "1mo": "1mo 1Mo 1MO 1M M 1mon 1mth 1month 1Month 1months mo month monthly",
}

WRONG = (
    "", " ", "0", "0m", "241m", "241", "5h", "7h", "10h", "24h", "300m", "721m", "1440m",
    "2d", "2w", "3mo", "5M", "0h", "0d", "-5m",
    "1.5h", "1s", "60s", "1y", "five", "5m5m", "m5", "5 m x", "99999999999m", "\u0665m", "1\x00m",
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "name"), [(text, name) for name, texts in SPELLINGS.items() for text in texts.split()]
)
def test_every_customary_spelling_has_one_name(text, name):
    assert parse_interval(text).name == name


def test_blanks_do_not_matter():
    assert parse_interval(" 5 Min ") == M5


def test_only_the_single_letter_m_tells_a_month_from_a_minute_by_its_case():
    assert parse_interval("1M") == MO1
    assert parse_interval("1m") == M1


@pytest.mark.parametrize("text", WRONG)
def test_anything_else_is_refused_with_what_is_taken(text):
    with pytest.raises(InvalidInput) as caught:
        parse_interval(text, field="timeframe")
    assert caught.value.field == "timeframe"
    assert str(caught.value).startswith(f"timeframe: got {text!r}; takes 1m … 240m, 1h … 4h, 6h, 8h, 12h, 1d, 1w, 1mo")


@pytest.mark.parametrize(
    ("text", "name"),
    [("10s", "10s"), ("1S", "1s"), ("s", "1s"), ("15sec", "15s"), ("30 Seconds", "30s"), ("60s", "1m"), ("300s", "5m")],
)
def test_seconds_are_for_those_who_take_them(text, name):
    assert parse_interval(text, seconds=True).name == name
    assert parse_interval(text, seconds=True).is_of_seconds is name.endswith("s")
    with pytest.raises(InvalidInput):
        parse_interval(text)


@pytest.mark.parametrize("text", ["0s", "2s", "7s", "45s", "90s", "s10"])
def test_other_seconds_are_refused(text):
    with pytest.raises(InvalidInput, match="takes 1s, 5s, 10s, 15s, 30s, 1m"):
        parse_interval(text, seconds=True)


def test_a_long_text_is_not_repeated_in_full():
    with pytest.raises(InvalidInput) as caught:
        parse_interval("9" * 100_000)
    assert len(str(caught.value)) < 200


@given(st.integers(1, 240))
def test_every_number_of_minutes_keeps_its_length_and_reads_back(count):
    interval = parse_interval(f"{count}m")
    assert interval.micros == count * MINUTE_MICROS
    assert interval.is_intraday
    assert parse_interval(interval.name) == parse_interval(str(interval)) == interval


@given(st.text(string.printable, max_size=6))
def test_any_text_is_an_interval_or_refused(text):
    with contextlib.suppress(InvalidInput):
        assert isinstance(parse_interval(text), Interval)


@pytest.mark.parametrize(
    ("text", "base"),
    [
        *(("1m", M1), ("2m", M1), ("7m", M1), ("239m", M1)),
        *(("5m", M5), ("10m", M5), ("1h", M5), ("90m", M5), ("4h", M5)),
        *(("1d", D1), ("1w", D1), ("1mo", D1)),
    ],
)
def test_the_base_is_the_nearest_stored_interval(text, base):
    assert parse_interval(text).base == base


def test_a_base_is_its_own():
    assert [interval.base for interval in BASE_INTERVALS] == [M1, M5, D1]


def test_the_calendar_decides_how_long_days_weeks_and_months_are():
    for interval in (D1, W1, MO1):
        assert interval.micros is None
        assert not interval.is_intraday


def test_minutes_of_stored_intervals():
    assert [interval.minutes for interval in BASE_INTERVALS] == [1, 5, 1440]
    for interval in (W1, MO1):
        with pytest.raises(ValueError, match="is not stored"):
            interval.minutes  # noqa: B018


def accepts(parse, text):
    try:
        return parse(text) is not None
    except InvalidInput:
        return False


UNITS = ["", "m", "M", "t", "T", "min", "Min", "MINS", "minutes", "h", "H", "hour", "hourly", "d", "D", "Daily", "wk"]
UNITS += ["W", "weekly", "mo", "MO", "Mon", "month", "y", "s", "x", "mm"]


def test_the_documented_pattern_is_what_is_taken():
    counts = ["", *map(str, [*range(250), 359, 360, 361, 480, 481, 719, 720, 721, 1440, 9999])]
    for count in counts:
        for unit in UNITS:
            text = count + unit
            documented = re.fullmatch(INTERVAL_PATTERN, text) is not None
            assert documented == accepts(parse_interval, text), text
            if unit != "s" or count in ("", "1", "5", "30", "31"):  # 60s is taken as 1m, too
                documented = re.fullmatch(INTERVAL_OR_SECONDS_PATTERN, text) is not None
                assert documented == accepts(lambda one: parse_interval(one, seconds=True), text), text
            stored = accepts(parse_interval, text) and parse_interval(text) in BASE_INTERVALS
            # 60m is an hour, which is not stored; 1440 minutes are no day.
            assert (re.fullmatch(STORED_INTERVAL_PATTERN, text) is not None) == stored, text

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.errors import InvalidInput
from stockpulse.market.calendar import NO_DAY
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5, MO1, W1, parse_interval
from stockpulse.market.times import MINUTE_MICROS

NEW_YORK = ZoneInfo("America/New_York")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
DAY = 24 * 60 * MINUTE_MICROS
H1, H4, M7 = parse_interval("1h"), parse_interval("4h"), parse_interval("7m")

# New York by day, around the clock in UTC, from the evening before, open at 9:32, late on some days.
CALENDARS = ("XNYS", "24/7", "CMES", "XKAR", "XHKG")


def utc(*texts):
    return np.array([(datetime.fromisoformat(text).replace(tzinfo=UTC) - EPOCH) // MICRO for text in texts])


def new_york(*texts):
    moments = [datetime.fromisoformat(text).replace(tzinfo=NEW_YORK).astimezone(UTC) for text in texts]
    return np.array([(moment - EPOCH) // MICRO for moment in moments])


def in_new_york(times):
    return [f"{(EPOCH + time * MICRO).astimezone(NEW_YORK):%Y-%m-%d %H:%M}" for time in times.tolist()]


@pytest.fixture(scope="module", autouse=True)
def _made():
    """Make the calendars now, so that Hypothesis does not find its first example slow."""
    for name in CALENDARS:
        trading_calendar(name)


@pytest.fixture(scope="module")
def nyse():
    return trading_calendar("XNYS")


@pytest.fixture(scope="module")
def always():
    return trading_calendar("24/7")


class TestSessions:
    @pytest.mark.parametrize(
        ("date", "opens", "closes"),
        [
            ("2013-10-07", "13:30", "20:00"),
            ("2013-11-29", "14:30", "18:00"),  # half day after Thanksgiving
            ("2024-12-24", "14:30", "18:00"),
            ("2024-02-29", "14:30", "21:00"),
            ("2026-03-06", "14:30", "21:00"),  # winter, and after the weekend summer time
            ("2026-03-09", "13:30", "20:00"),
            ("2026-10-30", "13:30", "20:00"),
            ("2026-11-02", "14:30", "21:00"),
        ],
    )
    def test_hours(self, nyse, date, opens, closes):
        expected = tuple(utc(f"{date} {opens}", f"{date} {closes}").tolist())
        assert nyse.session(int(new_york(date)[0])) == expected

    @pytest.mark.parametrize(
        "date",
        [
            "2013-11-28",  # Thanksgiving
            "2024-03-29",  # Good Friday
            "2024-12-25",
            "2012-10-29",  # hurricane Sandy
            "2012-10-30",
            "2025-01-09",  # mourning for President Carter
            "2013-10-05",  # Saturday
        ],
    )
    def test_closed(self, nyse, date):
        assert nyse.session(int(new_york(date)[0])) is None
        assert nyse.trading_day(new_york(f"{date} 12:00")) == NO_DAY
        assert nyse.trading_day(new_york(f"{date} 12:00"), extended=True) == NO_DAY

    def test_a_late_open(self):  # Ash Wednesday
        wednesday = int(utc("2024-02-14 03:00")[0])
        expected = tuple(utc("2024-02-14 16:00", "2024-02-14 21:00").tolist())
        assert trading_calendar("BVMF").session(wednesday) == expected

    def test_only_a_daily_label_names_a_session(self, nyse):
        assert nyse.session(int(utc("2013-10-07")[0])) is None

    def test_a_range_holds_its_start_and_not_its_end(self, nyse):
        labels, opens, closes = nyse.sessions(*new_york("2013-11-27", "2013-12-02").tolist())
        assert in_new_york(labels) == ["2013-11-27 00:00", "2013-11-29 00:00"]
        assert in_new_york(opens) == ["2013-11-27 09:30", "2013-11-29 09:30"]
        assert in_new_york(closes) == ["2013-11-27 16:00", "2013-11-29 13:00"]

    def test_a_whole_year(self, nyse):
        labels, opens, closes = nyse.sessions(*new_york("2024-01-01", "2025-01-01").tolist())
        assert len(labels) == 252
        assert [nyse.session(label) for label in labels.tolist()] == list(
            zip(opens.tolist(), closes.tolist(), strict=True)
        )

    def test_an_empty_range(self, nyse):
        start, end = new_york("2024-01-06", "2024-01-08").tolist()
        assert nyse.sessions(start, end)[0].size == 0
        assert nyse.sessions(end, start)[0].size == 0

    def test_the_close_is_outside(self, nyse):
        times = new_york("2013-11-29 09:29:59", "2013-11-29 09:30", "2013-11-29 12:59:59", "2013-11-29 13:00")
        assert (nyse.trading_day(times) != NO_DAY).tolist() == [False, True, True, False]


class TestDays:
    def test_a_day_is_named_by_its_midnight_on_the_exchange(self, nyse):
        assert nyse.trading_day(new_york("2013-10-07 09:30")) == utc("2013-10-07 04:00")
        assert nyse.trading_day(new_york("2013-12-09 15:59:59")) == utc("2013-12-09 05:00")

    def test_only_the_regular_session_counts_unless_extended(self, nyse):
        times = new_york("2013-10-07 00:00", "2013-10-07 09:29", "2013-10-07 16:00", "2013-10-07 23:59")
        assert nyse.trading_day(times).tolist() == [NO_DAY] * 4
        assert in_new_york(nyse.trading_day(times, extended=True)) == ["2013-10-07 00:00"] * 4

    def test_a_day_ends_with_its_session_or_its_date(self, nyse):
        labels = new_york("2013-11-27", "2013-11-29")
        assert in_new_york(nyse.day_end(labels)) == ["2013-11-27 16:00", "2013-11-29 13:00"]
        assert in_new_york(nyse.day_end(labels, extended=True)) == ["2013-11-28 00:00", "2013-11-30 00:00"]

    def test_a_label_without_session_ends_with_its_date(self, nyse):
        assert in_new_york(nyse.day_end(new_york("2013-11-28"))) == ["2013-11-29 00:00"]

    @pytest.mark.parametrize(
        ("date", "hours"),
        [("2013-03-10", 23), ("2013-11-03", 25), ("2026-03-08", 23), ("2026-11-01", 25), ("2024-02-29", 24)],
    )
    def test_a_date_is_as_long_as_the_clock_makes_it(self, nyse, date, hours):
        start = new_york(date)
        end = start + hours * 60 * MINUTE_MICROS
        times = np.concatenate([start - 1, start, end - 1, end])
        expected = np.concatenate([nyse.floor_date(start - 1), start, start, end])
        assert nyse.floor_date(times).tolist() == expected.tolist()
        assert nyse.floor_date(start - 1) == new_york(date) - DAY
        assert in_new_york(end)[0].endswith("00:00")

    def test_what_belongs_to_no_day_stays_so(self, nyse):
        nothing = np.array([NO_DAY])
        for interval in (D1, W1, MO1):
            assert nyse.bucket_end(nothing, interval) == NO_DAY
            assert nyse.label(new_york("2013-10-05 12:00"), interval) == NO_DAY

    def test_an_evening_session_counts_to_the_next_date(self):
        futures = trading_calendar("CMES")
        chicago = utc("2024-06-11 22:00")  # Tuesday 17:00 there: the session of Wednesday begins
        wednesday = utc("2024-06-12 05:00")
        assert futures.trading_day(chicago) == futures.trading_day(chicago, extended=True) == wednesday
        assert futures.bucket(chicago, M7) == chicago
        assert futures.day_end(wednesday) == utc("2024-06-12 22:00")

    def test_a_midnight_that_the_clock_skips_is_the_first_instant_of_its_date(self):
        sao_paulo = trading_calendar("BVMF")
        times = utc("2018-11-04 02:59:59", "2018-11-04 03:00")
        assert sao_paulo.floor_date(times).tolist() == utc("2018-11-03 03:00", "2018-11-04 03:00").tolist()


class TestBuckets:
    def test_hours_run_through_the_open(self, nyse):
        times = new_york("2013-10-07 09:29", "2013-10-07 09:30", "2013-10-07 10:29", "2013-10-07 19:59")
        expected = ["2013-10-07 08:30", "2013-10-07 09:30", "2013-10-07 09:30", "2013-10-07 19:30"]
        assert in_new_york(nyse.bucket(times, H1)) == expected

    def test_four_hours_run_on_through_the_night(self, nyse):
        times = new_york("2013-10-07 08:00", "2013-10-07 13:30", "2013-10-08 01:00", "2013-10-08 01:30")
        expected = ["2013-10-07 05:30", "2013-10-07 13:30", "2013-10-07 21:30", "2013-10-08 01:30"]
        assert in_new_york(nyse.bucket(times, H4)) == expected

    def test_the_grid_follows_the_clock(self, nyse):
        for date in ("2013-03-08", "2013-03-11", "2013-11-01", "2013-11-04"):
            assert in_new_york(nyse.bucket(new_york(f"{date} 12:00"), H4)) == [f"{date} 09:30"]

    def test_a_date_without_session_has_the_usual_grid(self, nyse):
        assert in_new_york(nyse.bucket(new_york("2013-10-05 12:00"), H4)) == ["2013-10-05 09:30"]

    def test_a_bucket_is_cut_short_where_the_grid_moves(self, nyse):
        # The clock goes forward on Sunday: Saturday's last 4 hours give way to Sunday's after 3.
        labels = new_york("2013-03-09 21:30", "2013-03-10 00:30")
        assert nyse.bucket(labels, H4).tolist() == labels.tolist()
        assert nyse.bucket_end(labels[:1], H4) == labels[1]
        assert nyse.bucket(labels[1:] - 1, H4) == labels[0]

    def test_around_the_clock_buckets_begin_at_midnight(self, always):
        times = utc("2024-02-29 00:00", "2024-02-29 03:59:59", "2024-02-29 23:59")
        assert always.bucket(times, H4).tolist() == utc("2024-02-29", "2024-02-29", "2024-02-29 20:00").tolist()
        assert always.bucket(times, M7).tolist()[0] == times[0]

    @pytest.mark.parametrize("interval", [M1, M5], ids=str)
    @pytest.mark.parametrize("name", ["XNYS", "24/7", "CMES", "XHKG", "XLON"])
    def test_minutes_are_those_of_utc(self, name, interval):
        times = np.random.default_rng(7).integers(0, 130 * 365 * DAY, 10_000)
        expected = times - times % interval.micros
        assert trading_calendar(name).bucket(times, interval).tolist() == expected.tolist()

    def test_days_have_no_fixed_length(self, nyse):
        with pytest.raises(ValueError, match="1d has no fixed length"):
            nyse.bucket(utc("2024-02-29"), D1)

    def test_minutes_make_no_period(self, nyse):
        with pytest.raises(ValueError, match="5m is not made of days"):
            nyse.period(utc("2024-02-29"), M5)


class TestPeriods:
    def test_a_week_begins_on_monday_and_a_month_on_its_first(self, nyse):
        times = new_york("2024-02-29 12:00", "2024-03-08 12:00", "2024-03-11 12:00")
        weeks = nyse.label(times, W1)
        months = nyse.label(times, MO1)
        assert in_new_york(weeks) == ["2024-02-26 00:00", "2024-03-04 00:00", "2024-03-11 00:00"]
        assert in_new_york(months) == ["2024-02-01 00:00", "2024-03-01 00:00", "2024-03-01 00:00"]

    def test_they_end_where_the_next_begins_whatever_the_clock_does(self, nyse):
        weeks = new_york("2024-02-26", "2024-03-04")  # the clock changes on 10 March
        months = new_york("2024-02-01", "2024-03-01", "2024-12-01")
        assert in_new_york(nyse.bucket_end(weeks, W1)) == ["2024-03-04 00:00", "2024-03-11 00:00"]
        expected = ["2024-03-01 00:00", "2024-04-01 00:00", "2025-01-01 00:00"]
        assert in_new_york(nyse.bucket_end(months, MO1)) == expected


class TestAlwaysOpen:
    def test_days_are_those_of_utc(self, always):
        times = utc("2024-03-02 00:00", "2024-03-02 23:59:59.999999", "2024-03-03 00:00")
        labels = always.trading_day(times)
        assert labels.tolist() == utc("2024-03-02", "2024-03-02", "2024-03-03").tolist()
        assert (always.trading_day(times) != NO_DAY).all()
        for extended in (False, True):
            assert always.day_end(labels, extended=extended).tolist() == (labels + DAY).tolist()

    def test_its_session_is_the_day(self, always):
        saturday = int(utc("2024-03-02")[0])
        assert always.session(saturday) == (saturday, saturday + DAY)


class TestHorizon:
    def test_outside_what_is_known_weekdays_have_the_usual_hours(self, nyse):
        monday, saturday = "1985-07-01", "1985-07-06"
        assert nyse.session(int(new_york(monday)[0])) == tuple(new_york(f"{monday} 09:30", f"{monday} 16:00").tolist())
        assert nyse.session(int(new_york(saturday)[0])) is None

    @pytest.mark.parametrize("date", ["1929-10-29", "2345-06-05"])
    def test_far_away_the_clock_stands_still(self, nyse, date):  # both are Tuesdays
        noon = utc(f"{date} 17:00")
        label = utc(f"{date} 05:00")
        assert nyse.trading_day(noon) == nyse.floor_date(noon) == label
        assert nyse.day_end(label) == utc(f"{date} 21:00")
        assert nyse.bucket(noon, H1) == utc(f"{date} 16:30")
        assert nyse.period(label, MO1) == utc(f"{date[:8]}01 05:00")

    @pytest.mark.parametrize("name", CALENDARS)
    def test_no_time_at_all_is_too_much(self, name):
        calendar = trading_calendar(name)
        times = np.array([NO_DAY, -(2**62), 2**62, 2**63 - 1])
        for interval in (M1, M7, H4, D1, W1, MO1):
            assert calendar.bucket_end(calendar.label(times, interval), interval).shape == times.shape

    def test_nothing_gives_nothing(self, nyse):
        nothing = np.array([], np.int64)
        for interval in (M1, M7, H4, D1, W1, MO1):
            assert nyse.bucket_end(nyse.label(nothing, interval), interval).dtype == np.int64


class TestNames:
    def test_an_unknown_exchange_is_refused_with_some_that_are_known(self):
        with pytest.raises(InvalidInput, match=r"calendar: got 'MOON'; takes 24/7, XNYS") as caught:
            trading_calendar("MOON")
        assert caught.value.field == "calendar"

    def test_a_calendar_is_made_once(self, nyse):
        assert trading_calendar("XNYS") is nyse
        assert (nyse.name, nyse.timezone) == ("XNYS", NEW_YORK)


# Times around the clock's changes and the table's ends, where mistakes live, and anywhere.
CORNERS = utc("1970-01-01", "1990-01-01", "2013-03-10", "2013-11-03", "2026-11-01", "2051-01-01", "2100-01-01")
times_near_corners = st.builds(
    lambda corner, away: int(corner) + away, st.sampled_from(CORNERS.tolist()), st.integers(-4 * DAY, 4 * DAY)
)
times_anywhere = st.integers(-20 * 365 * DAY, 150 * 365 * DAY)
sorted_times = st.lists(times_near_corners | times_anywhere, min_size=1, max_size=40).map(
    lambda times: np.array(sorted(times))
)
calendars = st.sampled_from(CALENDARS).map(trading_calendar)
intraday = (st.integers(1, 240) | st.sampled_from([360, 480, 720])).map(lambda minutes: parse_interval(f"{minutes}m"))
multiples_of_5m = st.integers(1, 48).map(lambda fives: parse_interval(f"{5 * fives}m"))


@given(calendars, sorted_times, intraday)
def test_a_bucket_holds_its_times_and_follows_the_one_before(calendar, times, interval):
    starts = calendar.bucket(times, interval)
    ends = calendar.bucket_end(starts, interval)
    assert (times - interval.micros < starts).all()
    assert (starts <= times).all()
    assert (times < ends).all()
    assert (ends <= starts + interval.micros).all()
    assert (np.diff(starts) >= 0).all()
    assert calendar.bucket(starts, interval).tolist() == starts.tolist()
    assert calendar.bucket(ends - 1, interval).tolist() == starts.tolist()
    assert calendar.bucket(ends, interval).tolist() == ends.tolist()


@given(calendars, sorted_times, multiples_of_5m)
def test_coarser_buckets_are_made_of_whole_finer_ones(calendar, times, interval):
    fine = calendar.bucket(times, M5)
    coarse = calendar.bucket(times, interval)
    assert (coarse <= fine).all()
    assert (calendar.bucket_end(fine, M5) <= calendar.bucket_end(coarse, interval)).all()


@given(calendars, sorted_times, intraday)
def test_any_bucket_is_made_of_whole_minutes(calendar, times, interval):
    minutes = calendar.bucket(times, M1)
    assert calendar.bucket(minutes, interval).tolist() == calendar.bucket(times, interval).tolist()


@given(calendars, sorted_times, st.sampled_from([D1, W1, MO1]), st.booleans())
def test_a_day_week_or_month_holds_its_times(calendar, times, interval, extended):
    labels = calendar.label(times, interval, extended=extended)
    inside = labels != NO_DAY
    days = calendar.trading_day(times, extended=extended)[inside]
    labels, ends = labels[inside], calendar.bucket_end(labels, interval, extended=extended)[inside]
    assert (labels <= days).all()
    assert (days < ends).all()
    assert (times[inside] < calendar.day_end(days, extended=extended)).all()
    assert (np.diff(labels) >= 0).all()
    assert calendar.floor_date(labels).tolist() == labels.tolist()


@given(st.sampled_from(["XNYS", "24/7", "XKAR", "XHKG"]).map(trading_calendar), sorted_times)
def test_a_day_within_one_date_is_that_date(calendar, times):
    labels = calendar.trading_day(times)
    regular = labels != NO_DAY
    assert labels[regular].tolist() == calendar.floor_date(times)[regular].tolist()


@given(st.lists(st.integers(DAY, 129 * 365 * DAY), min_size=1))
def test_dates_are_those_of_the_zone(times):
    dates = [f"{(EPOCH + time * MICRO).astimezone(NEW_YORK):%Y-%m-%d}" for time in times]
    assert trading_calendar("XNYS").floor_date(np.array(times)).tolist() == new_york(*dates).tolist()

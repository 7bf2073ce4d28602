"""Sessions as exchanges announced them, independent of any library; and every available calendar."""

import json
import warnings
from datetime import date, datetime

import numpy as np
import pytest

from stockpulse.errors import InvalidInput
from stockpulse.market import calendars
from stockpulse.market.calendar import NO_DAY
from stockpulse.market.calendar_corrections import read_corrections, shipped_corrections
from stockpulse.market.calendar_names import _CUSTOMARY, LIBRARY_NAMES, accepted_names, calendar_name
from stockpulse.market.calendars import trading_calendar, use_corrections

#: Calendar, day, hours on the exchange's clock.
FACTS = """
XNYS 2001-09-11 closed       attacks of September 11
XNYS 2001-09-14 closed
XNYS 2001-09-17 09:30-16:00
XNYS 2012-10-29 closed       hurricane Sandy
XNYS 2012-10-30 closed
XNYS 2018-12-05 closed       mourning for George H. W. Bush
XNYS 2021-06-18 09:30-16:00  Juneteenth was no holiday of the exchange yet
XNYS 2021-12-31 09:30-16:00  New Year's Day on a Saturday is not moved to Friday
XNYS 2022-06-20 closed       Juneteenth
XNYS 2024-07-03 09:30-13:00  early closes
XNYS 2024-11-29 09:30-13:00
XNYS 2024-12-24 09:30-13:00
XNYS 2025-07-03 09:30-13:00
XNYS 2025-11-28 09:30-13:00
XNYS 2025-01-09 closed       mourning for Jimmy Carter
XNYS 2026-04-03 closed       Good Friday
XLON 2020-05-04 08:00-16:30  the bank holiday was moved to Friday
XLON 2020-05-08 closed
XLON 2022-06-02 closed       Platinum Jubilee
XLON 2022-06-03 closed
XLON 2022-09-19 closed       funeral of Elizabeth II
XLON 2023-05-08 closed       coronation of Charles III
XLON 2024-12-24 08:00-12:30  early closes
XLON 2024-12-31 08:00-12:30
XETR 2024-05-01 closed
XETR 2024-10-03 09:00-17:30  German Unity Day is a trading day
XETR 2024-12-24 closed
XETR 2024-12-31 closed
XPAR 2024-12-24 09:00-14:05
XAMS 2024-12-31 09:00-14:05
XSWX 2024-08-01 closed
XSTO 2024-05-08 09:00-13:00  eve of Ascension Day
XSTO 2024-06-21 closed       Midsummer Eve
XCSE 2024-05-10 closed       the day after Ascension Day
XWAR 2018-11-12 closed       a holiday for once: a hundred years of independence
ASEX 2015-07-01 closed       capital controls in Greece
ASEX 2015-08-03 open
XIST 2023-02-09 closed       earthquake
XIST 2023-02-10 closed
XTKS 2019-04-30 closed       ten days off for the new emperor
XTKS 2019-05-01 closed
XTKS 2019-10-22 closed       enthronement
XTKS 2024-11-01 09:00-15:00
XTKS 2024-11-05 09:00-15:30  half an hour longer from this day on
XTKS 2024-12-31 closed
XTKS 2025-01-03 closed
XHKG 2016-08-02 closed       typhoons Nida, Haima, Hato, Nangka, Kompasu, Talim, Saola; black rain; Yagi
XHKG 2016-10-21 closed
XHKG 2017-08-23 closed
XHKG 2020-10-13 closed
XHKG 2021-10-13 closed
XHKG 2023-07-17 closed
XHKG 2023-09-01 closed
XHKG 2023-09-08 closed
XHKG 2024-09-06 closed
XHKG 2024-11-14 09:30-16:00  typhoon Toraji: since 23 September 2024 it trades through severe weather
XHKG 2024-02-09 09:30-12:00  half days
XHKG 2024-12-24 09:30-12:00
XHKG 2024-12-31 09:30-12:00
XKRX 2018-11-15 10:00-16:30  university entrance exams
XKRX 2019-11-14 10:00-16:30
XKRX 2020-12-03 10:00-16:30
XKRX 2021-11-18 10:00-16:30
XKRX 2022-11-17 10:00-16:30
XKRX 2023-11-16 10:00-16:30
XKRX 2024-11-14 10:00-16:30
XKRX 2025-11-13 10:00-16:30
XKRX 2020-01-02 10:00-15:30  first days of the year
XKRX 2021-01-04 10:00-15:30
XKRX 2022-01-03 10:00-15:30
XKRX 2023-01-02 10:00-15:30
XKRX 2024-01-02 10:00-15:30
XKRX 2025-01-02 10:00-15:30
XKRX 2024-10-01 closed       Armed Forces Day
XKRX 2024-12-31 closed
XKRX 2025-01-27 closed       a holiday for once, before the Lunar New Year
XKRX 2025-06-03 closed       presidential election
XBOM 2015-02-28 09:15-15:30  Union Budget on a Saturday
XBOM 2020-02-01 09:15-15:30
XBOM 2025-02-01 09:15-15:30
XBOM 2024-01-20 09:15-15:30  a Saturday in exchange for the Monday after it
XBOM 2024-01-22 closed       consecration of the temple in Ayodhya
XBOM 2024-05-20 closed       elections
XBOM 2024-11-20 closed
XBOM 2022-10-24 18:15-19:15  Muhurat trading
XBOM 2023-11-12 18:15-19:15
XBOM 2024-11-01 18:00-19:00
XMOS 2021-02-20 open         Saturdays
XMOS 2024-04-27 open
XMOS 2024-11-02 open
XMOS 2024-12-28 open
XMOS 2022-03-01 closed       no trading in shares
XMOS 2022-03-23 closed
XMOS 2022-03-24 open
XTSE 2024-07-01 closed
XTSE 2024-09-30 09:30-16:00  Truth and Reconciliation Day is a trading day
XTSE 2024-12-24 09:30-13:00
XASX 2022-09-22 closed       mourning for Elizabeth II
XASX 2024-12-24 10:00-14:10
XASX 2024-12-31 10:00-14:10
XNZE 2022-09-26 closed       mourning for Elizabeth II
XSHG 2020-01-31 closed       the Spring Festival was made longer in the pandemic
XSHG 2020-02-03 09:30-15:00
XSHG 2024-02-09 closed
XSHG 2024-02-19 09:30-15:00
XSHG 2024-10-07 closed
XSES 2023-09-01 closed       presidential election
XTAI 2024-07-24 closed       typhoons Gaemi, Krathon, Kong-rey
XTAI 2024-07-25 closed
XTAI 2024-10-02 closed
XTAI 2024-10-31 closed
XJSE 2024-05-29 closed       general election
BVMF 2024-02-14 13:00-18:00  Ash Wednesday
BVMF 2024-11-20 closed       Black Awareness Day
XTAE 2025-11-21 closed       Fridays
XTAE 2025-11-23 open         Sundays
XSAU 2024-09-20 closed       Fridays
XSAU 2024-09-22 open         Sundays
"""
ROWS = [tuple(line.split(maxsplit=3)[:3]) for line in FACTS.strip().splitlines()]


def hours_of(name, day):
    """The session of a calendar on a day, as in FACTS."""
    calendar = trading_calendar(name)
    midnight = datetime.combine(date.fromisoformat(day), datetime.min.time(), calendar.timezone)
    session = calendar.session(int(midnight.timestamp()) * 1_000_000)
    if session is None:
        return "closed"
    return "-".join(f"{datetime.fromtimestamp(at / 1e6, calendar.timezone):%H:%M}" for at in session)


@pytest.fixture
def corrected():
    """Corrections for one test."""

    def correct(**days):
        use_corrections(read_corrections(json.dumps(days)))

    yield correct
    use_corrections({})


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({name for name, _, _ in ROWS}))
def test_sessions_are_those_that_the_exchange_announced(name):
    wrong = [
        (day, said, hours_of(name, day))
        for calendar, day, said in ROWS
        if calendar == name and hours_of(name, day) != said and not (said == "open" and hours_of(name, day) != "closed")
    ]
    assert wrong == []


@pytest.mark.thorough
@pytest.mark.slow
def test_every_calendar_that_is_offered_loads():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars

        names = exchange_calendars.get_calendar_names(include_aliases=False)
    assert len(names) > 60
    assert {"XTAE", "ASEX", "XBEL", "XBSE", "XCYS", "XBOM", "XMOS", "us_futures", "24/5"} <= set(names)
    year = [int(datetime(year, 1, 1).timestamp()) * 1_000_000 for year in (2024, 2025)]  # noqa: DTZ001
    for name in names:
        calendar = trading_calendar(name)
        labels, opens, closes = calendar.sessions(*year)
        assert 230 <= len(labels) <= 366, name
        assert (opens < closes).all(), name
        assert (calendar.trading_day(opens) != NO_DAY).all(), name
        assert (np.diff(opens) > 0).all(), name


class TestNames:
    @pytest.mark.parametrize(
        ("customary", "name"),
        [("xnys", "XNYS"), ("NYSE", "XNYS"), ("nyse", "XNYS"), (" Nasdaq ", "XNAS"), ("lse", "XLON"), ("NSE", "XBOM"),
         ("bse", "XBOM"), ("hkex", "XHKG"), ("us_futures", "us_futures"), ("24/7", "24/7"), ("crypto", "24/7")],
    )  # fmt: skip
    def test_customary_ones_in_any_case(self, customary, name):
        assert calendar_name(customary) == name
        assert trading_calendar(customary) is trading_calendar(name)

    @pytest.mark.thorough
    @pytest.mark.slow
    def test_all_of_them_lead_to_a_calendar(self):
        for name in {calendar_name(name) for name in _CUSTOMARY}:
            assert trading_calendar(name).name == name

    @pytest.mark.parametrize("name", ["", "XXXX", "NYSE2", "a" * 1_000])
    def test_others_are_refused(self, name):
        with pytest.raises(InvalidInput, match=r"calendar: got .*; takes 24/7, XNYS"):
            trading_calendar(name)


class TestCorrections:
    def test_of_a_user_go_before_ours(self, corrected):
        assert hours_of("XKRX", "2024-11-14") == "10:00-16:30"
        corrected(krx={"2024-11-14": "closed", "2024-11-16": "11:00-12:30"}, NYSE={"2024-11-28": "09:30-13:00"})
        assert hours_of("XKRX", "2024-11-14") == "closed"
        assert hours_of("XKRX", "2024-11-16") == "11:00-12:30"  # a Saturday
        assert hours_of("XKRX", "2023-11-16") == "10:00-16:30"
        assert hours_of("XNYS", "2024-11-28") == hours_of("XNAS", "2024-11-28") == "09:30-13:00"
        use_corrections({})
        assert hours_of("XNYS", "2024-11-28") == "closed"

    def test_decide_which_trades_belong_to_a_day(self, corrected):
        corrected(XKRX={"2024-11-13": "10:00-16:30"})
        calendar = trading_calendar("XKRX")
        times = [datetime(2024, 11, 13, hour, minute, tzinfo=calendar.timezone) for hour, minute in ((9, 30), (16, 0))]
        days = calendar.trading_day(np.array([int(at.timestamp()) * 1_000_000 for at in times]))
        assert [day == NO_DAY for day in days] == [True, False]

    @pytest.mark.parametrize("suffix", ["json", "toml"])
    def test_from_a_file(self, tmp_path, suffix):
        path = tmp_path / f"days.{suffix}"
        path.write_text({"json": '{"LSE": {"2024-01-02": "closed"}}', "toml": '[LSE]\n2024-01-02 = "closed"'}[suffix])
        assert read_corrections(str(path)) == {"XLON": {date(2024, 1, 2): None}}

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("{", "cannot be read"),
            ("no-such-file.json", "is neither JSON nor a file"),
            ("[]", "is neither JSON nor a file"),
            ('{"XNYS": "closed"}', "takes calendars with their days"),
            ('{"24/7": {"2024-01-02": "closed"}}', "24/7 is always open"),
            ('{"XNYS": {"2024-13-02": "closed"}}', "XNYS: '2024-13-02' is not a day of 1990 to 2050"),
            ('{"XNYS": {"1980-01-02": "closed"}}', "XNYS: '1980-01-02' is not a day of 1990 to 2050"),
            ('{"XNYS": {"2024-01-02": "10:00"}}', 'XNYS 2024-01-02: got \'10:00\'; takes "closed" or "10:00-16:30"'),
            ('{"XNYS": {"2024-01-02": "16:00-10:00"}}', "got '16:00-10:00'"),
            ('{"XNYS": {"2024-01-02": "10:02-16:00"}}', "whole 5 minutes"),
            ('{"XNYS": {"2024-01-02": null}}', "got None"),
        ],
    )
    def test_that_cannot_be_read_say_what_is_wrong(self, text, why):
        with pytest.raises(InvalidInput) as refused:
            read_corrections(text)
        assert why in str(refused.value)

    def test_of_a_calendar_that_does_not_exist_are_refused(self, corrected):
        with pytest.raises(InvalidInput, match="calendar: got 'XXXX'"):
            corrected(XXXX={"2024-01-02": "closed"})
        assert calendars._user_corrections == {}

    def test_that_are_shipped_change_something(self):
        """A correction that the library has learned in the meantime can go."""
        for name, days in shipped_corrections().items():
            facts = {day for calendar, day, _ in ROWS if calendar == name}
            assert facts & {day.isoformat() for day in days}, name


def test_the_documented_names_are_those_that_are_accepted():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        import exchange_calendars
    assert frozenset(exchange_calendars.get_calendar_names()) == LIBRARY_NAMES
    assert {calendar_name(name) for name in accepted_names()} <= LIBRARY_NAMES | {"24/7"}
    assert {calendar_name(name.lower()) for name in accepted_names()} <= LIBRARY_NAMES | {"24/7"}

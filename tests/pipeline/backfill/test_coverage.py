"""The coverage of a symbol: complete sessions, missing bars and the reasons."""

from datetime import UTC, datetime

import numpy as np

from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.times import from_micros, micros
from stockpulse.pipeline.backfill.coverage import Evidence, Missing, Reason, coverage, incomplete
from stockpulse.pipeline.backfill.expected import expected_bars
from stockpulse.storage.asked_ranges import AskedRange, Outcome

NEW_YORK = trading_calendar("XNYS")
NOW = datetime(2026, 12, 1, tzinfo=UTC)


def at(text):
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def asked(start, end, outcome=Outcome.COMPLETE, reason=None):
    return AskedRange(at(start), at(end), outcome, NOW, reason)


def bars(interval, start, end):
    return expected_bars(NEW_YORK, interval, at(start), at(end)).starts


WEEK = (at("2026-11-23T05:00"), at("2026-11-30T05:00"))  # with Thanksgiving, and a half day after it


def of_week(interval, stored, **evidence):
    found = coverage(NEW_YORK, interval, WEEK, stored, Evidence(**evidence))
    return {from_micros(one.label).day: one for one in found}


def test_sessions_and_holidays():
    days = of_week(M5, bars(M5, "2026-11-23", "2026-11-30"))
    assert list(days) == [23, 24, 25, 26, 27]
    assert [one.expected for one in days.values()] == [78, 78, 78, 0, 42]
    assert [one.stored for one in days.values()] == [78, 78, 78, 0, 42]
    assert days[26].open is None
    assert all(one.complete for one in days.values())


def test_what_is_missing_and_why():
    stored = bars(M5, "2026-11-23", "2026-11-24T15:00")
    days = of_week(
        M5,
        stored,
        asked={
            "first": (asked("2026-11-25T05:00", "2026-11-26T05:00", Outcome.REFUSED, "no plan"),),
            "second": (asked("2026-11-25T05:00", "2026-11-25T16:00", Outcome.NOTHING),),
        },
        gaps=[(at("2026-11-24T20:30"), at("2026-11-24T20:41"))],
    )
    assert days[23].complete
    assert days[24].stored == 6
    assert days[24].missing == (
        Missing(at("2026-11-24T15:00"), at("2026-11-24T20:30"), 66, Reason.NOT_ASKED),
        Missing(at("2026-11-24T20:30"), at("2026-11-24T20:45"), 3, Reason.GAP),
        Missing(at("2026-11-24T20:45"), at("2026-11-24T21:00"), 3, Reason.NOT_ASKED),
    )
    assert days[25].missing == (
        Missing(at("2026-11-25T14:30"), at("2026-11-25T16:00"), 18, Reason.NOTHING),
        Missing(at("2026-11-25T16:00"), at("2026-11-25T21:00"), 60, Reason.REFUSED, "no plan"),
    )
    assert not days[24].complete
    assert not days[25].complete


def test_a_session_is_complete_if_the_provider_has_nothing_else():
    stored = bars(M1, "2026-11-23", "2026-11-30")[::3]
    days = of_week(M1, stored, asked={"vendor": (asked("2026-11-23", "2026-11-30"),)})
    assert all(one.complete for one in days.values())
    assert days[23].stored == 130


def test_of_days():
    days = of_week(D1, bars(D1, "2026-11-24", "2026-11-26"))
    assert [(one.expected, one.stored, one.complete) for one in days.values()] == [
        (1, 0, False),
        (1, 1, True),
        (1, 1, True),
        (0, 0, True),
        (1, 0, False),
    ]


def test_of_the_running_session():
    span = (at("2026-11-24T05:00"), at("2026-11-24T16:00"))
    [today] = coverage(NEW_YORK, M5, span, np.empty(0, np.int64), Evidence())
    assert (today.expected, today.stored) == (18, 0)


def test_of_a_market_without_an_end():
    calendar = trading_calendar("24/7")
    [saturday, sunday] = coverage(
        calendar, M5, (at("2026-11-28"), at("2026-11-30")), np.array([at("2026-11-28T12:00")]), Evidence()
    )
    assert (saturday.expected, saturday.stored, sunday.stored) == (288, 1, 0)
    assert [one.bars for one in saturday.missing] == [144, 143]


def test_bars_that_may_exist():
    stored = bars(M5, "2026-11-23", "2026-11-24T15:00")
    span = (at("2026-11-24T14:30"), at("2026-11-24T15:30"))
    assert len(incomplete(NEW_YORK, M5, span, stored, Evidence())) == 6
    evidence = Evidence({"vendor": (asked("2026-11-24", "2026-11-24T15:20"),)})
    assert incomplete(NEW_YORK, M5, span, stored, evidence).tolist() == [
        at("2026-11-24T15:20"),
        at("2026-11-24T15:25"),
    ]

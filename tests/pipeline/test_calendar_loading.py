"""Calendars are loaded when they are needed, and in the background."""

import numpy as np

from stockpulse.engine.bar_buckets import Buckets
from stockpulse.engine.bar_math import BAR
from stockpulse.market import calendars
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendars import is_loaded, trading_calendar
from stockpulse.market.intervals import D1
from stockpulse.market.symbology import Names, Symbol
from stockpulse.pipeline.calendar_loading import CalendarLoading

TUESDAY = 1_795_532_400_000_000  # 2026-11-24T15:00:00Z


def test_buckets_load_a_calendar_when_a_bar_of_its_symbol_arrives() -> None:
    loaded: list[str] = []

    def load(name: str) -> Calendar:
        loaded.append(name)
        return trading_calendar(name)

    buckets, known = Buckets(), Buckets()
    for number, name in enumerate(("XNYS", "24/7", "XLON", "XNYS")):
        buckets.learn_later(number, name, load)
        known.learn(number, trading_calendar(name))
    assert loaded == []
    minutes = np.zeros(2, BAR)
    minutes["symbol_id"], minutes["ts"] = [1, 3], TUESDAY
    for _ in range(2):
        for found, right in zip(buckets.of(D1, minutes), known.of(D1, minutes), strict=True):
            assert found.tolist() == right.tolist()
    assert sorted(loaded) == ["24/7", "XNYS"]


def names_of(*named: str) -> Names:
    names = Names()
    names.add_symbols(Symbol(number, f"S{number}", calendar) for number, calendar in enumerate(named))
    return names


async def test_only_the_calendars_of_the_symbols_are_waited_for(monkeypatch) -> None:
    monkeypatch.setattr(calendars, "_loaded", set())
    loading = CalendarLoading(names_of("XNYS", "XLON", "24/7"))
    await loading.need(np.array([0, 2, 77]))
    assert [is_loaded(name) for name in ("XNYS", "XLON", "24/7")] == [True, False, True]
    await loading.load_all()
    assert is_loaded("XLON")

"""New symbols and providers beyond the limits are rejected; known ones never are."""

from datetime import UTC, datetime, timedelta

import polars as pl

from stockpulse.ingest.new_names import NewNames
from stockpulse.ingest.validate import Validated
from stockpulse.journal.symbol_names import RecordEncoder
from stockpulse.market.clocks import Clock
from stockpulse.market.symbology import Names, ProviderName, Symbol
from stockpulse.postgres.symbology_store import NameStore

NOW = datetime(2026, 11, 24, 15, 0, tzinfo=UTC)


def limits(names: Names | None = None, symbols: int = 100, per_minute: int = 1000, providers: int = 2) -> NewNames:
    return NewNames(names or Names(), max_symbols=symbols, symbols_per_minute=per_minute, max_providers=providers)


def series(first: int, last: int) -> pl.Series:
    return pl.Series([f"S{number}" for number in range(first, last)])


def test_symbols_in_all() -> None:
    names = Names()
    new = limits(names)
    assert new.refused_symbols(series(0, 90), NOW) == ([], "")
    refused, reason = new.refused_symbols(series(0, 120), NOW)
    assert refused == series(100, 120).to_list()
    assert "STOCKPULSE_MAX_SYMBOLS" in reason
    names.add_symbols(Symbol(number, f"S{number}", "24/7") for number in range(100))
    assert new.refused_symbols(series(0, 100), NOW) == ([], "")
    assert new.refused_symbols(series(99, 101), NOW)[0] == ["S100"]


def test_known_symbols_are_accepted_under_a_lower_limit() -> None:
    names = Names()
    names.add_symbols(Symbol(number, f"S{number}", "24/7") for number in range(100))
    assert limits(names, symbols=10).refused_symbols(series(0, 101), NOW)[0] == ["S100"]


def test_symbols_per_minute() -> None:
    new = limits(symbols=10_000, per_minute=10)
    assert new.refused_symbols(series(0, 50), NOW)[0] == []
    refused, reason = new.refused_symbols(series(50, 60), NOW)
    assert (len(refused), "STOCKPULSE_NEW_SYMBOLS_PER_MINUTE" in reason) == (10, True)
    assert len(new.refused_symbols(series(50, 70), NOW + timedelta(minutes=1))[0]) == 10
    assert len(new.refused_symbols(series(100, 200), NOW + timedelta(hours=1))[0]) == 50


def test_places_of_symbols_that_never_came_are_given_away() -> None:
    new = limits(symbols=10)
    assert new.refused_symbols(series(0, 10), NOW)[0] == []
    assert new.refused_symbols(series(10, 20), NOW)[0] == series(10, 20).to_list()
    assert new.refused_symbols(series(10, 20), NOW + timedelta(minutes=11))[0] == []


def test_providers() -> None:
    names = Names()
    new = limits(names)
    assert new.refuses_provider("a") is None
    names.add_provider(ProviderName(1, "a", Clock.WALL, 0))
    names.add_provider(ProviderName(2, "b", Clock.WALL, 0))
    assert new.refuses_provider("a") is None
    assert "STOCKPULSE_MAX_PROVIDERS" in (new.refuses_provider("c") or "")


def test_records_of_other_programs() -> None:
    """They have a limit when they are read; records that StockPulse wrote have none: they are in the log."""
    names = Names()
    names.add_provider(ProviderName(1, "feed", Clock.WALL, 0))
    encoder = RecordEncoder(NameStore(None, names), "24/7", max_symbols=2, max_kinds=2)
    good = pl.DataFrame(
        {
            "row": range(6),
            "symbol": ["A", "B", "C", "D", "A", "B"],
            "foreign": [True, True, True, False, True, True],
            "provider": "feed",
            "exchange": ["X", "X", "X", "W", "Y", "Z"],
            "ts": NOW,
            "price": 1.0,
            "size": 1.0,
            "trade_id": None,
            "conditions": None,
            "tape": None,
            "flags": pl.Series([None, None, None, 7, None, None], dtype=pl.Int64),
        }
    )
    none = pl.DataFrame(schema={"row": pl.Int64, "reason": pl.String, "raw": pl.String})
    checked = encoder.within_limits(Validated(good, none))
    assert checked.good["row"].to_list() == [0, 1, 3, 4]
    assert checked.rejected["row"].to_list() == [2, 5]
    assert "STOCKPULSE_MAX_SYMBOLS" in checked.rejected["reason"][0]
    assert "STOCKPULSE_MAX_TICK_KINDS" in checked.rejected["reason"][1]

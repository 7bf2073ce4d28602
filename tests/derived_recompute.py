"""Analytics and signals as they must be: one calculation over the stored bars of each symbol, from its first one on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import asyncpg
import numpy as np

from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.exact_sums import total
from stockpulse.engine.indicator_track import TrackSpec
from stockpulse.engine.indicators import SIGNAL_TRACK
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.calendar_inputs import calendar_inputs
from stockpulse.indicators.evaluation import Functions
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5

BARS = {M1: "bars_1m", M5: "intraday_ohlcv", D1: "historical_ohlcv"}
VALUES = {"intraday": "intraday_analytics", "daily": "daily_analytics"}
MINUTES = {M1: 1, M5: 5, D1: 1440}
_MICROS = "(extract(epoch FROM ts) * 1000000)::bigint AS ts"
_NULL = np.float64("nan")


@dataclass
class Table:
    """Rows by their key: first the revision, then the values, with NaN for null."""

    columns: tuple[str, ...]
    rows: dict[tuple[Any, ...], tuple[int, tuple[float, ...]]]


Tables = dict[str, Table]


async def stored(connection: asyncpg.Connection, spec: EngineSpec) -> Tables:
    """The rows of the database, with the calculated columns only."""
    found = {}
    for name, table in VALUES.items():
        columns = tuple(_places(spec.tracks[name]))
        listed = ", ".join((f"symbol_id, {_MICROS}, revision", *columns))
        rows = await connection.fetch(f"SELECT {listed} FROM {table}")
        found[table] = Table(
            columns, {row[:2]: (row[2], tuple(_NULL if one is None else one for one in row[3:])) for row in rows}
        )
    rows = await connection.fetch(
        f"SELECT symbol_id, {_MICROS}, minutes, name, revision, signal, price FROM signals"
        " JOIN signal_rules ON id = rule_id"
    )
    found[SIGNAL_TRACK] = Table(("signal", "price"), {row[:4]: (row[4], row[5:]) for row in rows})
    return found


async def recomputed(connection: asyncpg.Connection, spec: EngineSpec, functions: Functions) -> Tables:
    """The expected rows, calculated from the bars of the database."""
    calendars = dict(map(tuple, await connection.fetch("SELECT id, calendar FROM symbols")))
    found = {SIGNAL_TRACK: Table(("signal", "price"), {})}
    for name, track in spec.tracks.items():
        derived = [
            _of_symbol(track, functions, symbol_id, calendars[symbol_id], bars)
            for symbol_id, bars in (await _bars(connection, BARS[track.interval])).items()
        ]
        if name == SIGNAL_TRACK:
            for one in derived:
                found[SIGNAL_TRACK].rows |= _signals(spec, MINUTES[track.interval], one)
        else:
            places = _places(track)
            rows = [row for one in derived for row in _values(one, list(places.values()))]
            found[VALUES[name]] = Table(tuple(places), dict(rows))
    return found


def _places(track: TrackSpec) -> dict[str, int]:
    """The columns of a table that a track fills, and where in its outputs they stand."""
    outputs = [output for one in track.bundle.instances for output in one.indicator.outputs]
    return {output: place for place, output in enumerate(outputs) if output in STORED_INDICATORS}


async def _bars(connection: asyncpg.Connection, table: str) -> dict[int, dict[str, np.ndarray]]:
    names = ("ts", "open", "high", "low", "close", "volume_units", "volume_picos", "revision")
    by_symbol: dict[int, list[tuple[Any, ...]]] = {}
    for symbol_id, *row in await connection.fetch(
        f"SELECT symbol_id, {', '.join((_MICROS, *names[1:]))} FROM {table} WHERE open <> 'NaN' ORDER BY symbol_id, 2"
    ):
        by_symbol.setdefault(symbol_id, []).append(tuple(row))
    return {
        symbol_id: {name: np.array(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
        for symbol_id, rows in by_symbol.items()
    }


def _of_symbol(
    track: TrackSpec, functions: Functions, symbol_id: int, calendar: str, bars: Mapping[str, np.ndarray]
) -> DerivedRows:
    count = len(bars["ts"])
    volume = total(bars["volume_units"], bars["volume_picos"])
    columns = {name: bars[name] for name in ("open", "high", "low", "close")}
    columns["volume"] = np.where(np.isnan(volume), 0.0, volume)
    columns |= calendar_inputs(trading_calendar(calendar), track.interval, bars["ts"])
    out = track.bundle.calculate(
        functions,
        track.bundle.fresh(1),
        np.array([0]),
        np.array([0]),
        np.array([count]),
        {name: np.ascontiguousarray(columns[name]) for name in INPUTS},
    )
    revision = np.maximum.accumulate(bars["revision"])
    return DerivedRows(np.full(count, symbol_id), bars["ts"], revision, columns, np.ascontiguousarray(out.T))


def _values(derived: DerivedRows, places: list[int]) -> list[tuple[tuple[Any, ...], tuple[int, tuple[float, ...]]]]:
    rows = derived.values[:, places].tolist()
    keys = zip(derived.symbol_id.tolist(), derived.ts.tolist(), strict=True)
    return [
        (key, (revision, tuple(row))) for key, revision, row in zip(keys, derived.revision.tolist(), rows, strict=True)
    ]


def _signals(
    spec: EngineSpec, minutes: int, derived: DerivedRows
) -> dict[tuple[Any, ...], tuple[int, tuple[float, ...]]]:
    said = spec.rules.signals(derived)
    columns = (said.symbol_id, said.ts, said.rule, said.revision, said.signal, said.price)
    return {
        (symbol_id, ts, minutes, spec.rules.rules[rule].name): (revision, (signal, price))
        for symbol_id, ts, rule, revision, signal, price in zip(*(one.tolist() for one in columns), strict=True)
    }


def differences(have: Tables, want: Tables) -> list[str]:
    """The rows that differ from the expected ones in any bit; empty if all are right."""
    found = []
    for name in want:
        rows, right = have[name].rows, want[name].rows
        missing, more = sorted(right.keys() - rows.keys()), sorted(rows.keys() - right.keys())
        if missing:
            found.append(f"{name}: {len(missing)} of {len(right)} rows are missing: {missing[:3]} to {missing[-1]}")
        if more:
            found.append(f"{name}: {len(more)} rows are of no bar: {more[:3]}")
        both = sorted(right.keys() & rows.keys())
        old = [key for key in both if rows[key][0] != right[key][0]]
        if old:
            found.append(
                f"{name}: {len(old)} of {len(both)} rows have a wrong revision: "
                + ", ".join(f"{key} {rows[key][0]}, not {right[key][0]}" for key in old[:3])
            )
        wrong = [key for key in both if _bits(rows[key][1]) != _bits(right[key][1])]
        if wrong:
            found.append(f"{name}: {len(wrong)} of {len(both)} rows are wrong: {_told(have[name], want[name], wrong)}")
    return found


def _told(have: Table, want: Table, wrong: list[tuple[Any, ...]]) -> str:
    places = {
        name
        for key in wrong
        for name, a, b in zip(want.columns, have.rows[key][1], want.rows[key][1], strict=True)
        if _bits((a,)) != _bits((b,))
    }
    rows = [
        f"\n    {key}: {name} is {a!r}, not {b!r}"
        for key in (*wrong[:3], wrong[-1])
        for name, a, b in zip(want.columns, have.rows[key][1], want.rows[key][1], strict=True)
        if _bits((a,)) != _bits((b,))
    ]
    return f"{', '.join(sorted(places))}{''.join(rows[:12])}"


def _bits(values: tuple[float, ...]) -> tuple[str, ...]:
    return tuple(float(value).hex() for value in values)


def in_plain_python(loop):
    """The function of a loop without a compiler."""
    namespace: dict[str, Any] = {}
    exec(loop.text, namespace)

    def run(state, rows, first, last, hold, *rest):
        *columns, out, whole, real, places = rest
        memory = state[rows].tolist()
        columns = [column.tolist() for column in columns]
        numbers = (whole.tolist(), real.tolist(), places.tolist())
        namespace["loop"](memory, np.arange(len(rows)), first.tolist(), last.tolist(), hold, *columns, out, *numbers)
        state[rows] = memory

    return run

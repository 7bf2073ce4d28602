"""Forgets in the database, and the conditions by which readers of ticks leave forgotten ticks out.

The rows of forgotten ticks stay in the tick table. The table is the log, or follows it: a replay from an older
checkpoint has to find the same records as before. Readers filter instead.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.journal.corrections import cancelled
from stockpulse.journal.records import Forget
from stockpulse.market.symbology import Names
from stockpulse.market.times import from_micros, micros
from stockpulse.postgres.connect import AnyConnection, Connection


@dataclass(frozen=True)
class StoredForget:
    """A forget as the database stores it, for the readers of ticks."""

    seq: int
    symbol_id: int | None
    kinds: list[int] | None
    """The kinds of ticks of its provider; None: all kinds."""
    start: datetime
    end: datetime


async def stored_forgets(
    connection: AnyConnection,
    symbol_id: int | None = None,
    start: datetime | None = None,
    end: datetime | None = None,
) -> list[StoredForget]:
    """Return all forgets, or the forgets that concern one symbol, or event times with start <= ts < end."""
    rows = await connection.fetch(
        "SELECT f.seq, f.symbol_id, CASE WHEN f.provider_id IS NOT NULL THEN"
        " array(SELECT k.id FROM tick_kinds k WHERE k.provider_id = f.provider_id) END, f.start_at, f.end_at"
        " FROM forgets f WHERE ($1::int IS NULL OR f.symbol_id IS NULL OR f.symbol_id = $1)"
        " AND ($2::timestamptz IS NULL OR f.end_at > $2) AND ($3::timestamptz IS NULL OR f.start_at < $3)",
        *(symbol_id, start, end),
    )
    return [StoredForget(*row) for row in rows]


def without_forgotten(ticks: pl.DataFrame, forgets: Iterable[StoredForget]) -> pl.DataFrame:
    """Drop the ticks that stand before a forget which takes them back: rows of `seq, symbol_id, kind_id, ts, …`."""
    for one in forgets:
        gone = (pl.col("seq") < one.seq) & pl.col("ts").is_between(one.start, one.end, closed="left")
        if one.symbol_id is not None:
            gone &= pl.col("symbol_id") == one.symbol_id
        if one.kinds is not None:
            gone &= pl.col("kind_id").is_in(one.kinds)
        ticks = ticks.filter(~gone)
    return ticks


async def standing(
    connection: AnyConnection, symbol_id: int, first: int, start: datetime | None = None, end: datetime | None = None
) -> tuple[str, list[object]]:
    """Return a condition in SQL on ticks `t` of a symbol with start <= ts < end, and its arguments, from `$first` on.

    It holds for the ticks that no forget and no correction has taken back.
    """
    forgets = await stored_forgets(connection, symbol_id, start, end)
    gone = await cancelled(connection, symbol_id, start, end)
    condition, arguments = "true", list[object]()
    if gone:
        condition = f"t.seq <> ALL (${first}::bigint[])"
        arguments.append(gone)
    if forgets:
        seq, begins, ends, kinds = range(first + len(arguments), first + len(arguments) + 4)
        condition += (
            f" AND NOT EXISTS (SELECT FROM unnest(${seq}::bigint[], ${begins}::timestamptz[], ${ends}::timestamptz[],"
            f" ${kinds}::int[]) AS f (seq, start_at, end_at, kind_id) WHERE t.seq < f.seq AND t.ts >= f.start_at"
            " AND t.ts < f.end_at AND (f.kind_id IS NULL OR f.kind_id = t.kind_id))"
        )
        rows = [(one.seq, one.start, one.end, kind) for one in forgets for kind in _kinds_of(one)]
        arguments += map(list, zip(*rows, strict=True)) if rows else [[], [], [], []]
    return condition, arguments


def _kinds_of(forget: StoredForget) -> Sequence[int | None]:
    return [None] if forget.kinds is None else forget.kinds


async def insert_forget(connection: Connection, seq: int, forget: Forget) -> None:
    """Store a forget. A name that the database does not know becomes -1, which nothing has."""
    await connection.execute(
        "INSERT INTO forgets (seq, symbol_id, provider_id, start_at, end_at) VALUES ($1,"
        " CASE WHEN $2::text IS NOT NULL THEN coalesce((SELECT id FROM symbols WHERE symbol = $2), -1) END,"
        " CASE WHEN $3::text IS NOT NULL THEN coalesce((SELECT id FROM providers WHERE name = $3), -1) END, $4, $5)"
        " ON CONFLICT (seq) DO NOTHING",
        seq,
        forget.symbol,
        forget.provider,
        from_micros(forget.start),
        from_micros(forget.end),
    )


async def read_forgets(connection: AnyConnection, first: int, end: int) -> list[tuple[int, Forget]]:
    """Return the forgets with first <= seq < end, in order, each with its seq."""
    rows = await connection.fetch(
        "SELECT f.seq, f.symbol_id, s.symbol, f.provider_id, p.name, f.start_at, f.end_at FROM forgets f"
        " LEFT JOIN symbols s ON s.id = f.symbol_id LEFT JOIN providers p ON p.id = f.provider_id"
        " WHERE f.seq >= $1 AND f.seq < $2 ORDER BY f.seq",
        first,
        end,
    )
    return [
        (row[0], Forget(_name(*row[1:3]), _name(*row[3:5]), micros(row["start_at"]), micros(row["end_at"])))
        for row in rows
    ]


_NOBODY: Final = -1


def _name(number: int | None, name: str | None) -> str | None:
    return None if number is None else name or ""


def forgotten_rows(frame: pl.DataFrame, forget: Forget, names: Names) -> pl.Series:
    """Return True for each row of a frame of the log that the forget takes back. All rows stand before it."""
    taken = frame["ts"].to_physical().is_between(forget.start, forget.end, closed="left")
    if forget.symbol is not None:
        symbol = names.symbols.get(forget.symbol)
        taken &= frame["symbol_id"] == (_NOBODY if symbol is None else symbol.id)
    if forget.provider is not None:
        provider = names.providers.get(forget.provider)
        of_rows = frame["provider_id"] if "provider_id" in frame.columns else _providers_of(frame, names)
        taken &= of_rows == (_NOBODY if provider is None else provider.id)
    return taken


def _providers_of(ticks: pl.DataFrame, names: Names) -> pl.Series:
    return pl.Series(names.providers_of(ticks["kind_id"].to_numpy()))

"""The ranges of bars that providers were asked for, with the outcome: none of them is asked for again.

Ranges of one provider, interval and symbol do not overlap. Touching ranges with the same outcome are one range, so that
their number stays small however often a provider is asked.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

from stockpulse.market.intervals import INTERVAL_OF, Interval
from stockpulse.market.times import from_micros, micros
from stockpulse.postgres.connect import AnyConnection, Pool


class Outcome(StrEnum):
    """The outcome of a request for bars."""

    COMPLETE = "complete"
    """All bars that the provider has are in the log."""
    NOTHING = "nothing there"
    """The provider has no bar in the range."""
    REFUSED = "refused"


@dataclass(frozen=True, order=True)
class AskedRange:
    """A range that a provider was asked for: bars with start <= ts < end, in UTC microseconds."""

    start: int
    end: int
    outcome: Outcome
    asked_at: datetime
    reason: str | None = None
    """The provider's words, if it refused."""

    def continues(self, other: "AskedRange") -> bool:
        """Return True if this range begins where the other one ends, with the same outcome."""
        return (self.start, self.outcome, self.reason) == (other.end, other.outcome, other.reason)


Ranges = tuple[AskedRange, ...]
"""Ranges in ascending order that do not overlap."""


def with_range(known: Ranges, new: AskedRange) -> Ranges:
    """Return the ranges with a new one, which replaces the parts of others that it overlaps."""
    parts = [new]
    for one in known:
        parts += [part for part in (_until(one, new.start), _from(one, new.end)) if part.start < part.end]
    merged: list[AskedRange] = []
    for part in sorted(parts):
        if merged and part.continues(merged[-1]):
            asked_at = max(part.asked_at, merged[-1].asked_at)
            merged[-1] = replace(merged[-1], end=part.end, asked_at=asked_at)
        else:
            merged.append(part)
    return tuple(merged)


def without(known: Ranges, start: int, end: int) -> Ranges:
    """Return the ranges without their parts in [start, end)."""
    parts = [part for one in known for part in (_until(one, start), _from(one, end))]
    return tuple(part for part in parts if part.start < part.end)


def _until(one: AskedRange, end: int) -> AskedRange:
    return replace(one, end=min(one.end, end))


def _from(one: AskedRange, start: int) -> AskedRange:
    return replace(one, start=max(one.start, start))


@dataclass(frozen=True)
class Asked:
    """A new range of one symbol."""

    symbol: str
    range: AskedRange


_NAMED: Final = "provider = $1 AND minutes = $2"
_DELETE: Final = (
    f"DELETE FROM asked_ranges a USING unnest($3::text[], $4::timestamptz[]) AS gone (symbol, starts_at)"  # noqa: S608
    f" WHERE {_NAMED} AND a.symbol = gone.symbol AND a.starts_at = gone.starts_at"
)
_INSERT: Final = (
    "INSERT INTO asked_ranges (provider, minutes, symbol, starts_at, ends_at, outcome, asked_at, reason)"
    " SELECT $1, $2, * FROM unnest($3::text[], $4::timestamptz[], $5::timestamptz[], $6::text[], $7::timestamptz[],"
    " $8::text[])"
)


class AskedRanges:
    """The ranges of all providers, in memory and in the table `asked_ranges`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._ranges: dict[tuple[str, Interval], dict[str, Ranges]] = defaultdict(dict)

    async def load(self) -> None:
        """Read the table."""
        rows = await self._pool.fetch("SELECT * FROM asked_ranges ORDER BY provider, minutes, symbol, starts_at")
        self._ranges.clear()
        for row in rows:
            one = AskedRange(
                micros(row["starts_at"]),
                micros(row["ends_at"]),
                Outcome(row["outcome"]),
                row["asked_at"],
                row["reason"],
            )
            of_symbols = self._ranges[row["provider"], INTERVAL_OF[row["minutes"]]]
            of_symbols[row["symbol"]] = (*of_symbols.get(row["symbol"], ()), one)

    def of(self, provider: str, interval: Interval, symbol: str) -> Ranges:
        """Return the ranges of a symbol."""
        return self._ranges[provider, interval].get(symbol, ())

    async def add(self, provider: str, interval: Interval, asked: Sequence[Asked]) -> None:
        """Store new ranges."""
        if asked:
            async with self._pool.acquire() as connection, connection.transaction():
                await self.write(connection, provider, interval, asked)
            self.keep(provider, interval, asked)

    async def write(self, connection: AnyConnection, provider: str, interval: Interval, asked: Sequence[Asked]) -> None:
        """Write new ranges in the transaction of the caller, who calls `keep` when it is committed."""
        await self._replace(connection, provider, interval, self._with(provider, interval, asked))

    def keep(self, provider: str, interval: Interval, asked: Sequence[Asked]) -> None:
        """Keep written ranges in memory."""
        self._ranges[provider, interval] |= self._with(provider, interval, asked)

    async def drop(self, provider: str, interval: Interval, symbols: Iterable[str], start: int, end: int) -> None:
        """Forget that bars with start <= ts < end were asked for."""
        left = {symbol: without(self.of(provider, interval, symbol), start, end) for symbol in symbols}
        async with self._pool.acquire() as connection, connection.transaction():
            await self._replace(connection, provider, interval, left)
        self._ranges[provider, interval] |= left

    def _with(self, provider: str, interval: Interval, asked: Sequence[Asked]) -> dict[str, Ranges]:
        changed: dict[str, Ranges] = {}
        for one in asked:
            before = changed.get(one.symbol, self.of(provider, interval, one.symbol))
            changed[one.symbol] = with_range(before, one.range)
        return changed

    async def _replace(
        self, connection: AnyConnection, provider: str, interval: Interval, changed: dict[str, Ranges]
    ) -> None:
        """Replace the stored ranges of these symbols by others; rows that stay the same are not written."""
        gone, new = [], []
        for symbol, ranges in changed.items():
            before = self.of(provider, interval, symbol)
            gone += [(symbol, from_micros(one.start)) for one in before if one not in ranges]
            new += [(symbol, one) for one in ranges if one not in before]
        if gone:
            await connection.execute(_DELETE, provider, interval.minutes, *map(list, zip(*gone, strict=True)))
        if new:
            await connection.execute(_INSERT, provider, interval.minutes, *map(list, zip(*map(_row, new), strict=True)))


async def asked_of_symbol(pool: Pool, interval: Interval, symbol: str) -> dict[str, Ranges]:
    """Return the ranges of a symbol by provider, from the table."""
    rows = await pool.fetch(
        "SELECT * FROM asked_ranges WHERE minutes = $1 AND symbol = $2 ORDER BY provider, starts_at",
        interval.minutes,
        symbol,
    )
    found: dict[str, Ranges] = {}
    for row in rows:
        found[row["provider"]] = (*found.get(row["provider"], ()), _read(row))
    return found


def _read(row: Any) -> AskedRange:
    start, end = micros(row["starts_at"]), micros(row["ends_at"])
    return AskedRange(start, end, Outcome(row["outcome"]), row["asked_at"], row["reason"])


def _row(new: tuple[str, AskedRange]) -> tuple[object, ...]:
    symbol, one = new
    return symbol, from_micros(one.start), from_micros(one.end), one.outcome.value, one.asked_at, one.reason

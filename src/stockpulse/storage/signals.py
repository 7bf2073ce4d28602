"""Reads signals, and assigns ids to rules."""

import re
from collections.abc import Sequence
from typing import Final

import polars as pl

from stockpulse.engine.signals import RULE_NAME, SIGNAL_NAMES, Rule
from stockpulse.market.intervals import INTERVAL_OF
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Symbol
from stockpulse.postgres.connect import Pool

SERVED_SIGNALS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "timestamp": UTC_MICROS,
        "signal": pl.String(),
        "price": pl.Float64(),
        "rule": pl.String(),
        "interval": pl.String(),
        "revision": pl.Int64(),
    }
)
"""Signals as the API shows them: `timestamp` is the start of the bar, `price` its close."""


_NO_RULE: Final = -1


class SignalStore:
    """The stored signals."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def assign_ids(self, rules: Sequence[Rule]) -> list[int]:
        """Return the id of each rule; a new name gets a new id."""
        return [
            await self._pool.fetchval(
                "INSERT INTO signal_rules (name, buy, sell) VALUES ($1, $2, $3) ON CONFLICT (name)"
                " DO UPDATE SET buy = excluded.buy, sell = excluded.sell RETURNING id",
                rule.name,
                rule.buy.text,
                rule.sell.text,
            )
            for rule in rules
        ]

    async def latest(
        self, limit: int, *, symbol: Symbol | None = None, signal: str | None = None, rule: str | None = None
    ) -> tuple[int, pl.DataFrame]:
        """Return the number of matching signals, and the newest of them as `SERVED_SIGNALS`, newest first."""
        conditions, arguments = [], []
        for column, value in (
            ("g.symbol_id", None if symbol is None else symbol.id),
            ("g.signal", None if signal is None else SIGNAL_NAMES.index(signal)),
            ("g.rule_id", None if rule is None else await self._rule_id(rule)),
        ):
            if value is not None:
                arguments.append(value)
                conditions.append(f"{column} = ${len(arguments)}")
        where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
        async with (
            self._pool.acquire() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            total = await connection.fetchval(f"SELECT count(*) FROM signals g {where}", *arguments)  # noqa: S608
            rows = await connection.fetch(
                "SELECT s.symbol, g.ts, g.signal, g.price, r.name, g.minutes, g.revision FROM signals g"  # noqa: S608
                f" JOIN symbols s ON s.id = g.symbol_id JOIN signal_rules r ON r.id = g.rule_id {where}"
                f" ORDER BY g.ts DESC, s.symbol, r.name LIMIT ${len(arguments) + 1}",
                *arguments,
                limit,
            )
        return total, _served([tuple(row) for row in rows])

    async def _rule_id(self, rule: str) -> int:
        """Return the id of a rule; for an unknown name, an id that no rule has."""
        if not re.fullmatch(RULE_NAME, rule):
            return _NO_RULE
        return await self._pool.fetchval("SELECT id FROM signal_rules WHERE name = $1", rule) or _NO_RULE


def _served(rows: list[tuple[object, ...]]) -> pl.DataFrame:
    shown = [
        (symbol, ts, SIGNAL_NAMES[signal], price, rule, INTERVAL_OF[minutes].name, revision)  # type: ignore[call-overload,index]
        for symbol, ts, signal, price, rule, minutes, revision in rows
    ]
    return pl.DataFrame(shown, schema=SERVED_SIGNALS, orient="row")

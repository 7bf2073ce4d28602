"""Reading signals, and the numbers that stand for their rules."""

import re
from collections.abc import Sequence
from typing import Final

import polars as pl

from stockpulse.engine.signals import RULE_NAME, SIGNALS, Rule
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
    """The signals that are stored."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def numbers(self, rules: Sequence[Rule]) -> list[int]:
        """The number of each rule; a new name gets one."""
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
        """How many signals match, and the newest of them as `SERVED_SIGNALS`, newest first."""
        conditions, arguments = [], []
        for column, value in (
            ("g.symbol_id", None if symbol is None else symbol.id),
            ("g.signal", None if signal is None else SIGNALS.index(signal)),
            ("g.rule_id", None if rule is None else await self._number(rule)),
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

    async def _number(self, rule: str) -> int:
        """The number of a rule; one that no rule has for a name that is unknown."""
        if not re.fullmatch(RULE_NAME, rule):
            return _NO_RULE
        return await self._pool.fetchval("SELECT id FROM signal_rules WHERE name = $1", rule) or _NO_RULE


def _served(rows: list[tuple[object, ...]]) -> pl.DataFrame:
    shown = [
        (symbol, ts, SIGNALS[signal], price, rule, INTERVAL_OF[minutes].name, revision)  # type: ignore[call-overload,index]
        for symbol, ts, signal, price, rule, minutes, revision in rows
    ]
    return pl.DataFrame(shown, schema=SERVED_SIGNALS, orient="row")

"""Finds the trades that are stored already, so that trades of the past are not stored twice."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, Final

import polars as pl

from stockpulse.journal.forgets import stored_forgets, without_forgotten
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.postgres.connect import Pool

_EDGE: Final = timedelta(seconds=1)
"""Times of one trade in a stream and in a reply about the past may differ by their precision."""
_SECONDS: Final = 60
_KEY: Final = ("symbol", "exchange", "trade_id")
_SCHEMA: Final[dict[str, Any]] = {
    "seq": pl.Int64,
    "symbol_id": pl.Int32,
    "kind_id": pl.Int32,
    "ts": UTC_MICROS,
    "trade_id": pl.String,
}


class StoredTrades:
    """Reads the ids of stored trades. Forgotten trades are not stored; cancelled and replaced ones are."""

    def __init__(self, pool: Pool, names: Names) -> None:
        self._pool = pool
        self._names = names

    async def without(self, ticks: pl.DataFrame, provider: str) -> pl.DataFrame:
        """Return the TICKS, all with a `trade_id`, of which no trade of this provider is stored.

        A trade is the same if symbol, exchange and `trade_id` are, among the event times of the frame.
        """
        symbols = [self._names.symbols[one] for one in ticks["symbol"].unique() if one in self._names.symbols]
        kinds = self._kinds(provider)
        first, last = ticks.select(pl.min("ts"), pl.max("ts").alias("last")).row(0)
        if not symbols or not kinds or first is None:
            return ticks
        stored = await self._read([one.id for one in symbols], list(kinds), first - _EDGE, last + _EDGE)
        keys = pl.DataFrame(
            {
                "symbol": [self._names.symbol_by_id[one].name for one in stored["symbol_id"]],
                "exchange": [kinds[one] for one in stored["kind_id"]],
                "trade_id": stored["trade_id"],
            },
            schema=dict.fromkeys(_KEY, pl.String),
        )
        return ticks.join(keys, on=_KEY, how="anti", nulls_equal=True, maintain_order="left")

    def _kinds(self, provider: str) -> dict[int, str | None]:
        """Return the exchange of each kind of ticks of a provider; null for an unknown exchange."""
        known = self._names.providers.get(provider)
        return {
            number: kind.exchange or None
            for number, kind in self._names.kind_by_id.items()
            if known is not None and kind.provider_id == known.id
        }

    async def _read(self, symbols: Sequence[int], kinds: Sequence[int], start: datetime, end: datetime) -> pl.DataFrame:
        async with self._pool.acquire() as connection:
            rows = await connection.fetch(
                "SELECT seq, symbol_id, kind_id, ts, trade_id FROM realtime_prices"
                " WHERE symbol_id = ANY ($1::int[]) AND kind_id = ANY ($2::int[]) AND ts >= $3 AND ts <= $4"
                " AND trade_id IS NOT NULL",
                symbols,
                kinds,
                start,
                end,
                timeout=_SECONDS,
            )
            found = pl.DataFrame([tuple(row) for row in rows], schema=_SCHEMA, orient="row")
            return without_forgotten(found, await stored_forgets(connection, None, start, end))

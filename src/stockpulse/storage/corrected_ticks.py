"""Finds the stored ticks that corrections of trades take back."""

from collections.abc import Callable

import polars as pl

from stockpulse.aio.retry import retry
from stockpulse.ingest.redelivery import newest_match
from stockpulse.journal.corrections import CANCELLED
from stockpulse.journal.recent import Chunk
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.postgres.connect import Pool, is_transient
from stockpulse.storage.kept_records import first_in_memory, in_memory

_SECONDS = 600
_FOUND = pl.Schema({"symbol": pl.String(), "trade_id": pl.String(), "traded_at": UTC_MICROS, "venue": pl.String()})


class CorrectedTicks:
    """Finds ticks by their ids. The calls wait while the database does not answer."""

    def __init__(self, pool: Pool, names: Names, recent: Callable[[], list[Chunk]] = list) -> None:
        """`recent`: see `KeptRecords`."""
        self._pool = pool
        self._names = names
        self._recent = recent

    async def find(self, trades: pl.DataFrame, provider: str) -> pl.DataFrame:
        """Find ticks of a provider; see `ingest.redelivery.RedeliveryWindow.times_of`."""
        known = self._names.providers.get(provider)
        symbols = self._names.symbols
        wanted = trades.filter(pl.col("symbol").is_in(list(symbols)))
        found: list[tuple[object, ...]] = []
        if known is not None and len(wanted):
            found = await self._fetch(
                "SELECT w.symbol, t.trade_id, t.ts, k.exchange"
                " FROM unnest($1::text[], $2::int[], $3::text[], $4::timestamptz[], $5::timestamptz[])"
                " AS w (symbol, symbol_id, trade_id, since, until)"
                " JOIN realtime_prices t ON t.symbol_id = w.symbol_id AND t.trade_id = w.trade_id"
                " AND t.ts >= w.since AND t.ts <= w.until"
                " JOIN tick_kinds k ON k.id = t.kind_id AND k.provider_id = $6",
                wanted["symbol"].to_list(),
                [symbols[name].id for name in wanted["symbol"]],
                *(wanted[name].to_list() for name in ("trade_id", "since", "until")),
                known.id,
            )
        ticks = pl.DataFrame(found, schema=_FOUND, orient="row")
        return newest_match(trades, ticks.with_columns(venue=pl.col("venue").replace("", None)))

    async def taken_back(self, corrections: pl.DataFrame) -> pl.DataFrame:
        """Return the ticks that these LOGGED_CORRECTIONS take back, as `corrections.CANCELLED`, in the order of both.

        All ticks before the corrections are stored. Ticks that an earlier correction took back are left out.
        """
        chunks = self._recent()
        names = ("seq", "symbol_id", "provider_id", "exchange", "trade_id", "since", "ts")
        rows = await self._fetch(
            "SELECT t.seq, t.symbol_id, t.ts, w.seq FROM unnest($1::bigint[], $2::int[], $3::int[], $4::text[],"
            " $5::text[], $6::timestamptz[], $7::timestamptz[])"
            " AS w (seq, symbol_id, provider_id, exchange, trade_id, since, ts)"
            " JOIN realtime_prices t ON t.symbol_id = w.symbol_id AND t.trade_id = w.trade_id"
            " AND t.ts >= w.since AND t.ts <= w.ts AND t.seq < w.seq AND t.seq < $8"
            " JOIN tick_kinds k ON k.id = t.kind_id AND k.provider_id = w.provider_id"
            " AND (w.exchange IS NULL OR k.exchange = w.exchange)"
            " WHERE NOT EXISTS (SELECT FROM cancelled_ticks c WHERE c.seq = t.seq AND c.by_seq < w.seq)",
            *(corrections[name].to_list() for name in names),
            first_in_memory(chunks),
        )
        found = [pl.DataFrame(rows, schema=CANCELLED, orient="row"), self._in_memory(chunks, corrections)]
        return pl.concat(found).sort("by_seq", "seq").unique("seq", keep="first", maintain_order=True)

    def _in_memory(self, chunks: list[Chunk], corrections: pl.DataFrame) -> pl.DataFrame:
        ticks = in_memory(chunks, corrections["symbol_id"].unique().to_list())
        ticks = ticks.filter(pl.col("trade_id").is_in(corrections["trade_id"].implode()))
        kinds = [self._names.kind_by_id[number] for number in ticks["kind_id"]]
        ticks = ticks.with_columns(
            pl.Series("provider_id", [kind.provider_id for kind in kinds], pl.Int32),
            pl.Series("venue", [kind.exchange for kind in kinds], pl.String),
        )
        found = ticks.join(corrections, on=["symbol_id", "provider_id", "trade_id"], suffix="_of")
        return found.filter(
            pl.col("exchange").is_null() | (pl.col("exchange") == pl.col("venue")),
            pl.col("ts").is_between("since", "ts_of"),
            pl.col("seq") < pl.col("seq_of"),
        ).select("seq", "symbol_id", "ts", pl.col("seq_of").alias("by_seq"))

    async def _fetch(self, query: str, *arguments: object) -> list[tuple[object, ...]]:
        async def fetch() -> list[tuple[object, ...]]:
            return [tuple(row) for row in await self._pool.fetch(query, *arguments, timeout=_SECONDS)]

        return await retry(fetch, "looking for corrected trades", is_transient)

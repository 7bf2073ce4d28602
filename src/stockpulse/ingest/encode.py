"""From names to numbers: a validated batch as it will stand in the log."""

from datetime import datetime

import numpy as np
import polars as pl

from stockpulse.calendar import Calendar, trading_calendar
from stockpulse.database.names import NameStore
from stockpulse.frames import LOGGED_BARS, LOGGED_TICKS, PRIMARY, UTC_MICROS
from stockpulse.ingest.arbiter import FeedArbiter
from stockpulse.ingest.feed import Feed
from stockpulse.names import Symbol, TickKind
from stockpulse.times import micros

_MINUTES = {"1m": 1, "5m": 5, "1d": 1440}


class Encoder:
    """Numbers the names in batches, having new ones numbered first."""

    def __init__(self, store: NameStore, arbiter: FeedArbiter) -> None:
        self._store = store
        self._arbiter = arbiter
        self.new_symbols: list[Symbol] = list(store.names.symbols.values())
        """Symbols that the engine has not been told of."""

    async def ticks(self, frame: pl.DataFrame, feed: Feed, received_at: datetime) -> pl.DataFrame:
        """`frames.TICKS` as `frames.LOGGED_TICKS`, without `seq`."""
        symbols = frame["symbol"].unique().to_list()
        await self._number_symbols(symbols, feed)
        provider_id = await self._store.ensure_provider(feed.provider, feed.clock, feed.delay_micros)
        now = micros(received_at)
        followers = self._arbiter.followers(symbols, feed.provider, now)
        kinds = _kinds(frame, followers)
        await self._store.ensure_kinds(
            _kind(provider_id, feed, *row) for row in kinds.select("exchange", "conditions", "leads").rows()
        )
        return frame.select(
            self._symbol_ids(frame, symbols),
            self._kind_ids(frame, kinds, provider_id, feed, followers),
            "ts",
            pl.lit(received_at, UTC_MICROS).alias("received_at"),
            "price",
            "size",
            "trade_id",
        ).select(list(LOGGED_TICKS)[1:])

    async def bars(self, frame: pl.DataFrame, feed: Feed, received_at: datetime) -> pl.DataFrame:
        """`frames.BARS` as `frames.LOGGED_BARS`, without `seq`; daily ones under the label of their calendar."""
        symbols = frame["symbol"].unique().to_list()
        await self._number_symbols(symbols, feed)
        provider_id = await self._store.ensure_provider(feed.provider, feed.clock, feed.delay_micros)
        encoded = frame.select(
            self._symbol_ids(frame, symbols),
            pl.lit(provider_id, pl.Int32).alias("provider_id"),
            pl.col("interval").replace_strict(_MINUTES, return_dtype=pl.Int32).alias("minutes"),
            "ts",
            pl.lit(received_at, UTC_MICROS).alias("received_at"),
            *("open", "high", "low", "close", "volume"),
            pl.col("trade_count").fill_null(-1),
            pl.col("vwap").fill_null(float("nan")),
        ).select(list(LOGGED_BARS)[1:])
        return encoded.with_columns(self._labelled(encoded).alias("ts"))

    async def _number_symbols(self, symbols: list[str], feed: Feed) -> None:
        # Pairs such as BTC/USD trade around the clock, whoever sends them.
        pairs = [name for name in symbols if "/" in name]
        self.new_symbols += await self._store.ensure_symbols(pairs, "24/7")
        self.new_symbols += await self._store.ensure_symbols(symbols, feed.calendar)

    def _symbol_ids(self, frame: pl.DataFrame, symbols: list[str]) -> pl.Series:
        known = self._store.names.symbols
        ids = [known[name].id for name in symbols]
        return frame["symbol"].replace_strict(symbols, ids, return_dtype=pl.Int32).alias("symbol_id")

    def _kind_ids(
        self, frame: pl.DataFrame, kinds: pl.DataFrame, provider_id: int, feed: Feed, followers: set[str]
    ) -> pl.Series:
        numbers = self._store.names.kinds
        ids = [numbers[_kind(provider_id, feed, *row)] for row in kinds.rows()]
        if len(ids) == 1:
            return pl.repeat(ids[0], len(frame), dtype=pl.Int32, eager=True).alias("kind_id")
        numbered = kinds.with_columns(pl.Series("kind_id", ids, pl.Int32))
        on = ["exchange", "conditions", "leads"]
        rows = frame.select("exchange", "conditions", _leads(followers))
        return rows.join(numbered, on=on, how="left", nulls_equal=True, maintain_order="left")["kind_id"]

    def _labelled(self, bars: pl.DataFrame) -> pl.Series:
        """Daily bars are labelled by the start of their trading date, whatever time of it the provider gives."""
        ts = bars["ts"].to_physical().to_numpy().copy()
        daily = np.flatnonzero(bars["minutes"].to_numpy() == _MINUTES["1d"])
        symbol_id = bars["symbol_id"].to_numpy()
        for symbol in np.unique(symbol_id[daily]):
            rows = daily[symbol_id[daily] == symbol]
            ts[rows] = self.calendar_of(int(symbol)).floor_date(ts[rows])
        return pl.Series(ts).cast(UTC_MICROS)

    def calendar_of(self, symbol_id: int) -> Calendar:
        """The calendar that the days of a symbol follow."""
        return trading_calendar(self._store.names.symbol_by_id[symbol_id].calendar)


def _leads(followers: set[str]) -> pl.Expr:
    leads = ~pl.col("symbol").is_in(list(followers)) if followers else pl.lit(value=True)
    return leads.alias("leads")


def _kinds(frame: pl.DataFrame, followers: set[str]) -> pl.DataFrame:
    """The different kinds of ticks in a batch: exchange, conditions, and whether the feed leads the symbol."""
    plain = frame["exchange"].null_count() == frame["conditions"].null_count() == len(frame)
    rows = frame.head(1) if plain and not followers else frame
    return rows.select("exchange", "conditions", _leads(followers)).unique()


def _kind(provider_id: int, feed: Feed, exchange: str | None, conditions: str | None, leads: bool) -> TickKind:
    flags = feed.rule(conditions or "") | (PRIMARY if leads else 0)
    return TickKind(provider_id, exchange or "", conditions or "", flags)

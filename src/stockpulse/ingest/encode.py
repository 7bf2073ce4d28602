"""From names to numbers: a validated batch as it will stand in the log."""

from datetime import datetime
from functools import partial

import numpy as np
import polars as pl

from stockpulse import offload
from stockpulse.calendar import Calendar, trading_calendar
from stockpulse.database.names import NameStore
from stockpulse.frames import LOGGED_BARS, PRIMARY, UTC_MICROS
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
        labels, distinct = await offload.run(len(frame), partial(_labels, frame, followers))
        kinds = {label: _kind(provider_id, feed, label) for label in distinct}
        await self._store.ensure_kinds(kinds.values())

        def encoded() -> pl.DataFrame:
            return pl.DataFrame(
                {
                    "symbol_id": self._symbol_ids(frame, symbols),
                    "kind_id": self._kind_ids(labels, kinds),
                    "ts": frame["ts"],
                    "received_at": pl.repeat(received_at, len(frame), dtype=UTC_MICROS, eager=True),
                    "price": frame["price"],
                    "size": frame["size"],
                    "trade_id": frame["trade_id"],
                }
            )

        return await offload.run(len(frame), encoded)

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
        new = set(symbols) - self._store.names.symbols.keys()
        for calendar in sorted({feed.calendar_of(name) for name in new}):
            names = [name for name in new if feed.calendar_of(name) == calendar]
            self.new_symbols += await self._store.ensure_symbols(names, calendar)

    def _symbol_ids(self, frame: pl.DataFrame, symbols: list[str]) -> pl.Series:
        known = self._store.names.symbols
        ids = [known[name].id for name in symbols]
        return frame["symbol"].replace_strict(symbols, ids, return_dtype=pl.Int32).alias("symbol_id")

    def _kind_ids(self, labels: pl.Series, kinds: dict[str, TickKind]) -> pl.Series:
        numbers = {label: self._store.names.kinds[kind] for label, kind in kinds.items()}
        return labels.replace_strict(list(numbers), list(numbers.values()), return_dtype=pl.Int32).alias("kind_id")

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


_SEPARATOR = "\x1f"
"""Between the parts of a label; no exchange and no condition has it in it."""


def _labels(frame: pl.DataFrame, followers: set[str]) -> tuple[pl.Series, list[str]]:
    """What kind of tick each row is, as a text: exchange, conditions, and "-" where another feed leads the symbol.

    And the different ones of these texts.
    """
    labels = _label_of_each(frame, followers)
    return labels, labels.unique().to_list()


def _label_of_each(frame: pl.DataFrame, followers: set[str]) -> pl.Series:
    exchange, conditions = pl.col("exchange").fill_null(""), pl.col("conditions").fill_null("")
    if not followers and frame["conditions"].null_count() == len(frame):
        return frame.select(exchange).to_series()  # most often; joining texts costs more than all the rest
    follows = pl.when(pl.col("symbol").is_in(list(followers))).then(pl.lit("-")).otherwise(pl.lit(""))
    return frame.select(pl.concat_str([exchange, conditions, follows], separator=_SEPARATOR)).to_series()


def _kind(provider_id: int, feed: Feed, label: str) -> TickKind:
    exchange, conditions, follows = (*label.split(_SEPARATOR), "", "")[:3]
    return TickKind(provider_id, exchange, conditions, feed.rule(conditions) | (0 if follows else PRIMARY))

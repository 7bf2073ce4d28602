"""Replaces the names in a validated batch by ids, as the log stores it."""

from dataclasses import replace
from datetime import datetime
from functools import partial
from itertools import groupby, pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from stockpulse.aio import offload
from stockpulse.ingest.feed import Feed
from stockpulse.ingest.feed_arbiter import FeedArbiter
from stockpulse.market.arrays import Mask, array_of
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, MINUTES_OF
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_CORRECTIONS, PRIMARY, TICKS, UTC_MICROS
from stockpulse.market.symbology import Names, TickKind
from stockpulse.market.times import DAY_MICROS, micros
from stockpulse.postgres.symbology_store import NameStore

Codes = npt.NDArray[np.uint32]


class Numbers:
    """Maps texts to ids, through the codes that Polars' categories give to equal texts.

    Each row is hashed once and looked up in an array, which is several times as fast as a join with a dictionary.
    """

    def __init__(self, name: str) -> None:
        self._dtype = pl.Categorical(pl.Categories(name))
        self._anchor = pl.Series([""], dtype=self._dtype)  # codes last as long as one column of them does
        self._by_code = np.zeros(1, np.int32)
        self._texts: dict[int, str] = {}

    def codes(self, texts: pl.Series) -> Codes:
        """Return the code of each row; the texts have no nulls."""
        return texts.cast(self._dtype).to_physical().to_numpy()

    def unknown(self, texts: pl.Series, codes: Codes) -> list[str]:
        """Return the distinct texts among the rows that have no id yet."""
        self._reserve(codes)
        rows = np.flatnonzero(self._by_code[codes] == 0)
        return texts.gather(rows).unique().to_list() if len(rows) else []

    def learn(self, texts: list[str], numbers: list[int]) -> None:
        """Store ids, which are above 0."""
        codes = self.codes(pl.Series(texts, dtype=pl.String))
        self._reserve(codes)
        self._by_code[codes] = numbers
        self._texts |= zip(codes.tolist(), texts, strict=True)

    def of(self, codes: Codes) -> pl.Series:
        """Return the id of the text behind each code."""
        return pl.Series(self._by_code[codes])

    def distinct(self, codes: Codes) -> list[str]:
        """Return the distinct texts among the rows, all of which have an id."""
        return [self._texts[code] for code in np.flatnonzero(np.bincount(codes)).tolist()]

    def _reserve(self, codes: Codes) -> None:
        largest = int(codes.max(initial=0))
        if largest >= len(self._by_code):
            self._by_code = np.concatenate([self._by_code, np.zeros(largest + 1, np.int32)])


class Encoder:
    """Replaces names by ids in batches; the store assigns ids to new names first."""

    def __init__(self, store: NameStore, arbiter: FeedArbiter) -> None:
        self._store = store
        self._arbiter = arbiter
        self._symbols = Numbers("stockpulse.symbols")
        self._kinds: dict[Feed, Numbers] = {}

    async def ticks(self, frame: pl.DataFrame, feed: Feed, received_at: datetime) -> pl.DataFrame:
        """Return TICKS as LOGGED_TICKS, without `seq`."""
        rows = len(frame)
        symbols = await offload.run(rows, partial(self._symbols.codes, frame["symbol"]))
        await number_symbols(self._store, self._symbols, self._symbols.unknown(frame["symbol"], symbols), feed)
        follows = self._following(frame, symbols, feed.provider, micros(received_at))
        labels, kinds, codes = await offload.run(rows, partial(self._labelled, frame, feed, follows))
        await self._number_kinds(kinds, kinds.unknown(labels, codes), feed)
        return pl.DataFrame(
            {
                "symbol_id": self._symbols.of(symbols),
                "kind_id": kinds.of(codes),
                "ts": frame["ts"],
                "received_at": pl.Series([micros(received_at)]).new_from_index(0, rows).cast(UTC_MICROS),
                "price": frame["price"],
                "size": frame["size"],
                "trade_id": frame["trade_id"],
            }
        )

    def beyond(self, most: int, frame: pl.DataFrame, feed: Feed) -> Mask | None:
        """Return which TICKS have a new kind for which there is no room any more; None if there are none."""
        room = most - len(self._store.names.kinds)
        if len(frame) <= room:  # nearly always
            return None
        labels = _labels(frame, None)
        new = [label for label in labels.unique(maintain_order=True) if not self._is_known(feed, label)]
        return labels.is_in(new[max(room, 0) :]).to_numpy() if len(new) > room else None

    def _is_known(self, feed: Feed, label: str) -> bool:
        names = self._store.names
        provider = names.providers.get(feed.provider)
        kind = _kind(provider.id, feed, label) if provider else None
        return kind is not None and (kind in names.kinds or replace(kind, flags=kind.flags & ~PRIMARY) in names.kinds)

    def _following(self, frame: pl.DataFrame, symbols: Codes, provider: str, now: int) -> Mask | None:
        """Return a mask of the ticks whose symbol and day another provider leads; None if no tick is in it."""
        day = array_of(frame["ts"]) // DAY_MICROS
        order = np.argsort(day, kind="stable") if day.min() != day.max() else np.arange(len(day))
        edges = np.flatnonzero(np.diff(day[order], prepend=day[order[0]] - 1, append=day[order[-1]] + 1))
        follows = np.zeros(len(day), np.bool_)
        for first, last in pairwise(edges.tolist()):
            rows = order[first:last]
            names = self._symbols.distinct(symbols[rows])
            followers = self._arbiter.followers(names, provider, now, int(day[rows[0]]))
            if followers:
                follows[rows] = frame["symbol"].gather(rows).is_in(list(followers)).to_numpy()
        return follows if follows.any() else None

    def _labelled(self, frame: pl.DataFrame, feed: Feed, follows: Mask | None) -> tuple[pl.Series, Numbers, Codes]:
        labels = _labels(frame, follows)
        kinds = self._kinds.get(feed)
        if kinds is None:
            kinds = self._kinds[feed] = Numbers(f"stockpulse.kinds.{len(self._kinds)}")
        return labels, kinds, kinds.codes(labels)

    async def _number_kinds(self, kinds: Numbers, labels: list[str], feed: Feed) -> None:
        provider_id = await self._store.ensure_provider(feed.provider, feed.clock, feed.delay_micros)
        if labels:
            new = [_kind(provider_id, feed, label) for label in labels]
            await self._store.ensure_kinds(new)
            kinds.learn(labels, [self._store.names.kinds[kind] for kind in new])

    def without_bars(self, encoded: pl.DataFrame) -> list[str]:
        """Return the symbols of encoded ticks that count for no bar, since another provider builds the bars."""
        names = self._store.names
        follow = names.flags_of(encoded["kind_id"].to_numpy()) & PRIMARY == 0
        if not follow.any():
            return []
        return sorted(names.symbol_by_id[number].name for number in encoded["symbol_id"].filter(follow).unique())

    async def bars(self, frame: pl.DataFrame, feed: Feed, received_at: datetime) -> pl.DataFrame:
        """Return BARS as LOGGED_BARS, without `seq`; a daily bar is labelled as its calendar labels the day."""
        symbols = self._symbols.codes(frame["symbol"])
        await number_symbols(self._store, self._symbols, self._symbols.unknown(frame["symbol"], symbols), feed)
        provider_id = await self._store.ensure_provider(feed.provider, feed.clock, feed.delay_micros)
        encoded = frame.select(
            self._symbols.of(symbols).alias("symbol_id"),
            pl.lit(provider_id, pl.Int32).alias("provider_id"),
            pl.col("interval").replace_strict(MINUTES_OF, return_dtype=pl.Int32).alias("minutes"),
            "ts",
            pl.lit(received_at, UTC_MICROS).alias("received_at"),
            *("open", "high", "low", "close", "volume"),
            pl.col("trade_count").fill_null(-1),
            pl.col("vwap").fill_null(float("nan")),
        ).select(list(LOGGED_BARS)[1:])
        return encoded.with_columns(at_labels(encoded, self._store.names))

    async def corrections(self, frame: pl.DataFrame, feed: Feed, received_at: datetime) -> pl.DataFrame:
        """Return CORRECTIONS as LOGGED_CORRECTIONS, without `seq`.

        They have three more columns: `since`, `traded_at` and `venue`, the times and the exchange of the wrong trade.
        """
        symbols = self._symbols.codes(frame["symbol"])
        await number_symbols(self._store, self._symbols, self._symbols.unknown(frame["symbol"], symbols), feed)
        provider_id = await self._store.ensure_provider(feed.provider, feed.clock, feed.delay_micros)
        right = frame["price"].is_not_null()
        trades = frame.filter(right).with_columns(ts="traded_at", exchange="venue").select(list(TICKS))
        kinds = pl.repeat(None, len(frame), dtype=pl.Int32, eager=True)
        if len(trades):
            kinds = kinds.scatter(right.arg_true(), (await self.ticks(trades, feed, received_at))["kind_id"])
        return frame.select(
            self._symbols.of(symbols).alias("symbol_id"),
            pl.lit(provider_id, pl.Int32).alias("provider_id"),
            *("exchange", "trade_id", "since"),
            pl.col("traded_at").alias("ts"),
            pl.col("ts").alias("sent_at"),
            pl.lit(received_at, UTC_MICROS).alias("received_at"),
            kinds.alias("kind_id"),
            *("price", "size", "new_trade_id"),
        ).select(list(LOGGED_CORRECTIONS)[1:])


async def number_symbols(store: NameStore, numbers: Numbers, symbols: list[str], feed: Feed) -> None:
    """Teach an encoder these symbols; a symbol that the store does not know gets the feed's calendar for it."""
    if not symbols:
        return
    for calendar, names in groupby(sorted(symbols, key=feed.calendar_of), feed.calendar_of):
        await store.ensure_symbols(names, calendar)
    known = store.names.symbols
    numbers.learn(symbols, [known[name].id for name in symbols])


def at_labels(bars: pl.DataFrame, names: Names) -> pl.Series:
    """Return the times of bars; any time of a trading date becomes the start of that date in daily bars."""
    ts = array_of(bars["ts"]).copy()
    daily = np.flatnonzero(bars["minutes"].to_numpy() == D1.minutes)
    symbol_id = bars["symbol_id"].to_numpy()
    for symbol in np.unique(symbol_id[daily]):
        rows = daily[symbol_id[daily] == symbol]
        ts[rows] = trading_calendar(names.symbol_by_id[int(symbol)].calendar).floor_date(ts[rows])
    return pl.Series("ts", ts).cast(UTC_MICROS)


_SEPARATOR = "\x1f"
"""Separates the parts of a label; no exchange and no condition contains it."""


def _labels(frame: pl.DataFrame, follows: Mask | None) -> pl.Series:
    """Return the kind of each tick as text: exchange, conditions, tape, and "-" if another feed leads the symbol."""
    if follows is None and all(frame[name].null_count() == len(frame) for name in ("conditions", "tape")):
        exchange = frame["exchange"]  # the usual case; joining texts would cost more than all the rest
        if exchange.null_count() == len(exchange):
            return pl.Series([""]).new_from_index(0, len(exchange))
        return exchange.fill_null("") if exchange.has_nulls() else exchange
    texts = [pl.col(name).fill_null("") for name in ("exchange", "conditions", "tape")]
    mark = pl.when(pl.Series(np.zeros(len(frame), np.bool_) if follows is None else follows)).then(pl.lit("-"))
    return frame.select(pl.concat_str([*texts, mark.otherwise(pl.lit(""))], separator=_SEPARATOR)).to_series()


def _kind(provider_id: int, feed: Feed, label: str) -> TickKind:
    exchange, conditions, tape, follows = (*label.split(_SEPARATOR), "", "", "")[:4]
    flags = feed.rule(conditions, tape) | (0 if follows else PRIMARY)
    return TickKind(provider_id, exchange, conditions, flags, tape)

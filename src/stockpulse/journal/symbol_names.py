"""Convert between the ids in the frames of the log and the names in the records of a topic."""

from collections.abc import Callable
from functools import partial
from typing import Final

import polars as pl

from stockpulse.aio import offload
from stockpulse.ingest.encode import Numbers, at_labels, number_symbols
from stockpulse.ingest.feed import Feed
from stockpulse.ingest.validate import Validated, refuse
from stockpulse.journal.codecs import RECORDED_BARS, RECORDED_CORRECTIONS, RECORDED_TICKS
from stockpulse.market.intervals import INTERVAL_OF, MINUTES_OF
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_CORRECTIONS, LOGGED_TICKS, PRIMARY
from stockpulse.market.symbology import Names, TickKind
from stockpulse.postgres.symbology_store import NameStore
from stockpulse.providers.registry import installed_providers

_SEPARATOR: Final = "\x1f"
_INTERVALS: Final = {minutes: interval.name for minutes, interval in INTERVAL_OF.items()}


class SymbolNames:
    """Replaces the ids in frames of the log by names."""

    def __init__(self, names: Names) -> None:
        self._names = names
        self._symbols = pl.Series(dtype=pl.String)
        self._kinds = pl.DataFrame()
        self._known_symbols = self._known_kinds = -1

    def symbols(self, symbol_id: pl.Series) -> pl.Series:
        """Return the name of each symbol."""
        if self._known_symbols != len(self._names.symbol_by_id):
            self._known_symbols = len(self._names.symbol_by_id)
            self._symbols = _by_number({number: one.name for number, one in self._names.symbol_by_id.items()})
        return self._symbols.gather(symbol_id)

    def ticks(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert `schemas.LOGGED_TICKS` to RECORDED_TICKS."""
        kinds = self._all_kinds()[frame["kind_id"].to_numpy()]
        return pl.DataFrame(
            {
                "symbol": self.symbols(frame["symbol_id"]),
                **{name: frame[name] for name in ("ts", "price", "size", "received_at", "trade_id")},
                **{name: kinds[name] for name in ("provider", "exchange", "conditions", "tape", "flags")},
            }
        ).select(list(RECORDED_TICKS))

    def _all_kinds(self) -> pl.DataFrame:
        known = self._names.kind_by_id
        if self._known_kinds != len(known):
            self._known_kinds = len(known)
            provider = {number: self._names.provider_by_id[kind.provider_id].name for number, kind in known.items()}
            flags = {number: kind.flags for number, kind in known.items()}
            self._kinds = pl.DataFrame(
                {
                    "provider": _by_number(provider),
                    "exchange": _by_number({number: kind.exchange or None for number, kind in known.items()}),
                    "conditions": _by_number({number: kind.conditions or None for number, kind in known.items()}),
                    "tape": _by_number({number: kind.tape or None for number, kind in known.items()}),
                    "flags": pl.Series([flags.get(at) for at in range(max(flags, default=0) + 1)], dtype=pl.Int64),
                }
            )
        return self._kinds

    def keys(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert ticks, or `tick_rows.KEYS` of them, to the keys of `ingest.redelivery`."""
        kinds = self._all_kinds()[frame["kind_id"].to_numpy()]
        return frame.select("ts", "trade_id").with_columns(
            self.symbols(frame["symbol_id"]).alias("symbol"), kinds["provider"], kinds["exchange"]
        )

    def bars(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert `schemas.LOGGED_BARS` to RECORDED_BARS."""
        return frame.select(
            self.symbols(frame["symbol_id"]).alias("symbol"),
            pl.col("minutes").replace_strict(_INTERVALS, return_dtype=pl.String).alias("interval"),
            *("ts", "open", "high", "low", "close", "volume"),
            pl.when(pl.col("trade_count") >= 0).then("trade_count").alias("trade_count"),
            pl.col("vwap").fill_nan(None),
            self._provider_names().gather(frame["provider_id"]).alias("provider"),
            "received_at",
        ).select(list(RECORDED_BARS))

    def corrections(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert `schemas.LOGGED_CORRECTIONS` to RECORDED_CORRECTIONS."""
        of_right = ["conditions", "tape", "flags"]
        known = self._all_kinds().select(of_right).with_row_index("kind_id").cast({"kind_id": pl.Int32})
        kinds = frame.select("kind_id").join(known, on="kind_id", how="left", maintain_order="left")
        return frame.select(
            self.symbols(frame["symbol_id"]).alias("symbol"),
            *("ts", "since", "sent_at", "exchange", "trade_id", "price", "size", "new_trade_id", "received_at"),
            self._provider_names().gather(frame["provider_id"]).alias("provider"),
            *(kinds[name] for name in of_right),
        ).select(list(RECORDED_CORRECTIONS))

    def _provider_names(self) -> pl.Series:
        return _by_number({number: one.name for number, one in self._names.provider_by_id.items()})


def _by_number(texts: dict[int, str | None] | dict[int, str]) -> pl.Series:
    return pl.Series([texts.get(number) for number in range(max(texts, default=0) + 1)], dtype=pl.String)


class RecordEncoder:
    """Replaces the names in records of a topic by ids; new names get ids first."""

    def __init__(
        self, store: NameStore, calendar: str, max_symbols: int | None = None, max_kinds: int | None = None
    ) -> None:
        """New symbols get this `calendar`. The limits are for records of other programs; None: no limit."""
        self._store = store
        self._max_symbols = max_symbols
        self._max_kinds = max_kinds
        self._feed = Feed("kafka", calendar)
        self._symbols = Numbers("stockpulse.recorded.symbols")
        self._kinds = Numbers("stockpulse.recorded.kinds")

    def within_limits(self, checked: Validated) -> Validated:
        """Reject records of other programs (`foreign` is true) that have new names beyond the limits.

        StockPulse judged its own records before they entered the log.
        """
        if not checked.good["foreign"].any():
            return checked
        names = self._store.names
        if self._max_symbols is not None:
            reason = f"symbol: new, and {self._max_symbols:,} symbols are the most: see STOCKPULSE_MAX_SYMBOLS"
            room = self._max_symbols - len(names.symbols)
            checked = _with_room(checked, checked.good["symbol"], names.symbols.__contains__, room, reason)
        if self._max_kinds is not None and "flags" in checked.good.columns:
            room = self._max_kinds - len(names.kinds)
            if len(checked.good) > room:
                reason = (
                    f"provider, exchange, conditions, tape: a new combination, and {self._max_kinds:,} are the most:"
                    " see STOCKPULSE_MAX_TICK_KINDS"
                )
                checked = _with_room(checked, _labels(checked.good), self._is_known, room, reason)
        return checked

    def _is_known(self, label: str) -> bool:
        provider, exchange, conditions, tape, flags = label.split(_SEPARATOR)
        known = self._store.names.providers.get(provider)
        if known is None:
            return False
        return TickKind(known.id, exchange, conditions, _counts(provider, conditions, tape, flags), tape) in (
            self._store.names.kinds
        )

    async def ticks(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert RECORDED_TICKS with `seq`, and without nulls in provider and received_at, to LOGGED_TICKS."""
        symbols = await offload.run(len(frame), partial(self._symbols.codes, frame["symbol"]))
        await number_symbols(self._store, self._symbols, self._symbols.unknown(frame["symbol"], symbols), self._feed)
        return frame.select(
            "seq",
            self._symbols.of(symbols).alias("symbol_id"),
            (await self._kind_ids(frame)).alias("kind_id"),
            *("ts", "received_at", "price", "size", "trade_id"),
        ).cast(LOGGED_TICKS)

    async def corrections(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert RECORDED_CORRECTIONS with `seq`, and without nulls in all but its optional fields."""
        symbols = self._symbols.codes(frame["symbol"])
        await number_symbols(self._store, self._symbols, self._symbols.unknown(frame["symbol"], symbols), self._feed)
        right = frame["price"].is_not_null()
        kinds = pl.repeat(None, len(frame), dtype=pl.Int32, eager=True)
        if right.any():
            kinds = kinds.scatter(right.arg_true(), (await self._kind_ids(frame.filter(right))).cast(pl.Int32))
        return frame.select(
            *("seq", "exchange", "trade_id", "since", "ts", "sent_at", "received_at", "price", "size", "new_trade_id"),
            self._symbols.of(symbols).alias("symbol_id"),
            (await self._provider_ids(frame)).alias("provider_id"),
            kinds.alias("kind_id"),
        ).select(pl.col(name).cast(dtype) for name, dtype in LOGGED_CORRECTIONS.items())

    async def _kind_ids(self, frame: pl.DataFrame) -> pl.Series:
        labels = await offload.run(len(frame), lambda: _labels(frame))
        kinds = await offload.run(len(frame), partial(self._kinds.codes, labels))
        await self._number_kinds(self._kinds.unknown(labels, kinds))
        return self._kinds.of(kinds)

    async def _provider_ids(self, frame: pl.DataFrame) -> pl.Series:
        providers = {name: await self._store.provider_named(name) for name in frame["provider"].unique()}
        return frame["provider"].replace_strict(providers, return_dtype=pl.Int32)

    async def _number_kinds(self, labels: list[str]) -> None:
        if labels:
            kinds = [await self._kind(label) for label in labels]
            await self._store.ensure_kinds(kinds)
            self._kinds.learn(labels, [self._store.names.kinds[kind] for kind in kinds])

    async def _kind(self, label: str) -> TickKind:
        provider, exchange, conditions, tape, flags = label.split(_SEPARATOR)
        counts = _counts(provider, conditions, tape, flags)
        return TickKind(await self._store.provider_named(provider), exchange, conditions, counts, tape)

    async def bars(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert RECORDED_BARS with `seq`, and without nulls in provider and received_at, to LOGGED_BARS."""
        symbols = self._symbols.codes(frame["symbol"])
        await number_symbols(self._store, self._symbols, self._symbols.unknown(frame["symbol"], symbols), self._feed)
        encoded = frame.select(
            "seq",
            self._symbols.of(symbols).alias("symbol_id"),
            (await self._provider_ids(frame)).alias("provider_id"),
            pl.col("interval").replace_strict(MINUTES_OF, return_dtype=pl.Int32).alias("minutes"),
            *("ts", "received_at", "open", "high", "low", "close", "volume"),
            pl.col("trade_count").fill_null(-1),
            pl.col("vwap").fill_null(float("nan")),
        ).select(list(LOGGED_BARS))
        return encoded.with_columns(at_labels(encoded, self._store.names))


def _with_room(
    checked: Validated, values: pl.Series, is_known: Callable[[str], bool], room: int, reason: str
) -> Validated:
    """Reject foreign records whose value is new, once `room` new values are accepted."""
    foreign = checked.good["foreign"]
    new = [one for one in values.filter(foreign).unique(maintain_order=True) if not is_known(one)]
    over = new[max(room, 0) :]
    return refuse(checked, (foreign & values.is_in(over)).to_numpy(), reason) if over else checked


def _counts(provider: str, conditions: str, tape: str, flags: str) -> int:
    """Return the flags of a kind: those of the record, or else those of the provider's rule."""
    return int(flags) if flags else installed_providers().condition_rule(provider)(conditions, tape) | PRIMARY


def _labels(frame: pl.DataFrame) -> pl.Series:
    names = ("provider", "exchange", "conditions", "tape", "flags")
    texts = [pl.col(name).cast(pl.String).fill_null("") for name in names]
    return frame.select(pl.concat_str(texts, separator=_SEPARATOR)).to_series()

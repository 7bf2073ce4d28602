"""The records on Kafka's topics: their frames, and the protocol of the codecs for JSON and Avro.

The raw topic holds trades, their corrections, providers' own bars, the ends of recordings and forgets. Each derived
topic holds one kind of record. Records that other programs write to the raw topic may use every format that `POST
/ticks` takes. A bad record never blocks the records behind it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Protocol

import polars as pl

from stockpulse.journal.records import Forget
from stockpulse.market.schemas import BARS, UTC_MICROS

#: A trade on the raw topic. `provider` and `received_at` are null if another program left them out.
RECORDED_TICKS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "ts": UTC_MICROS,
        "price": pl.Float64(),
        "size": pl.Float64(),
        "provider": pl.String(),
        "exchange": pl.String(),
        "conditions": pl.String(),
        "tape": pl.String(),
        "trade_id": pl.String(),
        "received_at": UTC_MICROS,
        "flags": pl.Int64(),  # the sum of `schemas.COUNTS_FOR_PRICE` etc.; null: to be derived from the conditions
    }
)

#: A provider's own bar on the raw topic.
RECORDED_BARS: Final = pl.Schema({**BARS, "provider": pl.String(), "received_at": UTC_MICROS})

#: A correction or a cancel of a trade on the raw topic. It takes back the trade with this id, with since <= its time
#: <= ts, and is itself a trade at `ts` if it has a price.
RECORDED_CORRECTIONS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "trade_id": pl.String(),
        "ts": UTC_MICROS,
        "since": UTC_MICROS,  # null: a day before
        "provider": pl.String(),
        "exchange": pl.String(),
        "price": pl.Float64(),  # null: a cancel
        "size": pl.Float64(),
        "conditions": pl.String(),
        "tape": pl.String(),
        "new_trade_id": pl.String(),
        "sent_at": UTC_MICROS,  # null: at `ts`
        "received_at": UTC_MICROS,
        "flags": pl.Int64(),  # as for a trade
    }
)

#: A bar on the topic of bars.
OHLCV: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "interval": pl.String(),
        "timestamp": UTC_MICROS,  # start of the bucket
        "open": pl.Float64(),
        "high": pl.Float64(),
        "low": pl.Float64(),
        "close": pl.Float64(),
        "volume": pl.Float64(),
        "trade_count": pl.Int64(),
        "vwap": pl.Float64(),
        "revision": pl.Int64(),
        "final": pl.Boolean(),
        "source": pl.String(),
        "deleted": pl.Boolean(),  # true: the bar is gone, its records were forgotten; else null
    }
)

#: A signal on the topic of signals.
SIGNALS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "interval": pl.String(),
        "timestamp": UTC_MICROS,
        "rule": pl.String(),
        "signal": pl.String(),  # "BUY", "SELL" or "HOLD"
        "price": pl.Float64(),
        "revision": pl.Int64(),
    }
)

#: The first columns of a frame of indicators; a float column for each indicator follows.
ANALYTICS_KEYS: Final = ("symbol", "interval", "timestamp", "revision")

#: The extra columns of a decoded frame: the index in the input, and the findings of the parser for `ingest.validate`.
PLACED: Final = pl.Schema({"row": pl.Int64(), "problem": pl.String(), "raw": pl.String()})

#: A value that is not a record: the index in the input, the reason, and the first 8 KiB as readable text.
BROKEN: Final = pl.Schema({"row": pl.Int64(), "reason": pl.String(), "raw": pl.String()})

LARGEST_RECORD_BYTES: Final = 1 << 20
"""Longer values are refused."""


@dataclass(frozen=True)
class Decoded:
    """The values of the raw topic by kind, in the order of the input. Every value is in exactly one of the fields.

    `ticks`, `bars` and `corrections` have the columns of RECORDED_TICKS, RECORDED_BARS and RECORDED_CORRECTIONS, then
    the columns of PLACED. `ends` holds (row, provider), `forgets` (row, forget). `broken` has the columns of BROKEN.
    """

    ticks: pl.DataFrame
    bars: pl.DataFrame
    ends: list[tuple[int, str]]
    broken: pl.DataFrame
    forgets: list[tuple[int, Forget]] = field(default_factory=list)
    corrections: pl.DataFrame = field(default_factory=lambda: placed([], RECORDED_CORRECTIONS))


class Codec(Protocol):
    """Converts frames to the values of records and back. Encoding returns one value for each row, in order."""

    @property
    def name(self) -> str:
        """The name in the settings."""
        ...

    def prepare(self) -> None:
        """Prepare, before any other call; may block. Raises CannotStart or Unavailable."""
        ...

    def encode_ticks(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode trades, a frame of RECORDED_TICKS."""
        ...

    def encode_bars(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode providers' bars, a frame of RECORDED_BARS."""
        ...

    def encode_corrections(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode corrections of trades, a frame of RECORDED_CORRECTIONS."""
        ...

    def encode_end(self, provider: str, received_at: datetime) -> bytes:
        """Encode the end of a provider's recording."""
        ...

    def encode_forget(self, forget: Forget, received_at: datetime) -> bytes:
        """Encode a forget."""
        ...

    def encode_ohlcv(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode bars, a frame of OHLCV."""
        ...

    def encode_analytics(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode indicators: ANALYTICS_KEYS, then float columns; values that are not finite become null."""
        ...

    def encode_signals(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode signals, a frame of SIGNALS."""
        ...

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode values of the raw topic, including those of other programs.

        Call it in a thread: it is slow for many values and may block on the network. Raises Unavailable if the
        schema registry does not answer; then try the same values again.
        """
        ...

    def decode_ohlcv(self, values: Sequence[bytes | None]) -> pl.DataFrame:
        """Decode bars to a frame of OHLCV and skip other values. Call it, and expect errors, as with `decode`."""
        ...


def unfit(value: bytes | None) -> str | None:
    """Return the reason why a value cannot be a record, without decoding it; None if it can."""
    if value is None:
        return "no value: a tombstone"
    if len(value) > LARGEST_RECORD_BYTES:
        return f"longer than {LARGEST_RECORD_BYTES:,} bytes: {len(value):,}"
    return None


def placed(parts: Sequence[tuple[Sequence[int] | pl.Series, pl.DataFrame]], schema: pl.Schema) -> pl.DataFrame:
    """Put rows that were read apart back in order; each part comes with its indexes in the input."""
    columns = [*schema, *PLACED]
    frames = [
        frame.with_columns(pl.Series("row", rows, dtype=pl.Int64)).select(columns) for rows, frame in parts if len(rows)
    ]
    match frames:
        case []:
            return pl.DataFrame(schema={**schema, **PLACED})
        case [frame]:
            return frame
        case _:
            return pl.concat(frames).sort("row")

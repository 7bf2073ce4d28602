"""How records look on the topics of Kafka: the vocabulary. One module here speaks JSON, another one Avro.

The raw topic holds trades, providers' own bars and the ends of recordings; the derived topics hold one kind each.
What others write to the raw topic is read as kindly as `POST /ticks` reads it, and no record harms another one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

import polars as pl

from stockpulse.market.schemas import BARS, UTC_MICROS

#: A trade on the raw topic. Its provider and when it was received are null where another program did not say.
RECORDED_TICKS: Final = pl.Schema(
    {
        "symbol": pl.String(),
        "ts": UTC_MICROS,
        "price": pl.Float64(),
        "size": pl.Float64(),
        "provider": pl.String(),
        "exchange": pl.String(),
        "conditions": pl.String(),
        "trade_id": pl.String(),
        "received_at": UTC_MICROS,
        "flags": pl.Int64(),  # what it counts for, as in `frames`; null: nobody has told yet
    }
)

#: A provider's own bar on the raw topic.
RECORDED_BARS: Final = pl.Schema({**BARS, "provider": pl.String(), "received_at": UTC_MICROS})

#: A bar of ours on the topic of bars.
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

#: What a frame of indicators has on the topic of them, before one float column for each.
ANALYTICS_KEYS: Final = ("symbol", "interval", "timestamp", "revision")

#: What a decoded frame has besides: the place in the input, then what `ingest.validate` takes from a parser.
PLACED: Final = pl.Schema({"row": pl.Int64(), "problem": pl.String(), "raw": pl.String()})

#: What is no record at all: the place in the input, why, and the first 8 KiB as readable text.
BROKEN: Final = pl.Schema({"row": pl.Int64(), "reason": pl.String(), "raw": pl.String()})

LARGEST_RECORD_BYTES: Final = 1 << 20
"""A longer value is no record."""


@dataclass(frozen=True)
class Decoded:
    """Values of the raw topic, told apart; within each, in the order in which they came.

    `ticks` and `bars` are of RECORDED_TICKS and RECORDED_BARS, then PLACED; `ends` are (row, provider); `broken`
    is of BROKEN. Every value is in exactly one of them.
    """

    ticks: pl.DataFrame
    bars: pl.DataFrame
    ends: list[tuple[int, str]]
    broken: pl.DataFrame


class Codec(Protocol):
    """Frames to values of records and back. Encoding gives one value for each row, in order."""

    @property
    def name(self) -> str:
        """What the settings call it."""
        ...

    def prepare(self) -> None:
        """What has to be done before anything else; it may block. Raises CannotStart or Unavailable."""
        ...

    def encode_ticks(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of trades, a frame of RECORDED_TICKS."""
        ...

    def encode_bars(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of providers' bars, a frame of RECORDED_BARS."""
        ...

    def encode_end(self, provider: str, received_at: datetime) -> bytes:
        """The value that says that a provider's recording is over."""
        ...

    def encode_ohlcv(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of our bars, a frame of OHLCV."""
        ...

    def encode_analytics(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of indicators: ANALYTICS_KEYS, then float columns; one that is not finite becomes null."""
        ...

    def encode_signals(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of signals, a frame of SIGNALS."""
        ...

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Values of the raw topic, whoever wrote them.

        It takes long for many, and may block on the network: call it in a thread. Raises Unavailable where
        something that it needs does not answer; the same values can be tried again.
        """
        ...

    def decode_ohlcv(self, values: Sequence[bytes | None]) -> pl.DataFrame:
        """Our bars, a frame of OHLCV; what is none is left out. To be called, and raising, as `decode`."""
        ...


def unfit(value: bytes | None) -> str | None:
    """Why a value is no record, whatever stands in it."""
    if value is None:
        return "no value: a tombstone"
    if len(value) > LARGEST_RECORD_BYTES:
        return f"longer than {LARGEST_RECORD_BYTES:,} bytes: {len(value):,}"
    return None


def placed(parts: Sequence[tuple[Sequence[int] | pl.Series, pl.DataFrame]], schema: pl.Schema) -> pl.DataFrame:
    """Rows that were read apart, each part with its places in the input, put in order again."""
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

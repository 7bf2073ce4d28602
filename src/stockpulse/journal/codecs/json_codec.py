"""Encode and decode records as JSON, which every tool for Kafka can show.

A trade: `{"type":"trade","symbol":"AAPL","ts":"2026-03-02T15:30:00.123456Z","price":189.72,"size":100.0,...}`. A field
that is null in a whole batch is left out. Values in our own format are decoded together, which is fast. Any other value
is decoded by itself and may use every format that `POST /ticks` takes.
"""

import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any, Final

import orjson
import polars as pl

from stockpulse.errors import shown
from stockpulse.journal.codecs import (
    ANALYTICS_KEYS,
    BROKEN,
    OHLCV,
    RECORDED_BARS,
    RECORDED_CORRECTIONS,
    RECORDED_TICKS,
    SIGNALS,
    Decoded,
    placed,
    unfit,
)
from stockpulse.journal.codecs.fields import (
    BAR_FIELDS,
    CORRECTION_FIELDS,
    OHLCV_FIELDS,
    TRADE_FIELDS,
    fault_of_end,
    forget_in,
)
from stockpulse.journal.records import Forget
from stockpulse.market.columns import FLAG, NUMBER, TEXT, TIME, WHOLE
from stockpulse.market.rows import Field, assemble, readable, sent_columns, sent_objects
from stockpulse.market.times import from_micros

_TIME_LAYOUT: Final = "%Y-%m-%dT%H:%M:%S%.6fZ"
_MOST_INSIDE: Final = 10_000
"""Records with more lists, objects or commas are refused: a megabyte of them would become 20 MB of Python objects."""
_LONGEST_OF_OURS: Final = 4096

#: Our format of each type, ASCII only. Escapes by number are left out, because Polars reads unpaired surrogates
#: in its own way.
_TEXT_OF_OURS: Final = r'"(?:[ !#-\[\]-~]|\\["\\/bfnrt])+"'
_SPELLING: Final[dict[pl.DataType, str]] = {
    TEXT.dtype: _TEXT_OF_OURS,
    NUMBER.dtype: r"-?(?:0|[1-9][0-9]{0,17})(?:\.[0-9]{1,17})?(?:e[+-]?[0-9]{1,2})?",
    WHOLE.dtype: r"-?(?:0|[1-9][0-9]{0,17})",
    FLAG.dtype: r"(?:true|false)",
    TIME.dtype: r'"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]\.[0-9]{6}Z"',
}


@dataclass(frozen=True)
class _Kind:
    """A kind of record: its fields in the order in which we write them."""

    schema: pl.Schema
    fields: tuple[Field, ...]
    type: str | None = None  # None: the only kind on its topic
    time_key: str = "timestamp"

    def key(self, column: str) -> str:
        """Return the key of a column in JSON."""
        return self.time_key if column == "ts" else column

    @cached_property
    def read_as(self) -> dict[str, pl.DataType]:
        """The types for Polars' reader. Times are read as text, because Polars is slow to read them as times."""
        return {self.key(one.column): pl.String() if one.reader is TIME else one.reader.dtype for one in self.fields}

    @cached_property
    def pattern(self) -> str:
        """A regular expression for a whole value in our format: each key once and known, each value of its type."""
        inside = "" if self.type is None else f',"type":"{self.type}"'
        for one in self.fields:
            value = _SPELLING[one.reader.dtype]
            pair = f',"{self.key(one.column)}":' + (value if one.required else f"(?:{value}|null)")
            inside += pair if one.required else f"(?:{pair})?"
        return r"^\{" + inside.removeprefix(",") + r"\}$"


_TRADE: Final = _Kind(RECORDED_TICKS, TRADE_FIELDS, type="trade", time_key="ts")
_BAR: Final = _Kind(RECORDED_BARS, BAR_FIELDS, type="bar")
_CORRECTION: Final = _Kind(RECORDED_CORRECTIONS, CORRECTION_FIELDS, type="correction", time_key="ts")
_OHLCV: Final = _Kind(OHLCV, OHLCV_FIELDS)
_ON_RAW_TOPIC: Final = {"trade": _TRADE, "bar": _BAR, "correction": _CORRECTION}


class JsonCodec:
    """Encodes records as JSON objects and decodes them."""

    name: Final = "json"

    def prepare(self) -> None:
        """Do nothing: JSON needs no registry."""

    def encode_ticks(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode trades, a frame of RECORDED_TICKS."""
        return _written(frame, _TRADE)

    def encode_bars(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode providers' bars, a frame of RECORDED_BARS."""
        return _written(frame, _BAR)

    def encode_corrections(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode corrections of trades, a frame of RECORDED_CORRECTIONS."""
        return _written(frame, _CORRECTION)

    def encode_end(self, provider: str, received_at: datetime) -> bytes:
        """Encode the end of a provider's recording."""
        return orjson.dumps({"type": "end", "provider": provider, "received_at": received_at}, option=orjson.OPT_UTC_Z)

    def encode_forget(self, forget: Forget, received_at: datetime) -> bytes:
        """Encode a forget."""
        record = {
            "type": "forget",
            "symbol": forget.symbol,
            "provider": forget.provider,
            "start": from_micros(forget.start),
            "end": from_micros(forget.end),
            "received_at": received_at,
        }
        return orjson.dumps(record, option=orjson.OPT_UTC_Z)

    def encode_ohlcv(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode bars, a frame of OHLCV."""
        return _written(frame, _OHLCV)

    def encode_analytics(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode indicators: ANALYTICS_KEYS, then float columns, which go into the object "values"."""
        names = [name for name in frame.columns if name not in ANALYTICS_KEYS]
        keys = [_time_as_text(name) if name == "timestamp" else pl.col(name) for name in ANALYTICS_KEYS]
        return _lines(frame.select(*keys, *([pl.struct(names).alias("values")] if names else [])))

    def encode_signals(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode signals, a frame of SIGNALS."""
        return _lines(frame.select(_time_as_text(name) if name == "timestamp" else name for name in SIGNALS))

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode values of the raw topic. Call it in a thread: it is slow for many values."""
        parts: dict[str, list[_Part]] = {kind: [] for kind in _ON_RAW_TOPIC}
        left: Sequence[int] = range(len(values))
        for name, kind in _ON_RAW_TOPIC.items():
            found, left = _read_ours(values, left, kind)
            parts[name] += found
        others = _Others()
        for row in left:
            others.take(row, values[row])
        for name, objects in others.objects.items():
            parts[name] += _read_objects(objects, values, _ON_RAW_TOPIC[name])
        return Decoded(
            placed(parts["trade"], _TRADE.schema),
            placed(parts["bar"], _BAR.schema),
            others.ends,
            pl.DataFrame(others.broken, schema=BROKEN, orient="row"),
            others.forgets,
            placed(parts["correction"], _CORRECTION.schema),
        )

    def decode_ohlcv(self, values: Sequence[bytes | None]) -> pl.DataFrame:
        """Decode bars to a frame of OHLCV and skip other values. Call it in a thread: it is slow for many values."""
        parts, left = _read_ours(values, range(len(values)), _OHLCV)
        others = [(row, one) for row in left if isinstance(one := _object_in(values[row]), dict)]
        frame = placed([*parts, *_read_objects(others, values, _OHLCV)], OHLCV)
        return frame.filter(pl.col("problem").is_null()).select(list(OHLCV))


# --- writing -------------------------------------------------------------------------------------


def _written(frame: pl.DataFrame, kind: _Kind) -> list[bytes]:
    columns = [
        _time_as_text(one.column).alias(kind.key(one.column)) if one.reader is TIME else pl.col(one.column)
        for one in kind.fields
        if one.required or frame[one.column].null_count() < frame.height
    ]
    types = [] if kind.type is None else [pl.lit(kind.type).alias("type")]
    return _lines(frame.select(*types, *columns))


def _time_as_text(column: str) -> pl.Expr:
    # Polars would write +00:00, and takes longer over it than over text.
    return pl.col(column).dt.strftime(_TIME_LAYOUT)


def _lines(frame: pl.DataFrame) -> list[bytes]:
    """Return one JSON object for each row. JSON escapes line feeds, so a line is a row."""
    buffer = io.BytesIO()
    frame.write_ndjson(buffer)
    lines = buffer.getvalue().split(b"\n")
    lines.pop()  # after the last line feed
    return lines


# --- reading what we wrote -----------------------------------------------------------------------

_Part = tuple[Sequence[int] | pl.Series, pl.DataFrame]
"""Indexes in the input, and the rows at these indexes."""


def _read_ours(values: Sequence[bytes | None], rows: Sequence[int], kind: _Kind) -> tuple[list[_Part], Sequence[int]]:
    """Decode the values at these indexes that have our format of this kind; also return the other indexes."""
    if not rows:
        return [], rows
    some = values if len(rows) == len(values) else [values[row] for row in rows]
    texts = _texts(some)
    ours = texts.str.contains(kind.pattern).fill_null(value=False)
    if not ours.any():
        return [], rows
    if ours.all():
        places, left, lines = rows, list[int](), some
    else:
        marks = ours.to_list()
        places = [row for row, is_ours in zip(rows, marks, strict=True) if is_ours]
        left = [row for row, is_ours in zip(rows, marks, strict=True) if not is_ours]
        lines = [values[row] for row in places]
    try:
        frame = pl.read_ndjson(b"\n".join(lines), schema=kind.read_as)  # type: ignore[arg-type]  # none is None
    except pl.exceptions.PolarsError:
        return [], rows  # not our format after all: decode the values one by one
    if frame.height != len(places):
        return [], rows
    sent = sent_columns(frame, frame.height, lambda at: (lines[row] or b"" for row in at))
    return [(places, assemble(sent, kind.fields))], left


def _texts(values: Sequence[bytes | None]) -> pl.Series:
    """Return the values as text; null for a value that cannot have our format."""
    binary = pl.Series(values, dtype=pl.Binary)
    if (binary.bin.size() > _LONGEST_OF_OURS).any():
        values = [None if value is None or len(value) > _LONGEST_OF_OURS else value for value in values]
        binary = pl.Series(values, dtype=pl.Binary)
    try:
        return binary.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series([_text(value) for value in values], dtype=pl.String)


def _text(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


# --- reading what others wrote -------------------------------------------------------------------

_Objects = list[tuple[int, dict[str, Any]]]
"""Objects with their indexes in the input."""


class _Others:
    """Values of the raw topic that are decoded one by one."""

    def __init__(self) -> None:
        self.objects: dict[str, _Objects] = {kind: [] for kind in _ON_RAW_TOPIC}
        self.ends: list[tuple[int, str]] = []
        self.forgets: list[tuple[int, Forget]] = []
        self.broken: list[tuple[int, str, str]] = []

    def take(self, row: int, value: bytes | None) -> None:
        """Decode the value at this index."""
        why = self._sort(row, _object_in(value))
        if why is not None:
            self.broken.append((row, why, readable(value or b"")))

    def _sort(self, row: int, found: dict[str, Any] | str) -> str | None:
        """Keep an object of a known kind, or return the reason why it is refused."""
        if isinstance(found, str):
            return found
        name = "trade" if found.get("type") is None else found["type"]
        if name == "end":
            why = fault_of_end(found.get("provider"))
            if why is None:
                self.ends.append((row, found["provider"]))
            return why
        if name == "forget":
            forget = forget_in(found)
            if isinstance(forget, Forget):
                self.forgets.append((row, forget))
                return None
            return forget
        kind = _ON_RAW_TOPIC.get(name) if isinstance(name, str) else None
        if kind is None:
            return f"type: takes trade, bar, correction, end, forget; got {shown(name)}"
        # Unknown keys are ignored, and may be large.
        known = {key: found[key] for one in kind.fields for key in one.names if key in found}
        self.objects[name].append((row, known))
        return None


def _object_in(value: bytes | None) -> dict[str, Any] | str:
    """Return the object in a value, or the reason why the value has no object."""
    why = unfit(value)
    if why is not None or value is None:
        return why or ""
    if max(value.count(b","), value.count(b"[") + value.count(b"{")) > _MOST_INSIDE:
        return f"more than {_MOST_INSIDE:,} values inside"
    try:
        found = orjson.loads(value)
    except ValueError as fault:
        return f"not JSON: {fault}"
    return found if isinstance(found, dict) else f"not an object: {shown(found)}"


def _read_objects(objects: _Objects, values: Sequence[bytes | None], kind: _Kind) -> list[_Part]:
    if not objects:  # the usual case
        return []
    rows = [row for row, _ in objects]

    def raw(at: Iterable[int]) -> Iterable[bytes]:
        return (values[rows[place]] or b"" for place in at)

    return [(rows, assemble(sent_objects([one for _, one in objects], {}, raw), kind.fields))]

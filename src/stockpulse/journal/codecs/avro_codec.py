"""Encode and decode Avro as Confluent's serializers do: a zero byte, the schema id, the record in binary.

Records of other programs are decoded with their schema and resolved to ours, so optional fields may be missing and
unknown fields are ignored.
"""

import io
import json
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

import fastavro
import fastavro.types
import orjson
import polars as pl
from fastavro.read import SchemaResolutionError

from stockpulse.errors import shown
from stockpulse.journal.codecs import (
    ANALYTICS_KEYS,
    BROKEN,
    OHLCV,
    RECORDED_BARS,
    RECORDED_CORRECTIONS,
    RECORDED_TICKS,
    Decoded,
    placed,
    unfit,
)
from stockpulse.journal.codecs.avro_schemas import NAMES, check, schema_of, subject_of, without_meaning
from stockpulse.journal.codecs.fields import (
    BAR_FIELDS,
    CORRECTION_FIELDS,
    OHLCV_FIELDS,
    TRADE_FIELDS,
    fault_of_end,
    forget_in,
)
from stockpulse.journal.codecs.registry import Registry
from stockpulse.journal.records import Forget
from stockpulse.market.columns import TIME
from stockpulse.market.rows import Field, assemble, readable, sent_columns
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.times import from_micros, micros

_HEAD: Final = struct.Struct(">bI")

#: The fields of each record, which become columns.
_FIELDS: Final = {"Tick": TRADE_FIELDS, "Bar": BAR_FIELDS, "Correction": CORRECTION_FIELDS, "Ohlcv": OHLCV_FIELDS}


@dataclass(frozen=True)
class _Reading:
    """A reader of records of one schema. Without a `reader` the schema is ours, and times are microseconds."""

    name: str
    writer: fastavro.types.Schema
    reader: fastavro.types.Schema | None = None
    refusal: str | None = None  # the reason if the schema cannot be used


_Records = list[tuple[int, dict[str, Any]]]
"""Records with their indexes in the input."""


@dataclass
class _Read:
    """The outcome of decoding: records by schema id, and values that are not records of a wanted type."""

    records: dict[int, tuple[_Reading, _Records]] = field(default_factory=dict)
    broken: list[tuple[int, str, str]] = field(default_factory=list)

    def of(self, name: str) -> list[tuple[_Reading, _Records]]:
        """Return the records of this name."""
        return [group for group in self.records.values() if group[0].name == name]


class AvroCodec:
    """Encodes to Avro and decodes from it with a schema registry. All calls but encoding may block: use a thread."""

    name: Final = "avro"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        schemas = {name: json.loads(schema_of(name)) for name in NAMES}
        self._readers = {name: fastavro.parse_schema(schema) for name, schema in schemas.items()}
        #: Our schemas without logical types, so that fastavro takes times as microseconds.
        self._plain = {name: fastavro.parse_schema(without_meaning(schema)) for name, schema in schemas.items()}
        self._numbers: dict[str, int] = {}
        self._readings: dict[int, _Reading] = {}

    def prepare(self) -> None:
        """Register our schemas. Raises CannotStart if the registry refuses one, Unavailable if it does not answer."""
        for name in NAMES:
            number = self._registry.register(subject_of(name), schema_of(name))
            self._numbers[name] = number
            self._readings[number] = _Reading(name, self._plain[name])

    # Writing ------------------------------------------------------------------------------------

    def encode_ticks(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode trades, a frame of RECORDED_TICKS."""
        return self._written("Tick", _rows(frame, "ts", "received_at"))

    def encode_bars(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode providers' bars, a frame of RECORDED_BARS."""
        return self._written("Bar", _rows(frame.rename({"ts": "timestamp"}), "timestamp", "received_at"))

    def encode_corrections(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode corrections of trades, a frame of RECORDED_CORRECTIONS."""
        return self._written("Correction", _rows(frame, "ts", "since", "sent_at", "received_at"))

    def encode_end(self, provider: str, received_at: datetime) -> bytes:
        """Encode the end of a provider's recording."""
        return self._written("End", [{"provider": provider, "received_at": micros(received_at)}])[0]

    def encode_forget(self, forget: Forget, received_at: datetime) -> bytes:
        """Encode a forget."""
        record = {"symbol": forget.symbol, "provider": forget.provider, "start": forget.start, "end": forget.end}
        return self._written("Forget", [{**record, "received_at": micros(received_at)}])[0]

    def encode_ohlcv(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode bars, a frame of OHLCV."""
        return self._written("Ohlcv", _rows(frame, "timestamp"))

    def encode_analytics(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode indicators: ANALYTICS_KEYS, then float columns; values that are not finite become null."""
        names = [name for name in frame.columns if name not in ANALYTICS_KEYS]
        finite = frame.select(pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in names)
        values = finite.rows(named=True) if names else [{} for _ in range(frame.height)]
        keys = _rows(frame.select(ANALYTICS_KEYS), "timestamp")
        return self._written("Analytics", [{**key, "values": one} for key, one in zip(keys, values, strict=True)])

    def encode_signals(self, frame: pl.DataFrame) -> list[bytes]:
        """Encode signals, a frame of SIGNALS."""
        return self._written("Signal", _rows(frame, "timestamp"))

    def _written(self, name: str, rows: list[dict[str, Any]]) -> list[bytes]:
        head, schema = _HEAD.pack(0, self._numbers[name]), self._plain[name]
        values = []
        for row in rows:
            buffer = io.BytesIO()
            buffer.write(head)
            fastavro.schemaless_writer(buffer, schema, row)
            values.append(buffer.getvalue())
        return values

    # Reading ------------------------------------------------------------------------------------

    def decode(self, values: Sequence[bytes | None]) -> Decoded:
        """Decode values of the raw topic. Raises Unavailable while the registry does not answer.

        Call it in a thread: it is slow for many values, and blocks for each schema id that is new.
        """
        found = self._read(values, ("Tick", "Bar", "Correction", "End", "Forget"))
        return Decoded(
            placed([_part(*group) for group in found.of("Tick")], RECORDED_TICKS),
            placed([_part(*group) for group in found.of("Bar")], RECORDED_BARS),
            sorted((row, record["provider"]) for _, records in found.of("End") for row, record in records),
            pl.DataFrame(found.broken, schema=BROKEN, orient="row"),
            sorted(
                ((row, _forget(record)) for _, records in found.of("Forget") for row, record in records),
                key=lambda placed: placed[0],
            ),
            placed([_part(*group) for group in found.of("Correction")], RECORDED_CORRECTIONS),
        )

    def decode_ohlcv(self, values: Sequence[bytes | None]) -> pl.DataFrame:
        """Decode bars to a frame of OHLCV and skip other values. Call it, and expect errors, as with `decode`."""
        found = self._read(values, ("Ohlcv",))
        frame = placed([_part(*group) for group in found.of("Ohlcv")], OHLCV)
        return frame.filter(pl.col("problem").is_null()).select(list(OHLCV))

    def _read(self, values: Sequence[bytes | None], names: tuple[str, ...]) -> _Read:
        found = _Read()
        for row, value in enumerate(values):
            try:
                number, reading, record = self._record(value, names)
            except _NoRecord as why:
                found.broken.append((row, str(why), readable(value or b"")))
            else:
                found.records.setdefault(number, (reading, []))[1].append((row, record))
        return found

    def _record(self, value: bytes | None, names: tuple[str, ...]) -> tuple[int, _Reading, dict[str, Any]]:
        why = unfit(value)
        if why is not None or value is None:
            raise _NoRecord(why)
        if len(value) < _HEAD.size or value[0] != 0:
            raise _NoRecord("not Avro of a schema registry: a zero byte and the schema's number come first")
        number = _HEAD.unpack_from(value)[1]
        reading = self._reading(number)
        if reading.refusal is not None:
            raise _NoRecord(f"schema {number} cannot be used: {reading.refusal}")
        if reading.name not in names:
            raise _NoRecord(f"schema {number}: takes a record called {', '.join(names)}; got {shown(reading.name)}")
        stream = io.BytesIO(value)
        stream.seek(_HEAD.size)
        record = _read_one(stream, number, reading)
        if reading.name == "End" and (why := fault_of_end(record["provider"])):
            raise _NoRecord(why)
        if reading.name == "Forget":
            record = _with_times(record, "start", "end")
            _forget(record)  # raises where it cannot be one
        return number, reading, record

    def _reading(self, number: int) -> _Reading:
        """Return the reader for this schema id. Raises _NoRecord while the registry does not know the id."""
        if number not in self._readings:
            schema = self._registry.schema(number)
            if schema is None:
                raise _NoRecord(f"schema {number}: the registry has no Avro schema of this number")
            self._readings[number] = self._reading_of(schema)
        return self._readings[number]

    def _reading_of(self, text: str) -> _Reading:
        """Return the reader for the schema of another program."""
        try:
            schema = json.loads(text)
            check(schema)
            writer = fastavro.parse_schema(without_meaning(schema, but="timestamp-"))
        except Exception as fault:  # noqa: BLE001  # fastavro raises anything for a schema of another program
            return _Reading("", "null", refusal=shown(fault))
        name = str(writer.get("name", "")).rpartition(".")[2] if isinstance(writer, dict) else ""
        return _Reading(name, writer, self._readers.get(name))


class _NoRecord(Exception):
    """A value is not a record; the message has the reason."""


def _read_one(stream: io.BytesIO, number: int, reading: _Reading) -> dict[str, Any]:
    """Read one record up to the end of the stream. Raises _NoRecord if it does not match the schema."""
    try:
        record = fastavro.schemaless_reader(stream, reading.writer, reading.reader)
    except SchemaResolutionError as fault:
        raise _NoRecord(f"schema {number}: not compatible with our {reading.name}: {shown(str(fault))}") from None
    except Exception as fault:  # noqa: BLE001  # fastavro raises anything for invalid bytes
        raise _NoRecord(f"not a {reading.name} of schema {number}: {shown(fault)}") from None
    if stream.read(1):
        raise _NoRecord(f"not a {reading.name} of schema {number}: longer than that")
    return cast("dict[str, Any]", record)


def _with_times(record: dict[str, Any], *names: str) -> dict[str, Any]:
    """Return the record with datetimes in place of microseconds, which is how our own schemas are read."""
    return record | {name: from_micros(record[name]) for name in names if isinstance(record[name], int)}


def _forget(record: dict[str, Any]) -> Forget:
    forget = forget_in(record)
    if isinstance(forget, str):
        raise _NoRecord(forget)
    return forget


def _rows(frame: pl.DataFrame, *times: str) -> list[dict[str, Any]]:
    return frame.with_columns(pl.col(times).to_physical()).rows(named=True)


def _part(reading: _Reading, records: _Records) -> tuple[list[int], pl.DataFrame]:
    """Return the indexes of records and their columns, checked like records of other programs."""
    found = [record for _, record in records]
    fields = _FIELDS[reading.name]
    columns = {}
    for one in fields:
        key = next(name for name in one.names if name in found[0])
        columns[key] = _series([record[key] for record in found], one, reading)

    def raw(at: Iterable[int]) -> Iterator[bytes]:
        return (orjson.dumps(found[place], default=str) for place in at)

    return [row for row, _ in records], assemble(sent_columns(pl.DataFrame(columns), len(found), raw), fields)


def _series(values: list[Any], one: Field, reading: _Reading) -> pl.Series:
    if one.reader is not TIME:
        return pl.Series(values, dtype=one.reader.dtype, strict=False)
    if reading.reader is None:
        return pl.Series(values, dtype=pl.Int64).cast(UTC_MICROS)
    return pl.Series(values, strict=False)

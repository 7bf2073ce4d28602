"""Records as Avro, as Confluent's serializers write it: a zero byte, the schema's number, the record in binary.

What others wrote is read with their schema and ours, so that theirs may lack what is optional, or have more.
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
from stockpulse.ingest.columns import TIME
from stockpulse.ingest.rows import Field, assemble, readable, sent_columns
from stockpulse.journal.codecs import (
    ANALYTICS_KEYS,
    BROKEN,
    OHLCV,
    RECORDED_BARS,
    RECORDED_TICKS,
    Decoded,
    placed,
    unfit,
)
from stockpulse.journal.codecs.avro_schemas import NAMES, check, schema_of, subject_of, without_meaning
from stockpulse.journal.codecs.fields import BAR_FIELDS, OHLCV_FIELDS, TRADE_FIELDS, fault_of_end
from stockpulse.journal.codecs.registry import Registry
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.times import micros

_HEAD: Final = struct.Struct(">bI")

#: How our records are read: their names, and the columns that they become.
_FIELDS: Final = {"Tick": TRADE_FIELDS, "Bar": BAR_FIELDS, "Ohlcv": OHLCV_FIELDS}


@dataclass(frozen=True)
class _Reading:
    """How the records of one schema are read. Without a reader, by a schema of ours: times come as microseconds."""

    name: str
    writer: fastavro.types.Schema
    reader: fastavro.types.Schema | None = None
    refusal: str | None = None  # why they are not read at all


_Records = list[tuple[int, dict[str, Any]]]
"""Records with their places in the input."""


@dataclass
class _Read:
    """What values were read as: records of each reading, and what is none of the kinds that were asked for."""

    records: dict[int, tuple[_Reading, _Records]] = field(default_factory=dict)
    broken: list[tuple[int, str, str]] = field(default_factory=list)

    def of(self, name: str) -> list[tuple[_Reading, _Records]]:
        """The records of a name."""
        return [group for group in self.records.values() if group[0].name == name]


class AvroCodec:
    """Records in Avro, with the schemas of a registry. All but encoding may block on it: call it in a thread."""

    name: Final = "avro"

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        schemas = {name: json.loads(schema_of(name)) for name in NAMES}
        self._readers = {name: fastavro.parse_schema(schema) for name, schema in schemas.items()}
        #: Ours without the meaning of their numbers: a time goes as the microseconds that it is.
        self._plain = {name: fastavro.parse_schema(without_meaning(schema)) for name, schema in schemas.items()}
        self._numbers: dict[str, int] = {}
        self._readings: dict[int, _Reading] = {}

    def prepare(self) -> None:
        """Register our schemas. Raises CannotStart where one is refused, Unavailable without an answer."""
        for name in NAMES:
            number = self._registry.register(subject_of(name), schema_of(name))
            self._numbers[name] = number
            self._readings[number] = _Reading(name, self._plain[name])

    # Writing ------------------------------------------------------------------------------------

    def encode_ticks(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of trades, a frame of RECORDED_TICKS."""
        return self._written("Tick", _rows(frame, "ts", "received_at"))

    def encode_bars(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of providers' bars, a frame of RECORDED_BARS."""
        return self._written("Bar", _rows(frame.rename({"ts": "timestamp"}), "timestamp", "received_at"))

    def encode_end(self, provider: str, received_at: datetime) -> bytes:
        """The value that says that a provider's recording is over."""
        return self._written("End", [{"provider": provider, "received_at": micros(received_at)}])[0]

    def encode_ohlcv(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of our bars, a frame of OHLCV."""
        return self._written("Ohlcv", _rows(frame, "timestamp"))

    def encode_analytics(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of indicators: ANALYTICS_KEYS, then float columns; one that is not finite becomes null."""
        names = [name for name in frame.columns if name not in ANALYTICS_KEYS]
        finite = frame.select(pl.when(pl.col(name).is_finite()).then(pl.col(name)) for name in names)
        values = finite.rows(named=True) if names else [{} for _ in range(frame.height)]
        keys = _rows(frame.select(ANALYTICS_KEYS), "timestamp")
        return self._written("Analytics", [{**key, "values": one} for key, one in zip(keys, values, strict=True)])

    def encode_signals(self, frame: pl.DataFrame) -> list[bytes]:
        """The values of signals, a frame of SIGNALS."""
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
        """Values of the raw topic, whoever wrote them. Raises Unavailable while the registry does not answer.

        It takes long for many, and blocks for each number of a schema that is new: call it in a thread.
        """
        found = self._read(values, ("Tick", "Bar", "End"))
        return Decoded(
            placed([_part(*group) for group in found.of("Tick")], RECORDED_TICKS),
            placed([_part(*group) for group in found.of("Bar")], RECORDED_BARS),
            sorted((row, record["provider"]) for _, records in found.of("End") for row, record in records),
            pl.DataFrame(found.broken, schema=BROKEN, orient="row"),
        )

    def decode_ohlcv(self, values: Sequence[bytes | None]) -> pl.DataFrame:
        """Our bars, a frame of OHLCV; what is none is left out. To be called, and raising, as `decode`."""
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
        return number, reading, record

    def _reading(self, number: int) -> _Reading:
        """How records of this number are read. Raises _NoRecord while the registry does not know it."""
        if number not in self._readings:
            schema = self._registry.schema(number)
            if schema is None:
                raise _NoRecord(f"schema {number}: the registry has no Avro schema of this number")
            self._readings[number] = self._reading_of(schema)
        return self._readings[number]

    def _reading_of(self, text: str) -> _Reading:
        """How records of somebody's schema are read."""
        try:
            schema = json.loads(text)
            check(schema)
            writer = fastavro.parse_schema(without_meaning(schema, but="timestamp-"))
        except Exception as fault:  # noqa: BLE001  # it is others' text
            return _Reading("", "null", refusal=shown(fault))
        name = str(writer.get("name", "")).rpartition(".")[2] if isinstance(writer, dict) else ""
        return _Reading(name, writer, self._readers.get(name))


class _NoRecord(Exception):
    """Why a value is no record."""


def _read_one(stream: io.BytesIO, number: int, reading: _Reading) -> dict[str, Any]:
    """The record from here to the end of the stream. Raises _NoRecord where it is another one, or none."""
    try:
        record = fastavro.schemaless_reader(stream, reading.writer, reading.reader)
    except SchemaResolutionError as fault:
        raise _NoRecord(f"schema {number}: not compatible with our {reading.name}: {shown(str(fault))}") from None
    except Exception as fault:  # noqa: BLE001  # whatever the library does over any bytes
        raise _NoRecord(f"not a {reading.name} of schema {number}: {shown(fault)}") from None
    if stream.read(1):
        raise _NoRecord(f"not a {reading.name} of schema {number}: longer than that")
    return cast("dict[str, Any]", record)


def _rows(frame: pl.DataFrame, *times: str) -> list[dict[str, Any]]:
    return frame.with_columns(pl.col(times).to_physical()).rows(named=True)


def _part(reading: _Reading, records: _Records) -> tuple[list[int], pl.DataFrame]:
    """The places of records, and the records as columns: checked as any other program's are."""
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

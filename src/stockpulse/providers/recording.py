"""Recorded trades in a file: Parquet, CSV or Arrow, whatever its columns are called.

The file is read in chunks, so it may be larger than the memory. A value that cannot be converted becomes
null and its row goes on, for validation to reject it with a reason; no row is dropped here.
"""

import io
import os
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.market.schemas import TICKS, UTC_MICROS

MICROS: Final = 1_000_000  # of a second

REQUIRED: Final = ("symbol", "ts", "price", "size")

#: Of Arrow's streaming format.
_CONTINUATION: Final = 0xFFFFFFFF
_END: Final = struct.pack("<II", _CONTINUATION, 0)
_RECORD_BATCH: Final = 3


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while `path` is read into InvalidInput."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, struct.error) as error:
        raise InvalidInput("file", f"{path} cannot be read: {error}") from error


class Source(Protocol):
    """A file of rows, whatever its format."""

    schema: pl.Schema

    def count(self) -> int:
        """How many rows it has."""
        ...

    def chunks(self, columns: list[str], rows: int) -> Iterator[pl.DataFrame]:
        """These columns of all rows, about `rows` at a time."""
        ...


class _Scan:
    """A format that Polars reads in chunks."""

    def __init__(self, rows: pl.LazyFrame) -> None:
        self._rows = rows
        self.schema = rows.collect_schema()

    def count(self) -> int:
        return int(self._rows.select(pl.len()).collect().item())

    def chunks(self, columns: list[str], rows: int) -> Iterator[pl.DataFrame]:
        return iter(self._rows.select(columns).collect_batches(chunk_size=rows, maintain_order=True, lazy=True))


class _ArrowStream:
    """Arrow's streaming format. Polars reads it as a whole only: it is given one record batch at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.schema = next(self._batches()).schema

    def count(self) -> int:
        return sum(len(batch) for batch in self._batches())

    def chunks(self, columns: list[str], rows: int) -> Iterator[pl.DataFrame]:
        return (part for batch in self._batches() for part in batch.select(columns).iter_slices(rows))

    def _batches(self) -> Iterator[pl.DataFrame]:
        """An empty frame, then one frame per record batch."""
        with self._path.open("rb") as file:
            _, before = _read_message(file)
            yield pl.read_ipc_stream(io.BytesIO(before))
            while True:
                kind, content = _read_message(file)
                if kind == _RECORD_BATCH:
                    yield pl.read_ipc_stream(io.BytesIO(before + content))
                elif content:
                    before += content  # a dictionary, which later record batches refer to
                else:
                    return


def _read_message(file: IO[bytes]) -> tuple[int, bytes]:
    """The kind and the bytes of the next message; no bytes at the end of the stream.

    After Arrow's columnar format, "Encapsulated message format", and the table Message of its Message.fbs.
    """
    prefix = file.read(8)
    mark, length = struct.unpack("<II", prefix or _END)
    if mark != _CONTINUATION:
        raise OSError("it is not in Arrow's format")
    if not length:
        return 0, b""
    metadata = _read_exactly(file, length)
    body = _read_exactly(file, _scalar(metadata, 3, "<q"))
    return _scalar(metadata, 1, "<B"), prefix + metadata + body


def _read_exactly(file: IO[bytes], length: int) -> bytes:
    if not 0 <= length <= os.fstat(file.fileno()).st_size - file.tell():
        raise EOFError("it ends in the middle of a record batch")
    return file.read(length)


def _scalar(buffer: bytes, field: int, layout: str) -> int:
    """A number in the root table of a FlatBuffer, 0 where it was left out."""
    (table,) = struct.unpack_from("<I", buffer)
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    (size,) = struct.unpack_from("<H", buffer, vtable)
    slot = 4 + 2 * field
    offset = struct.unpack_from("<H", buffer, vtable + slot)[0] if slot < size else 0
    return int(struct.unpack_from(layout, buffer, table + offset)[0]) if offset else 0


def open_recording(path: Path) -> Source:
    """The file at `path`, read as its name says."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return _Scan(pl.scan_parquet(path, glob=False))
    if name.endswith((".csv", ".csv.gz")):
        # Text only: a type guessed from the first rows could fail at a later one.
        return _Scan(pl.scan_csv(path, glob=False, infer_schema=False))
    if name.endswith((".arrow", ".feather", ".ipc")):
        with path.open("rb") as file:
            is_file = file.read(6) == b"ARROW1"
        return _Scan(pl.scan_ipc(path, glob=False)) if is_file else _ArrowStream(path)
    raise InvalidInput("file", f"{path} is none of .parquet, .csv, .csv.gz, .arrow, .feather, .ipc")


def find_columns(schema: pl.Schema) -> dict[str, str]:
    """Where the columns of a tick are in the file; InvalidInput for one that is missing or of no use."""
    there = {name.strip().lower(): name for name in reversed(schema)}
    found = {}
    for column, (names, _) in COLUMNS.items():
        given = next((there[name] for name in names if name in there), None)
        if given is not None:
            found[column] = given
        elif column in REQUIRED:
            raise InvalidInput("file", f"there is no column {' or '.join(names)}, only {', '.join(schema)}")
    to_ticks(schema.to_frame(), found)
    return found


def to_ticks(rows: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
    """Rows of the file as TICKS; null stands for what is not there and for what cannot be converted."""
    nothing = pl.Series([None], dtype=pl.Null).new_from_index(0, len(rows))
    converted = {
        column: convert(rows[columns[column]]) if column in columns else nothing
        for column, (_, convert) in COLUMNS.items()
    }
    return pl.DataFrame(converted, schema=TICKS)


def _useless(values: pl.Series, taken: str) -> InvalidInput:
    return InvalidInput("file", f"column {values.name} is of type {values.dtype}; it takes {taken}")


def _text(values: pl.Series) -> pl.Series:
    if isinstance(values.dtype, pl.String | pl.Categorical | pl.Enum | pl.Null) or values.dtype.is_integer():
        return values.cast(pl.String)
    raise _useless(values, "text or whole numbers")


def _label(values: pl.Series) -> pl.Series:
    """Text of which an empty one says nothing; a list of codes is joined."""
    text = values.list.join(",") if values.dtype == pl.List(pl.String) else _text(values)
    return text.set(text == "", None)


def _number(values: pl.Series) -> pl.Series:
    if values.dtype == pl.String:
        values = values.str.strip_chars()
    elif not (values.dtype.is_numeric() or values.dtype == pl.Null):
        raise _useless(values, "numbers")
    return values.cast(pl.Float64, strict=False)


def _time(values: pl.Series) -> pl.Series:
    """UTC microseconds; a time without a zone is UTC."""
    kind = values.dtype
    if isinstance(kind, pl.Datetime):
        zoned = values.dt.convert_time_zone("UTC") if kind.time_zone else values.dt.replace_time_zone("UTC")
        return zoned.dt.cast_time_unit("us")
    if kind == pl.String:
        return _parse_time(values)
    if kind.is_integer():
        return _whole_epoch(values)
    if kind.is_float():
        return _fractional_epoch(values)
    raise _useless(values, "times, RFC 3339 text or seconds, ms, µs or ns since 1970")


def _parse_time(values: pl.Series) -> pl.Series:
    """Of text: RFC 3339, the same without a zone, or a number; the rarer ones only where there are any."""
    text = values.str.strip_chars().str.to_uppercase().str.replace(" ", "T", literal=True)
    found = text.str.to_datetime("%+", time_unit="us", time_zone="UTC", strict=False)
    for read in (_zoneless, _whole_epoch, _fractional_epoch):
        if found.null_count() > values.null_count():
            found = pl.select(pl.coalesce(found, read(text))).to_series()
    return found


def _zoneless(text: pl.Series) -> pl.Series:
    naive = text.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="us", strict=False)
    return naive.dt.replace_time_zone("UTC")


def _whole_epoch(values: pl.Series) -> pl.Series:
    return _epoch(values.cast(pl.Int64, strict=False))


def _fractional_epoch(values: pl.Series) -> pl.Series:
    return _epoch(values.cast(pl.Float64, strict=False))


def _epoch(numbers: pl.Series) -> pl.Series:
    """Of seconds, ms, µs or ns since 1970, told apart by their magnitude: right from 1973 to 5138."""
    number = pl.lit(numbers)
    size = number.abs()
    micros = (
        pl.when(size < 10**11)
        .then(number * MICROS)
        .when(size < 10**14)
        .then(number * 1000)
        .when(size < 10**17)
        .then(number)
        .otherwise(number // 1000)
    )
    return pl.select(micros.round().cast(pl.Int64, strict=False).cast(UTC_MICROS)).to_series()


#: The columns of a tick, the names that each may have in a file (in any case), and what reads it.
COLUMNS: Final[dict[str, tuple[tuple[str, ...], Callable[[pl.Series], pl.Series]]]] = {
    "symbol": (("symbol",), _text),
    "ts": (("ts", "event_time", "timestamp", "time"), _time),
    "price": (("price",), _number),
    "size": (("size", "volume"), _number),
    "exchange": (("exchange",), _label),
    "trade_id": (("trade_id",), _label),
    "conditions": (("conditions",), _label),
}

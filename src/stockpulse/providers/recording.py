"""Recorded trades in a file: Parquet, CSV or Arrow, with any of the accepted column names.

The file is read in chunks, so it may be larger than the memory. A value that cannot be read sets the `problem` of its
row, and validation rejects the row with that reason; no row is dropped here.
"""

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final, Protocol

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.market.rows import PARSED_TICKS, TICK_FIELDS, assemble, sent_columns
from stockpulse.market.schemas import TICKS

#: Numbers of Arrow's streaming format.
_CONTINUATION: Final = 0xFFFFFFFF
_END: Final = struct.pack("<II", _CONTINUATION, 0)
_RECORD_BATCH: Final = 3


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn errors that occur while `path` is read into InvalidInput."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, struct.error) as error:
        raise InvalidInput("file", f"{path} cannot be read: {error}") from error


class Source(Protocol):
    """A file of rows in some format."""

    schema: pl.Schema

    def count(self) -> int:
        """Return the number of rows."""
        ...

    def chunks(self, columns: list[str], rows: int) -> Iterator[pl.DataFrame]:
        """Yield these columns of all rows, about `rows` at a time."""
        ...


class _Scan:
    """A file in a format that Polars reads in chunks."""

    def __init__(self, rows: pl.LazyFrame) -> None:
        self._rows = rows
        self.schema = rows.collect_schema()

    def count(self) -> int:
        return int(self._rows.select(pl.len()).collect().item())

    def chunks(self, columns: list[str], rows: int) -> Iterator[pl.DataFrame]:
        return iter(self._rows.select(columns).collect_batches(chunk_size=rows, maintain_order=True, lazy=True))


class _ArrowStream:
    """A file in Arrow's streaming format. Polars reads a stream as a whole, so it gets one record batch at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.schema = next(self._batches()).schema

    def count(self) -> int:
        return sum(len(batch) for batch in self._batches())

    def chunks(self, columns: list[str], rows: int) -> Iterator[pl.DataFrame]:
        return (part for batch in self._batches() for part in batch.select(columns).iter_slices(rows))

    def _batches(self) -> Iterator[pl.DataFrame]:
        """Yield an empty frame, then one frame per record batch."""
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
    """Return the kind and the bytes of the next message; no bytes at the end of the stream.

    See Arrow's columnar format, "Encapsulated message format", and the table Message of its Message.fbs.
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
    """Return a number of the root table of a FlatBuffer, 0 if it was left out."""
    (table,) = struct.unpack_from("<I", buffer)
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    (size,) = struct.unpack_from("<H", buffer, vtable)
    slot = 4 + 2 * field
    offset = struct.unpack_from("<H", buffer, vtable + slot)[0] if slot < size else 0
    return int(struct.unpack_from(layout, buffer, table + offset)[0]) if offset else 0


def open_recording(path: Path) -> Source:
    """Open the file at `path`; its name determines the format. Raises InvalidInput for another name."""
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
    raise InvalidInput("file", f"{path} is not a .parquet, .csv, .csv.gz, .arrow, .feather or .ipc file")


def find_columns(schema: pl.Schema) -> dict[str, str]:
    """Return the columns of the file that make up a tick, by the names that `TICK_FIELDS` has for them.

    The case of a name in the file does not matter. Raises InvalidInput for a column that is missing or of a type that
    never fits.
    """
    there = {name.strip().lower(): name for name in reversed(schema)}
    found: dict[str, str] = {}
    for field in TICK_FIELDS:
        known = {name: there[name] for name in field.names if name in there}
        if field.required and not known:
            raise InvalidInput("file", f"there is no column {' or '.join(field.names)}, only {', '.join(schema)}")
        for column in known.values():
            if field.reader.at_once(schema.to_frame()[column]) is None:
                raise InvalidInput(
                    "file", f"column {column} is of type {schema[column]}; it takes {field.reader.takes}"
                )
        found |= known
    return found


def to_ticks(rows: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
    """Return rows of the file as TICKS, or as PARSED_TICKS if one of them has a problem."""
    known = rows.select(pl.col(column).alias(name) for name, column in columns.items())
    ticks = assemble(sent_columns(known, len(rows)), TICK_FIELDS)
    return ticks.select(list(TICKS if ticks["problem"].null_count() == len(rows) else PARSED_TICKS))

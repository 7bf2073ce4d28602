"""A recorded file of trades, sent again: at its own pace, faster, or as fast as it can be read.

The file is read in chunks, so it may be larger than the memory. A value that cannot be converted becomes
null and its row goes on, for validation to reject it with a reason; no row is dropped here.
"""

import asyncio
import io
import math
import os
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import IO, Final, Protocol

import polars as pl

from stockpulse.errors import InvalidInput
from stockpulse.frames import BARS, TICKS, UTC_MICROS
from stockpulse.providers.base import Clock

MICROS: Final = 1_000_000  # of a second
YIELD_SECONDS: Final = 0.05  # between two frames at a finite speed, at least

REQUIRED: Final = ("symbol", "ts", "price", "size")

#: Of Arrow's streaming format.
_CONTINUATION: Final = 0xFFFFFFFF
_END: Final = struct.pack("<II", _CONTINUATION, 0)
_RECORD_BATCH: Final = 3


def parse_speed(text: str) -> float:
    """How many seconds of the recording pass in one: "1", "60", "2.5", or "max" for infinity."""
    if text.strip().lower() == "max":
        return math.inf
    try:
        speed = float(text)
    except ValueError:
        speed = math.nan
    if not 0 < speed < math.inf:
        raise InvalidInput("speed", f"{text!r} is neither a number above 0 nor max")
    return speed


class ReplayProvider:
    """The trades of one file, in the file's order; its clock is the greatest event time that it has sent.

    Raises InvalidInput for a file that cannot be read, at once where the beginning tells, else from `stream`.
    """

    name = "replay"
    clock = Clock.EVENT
    delay_seconds = 0.0

    def __init__(
        self,
        path: Path | str,
        speed: float = 1.0,
        calendar: str = "XNYS",
        *,
        batch_rows: int = 20_000,
        sleep: Callable[[float], Awaitable[object]] = asyncio.sleep,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        if not speed > 0:
            raise InvalidInput("speed", f"{speed} is not above 0")
        self.calendar = calendar
        self._path = Path(path)
        self._speed = speed
        self._batch_rows = batch_rows
        self._sleep = sleep
        self._monotonic = monotonic
        with _reading(self._path):
            self._source = _open(self._path)
            self._columns = _find_columns(self._source.schema)

    @cached_property
    def total_rows(self) -> int:
        """The number of rows in the file, which a CSV file must be read for: ask from a thread."""
        with _reading(self._path):
            return self._source.count()

    async def stream(self) -> AsyncIterator[pl.DataFrame]:
        """All trades of the file, once."""
        pace = None if math.isinf(self._speed) else _Pace(self._speed, self._sleep, self._monotonic)
        frames = self._frames()
        while (frame := await asyncio.to_thread(next, frames, None)) is not None:
            if pace is None:
                yield frame
            else:
                async for due in pace.release(frame):
                    yield due

    async def history(
        self,
        symbol: str,  # noqa: ARG002  (the interface has them)
        interval: str,  # noqa: ARG002
        start: datetime,  # noqa: ARG002
        end: datetime,  # noqa: ARG002
    ) -> AsyncIterator[pl.DataFrame]:
        """Nothing: a recording of trades has no bars of its own."""
        return
        yield pl.DataFrame(schema=BARS)  # never: it makes this an iterator

    def _frames(self) -> Iterator[pl.DataFrame]:
        """The file as TICKS, `batch_rows` at a time."""
        with _reading(self._path):
            for chunk in self._source.chunks(list(self._columns.values()), self._batch_rows):
                for rows in chunk.iter_slices(self._batch_rows):
                    yield _to_ticks(rows, self._columns)


class _Pace:
    """Holds trades back until the recording's time has come to them, `speed` times as fast as the clock."""

    def __init__(
        self, speed: float, sleep: Callable[[float], Awaitable[object]], monotonic: Callable[[], float]
    ) -> None:
        self._micros_per_second = speed * MICROS
        self._sleep = sleep
        self._monotonic = monotonic
        self._started = monotonic()
        self._origin = 0  # the file's first event time, in microseconds since 1970
        self._reached: int | None = None  # its greatest one so far; None: no row had one yet

    async def release(self, frame: pl.DataFrame) -> AsyncIterator[pl.DataFrame]:
        """The rows of `frame` as they fall due; one that is out of order goes with the row before it."""
        due = self._due_times(frame["ts"].to_physical())
        sent = 0
        while sent < len(frame):
            ready = int(due.search_sorted(self._event_time(), side="right"))
            if ready > sent:
                yield frame[sent:ready]
                sent = ready
            if sent < len(frame):
                wait = (due[sent] - self._event_time()) / self._micros_per_second
                await self._sleep(max(wait, YIELD_SECONDS))

    def _event_time(self) -> int:
        """How far the recording has come, in microseconds since 1970."""
        elapsed = self._monotonic() - self._started
        return self._origin + int(elapsed * self._micros_per_second)

    def _due_times(self, ts: pl.Series) -> pl.Series:
        """The greatest event time up to each row, in microseconds; a row without one does not change it."""
        first = ts.drop_nulls().head(1)
        if self._reached is None and len(first):
            self._origin = self._reached = int(first[0])
            self._started = self._monotonic()
        if self._reached is None:
            return ts.fill_null(0)
        due = ts.fill_null(self._reached).cum_max().clip(lower_bound=self._reached)
        self._reached = int(due[-1])
        return due


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turns whatever goes wrong while `path` is read into InvalidInput."""
    try:
        yield
    except (pl.exceptions.PolarsError, OSError, EOFError, struct.error) as error:
        raise InvalidInput("file", f"{path} cannot be read: {error}") from error


class _Source(Protocol):
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


def _open(path: Path) -> _Source:
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


def _find_columns(schema: pl.Schema) -> dict[str, str]:
    """Where the columns of a tick are in the file; InvalidInput for one that is missing or of no use."""
    there = {name.strip().lower(): name for name in reversed(schema)}
    found = {}
    for column, (names, _) in COLUMNS.items():
        given = next((there[name] for name in names if name in there), None)
        if given is not None:
            found[column] = given
        elif column in REQUIRED:
            raise InvalidInput("file", f"there is no column {' or '.join(names)}, only {', '.join(schema)}")
    _to_ticks(schema.to_frame(), found)
    return found


def _to_ticks(rows: pl.DataFrame, columns: dict[str, str]) -> pl.DataFrame:
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

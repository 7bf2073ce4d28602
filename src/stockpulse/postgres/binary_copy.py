"""Packs and unpacks PostgreSQL's binary COPY format with NumPy, millions of rows a second.

The format: a header; for each row the number of fields, and for each field its length and its bytes, big-endian; a
trailer (PostgreSQL documentation, COPY, "Binary Format"). If all rows have the same width, that is a structured array.
"""

from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl

HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER: Final = b"\xff\xff"

PG_EPOCH_MICROS: Final = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts microseconds, in microseconds since 1970."""

_SLICE_BYTES: Final = 1 << 18
_NULL: Final = -1
_TYPES: Final = {"int2": ">i2", "int4": ">i4", "int8": ">i8", "float8": ">f8", "timestamptz": ">i8", "bool": ">?"}


class Layout:
    """The fixed-width columns of a table, in the order of COPY, and optionally one text column at the end."""

    def __init__(self, columns: Mapping[str, str], text: str | None = None) -> None:
        self.columns = tuple(columns) + ((text,) if text else ())
        self._types = dict(columns)
        self._text = text

    @property
    def row_bytes(self) -> int:
        """The bytes of a row without its text."""
        return self._dtype().itemsize

    def _dtype(self, text_bytes: int = 0) -> np.dtype[np.void]:
        fields: list[Any] = [("fields", ">i2")]
        for name, kind in self._types.items():
            fields += [(f"{name} length", ">i4"), (name, _TYPES[kind])]
        if self._text:
            fields += [(f"{self._text} length", ">i4"), (self._text, "u1", (text_bytes,))]
        return np.dtype(fields)

    def pack(self, columns: Mapping[str, Any], texts: pl.Series | None = None) -> list[memoryview | bytes]:
        """Yield the bytes of a whole COPY in pieces.

        Times are UTC microseconds since 1970. A null text becomes NULL.
        """
        pieces: list[memoryview | bytes] = [HEADER]
        if not self._text:
            pieces.append(self._pack_rows(columns, None))
        else:
            for rows, text in _groups_of_one_width(texts, len(next(iter(columns.values())))):
                part = columns if rows is None else {name: columns[name][rows] for name in self._types}
                pieces.append(self._pack_rows(part, text))
        pieces.append(TRAILER)
        return pieces

    def _pack_rows(self, columns: Mapping[str, npt.NDArray[Any]], text: npt.NDArray[np.uint8] | None) -> memoryview:
        dtype = self._dtype(0 if text is None else text.shape[1])
        rows = np.empty(len(next(iter(columns.values()))), dtype)
        rows["fields"] = len(self.columns)
        for name, kind in self._types.items():
            rows[f"{name} length"] = np.dtype(_TYPES[kind]).itemsize
            values = columns[name]
            rows[name] = values - PG_EPOCH_MICROS if kind == "timestamptz" else values
        if self._text:
            rows[f"{self._text} length"] = _NULL if text is None else text.shape[1]
            if text is not None:
                rows[self._text] = text
        return memoryview(rows.view(np.uint8).data)

    def unpack(self, data: bytes) -> dict[str, npt.NDArray[Any]]:
        """Return the columns of a COPY of fixed-width rows without nulls, in native byte order."""
        body = memoryview(data)[len(HEADER) : -len(TRAILER)]
        rows = np.frombuffer(body, self._dtype())
        columns = {name: rows[name].astype(_TYPES[kind][1:]) for name, kind in self._types.items()}
        for name, kind in self._types.items():
            if kind == "timestamptz":
                columns[name] += PG_EPOCH_MICROS
        return columns


def _groups_of_one_width(
    texts: pl.Series | None, count: int
) -> Iterator[tuple[npt.NDArray[np.int64] | None, npt.NDArray[np.uint8] | None]]:
    """Yield row numbers and texts in groups of texts of equal length in bytes, so that each group is fixed-width."""
    if texts is None or texts.null_count() == count:
        yield None, None
        return
    widths = texts.str.len_bytes().fill_null(-1).to_numpy()
    for width in np.unique(widths):
        rows = np.flatnonzero(widths == width)
        if width < 0:
            yield rows, None
            continue
        joined = "".join(texts.gather(rows).to_list()).encode()
        yield rows, np.frombuffer(joined, np.uint8).reshape(len(rows), int(width))


async def in_slices(pieces: list[memoryview | bytes]) -> Any:
    """Yield the pieces in slices of a size that the driver sends well."""
    for piece in pieces:
        for start in range(0, len(piece), _SLICE_BYTES):
            yield piece[start : start + _SLICE_BYTES]

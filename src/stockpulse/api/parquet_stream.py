"""A Parquet file that leaves in pieces: row group after row group, then the index of all of them.

Polars writes whole files only. Each part is written as such a file; its row groups are sent, and their descriptions
join one index, with all offsets moved to the place in the whole. The index is a Thrift structure in the compact
protocol (parquet-format: README, parquet.thrift; Thrift: thrift-compact-protocol.md).
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any, Final

import polars as pl

_MAGIC: Final = b"PAR1"
_END_BYTES: Final = 8
"""The length of the index and the magic number stand at the end."""

# Types of the compact protocol.
_TRUE, _FALSE, _BYTE, _I64, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 6, 7, 8, 9, 10, 12
_INTEGERS: Final = range(4, 7)
_LONG_LIST: Final = 15
_MOST_ORDINAL: Final = 2**15 - 1

# Fields of parquet.thrift.
_FILE_ROWS, _FILE_GROUPS = 3, 4
_GROUP_COLUMNS, _GROUP_OFFSET, _GROUP_ORDINAL = 1, 5, 7
_CHUNK_METADATA, _CHUNK_OFFSETS = 3, (2, 4, 6)
_COLUMN_OFFSETS: Final = (9, 10, 11, 14)

Value = Any
Struct = dict[int, tuple[int, Value]]
"""The fields of a structure: type and value by number."""


class ParquetStream:
    """Writes one file part by part."""

    def __init__(self, empty: pl.DataFrame) -> None:
        """`empty` has the columns of all parts."""
        _, self._file = _split(_whole_file(empty))
        self._groups: list[bytes] = []
        self._rows = 0
        self._at = len(_MAGIC)

    def head(self) -> bytes:
        """Return the bytes before the first part."""
        return _MAGIC

    def part(self, frame: pl.DataFrame) -> bytes:
        """Return the bytes of some rows: one or more row groups."""
        data, file = _split(_whole_file(frame))
        for group in file[_FILE_GROUPS][1].items:
            _move(group, self._at - len(_MAGIC))
            self._number(group)
            self._groups.append(_encoded(_STRUCT, group))
        self._rows += frame.height
        self._at += len(data)
        return data

    def tail(self) -> bytes:
        """Return the index and the end of the file."""
        fields = dict(self._file)
        fields[_FILE_ROWS] = (_I64, self._rows)
        fields[_FILE_GROUPS] = (_LIST, _Encoded(_STRUCT, self._groups))
        index = _encoded(_STRUCT, fields)
        return index + struct.pack("<I", len(index)) + _MAGIC

    def _number(self, group: Struct) -> None:
        if _GROUP_ORDINAL in group:
            kind, _ = group.pop(_GROUP_ORDINAL)
            if len(self._groups) <= _MOST_ORDINAL:  # it has 16 bits, and may be missing
                group[_GROUP_ORDINAL] = (kind, len(self._groups))


def _whole_file(frame: pl.DataFrame) -> bytes:
    buffer = BytesIO()
    frame.write_parquet(buffer)
    return buffer.getvalue()


def _split(file: bytes) -> tuple[bytes, Struct]:
    """Return the row groups of a file, and its index."""
    (index_bytes,) = struct.unpack_from("<I", file, len(file) - _END_BYTES)
    start = len(file) - _END_BYTES - index_bytes
    return file[len(_MAGIC) : start], _Decoder(file, start).value(_STRUCT)


def _move(group: Struct, distance: int) -> None:
    """Add a distance to all offsets of a row group. Offsets of 0 stay: they stand for missing ones."""
    _add(group, (_GROUP_OFFSET,), distance)
    for chunk in group[_GROUP_COLUMNS][1].items:
        _add(chunk, _CHUNK_OFFSETS, distance)
        _add(chunk[_CHUNK_METADATA][1], _COLUMN_OFFSETS, distance)


def _add(fields: Struct, numbers: Sequence[int], distance: int) -> None:
    for number in numbers:
        if number in fields and fields[number][1]:
            kind, offset = fields[number]
            fields[number] = (kind, offset + distance)


# --- the compact protocol ------------------------------------------------------------------------


@dataclass(frozen=True)
class _List:
    """A list, or a set, of values of one type."""

    kind: int
    items: list[Value]


@dataclass(frozen=True)
class _Encoded:
    """A list of values that are encoded already."""

    kind: int
    items: list[bytes]


class _Decoder:
    def __init__(self, data: bytes, at: int) -> None:
        self._data = data
        self._at = at

    def value(self, kind: int) -> Value:
        """Return the next value, of this type."""
        if kind in _INTEGERS:
            number = self._varint()
            return (number >> 1) ^ -(number & 1)
        match kind:
            case 1 | 2 | 3:  # a boolean in a list, or a byte
                return self._bytes(1)[0]
            case 7:
                return self._bytes(8)
            case 8:
                return self._bytes(self._varint())
            case 9 | 10:
                return self._list()
            case 12:
                return self._struct()
        raise ValueError(f"a value of type {kind} in the index of Parquet")

    def _struct(self) -> Struct:
        fields: Struct = {}
        number = 0
        while header := self._bytes(1)[0]:
            delta, kind = header >> 4, header & 15
            number = number + delta if delta else self.value(4)
            fields[number] = (kind, None if kind in (_TRUE, _FALSE) else self.value(kind))
        return fields

    def _list(self) -> _List:
        header = self._bytes(1)[0]
        size, kind = header >> 4, header & 15
        size = self._varint() if size == _LONG_LIST else size
        return _List(kind, [self.value(kind) for _ in range(size)])

    def _bytes(self, count: int) -> bytes:
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def _varint(self) -> int:
        number = shift = 0
        while True:
            byte = self._data[self._at]
            self._at += 1
            number |= (byte & 127) << shift
            if byte < 128:  # noqa: PLR2004
                return number
            shift += 7


def _encoded(kind: int, value: Value) -> bytes:
    """Return a value of this type as bytes."""
    if kind in _INTEGERS:
        return _varint(value << 1 if value >= 0 else (-value << 1) - 1)
    match kind:
        case 1 | 2 | 3:
            return bytes([value])
        case 7:
            return bytes(value)
        case 8:
            return _varint(len(value)) + bytes(value)
        case 9 | 10:
            return _encoded_list(value)
    return _encoded_struct(value)


def _encoded_struct(fields: Struct) -> bytes:
    pieces, before = [], 0
    for number, (kind, value) in sorted(fields.items()):
        delta = number - before
        if 0 < delta <= 15:  # noqa: PLR2004
            pieces.append(bytes([delta << 4 | kind]))
        else:
            pieces.append(bytes([kind]) + _encoded(4, number))
        pieces.append(b"" if kind in (_TRUE, _FALSE) else _encoded(kind, value))
        before = number
    return b"".join([*pieces, b"\0"])


def _encoded_list(values: _List | _Encoded) -> bytes:
    size = len(values.items)
    header = bytes([size << 4 | values.kind]) if size < _LONG_LIST else bytes([0xF0 | values.kind]) + _varint(size)
    if isinstance(values, _Encoded):
        return header + b"".join(values.items)
    return header + b"".join([_encoded(values.kind, item) for item in values.items])


def _varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:  # noqa: PLR2004
        found.append(number & 127 | 128)
        number >>= 7
    found.append(number)
    return bytes(found)

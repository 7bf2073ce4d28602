"""Arrow bodies: the claimed size is checked before anything is unpacked."""

import os
import struct
from collections.abc import Collection, Iterator
from typing import Final

import polars as pl

from stockpulse.api.limits import MAX_ROWS, MAX_UNPACKED_BYTES, too_many_bytes, too_many_rows
from stockpulse.errors import InvalidInput, TooLarge, shown

# Times in Arrow count from 1970 in UTC, whatever their time zone is. Without this, Polars panics at +05:30.
os.environ["POLARS_IGNORE_TIMEZONE_PARSE_ERROR"] = "1"
# Where Polars panics all the same, the log gets one line.
os.environ["RUST_BACKTRACE"] = "0"

_MOST_MESSAGES: Final = 10_000
_MOST_METADATA_BYTES: Final = 256 * 1024

#: The errors of Python and Polars for bytes that cannot be read.
_UNREADABLE: Final = (
    ValueError,
    struct.error,
    OSError,
    pl.exceptions.PolarsError,
    pl.exceptions.PanicException,
)

_REPEATED_TEXT_BYTES: Final = 128
_FILE: Final = b"ARROW1"
_MARKER: Final = 0xFFFFFFFF
_DICTIONARY, _BATCH = 2, 3  # kinds of messages
# The slots of Arrow's tables (format/Message.fbs, format/File.fbs).
_KIND, _HEADER, _BODY_LENGTH = 1, 2, 3  # of a message
_DICTIONARY_DATA = 1  # of a dictionary
_ROWS, _NODES, _BUFFERS, _COMPRESSION = 0, 1, 2, 3  # of a batch
_DICTIONARIES, _RECORD_BATCHES = 2, 3  # of the footer of a file


def read_arrow(body: bytes, names: Collection[str]) -> pl.DataFrame:
    """Return the rows of an Arrow stream or file. The size of text is checked in the columns of these `names`.

    Raises InvalidInput if it cannot be read, TooLarge if it is too large.
    """
    try:
        frame, most_text = _arrow_frame(body)
    except _UNREADABLE as fault:
        raise InvalidInput("body", f"not Arrow that can be read{_words(fault)}") from None
    if sum(_text_bytes(column) for column in frame if column.name in names) > most_text:
        raise too_many_bytes()
    return frame


def unpacked_bytes(body: bytes | bytearray) -> int:
    """Return the size that the columns may have when they are unpacked and written out; 0 if they cannot be read.

    Raises TooLarge if they claim too many rows or bytes.
    """
    try:
        return _written_out(*_check_batches(body, _starts(body)))
    except _UNREADABLE:
        return 0  # whoever parses it finds the same, and says so


def _written_out(rows: int, unpacked: int) -> int:
    """Return the largest size of all texts: a dictionary may repeat its texts, which are short in ticks."""
    return unpacked + rows * _REPEATED_TEXT_BYTES


def _words(fault: BaseException) -> str:
    """Return what to add to the message; the words of a panic tell a caller nothing."""
    return "" if isinstance(fault, pl.exceptions.PanicException) else f": {shown(str(fault))}"


def _arrow_frame(body: bytes) -> tuple[pl.DataFrame, int]:
    """Return the rows of an Arrow stream or file, after its metadata has shown that they are not too many.

    Returns the largest size that their texts may have, too.
    """
    most_text = min(MAX_UNPACKED_BYTES, _written_out(*_check_batches(body, _starts(body))))
    return pl.read_ipc(body) if body.startswith(_FILE) else pl.read_ipc_stream(body), most_text


def _starts(body: bytes | bytearray) -> Iterator[int]:
    return _blocks(body) if body.startswith(_FILE) else _messages(body)


class _Table:
    """A table of a FlatBuffer, the format of Arrow's metadata."""

    def __init__(self, data: bytes | bytearray, at: int) -> None:
        self._data = data
        self._at = at
        self._slots = at - self._int("<i", at)

    def integer(self, slot: int, layout: str) -> int:
        at = self._find(slot)
        return self._int(layout, at) if at else 0

    def table(self, slot: int) -> "_Table | None":
        at = self._find(slot)
        return _Table(self._data, at + self._int("<I", at)) if at else None

    def structs(self, slot: int, layout: str) -> Iterator[tuple[int, ...]]:
        at = self._find(slot)
        if not at:
            return iter(())
        start = at + self._int("<I", at)
        end = start + 4 + self._int("<I", start) * struct.calcsize(layout)
        if end > len(self._data):
            raise ValueError("metadata ends early")
        return struct.iter_unpack(layout, memoryview(self._data)[start + 4 : end])

    def _find(self, slot: int) -> int:
        """Return the position of the value, or 0 if the slot is empty."""
        offset = 4 + 2 * slot
        if offset >= self._int("<H", self._slots):
            return 0
        distance = self._int("<H", self._slots + offset)
        return self._at + distance if distance else 0

    def _int(self, layout: str, at: int) -> int:
        if at < 0:
            raise ValueError("metadata points before its start")
        return int(struct.unpack_from(layout, self._data, at)[0])


def _messages(body: bytes | bytearray) -> Iterator[int]:
    """Yield the start of each message of a stream: 0xFFFFFFFF, length of the metadata, metadata, body."""
    at = 0
    while at < len(body):
        marker, metadata_bytes = struct.unpack_from("<Ii", body, at)
        if marker != _MARKER:
            raise ValueError("a message starts with 0xFFFFFFFF")
        if metadata_bytes == 0:  # the end of the stream
            return
        yield at
        body_bytes = _message(body, at).integer(_BODY_LENGTH, "<q")
        if body_bytes < 0:
            raise ValueError("a message of negative length")
        at += 8 + metadata_bytes + body_bytes


def _blocks(body: bytes | bytearray) -> Iterator[int]:
    """Yield the start of each message of a file, from its footer."""
    (footer_bytes,) = struct.unpack_from("<i", body, len(body) - 10)
    start = len(body) - 10 - footer_bytes
    if not 0 <= start < len(body):
        raise ValueError("the footer is not where the end says")
    footer = _Table(body[start:-10], struct.unpack_from("<I", body, start)[0])
    for slot in (_DICTIONARIES, _RECORD_BATCHES):
        for offset, _, _ in footer.structs(slot, "<qi4xq"):
            if not 0 <= offset < len(body):
                raise ValueError("the footer points outside of the file")
            yield offset


def _message(body: bytes | bytearray, at: int) -> _Table:
    marker, metadata_bytes = struct.unpack_from("<Ii", body, at)
    if marker != _MARKER or not 0 < metadata_bytes <= len(body) - at - 8:
        raise ValueError("not a message")
    if metadata_bytes > _MOST_METADATA_BYTES:
        raise TooLarge("the metadata of a message is too long: send fewer columns")
    metadata = body[at + 8 : at + 8 + metadata_bytes]
    return _Table(metadata, struct.unpack_from("<I", metadata)[0])


def _check_batches(body: bytes | bytearray, starts: Iterator[int]) -> tuple[int, int]:
    """Return the numbers of rows and of unpacked bytes that the batches claim. Raises TooLarge.

    A small compressed body can claim any size.
    """
    rows = unpacked = 0
    for count, start in enumerate(starts):
        message = _message(body, start)
        kind, header = message.integer(_KIND, "<B"), message.table(_HEADER)
        batch = header.table(_DICTIONARY_DATA) if header and kind == _DICTIONARY else header
        if batch is not None and kind in (_DICTIONARY, _BATCH):
            rows += batch.integer(_ROWS, "<q") if kind == _BATCH else 0
            metadata_bytes = struct.unpack_from("<i", body, start + 4)[0]
            unpacked += _unpacked_bytes(batch, body, start + 8 + metadata_bytes)
        if rows > MAX_ROWS or count > _MOST_MESSAGES:
            raise too_many_rows()
        if unpacked > MAX_UNPACKED_BYTES:
            raise too_many_bytes()
    return rows, unpacked


def _unpacked_bytes(batch: _Table, body: bytes | bytearray, start: int) -> int:
    total = 0
    compressed = batch.table(_COMPRESSION) is not None
    for offset, size in batch.structs(_BUFFERS, "<qq"):
        if offset < 0 or size < 0 or start + offset + size > len(body):
            raise ValueError("a buffer is outside of its message")
        claimed = struct.unpack_from("<q", body, start + offset)[0] if compressed and size else -1
        total += size if claimed == -1 else claimed  # -1: not compressed
        if claimed < -1:
            raise ValueError("a buffer of negative length")
    for length, _ in batch.structs(_NODES, "<qq"):
        if not 0 <= length <= MAX_UNPACKED_BYTES:
            raise ValueError("a column of impossible length")
    return total


def _text_bytes(column: pl.Series) -> int:
    """Return the bytes of a column's text once written out: a dictionary can repeat one long entry."""
    while isinstance(column.dtype, pl.List):
        column = column.explode()
    if column.dtype in (pl.Categorical, pl.Enum):
        column = column.cast(pl.String)
    return int(column.str.len_bytes().sum()) if column.dtype == pl.String else 0

"""The body of a request with ticks or corrections as a frame: JSON, one JSON object a line, or Arrow."""

import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import orjson
import polars as pl

from stockpulse.api.arrow_body import read_arrow, unpacked_bytes
from stockpulse.api.limits import MAX_ROWS, too_many_rows
from stockpulse.errors import InvalidInput, shown
from stockpulse.market.rows import TICK_FIELDS, Field, Sent, as_json, assemble, sent_columns, sent_objects

_JSON: Final = ("application/json", "")
_JSON_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_ARROW: Final = ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file")

#: A text, or a word for a float that JSON does not have. A text without an end goes to the end of the body.
_NO_NUMBER: Final = re.compile(rb'(?P<text>"(?:[^"\\]|\\.)*+(?:"|\Z))|(?P<number>-?Infinity|NaN)', re.DOTALL)
_FLOATS: Final = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_MARKS: Final = tuple({name: None} for name in _FLOATS)

_TEXT_COPIES: Final = 5
"""The body, its texts as Python has them, as columns, and as the originals of rejected rows."""
_CONTAINER_BYTES: Final = 250
_VALUE_BYTES: Final = 60
_ARROW_COPIES: Final = 6
"""The unpacked columns, and what is made of them; all of their text becomes the originals of rejected rows."""

Body = bytes | bytearray


def parse_ticks(body: Body, content_type: str, fields: Sequence[Field] = TICK_FIELDS) -> pl.DataFrame:
    """Return the rows of a request in the order sent: the columns of the fields, `problem` and `raw`.

    Raises InvalidInput if the body as a whole cannot be read, TooLarge if it has too many rows.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _JSON:
        return assemble(_read_json(body), fields)
    if media_type in _JSON_LINES:
        return assemble(_read_json_lines(body), fields)
    if media_type in _ARROW:
        names = frozenset(name for field in fields for name in field.names)
        frame = read_arrow(bytes(body), names)
        sent = sent_columns(frame.select(name for name in frame.columns if name in names), frame.height)
        return assemble(sent, fields)
    takes = ", ".join((_JSON[0], _JSON_LINES[0], _ARROW[0]))
    raise InvalidInput("Content-Type", f"got {shown(media_type)}; takes {takes}")


def bytes_to_parse(body: Body, content_type: str) -> int:
    """Return the memory that parsing this body takes, the body included."""
    if content_type.partition(";")[0].strip().lower() in _ARROW:
        return len(body) + _ARROW_COPIES * unpacked_bytes(body)
    containers, values = _counted(body)
    return _TEXT_COPIES * len(body) + _CONTAINER_BYTES * containers + _VALUE_BYTES * values


# --- the three ways to send rows ---------------------------------------------------------------


def _read_json(body: Body) -> Sent:
    _check_amount(body)
    rows, write = _loaded(body)
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise InvalidInput("body", f"takes an array of objects; got {shown(rows)}")
    if len(rows) > MAX_ROWS:
        raise too_many_rows()
    broken = {at: f"not an object: {shown(row)}" for at, row in enumerate(rows) if type(row) is not dict}
    return sent_objects(rows, broken, lambda at: (write(rows[row]) for row in at))


def _loaded(body: Body) -> tuple[Any, Callable[[object], bytes]]:
    """Return the values of JSON, and a function that writes one as it was sent. Raises InvalidInput.

    NaN and Infinity are not JSON, but many programs write them. They become floats, so that only their rows are wrong.
    """
    try:
        return orjson.loads(body), as_json
    except ValueError as fault:
        why = fault
    if not any(word in body for word in (b"NaN", b"Infinity")):  # the pattern takes a second for 60 MB
        raise InvalidInput("body", f"not JSON: {why}")
    marked = _NO_NUMBER.sub(lambda found: found["text"] or b'{"%s":null}' % found["number"], body)
    try:
        rows = orjson.loads(marked)
    except ValueError:
        raise InvalidInput("body", f"not JSON: {why}") from None  # its position is that in the body
    rows = [_unmarked(row) for row in rows] if isinstance(rows, list) else _unmarked(rows)
    for row in rows if isinstance(rows, list) else [rows]:
        if isinstance(row, dict):
            row.update({name: _unmarked(value) for name, value in row.items()})
    return rows, lambda row: json.dumps(row, ensure_ascii=False).encode()


def _unmarked(value: object) -> object:
    """Return the float that a mark stands for; any other value is returned as it is."""
    return _FLOATS[next(iter(value))] if isinstance(value, dict) and value in _MARKS else value


def _read_json_lines(body: Body) -> Sent:
    _check_amount(body)
    lines = [line for line in body.splitlines() if line.strip()]
    if len(lines) > MAX_ROWS:
        raise too_many_rows()
    rows, broken = [], {}
    for at, line in enumerate(lines):
        try:
            row = orjson.loads(line)
        except ValueError as fault:
            row, broken[at] = None, f"not JSON: {fault}"
        if type(row) is not dict:
            broken.setdefault(at, f"not an object: {shown(row)}")
        rows.append(row)
    return sent_objects(rows, broken, lambda at: (bytes(lines[row]) for row in at))


def _check_amount(body: Body) -> None:
    """Count the characters that make objects: 64 MB of text can become 3 GB of them. Raises TooLarge."""
    containers, values = _counted(body)
    if containers > 10 * MAX_ROWS or values > 50 * MAX_ROWS:
        raise too_many_rows()


def _counted(body: Body) -> tuple[int, int]:
    """Return the approximate numbers of objects and lists, and of values, in JSON."""
    return body.count(b"{") + body.count(b"["), body.count(b",") + body.count(b"\n")

"""The body of `POST /ticks` as a frame: JSON, one JSON object a line, or Arrow."""

from typing import Final

import orjson
import polars as pl

from stockpulse.api.arrow_body import read_arrow
from stockpulse.api.limits import MAX_ROWS, too_many_rows
from stockpulse.errors import InvalidInput, shown
from stockpulse.market.rows import PARSED_TICKS, TICK_FIELDS, Sent, as_json, assemble, sent_columns, sent_objects

_JSON: Final = ("application/json", "")
_JSON_LINES: Final = ("application/x-ndjson", "application/ndjson", "application/jsonl")
_ARROW: Final = ("application/vnd.apache.arrow.stream", "application/vnd.apache.arrow.file")

_NAMES: Final = frozenset(name for field in TICK_FIELDS for name in field.names)


def parse_ticks(body: bytes, content_type: str) -> pl.DataFrame:
    """Return the ticks of a request in the order sent, as `PARSED_TICKS`.

    Raises InvalidInput if the body as a whole cannot be read, TooLarge if it has too many rows.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type in _JSON:
        return _assembled(_read_json(body))
    if media_type in _JSON_LINES:
        return _assembled(_read_json_lines(body))
    if media_type in _ARROW:
        return _assembled(_read_columns(read_arrow(body, _NAMES)))
    takes = ", ".join((_JSON[0], _JSON_LINES[0], _ARROW[0]))
    raise InvalidInput("Content-Type", f"got {shown(media_type)}; takes {takes}")


def _assembled(sent: Sent) -> pl.DataFrame:
    return assemble(sent, TICK_FIELDS).select(list(PARSED_TICKS))


# --- the three ways to send rows ---------------------------------------------------------------


def _read_json(body: bytes) -> Sent:
    _check_amount(body)
    try:
        rows = orjson.loads(body)
    except ValueError as fault:
        raise InvalidInput("body", f"not JSON: {fault}") from None
    rows = [rows] if isinstance(rows, dict) else rows
    if not isinstance(rows, list):
        raise InvalidInput("body", f"takes an array of objects; got {shown(rows)}")
    if len(rows) > MAX_ROWS:
        raise too_many_rows()
    broken = {at: f"not an object: {shown(row)}" for at, row in enumerate(rows) if type(row) is not dict}
    return sent_objects(rows, broken, lambda at: (as_json(rows[row]) for row in at))


def _read_json_lines(body: bytes) -> Sent:
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
    return sent_objects(rows, broken, lambda at: (lines[row] for row in at))


def _check_amount(body: bytes) -> None:
    """Count the characters that make objects: 64 MB of text can become 3 GB of them. Raises TooLarge."""
    containers = body.count(b"{") + body.count(b"[")
    values = body.count(b",") + body.count(b"\n")
    if containers > 10 * MAX_ROWS or values > 50 * MAX_ROWS:
        raise too_many_rows()


def _read_columns(frame: pl.DataFrame) -> Sent:
    return sent_columns(frame.select(name for name in frame.columns if name in _NAMES), frame.height)

"""Alpaca's trades and bars as frames: from the replies of REST, and from the messages of the stream.

Alpaca names fields by letters. A trade is {t, x, p, s, c, i, z}, a bar is {t, o, h, l, c, v, n, vw}; messages of the
stream have the symbol as `S` and their type as `T`. A value that cannot be read sets the `problem` of its row.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import polars as pl

from stockpulse.market.columns import CODES, IDENTIFIER, NUMBER, TEXT, TIME, WHOLE
from stockpulse.market.rows import Field, Sent, assemble
from stockpulse.providers.faults import BadReply
from stockpulse.providers.reply_rows import CLOSE, HIGH, LOW, OPEN, as_bars, as_corrections, as_ticks, read_objects

_SYMBOL: Final = Field("symbol", TEXT, required=True, also=("S",))
_TIME: Final = Field("ts", TIME, required=True, also=("t",))
_TRADE_FIELDS: Final = (
    _SYMBOL,
    _TIME,
    Field("price", NUMBER, required=True, also=("p",)),
    Field("size", NUMBER, required=True, also=("s",)),
    Field("exchange", TEXT, also=("x",)),
    Field("trade_id", IDENTIFIER, also=("i",)),
    Field("tape", TEXT, also=("z",)),
    Field("conditions", CODES, also=("c",)),
)
_BAR_FIELDS: Final = (
    _SYMBOL,
    _TIME,
    *(OPEN, HIGH, LOW, CLOSE),
    Field("volume", NUMBER, required=True, also=("v",)),
    Field("trade_count", WHOLE, also=("n",)),
    Field("vwap", NUMBER, also=("vw",)),
)
#: Messages `c`: the wrong trade has o, the right one c before the letter. Messages `x` name the cancelled trade.
_CORRECTION_FIELDS: Final = (
    _SYMBOL,
    _TIME,
    Field("exchange", TEXT, also=("x",)),
    Field("trade_id", IDENTIFIER, required=True, also=("oi",)),
    Field("price", NUMBER, required=True, also=("cp",)),
    Field("size", NUMBER, required=True, also=("cs",)),
    Field("conditions", CODES, also=("cc",)),
    Field("tape", TEXT, also=("z",)),
    Field("new_trade_id", IDENTIFIER, also=("ci",)),
)
_CANCEL_FIELDS: Final = (
    _SYMBOL,
    _TIME,
    Field("exchange", TEXT, also=("x",)),
    Field("trade_id", IDENTIFIER, required=True, also=("i",)),
)
_TAKEN_BACK: Final = ("canceled", "incorrect")
"""The values of `u` for a trade that does not count; a "corrected" one is the right trade."""
_INTERVAL_OF_MESSAGE: Final = {"b": "1m", "u": "1m", "d": "1d"}
_FRAME_OF_MESSAGE: Final = {"t": "ticks", "c": "corrections", "x": "corrections", "b": "bars", "u": "bars", "d": "bars"}
_INTERVAL_IN_SNAPSHOT: Final = {"minuteBar": "1m", "prevDailyBar": "1d", "dailyBar": "1d"}

Row = dict[str, Any]


def ticks_of(rows: Sequence[Any]) -> pl.DataFrame:
    """Return trades as TICKS, with `problem` and `raw` if one of them cannot be read."""
    return as_ticks(read_objects(rows, _TRADE_FIELDS))


def bars_of(rows: Sequence[Any], intervals: Sequence[str]) -> pl.DataFrame:
    """Return bars of these intervals as BARS, with `problem` and `raw` if one of them cannot be read."""
    frame = read_objects(rows, _BAR_FIELDS)
    vwap = pl.when(pl.col("vwap") != 0).then("vwap")  # a bar without volume has 0
    return as_bars(frame.with_columns(vwap, interval=pl.Series(intervals, dtype=pl.String)))


def corrections_of(messages: Sequence[Row]) -> pl.DataFrame:
    """Return messages `c` and `x` as CORRECTIONS, with `problem` and `raw` if one of them cannot be read.

    They keep their order: a right trade may be cancelled in its turn.
    """
    parts = []
    for kind, fields in (("c", _CORRECTION_FIELDS), ("x", _CANCEL_FIELDS)):
        at = [row for row, message in enumerate(messages) if message["T"] == kind]
        if at:
            read = read_objects([messages[row] for row in at], fields)
            parts.append(read.with_columns(order=pl.Series(at, dtype=pl.Int64)))
    return as_corrections(pl.concat(parts, how="diagonal").sort("order"))


def trades_in(reply: Any) -> list[Any]:
    """Return the trades of a reply, each with its symbol as `S`, without those that were taken back."""
    rows = _rows_in(reply, "trade")
    return [row for row in rows if not (isinstance(row, dict) and row.get("u") in _TAKEN_BACK)]


def cancels_in(reply: Any) -> list[Row]:
    """Return the trades of a reply that were taken back and not replaced, as messages `x` of the stream.

    A right trade may have the id of the wrong one: a cancel of this id would take back the right trade too.
    """
    rows = [row for row in _rows_in(reply, "trade") if isinstance(row, dict)]
    replaced = {(row["S"], row.get("i")) for row in rows if row.get("u") == "corrected"}
    gone = (row for row in rows if row.get("u") in _TAKEN_BACK and (row["S"], row.get("i")) not in replaced)
    return [{**row, "T": "x"} for row in gone]


def bars_in(reply: Any, interval: str) -> pl.DataFrame:
    """Return the bars of a reply, which are of one interval."""
    rows = _rows_in(reply, "bar")
    return bars_of(rows, [interval] * len(rows))


def bars_in_snapshots(reply: Any) -> pl.DataFrame:
    """Return the newest minute bar, the running day and the day before of each symbol in a reply of snapshots."""
    if not isinstance(reply, dict):
        raise BadReply("alpaca: the snapshots are no object")
    found = [
        ({**bar, "S": symbol}, interval)
        for symbol, snapshot in _snapshots(reply)
        for name, interval in _INTERVAL_IN_SNAPSHOT.items()
        if isinstance(bar := snapshot.get(name), dict)
    ]
    return bars_of([row for row, _ in found], [interval for _, interval in found])


def frames_of(messages: Iterable[Row]) -> Iterator[pl.DataFrame]:
    """Yield the data among messages of the stream as frames of TICKS, CORRECTIONS and BARS.

    Trades come before the corrections that may be of them. Messages of other types are left out.
    """
    of_type: dict[str, list[Row]] = {}
    for message in messages:
        kind = str(message.get("T"))
        of_type.setdefault(_FRAME_OF_MESSAGE.get(kind, ""), []).append(message)
    if ticks := of_type.get("ticks"):
        yield ticks_of(ticks)
    if corrections := of_type.get("corrections"):
        yield corrections_of(corrections)
    if bars := of_type.get("bars"):
        yield bars_of(bars, [_INTERVAL_OF_MESSAGE[message["T"]] for message in bars])


def unreadable(raw: str, reason: str) -> pl.DataFrame:
    """Return a message that is no message of the protocol as a tick with a problem: it becomes a dead letter."""
    sent = Sent(1, lambda names: [[None] for _ in names], lambda _at: [raw.encode()], {0: reason})
    return as_ticks(assemble(sent, _TRADE_FIELDS))


def _snapshots(reply: Row) -> Iterator[tuple[str, Row]]:
    """Yield symbols and snapshots, of a flat map or of the reply for a single symbol."""
    if isinstance(reply.get("symbol"), str):
        reply = {reply["symbol"]: reply}
    elif isinstance(reply.get("snapshots"), dict):
        reply = reply["snapshots"]
    for symbol, snapshot in reply.items():
        if isinstance(snapshot, dict):  # null: no such symbol
            yield symbol, snapshot


def _rows_in(reply: Any, name: str) -> list[Any]:
    """Return the rows of a reply: of several symbols or one, lists or the latest of each; null and {} are empty."""
    if not isinstance(reply, dict):
        raise BadReply(f"alpaca: a reply with {name}s is no object")
    content = reply.get(f"{name}s", reply.get(name))
    if isinstance(symbol := reply.get("symbol"), str):
        content = {symbol: content}
    if not content:
        return []
    if not isinstance(content, dict):
        raise BadReply(f"alpaca: the {name}s of a reply are no object")
    rows: list[Any] = []
    for symbol, of_symbol in content.items():
        for row in of_symbol if isinstance(of_symbol, list) else [of_symbol]:
            if isinstance(row, dict):
                row["S"] = symbol
            if row is not None:
                rows.append(row)
    return rows

"""Alpha Vantage's replies as frames.

All values are texts. Keys are numbered differently in each reply ("5. volume", "6. volume"), so their ends are matched.
Rows come newest first. Times are in US/Eastern without saying so, for listings in London too. A value that cannot be
read becomes null, and ingest rejects the row with a reason.
"""

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

import orjson
import polars as pl

from stockpulse.errors import shown
from stockpulse.market.intervals import MINUTES_OF
from stockpulse.market.schemas import BARS, TICKS, UTC_MICROS
from stockpulse.providers.faults import BadReply, UnknownSymbol
from stockpulse.providers.trade_conditions import PRICE_ONLY

EASTERN: Final = ZoneInfo("America/New_York")
_PRICES: Final = ("open", "high", "low", "close", "volume")
_CSV_NAMES: Final = {"latestDay": "latest trading day", "latestday": "latest trading day"}


def bars_of(body: bytes, symbol: str, interval: str, *, end_labels: bool = False) -> pl.DataFrame:
    """Return the series of a reply as BARS, ascending; empty if it has no rows.

    With `end_labels` the times of intraday rows are the ends of their buckets. Raises BadReply.
    """
    times, columns = _series(body)
    ts = _utc(_read(times, "%Y-%m-%d" if interval == "1d" else "%Y-%m-%d %H:%M:%S"))
    if end_labels and interval != "1d":
        ts -= timedelta(minutes=MINUTES_OF[interval])
    frame = pl.DataFrame({"ts": ts, **{name: _numbers(columns[name]) for name in _PRICES}})
    return _filled(frame.with_columns(symbol=pl.lit(symbol), interval=pl.lit(interval)).sort("ts"), BARS)


def quote_of(body: bytes, symbol: str) -> tuple[float, str]:
    """Return the price of a quote and its trading day, "2026-07-14". Raises UnknownSymbol or BadReply."""
    quote = _quote(body)
    if not quote:
        raise UnknownSymbol(f"alpha_vantage has no quote of {symbol}", symbol)
    price, day = _number(_ending(quote, "price")), _ending(quote, "latest trading day")
    if price is None or not isinstance(day, str):
        raise BadReply(f"alpha_vantage: the quote of {symbol} has no price or no day: {shown(quote)}")
    return price, day


def bulk_quotes_of(body: bytes) -> pl.DataFrame:
    """Return the prices of a bulk quote as TICKS without a size. Raises BadReply."""
    content = _json(body)
    rows = content.get("data") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise BadReply(f"alpha_vantage: a bulk quote without data: {_beginning(body)}")
    frame = pl.DataFrame(
        {
            "symbol": _texts(row.get("symbol") for row in rows),
            "ts": _utc(_read(_texts(row.get("timestamp") for row in rows), "%Y-%m-%d %H:%M:%S%.f")),
            "price": _numbers(_texts(row.get("close") for row in rows)),
        }
    )
    return _filled(frame.drop_nulls().with_columns(size=0.0, conditions=pl.lit(PRICE_ONLY)), TICKS)


def number_of_percent(text: str) -> float | None:
    """Return the number of a text such as "0.4008%", with or without the sign; None if it is not one."""
    return _number(text.removesuffix("%"))


# Parsing ----------------------------------------------------------------------------------------


def _series(body: bytes) -> tuple[pl.Series, dict[str, pl.Series]]:
    """Return the times of a series and its columns, as texts."""
    if body.lstrip()[:1] not in (b"{", b"["):
        return _csv_series(body)
    content = _json(body)
    for name, rows in content.items() if isinstance(content, dict) else ():
        if isinstance(rows, dict) and "time series" in name.lower():
            return _json_series(rows, body)
    raise BadReply(f"alpha_vantage: a reply without a series: {_beginning(body)}")


def _json_series(rows: Mapping[str, Any], body: bytes) -> tuple[pl.Series, dict[str, pl.Series]]:
    if not all(isinstance(row, dict) for row in rows.values()):
        raise BadReply(f"alpha_vantage: a series with rows that are no objects: {_beginning(body)}")
    first: Mapping[str, Any] = next(iter(rows.values()), {})
    keys = {name: next((key for key in first if _ends(key, name)), name) for name in _PRICES}
    columns = {name: _texts(row.get(key) for row in rows.values()) for name, key in keys.items()}
    return pl.Series(list(rows), dtype=pl.String), columns


def _csv_series(body: bytes) -> tuple[pl.Series, dict[str, pl.Series]]:
    frame = _csv(body)
    if not {"timestamp", *_PRICES} <= set(frame.columns):
        raise BadReply(f"alpha_vantage: a table without the columns of a series: {_beginning(body)}")
    return frame["timestamp"], {name: frame[name] for name in _PRICES}


def _quote(body: bytes) -> Mapping[str, Any]:
    if body.lstrip()[:1] not in (b"{", b"["):
        rows = _csv(body).to_dicts()
        return {_CSV_NAMES.get(name, name): value for name, value in rows[0].items()} if rows else {}
    content = _json(body)
    for name, quote in content.items() if isinstance(content, dict) else ():
        if name.lower().startswith("global quote") and isinstance(quote, dict):
            return quote
    raise BadReply(f"alpha_vantage: a reply without a quote: {_beginning(body)}")


def _json(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        raise BadReply(f"alpha_vantage: the reply is no JSON: {_beginning(body)}") from None


def _csv(body: bytes) -> pl.DataFrame:
    try:
        return pl.read_csv(io.BytesIO(body), infer_schema=False)
    except pl.exceptions.PolarsError:
        raise BadReply(f"alpha_vantage: the reply is no table: {_beginning(body)}") from None


def _beginning(body: bytes) -> str:
    return shown(body[:400].decode(errors="replace"))


def _ending(fields: Mapping[str, Any], name: str) -> Any:
    return next((value for key, value in fields.items() if _ends(key, name)), None)


def _ends(key: str, name: str) -> bool:
    """Return True for the name itself, and for the name with a number: "05. price"."""
    return key == name or key.endswith(f". {name}")


# Values -----------------------------------------------------------------------------------------


def _texts(values: Iterable[Any]) -> pl.Series:
    """Return texts, also of numbers that came as such; null for anything else."""
    texts: Sequence[str | None] = [
        value if isinstance(value, str) else repr(value) if type(value) in (int, float) else None for value in values
    ]
    return pl.Series(texts, dtype=pl.String)


def _numbers(texts: pl.Series) -> pl.Series:
    """Return the number that is nearest to each text; null for "None", "-" and the like."""
    return texts.str.strip_chars().cast(pl.Float64, strict=False)


def _number(text: Any) -> float | None:
    number: float | None = _numbers(_texts([text]))[0]
    return number


def _read(texts: pl.Series, pattern: str) -> pl.Series:
    return texts.str.strptime(pl.Datetime("us"), pattern, strict=False)


def _utc(naive: pl.Series) -> pl.Series:
    """Return the instants of clock times of New York; null for those that the clock skips in spring."""
    zoned = naive.dt.replace_time_zone(EASTERN.key, ambiguous="earliest", non_existent="null")
    return zoned.dt.convert_time_zone("UTC").cast(UTC_MICROS)


def _filled(frame: pl.DataFrame, schema: pl.Schema) -> pl.DataFrame:
    """Return the frame with all columns of a schema, null where it has none."""
    return pl.concat([schema.to_frame(), frame], how="diagonal")

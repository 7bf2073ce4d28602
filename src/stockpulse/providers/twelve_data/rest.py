"""Requests for bars and quotes. A request costs a credit for each symbol, whether they are asked for one by one or not.

A reply has at most 5,000 bars of a symbol, counted back from the end of the range. If it is full, the next request
ends at the earliest bar of the reply.
"""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import polars as pl

from stockpulse.market.schemas import TICKS
from stockpulse.providers.faults import (
    BadRequest,
    NotEntitled,
    ProviderFault,
    QuotaUsedUp,
    RateLimited,
    UnknownSymbol,
)
from stockpulse.providers.refusals import Refusals
from stockpulse.providers.transport.rest_client import Reply, RestClient
from stockpulse.providers.twelve_data.replies import INTERVALS, Series, parts_of, quote_of, series_of

ROWS: Final = 5_000
"""The most bars of a symbol in one reply."""
BATCH: Final = 8
"""The most symbols of a request: the credits of a minute on the free plan."""
#: The longest range of a request: sessions of 6.5 hours fill it nearly, and days of 24 hours need further pages.
WINDOWS: Final = {"1m": timedelta(days=17), "5m": timedelta(days=88), "1d": timedelta(days=7_000)}
_DAY: Final = timedelta(days=1)
_SECOND: Final = timedelta(seconds=1)


async def history(
    client: RestClient,
    symbols: Sequence[str],
    interval: str,
    start: datetime,
    end: datetime,
    batch: int,
    refusals: Refusals,
) -> AsyncIterator[pl.DataFrame]:
    """Yield the bars of each symbol with start <= ts < end.

    The fault of a symbol is raised in its turn: the bars before it are complete. A symbol that was refused lately is
    not asked for.
    """
    known = next((at for at, symbol in enumerate(symbols) if refusals.of((symbol, interval))), len(symbols))
    windows = list(_windows(interval, start, end))
    try:
        for group in _groups(symbols[:known], batch if len(windows) == 1 else 1):
            for window in windows:
                for symbol, series in (await _series(client, group, interval, *window)).items():
                    bars = await _whole(client, symbol, interval, window, series)
                    if len(bars):
                        yield bars.with_columns(pl.col("volume").fill_null(0.0))  # the log has no unknown volume
    except (NotEntitled, UnknownSymbol) as fault:
        refusals.add((fault.symbol, interval), fault)
        raise
    if known < len(symbols) and (refusal := refusals.of((symbols[known], interval))) is not None:
        raise refusal


async def latest(client: RestClient, symbols: Sequence[str], batch: int) -> pl.DataFrame:
    """Return the latest prices as TICKS.

    Raises the fault of a symbol that is refused for good, and any other fault if there is no price at all.
    """
    frames = [TICKS.to_frame()]
    fault = None
    for group in _groups(symbols, batch):
        reply = await _get(client, "/quote", {}, group, urgent=True)
        for symbol, part in parts_of(reply.json(), group).items():
            found = quote_of(part, symbol, reply.received_at)
            if isinstance(found, BadRequest | NotEntitled):
                raise found
            if isinstance(found, ProviderFault):
                fault = fault or found
                await _heed(client, found, reply.received_at)
            else:
                frames.append(found)
    prices = pl.concat(frames)
    if fault is not None and not len(prices):
        raise fault
    return prices


def _windows(interval: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, datetime]]:
    start, end = start.astimezone(UTC), end.astimezone(UTC)
    while start < end:
        until = min(start + WINDOWS[interval], end)
        yield start, until
        start = until


def _groups(symbols: Sequence[str], most: int) -> Iterator[list[str]]:
    distinct = list(dict.fromkeys(symbols))
    return (distinct[first : first + most] for first in range(0, len(distinct), most))


async def _series(
    client: RestClient, symbols: Sequence[str], interval: str, start: datetime, end: datetime
) -> dict[str, Series | ProviderFault]:
    params = {
        "interval": INTERVALS[interval][0],
        "timezone": "UTC",
        "adjust": "none",
        "outputsize": str(ROWS),
        **_range(interval, start, end),
    }
    reply = await _get(client, "/time_series", params, symbols)
    parts = parts_of(reply.json(), symbols)
    found = {symbol: series_of(part, symbol, interval, reply.received_at) for symbol, part in parts.items()}
    for series in found.values():
        await _heed(client, series, reply.received_at)
    return found


async def _get(
    client: RestClient, path: str, params: Mapping[str, str], symbols: Sequence[str], *, urgent: bool = False
) -> Reply:
    """Return the reply of a request for some symbols. The fault of a request for one symbol names it."""
    try:
        return await client.get(path, {"symbol": ",".join(symbols), **params}, cost=len(symbols), urgent=urgent)
    except (BadRequest, NotEntitled) as fault:
        fault.symbol = symbols[0] if len(symbols) == 1 else fault.symbol
        raise


async def _heed(client: RestClient, found: object, at: datetime) -> None:
    """Hold requests back if a part of a batch says that the credits of the minute or of the day are used up."""
    if isinstance(found, QuotaUsedUp) and client.limit.quota is not None:
        await client.limit.quota.exhaust()
    elif isinstance(found, RateLimited) and not isinstance(found, QuotaUsedUp) and found.until is not None:
        client.limit.pause((found.until - at).total_seconds())


def _range(interval: str, start: datetime, end: datetime) -> dict[str, str]:
    """Return the range of a request, which may be wider: it is unknown whether its ends are included.

    Daily bars have dates of the exchange, which begin up to 14 hours before or 12 hours after those of UTC.
    """
    if interval == "1d":
        return {"start_date": f"{start - _DAY:%Y-%m-%d}", "end_date": f"{end + 2 * _DAY:%Y-%m-%d}"}
    return {"start_date": f"{start:%Y-%m-%dT%H:%M:%S}", "end_date": f"{end - _SECOND:%Y-%m-%dT%H:%M:%S}"}


async def _whole(
    client: RestClient,
    symbol: str,
    interval: str,
    window: tuple[datetime, datetime],
    series: Series | ProviderFault,
) -> pl.DataFrame:
    """Return all bars of a window, from its last page and, while a page is full, from the pages before it.

    Rows without a readable time come first. Raises the fault of a page.
    """
    if isinstance(series, ProviderFault):
        raise series
    start, end = window
    pages = [series.bars]
    while series.rows >= ROWS and (earliest := series.earliest) is not None and earliest > start:
        found = (await _series(client, [symbol], interval, start, earliest + INTERVALS[interval][1]))[symbol]
        if isinstance(found, ProviderFault):
            raise found
        if found.earliest is None or found.earliest >= earliest:
            break
        series = found
        pages.append(series.bars)
    bars = pl.concat(pages, how="diagonal") if len(pages) > 1 else pages[0]
    inside = bars.filter(pl.col("ts").is_between(start, end, closed="left").fill_null(value=True))
    once = pl.col("ts").is_first_distinct() | pl.col("ts").is_null()  # a page begins with a bar of the one before
    return inside.filter(once).sort("ts")

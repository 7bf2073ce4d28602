"""The provider `alpha_vantage`."""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time, timedelta
from typing import Final

import polars as pl

from stockpulse.errors import InvalidInput, shown
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.schemas import TICKS
from stockpulse.market.times import from_micros, micros
from stockpulse.providers.alpha_vantage.faults import read_fault
from stockpulse.providers.alpha_vantage.kept_series import KeptSeries
from stockpulse.providers.alpha_vantage.replies import EASTERN, bars_of, bulk_quotes_of, quote_of
from stockpulse.providers.base import (
    Capabilities,
    History,
    Option,
    ProviderBase,
    ProviderConfig,
    ProviderEntry,
)
from stockpulse.providers.faults import BadReply, NotEntitled
from stockpulse.providers.option_values import address, choice, whole_number
from stockpulse.providers.trade_conditions import PRICE_ONLY, prices_and_trades
from stockpulse.providers.transport.rate_limit import Window
from stockpulse.providers.transport.rest_client import Dialect

NAME: Final = "alpha_vantage"
FREE_PER_DAY: Final = 25
COMPACT_ROWS: Final = 100
COMPACT_DAYS: Final = 139
"""The 100 newest daily bars go back at least this many days."""
_FREE_DEPTH: Final = timedelta(days=130)
"""The depth of daily bars on the free plan: some days less than that, so that a range of this length is always free."""
BULK_SYMBOLS: Final = 100
_ATTEMPTS: Final = 2
_DELAYS: Final = {"": 0.0, "delayed": 900.0, "realtime": 0.0}
_USUAL_CLOSE: Final = time(16)

KEY: Final = Option(
    "key",
    ("STOCKPULSE_ALPHA_VANTAGE_KEY", "ALPHA_VANTAGE_API_KEY"),
    "The key of Alpha Vantage; there are free ones at alphavantage.co.",
    secret=True,
)
URL: Final = Option(
    "url", ("STOCKPULSE_ALPHA_VANTAGE_URL",), "The address of its API.", default="https://www.alphavantage.co"
)
PER_DAY: Final = Option(
    "per_day",
    ("STOCKPULSE_ALPHA_VANTAGE_PER_DAY",),
    "Requests per day of the plan; 0 for no limit, which is a paid plan with all its data.",
    default=str(FREE_PER_DAY),
)
PER_MINUTE: Final = Option(
    "per_minute", ("STOCKPULSE_ALPHA_VANTAGE_PER_MINUTE",), "Requests per minute of the plan.", default="50"
)
ENTITLEMENT: Final = Option(
    "entitlement",
    ("STOCKPULSE_ALPHA_VANTAGE_ENTITLEMENT",),
    "`delayed` or `realtime`, if the plan has it; empty for the data of the evening.",
    default="",
)
LABEL: Final = Option(
    "label",
    ("STOCKPULSE_ALPHA_VANTAGE_LABEL",),
    "The meaning of an intraday bar's time: `start` or `end` of its bucket.",
    default="start",
)
OPTIONS: Final = (KEY, URL, PER_DAY, PER_MINUTE, ENTITLEMENT, LABEL)


@dataclass(frozen=True)
class Plan:
    """The parts of the settings that depend on the user's plan."""

    per_day: int | None
    per_minute: int
    entitlement: str
    end_labels: bool

    @staticmethod
    def of(options: Mapping[str, str]) -> "Plan":
        """Read the plan from the options. Raises InvalidInput."""
        return Plan(
            whole_number(PER_DAY, options, least=0) or None,
            whole_number(PER_MINUTE, options, least=1),
            choice(ENTITLEMENT, options, ("", "delayed", "realtime")),
            choice(LABEL, options, ("start", "end")) == "end",
        )

    @property
    def capabilities(self) -> Capabilities:
        """The data on this plan: paid plans have no limit per day."""
        if self.per_day is not None:
            return FREE
        return replace(PAID, latest_symbols=BULK_SYMBOLS) if self.entitlement == "realtime" else PAID

    @property
    def windows(self) -> list[Window]:
        """The limits on the pace: one by one, or at most five a second."""
        if self.per_minute <= 60:  # noqa: PLR2004 - one per second
            return [Window(1, 60 / self.per_minute)]
        return [Window(self.per_minute, 60.0), Window(5, 1.0)]


class AlphaVantageProvider(ProviderBase):
    """Bars and quotes, one request for each symbol; daily quotas make every request count."""

    name = NAME

    def __init__(self, config: ProviderConfig) -> None:
        """Raises InvalidInput for an option that is not valid."""
        options, transport = config.options, config.transport
        self._plan = Plan.of(options)
        self._now = config.now
        self.capabilities = self._plan.capabilities
        self.delay_seconds = _DELAYS[self._plan.entitlement]
        key = options.get(KEY.name, "")
        self._limit = transport.limit(NAME, key, self._plan.windows, per_day=self._plan.per_day, zone=EASTERN)
        self._rest = transport.rest(
            NAME,
            Dialect(address(URL, options, "https", "http"), read_fault, params={"apikey": key}, attempts=_ATTEMPTS),
            self._limit,
            (key,),
        )
        self._kept = KeptSeries(config.now)
        self._refused: dict[str, NotEntitled] = {}

    async def history(
        self, symbols: Sequence[str], interval: str, start: datetime, end: datetime
    ) -> AsyncIterator[pl.DataFrame]:
        """Yield raw bars with start <= ts < end; one request for each month, or for all days.

        Raises NotEntitled for intraday bars and for days before the newest 100 on the free plan.
        """
        if interval not in _INTERVALS:
            raise InvalidInput("interval", f"got {interval!r}; takes {', '.join(_INTERVALS)}")
        for symbol in symbols:
            parts = [self._days(start)] if interval == "1d" else _months(interval, start, min(end, self._now()))
            for function, params in parts:
                bars = await self._series(function, symbol, interval, params)
                wanted = pl.col("ts").is_null() | pl.col("ts").is_between(start, end, closed="left")
                if len(found := bars.filter(wanted)):
                    yield found

    def _days(self, start: datetime) -> tuple[str, dict[str, str]]:
        """Return the request for daily bars from `start` on: the free one if its 100 bars go back that far."""
        compact = start >= self._now() - timedelta(days=COMPACT_DAYS)
        return "TIME_SERIES_DAILY", {"outputsize": "compact" if compact else "full"}

    async def _series(self, function: str, symbol: str, interval: str, params: Mapping[str, str]) -> pl.DataFrame:
        """Return the bars of one request, which is not sent twice within minutes, or after a refusal."""
        kind = f"{function} {params['outputsize']}"
        if (refusal := self._refused.get(kind)) is not None:
            raise refusal
        query = {"function": function, "symbol": symbol, **params}
        if (known := self._kept.get(query)) is not None:
            return known
        try:
            reply = await self._rest.get("/query", query)
        except NotEntitled as fault:
            self._refused[kind] = fault
            raise
        return self._kept.keep(query, bars_of(reply.body, symbol, interval, end_labels=self._plan.end_labels))

    async def latest(self, symbols: Sequence[str]) -> pl.DataFrame:
        """Return the latest prices, without a size; those of a closed market have the time of its close."""
        if self._plan.entitlement == "realtime":
            parts = [symbols[at : at + BULK_SYMBOLS] for at in range(0, len(symbols), BULK_SYMBOLS)]
            frames = [await self._bulk(part) for part in parts]
        else:
            frames = [await self._quote(symbol) for symbol in symbols]
        return pl.concat([TICKS.to_frame(), *frames])

    async def _bulk(self, symbols: Sequence[str]) -> pl.DataFrame:
        query = {"function": "REALTIME_BULK_QUOTES", "symbol": ",".join(symbols)}
        return bulk_quotes_of((await self._rest.get("/query", query, urgent=True)).body)

    async def _quote(self, symbol: str) -> pl.DataFrame:
        query = {"function": "GLOBAL_QUOTE", "symbol": symbol}
        if self._plan.entitlement:
            query["entitlement"] = self._plan.entitlement
        reply = await self._rest.get("/query", query, urgent=True)
        price, day = quote_of(reply.body, symbol)
        row = {
            "symbol": symbol,
            "ts": min(_close_of(day), self._now()),
            "price": price,
            "size": 0.0,
            "conditions": PRICE_ONLY,
        }
        return pl.DataFrame([row], schema=TICKS)

    async def check(self) -> str:
        """Ask for one quote, and say how many requests of the day are left."""
        await self._quote("IBM")
        said = "it answers, and takes any key: whether yours is valid shows only in its limits"
        if self._limit.quota is None:
            return said
        return f"{said}; {await self._limit.quota.used()} of {self._limit.quota.limit} requests of today are used"

    async def close(self) -> None:
        """Close the connections."""
        await self._rest.close()


def _months(interval: str, start: datetime, end: datetime) -> list[tuple[str, dict[str, str]]]:
    """Return the requests for the months that the range touches, on New York's clock."""
    if start >= end:
        return []
    first, last = start.astimezone(EASTERN), (end - timedelta(microseconds=1)).astimezone(EASTERN)
    fixed = {"interval": f"{interval.removesuffix('m')}min", "adjusted": "false", "outputsize": "full"}
    months = range(first.year * 12 + first.month - 1, last.year * 12 + last.month)
    named = [f"{month // 12}-{month % 12 + 1:02}" for month in months]
    return [("TIME_SERIES_INTRADAY", {**fixed, "month": month}) for month in named]


def _close_of(day: str) -> datetime:
    """Return the end of the session of New York on a day. Raises BadReply."""
    try:
        label = datetime.combine(date.fromisoformat(day), time(), EASTERN)
    except ValueError:
        raise BadReply(f"{NAME}: the day of the quote is not a date: {shown(day)}") from None
    session = trading_calendar("XNYS").session(micros(label))
    return from_micros(session[1]) if session else label.replace(hour=_USUAL_CLOSE.hour)


_INTERVALS: Final = ("1m", "5m", "1d")

FREE: Final = Capabilities(
    ticks=False,
    history={"1d": History(window=_FREE_DEPTH, depth=_FREE_DEPTH)},
    latest=True,
    poll_seconds=3600.0,
    limits="free: 25 requests a day, about 1 per second; 130 days of daily bars, no intraday bars",
)
_YEAR: Final = timedelta(days=365)
PAID: Final = Capabilities(
    ticks=False,
    history={"1d": History(20 * _YEAR), "5m": History(_YEAR), "1m": History(_YEAR)},
    latest=True,
    poll_seconds=60.0,
    limits="paid: requests per minute by the plan; one for each month of intraday bars",
)

ALPHA_VANTAGE: Final = ProviderEntry(
    NAME,
    AlphaVantageProvider,
    aliases=("alphavantage",),
    capabilities=FREE,
    options=OPTIONS,
    conditions=prices_and_trades,
    description="Quotes of the evening and daily bars; intraday bars and real time on paid plans.",
)

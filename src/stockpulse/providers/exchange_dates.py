"""Dates of an exchange, as the instants in UTC at which they begin."""

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import polars as pl


def in_utc(local: pl.Expr, zone: ZoneInfo) -> pl.Expr:
    """Return times without a zone, as the clock of `zone` shows them, in UTC; null for a time that its clock skips.

    Of a time that the clock shows twice, the first counts.
    """
    instants = local.dt.replace_time_zone(zone.key, ambiguous="earliest", non_existent="null")
    return instants.dt.convert_time_zone("UTC")


def begin_of(dates: pl.Expr, zone: ZoneInfo) -> pl.Expr:
    """Return the first instant of dates, given as times without a zone: some clocks are put forward at midnight."""
    midnights = dates.dt.truncate("1d")
    return in_utc(midnights, zone).fill_null(in_utc(midnights.dt.offset_by("1h"), zone))


def is_over(begins: pl.Expr, zone: ZoneInfo, at: datetime) -> pl.Expr:
    """Return True for dates that are over at this instant, and for nulls."""
    today = at.astimezone(zone).replace(hour=0, minute=0, second=0, microsecond=0)
    return (begins < today.astimezone(UTC)).fill_null(value=True)

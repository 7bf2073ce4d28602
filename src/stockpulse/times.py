"""Instants as the system counts them: whole microseconds since 1970, UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def micros(instant: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (instant - EPOCH) // _MICROSECOND


def from_micros(value: int) -> datetime:
    """The UTC datetime so many microseconds after 1970."""
    return EPOCH + timedelta(microseconds=value)

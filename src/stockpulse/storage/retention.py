"""The retention of each table: the time, and the unit in which old data is dropped."""

from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

_HOUR: Final = timedelta(hours=1)
_DAY: Final = timedelta(days=1)


class Unit(StrEnum):
    """The unit in which old data is dropped."""

    SEGMENTS = "segments"
    """Segments of the log, by their newest append and never past the checkpoint."""
    PARTITIONS = "partitions"
    """Partitions by time, once both their newest event and their last write are too old."""
    ROWS = "rows"
    """Single rows, by a time in them."""


@dataclass(frozen=True)
class Retention:
    """The retention of a table."""

    kept: timedelta
    unit: Unit
    partition: timedelta | None = None
    """The length of a partition."""


RETENTION: Final = {
    "realtime_prices": Retention(5 * _DAY, Unit.SEGMENTS),
    "bars_1m": Retention(90 * _DAY, Unit.PARTITIONS, 7 * _DAY),
    "intraday_ohlcv": Retention(730 * _DAY, Unit.PARTITIONS, 28 * _DAY),
    "intraday_analytics": Retention(90 * _DAY, Unit.PARTITIONS, 7 * _DAY),
    "realtime_analytics": Retention(_HOUR, Unit.PARTITIONS, _HOUR),
    "signals": Retention(90 * _DAY, Unit.PARTITIONS, 7 * _DAY),
    "dead_letters": Retention(30 * _DAY, Unit.PARTITIONS, 7 * _DAY),
    "etl_runs": Retention(90 * _DAY, Unit.ROWS),
    "feed_gaps": Retention(90 * _DAY, Unit.ROWS),
}
"""The retention of each table; the others (daily bars and their indicators among them) are kept for good.

`indicator_states` are kept as long as the bars of their interval, and always the newest of each symbol.
"""

"""The newest replies with a series: a reply has a whole month or twenty years, and callers ask for parts of it."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Final

import polars as pl

KEPT: Final = 8
KEPT_FOR: Final = timedelta(minutes=15)

_Query = frozenset[tuple[str, str]]


class KeptSeries:
    """Keeps the series of the newest few queries for some minutes."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._series: OrderedDict[_Query, tuple[datetime, pl.DataFrame]] = OrderedDict()

    def get(self, query: Mapping[str, str]) -> pl.DataFrame | None:
        """Return the series of a query; None if it is not known or too old."""
        at, series = self._series.get(frozenset(query.items()), (None, None))
        return series if at is not None and self._now() - at < KEPT_FOR else None

    def keep(self, query: Mapping[str, str], series: pl.DataFrame) -> pl.DataFrame:
        """Keep the series of a query, and return it."""
        self._series[frozenset(query.items())] = (self._now(), series)
        self._series.move_to_end(frozenset(query.items()))
        while len(self._series) > KEPT:
            self._series.popitem(last=False)
        return series

"""Bars of any interval, built on query from the bars of the nearest stored interval, for one symbol."""

from dataclasses import dataclass

import numpy as np

from stockpulse.engine.bar_math import Rows, roll_up
from stockpulse.market.arrays import Ints
from stockpulse.market.calendar import NO_DAY, Calendar
from stockpulse.market.intervals import D1, Interval


@dataclass(frozen=True)
class Derivation:
    """The way from base bars to the bars of an interval, on a calendar."""

    interval: Interval
    calendar: Calendar
    extended_day: bool = False

    @property
    def is_stored(self) -> bool:
        """Return True if bars of this interval are stored."""
        return self.interval.base is self.interval

    def labels(self, rows: Rows) -> Ints:
        """Return the start of the bucket that each base bar belongs to, in UTC microseconds."""
        if self.interval.base is not D1:
            return self.calendar.bucket(rows["ts"], self.interval)
        ts: Ints = rows["ts"]
        return ts if self.is_stored else self.calendar.period(ts, self.interval)

    def reach(self, end: int) -> int:
        """Return the end of the last bucket that begins before `end`; it is at least `end`."""
        if self.is_stored:
            return end
        last = np.array([end - 1])
        label = self.calendar.label(last, self.interval, extended=True)
        if label[0] == NO_DAY:
            label = self.calendar.period(self.calendar.floor_date(last), self.interval)
        return max(end, int(self.calendar.bucket_end(label, self.interval, extended=True)[0]))

    def derive(self, rows: Rows, closed_until: int) -> Rows:
        """Roll base bars up, sorted by time; a derived bar is final if all its parts are and it ends by `closed_until`.

        A derived bar has a provider only if all its parts are bars of that provider.
        """
        if self.is_stored or len(rows) == 0:
            return rows
        labels = self.labels(rows)
        longer = roll_up(rows, labels, self.calendar.bucket_end(labels, self.interval, extended=self.extended_day))
        starts = np.searchsorted(labels, longer["ts"])
        provider = rows["provider_id"]
        one_source = np.minimum.reduceat(provider, starts) == np.maximum.reduceat(provider, starts)
        longer["provider_id"] = np.where(one_source, provider[starts], 0)
        longer["final"] = np.logical_and.reduceat(rows["final"], starts) & (longer["end"] <= closed_until)
        return longer


def bases_per_bucket(interval: Interval) -> int:
    """Return the greatest number of base bars in a bucket."""
    if interval.base is interval:
        return 1
    if interval.micros is not None and interval.base.micros is not None:
        return interval.micros // interval.base.micros
    return 7 if interval.name == "1w" else 31

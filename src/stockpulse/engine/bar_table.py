"""The bars of one interval that the engine holds in memory.

The table is a write-back cache over the stored bars: it holds the forming bars, the newest closed bar of each
symbol, and all bars that changed since they were stored. A bar that it does not hold is loaded before a record
changes it, so a trade of last year takes the same path as one of now.
"""

import numpy as np

from stockpulse.engine.bar_math import BAR, Rows, keys, merge
from stockpulse.market.arrays import Ints, Mask


class BarTable:
    """Bars of one interval, sorted by (symbol, start)."""

    def __init__(self) -> None:
        self.rows: Rows = np.empty(0, BAR)
        self._keys: Ints = np.empty(0, np.int64)
        self._removed: Ints = np.empty(0, np.int64)  # keys that are stored perhaps, and to be deleted
        self._being_deleted: Ints = np.empty(0, np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def find(self, symbol_id: Ints, ts: Ints) -> tuple[Ints, Mask]:
        """Return the place of each bucket, and True where it is in the table; without that the place is 0."""
        return self._find(keys(symbol_id, ts))

    def marked(self, field: str, symbol_id: Ints, ts: Ints) -> Mask:
        """Return True for each bucket that is in the table and whose `field` is not 0."""
        at, found = self.find(symbol_id, ts)
        found[found] = self.rows[field][at[found]] != 0
        return found

    def _find(self, key: Ints) -> tuple[Ints, Mask]:
        if len(self._keys) == 0:
            return np.zeros(len(key), np.int64), np.zeros(len(key), bool)
        at = np.searchsorted(self._keys, key)
        at[at == len(self._keys)] = 0
        return at, self._keys[at] == key

    def missing(self, symbol_id: Ints, ts: Ints) -> Mask:
        """Return True for each bucket that may be stored but is not in the table.

        The newest bar of a symbol never leaves the table, so a bar that is newer than it is new.
        """
        key = keys(symbol_id, ts)
        _, found = self._find(key)
        end_of_symbol = np.searchsorted(self._keys, keys(symbol_id + 1, np.zeros_like(ts)))
        newest = np.where(end_of_symbol > 0, self._newest(end_of_symbol - 1), -1)
        return ~found & (key < newest)

    def _newest(self, at: Ints) -> Ints:
        return self._keys[at] if len(self._keys) else np.full(len(at), -1)

    def admit(self, stored: Rows) -> None:
        """Add stored bars; a bar that is in the table already is newer than the stored one and stays.

        A bar that was removed, and may not be deleted from the store yet, is left out.
        """
        key = keys(stored["symbol_id"], stored["ts"])
        _, found = self._find(key)
        self._insert(stored[~found & ~np.isin(key, self.removed())])

    def merge(self, parts: Rows) -> Ints:
        """Merge parts of bars, one for each bucket, into the table; return their keys."""
        key = keys(parts["symbol_id"], parts["ts"])
        at, found = self._find(key)
        self.rows[at[found]] = merge(self.rows[at[found]], parts[found])
        self._insert(parts[~found])
        return key

    def replace(self, bars: Rows) -> Ints:
        """Replace the bars of these buckets; a bar that was announced as final stays final. Return their keys."""
        key = keys(bars["symbol_id"], bars["ts"])
        at, found = self._find(key)
        bars = bars.copy()
        bars["final"][found] = self.rows["final"][at[found]]
        self.rows[at[found]] = bars[found]
        self._insert(bars[~found])
        return key

    def final(self, key: Ints) -> Rows:
        """Return the bars with these keys that have been announced as final, each once. All are in the table."""
        at, _ = self._find(np.unique(key))
        rows: Rows = self.rows[at[self.rows["final"][at]]]
        return rows

    def remove(self, symbol_id: Ints, ts: Ints) -> Rows:
        """Remove the bars of these buckets and return those that were in the table.

        The buckets are to be deleted from the store. The newest bar of the symbol that stays goes into the next
        checkpoint: `missing` relies on it.
        """
        key = keys(symbol_id, ts)
        at, found = self._find(key)
        gone: Rows = self.rows[at[found]]
        self.rows, self._keys = np.delete(self.rows, at[found]), np.delete(self._keys, at[found])
        self._removed = np.union1d(self._removed, key)
        newest = np.searchsorted(self._keys, keys(np.unique(symbol_id) + 1, np.zeros(1, np.int64))) - 1
        newest = newest[(newest >= 0)]
        newest = newest[np.isin(self.rows["symbol_id"][newest], symbol_id)]
        self.rows["dirty"][newest] = True
        return gone

    def removed(self) -> Ints:
        """Return the keys of bars that were removed here: the next flush, or the current one, deletes them."""
        return np.union1d(self._removed, self._being_deleted)

    def take_removed(self) -> Ints:
        """Return the keys of the buckets that the next flush deletes."""
        self._being_deleted, self._removed = self._removed, np.empty(0, np.int64)
        return self._being_deleted

    def discard(self, key: Ints) -> None:
        """Drop bars with these keys, which are not stored any more."""
        at, found = self._find(key)
        self.rows, self._keys = np.delete(self.rows, at[found]), np.delete(self._keys, at[found])

    def touch_first_after(self, symbol_id: int, ts: int, revision: int) -> Ints:
        """Raise the revision of the symbol's first priced bar later than this time; return its key, if there is one."""
        begin, end = keys(np.array([symbol_id, symbol_id + 1]), np.array([ts, 0]))
        first, last = np.searchsorted(self._keys, [begin, end], side="right")
        priced = first + np.flatnonzero(~np.isnan(self.rows["open"][first:last]))[:1]
        if len(priced) and self.rows["revision"][priced[0]] < revision:
            self.rows["revision"][priced], self.rows["dirty"][priced] = revision, True
        touched: Ints = self._keys[priced]
        return touched

    def _insert(self, new: Rows) -> None:
        if len(new) == 0:
            return
        key = keys(new["symbol_id"], new["ts"])
        order = np.argsort(key, kind="stable")
        at = np.searchsorted(self._keys, key[order])
        self.rows = np.insert(self.rows, at, new[order])
        self._keys = np.insert(self._keys, at, key[order])

    def put(self, rows: Rows) -> None:
        """Put rows into the table unchanged; they replace rows with the same keys."""
        at, found = self.find(rows["symbol_id"], rows["ts"])
        self.rows[at[found]] = rows[found]
        self._insert(rows[~found])

    def within(self, symbol_id: Ints, start: Ints, end: Ints) -> tuple[Rows, Ints]:
        """Return the bars with start <= ts < end of each range, range by range, and the range of each bar."""
        first = np.searchsorted(self._keys, keys(symbol_id, start))
        counts = np.searchsorted(self._keys, keys(symbol_id, end)) - first
        of_range = np.repeat(np.arange(len(first)), counts)
        within_range = np.arange(len(of_range)) - np.repeat(np.cumsum(counts) - counts, counts)
        return self.rows[first[of_range] + within_range], of_range

    def of_symbol(self, symbol_id: int) -> Rows:
        """Return the bars of a symbol."""
        bounds = keys(np.array([symbol_id, symbol_id + 1]), np.array([0, 0]))
        first, last = np.searchsorted(self._keys, bounds)
        return self.rows[first:last]

    def deleted(self) -> None:
        """Note that the keys of the last `take_removed` are deleted."""
        self._being_deleted = np.empty(0, np.int64)

    def evict(self) -> None:
        """Drop bars that are stored and final, except the newest final bar of each symbol."""
        final = np.flatnonzero(self.rows["final"])
        symbol_id = self.rows["symbol_id"][final]
        followed = final[:-1][symbol_id[:-1] == symbol_id[1:]]
        spare = followed[~self.rows["dirty"][followed]]
        if len(spare):
            self.rows, self._keys = np.delete(self.rows, spare), np.delete(self._keys, spare)

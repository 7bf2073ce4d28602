"""The shard of a symbol: the partition that Kafka's default partitioner gives to its key."""

from typing import Final

import numpy as np
import numpy.typing as npt
import polars as pl

from stockpulse.journal.records import End, Forget
from stockpulse.market.symbology import Names

_SEED: Final = 0x9747B28C
_M: Final = 0x5BD1E995
_WORD: Final = 0xFFFFFFFF


def murmur2(key: bytes) -> int:
    """Return the hash of Kafka's Java client (`org.apache.kafka.common.utils.Utils.murmur2`), unsigned."""
    length = len(key)
    h = _SEED ^ length
    whole = length - length % 4
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * _M & _WORD
        k = (k ^ k >> 24) * _M & _WORD
        h = (h * _M & _WORD) ^ k
    if whole < length:
        h = (h ^ int.from_bytes(key[whole:], "little")) * _M & _WORD
    h = (h ^ h >> 13) * _M & _WORD
    return h ^ h >> 15


def partition_of(symbol: str, partitions: int) -> int:
    """Return the partition of a key, as Kafka's default partitioner does."""
    return (murmur2(symbol.encode()) & 0x7FFFFFFF) % partitions


class Routing:
    """Looks up the shards of symbols by id."""

    def __init__(self, names: Names, partitions: int = 1) -> None:
        self.partitions = partitions
        self._names = names
        self._shard_of = np.zeros(1, np.int64)
        self._known = 0

    def of_symbols(self, symbol_id: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """Return the shard of each symbol."""
        if self._known < len(self._names.in_order):
            self._learn()
        return self._shard_of[symbol_id]

    def of_symbol(self, symbol_id: int) -> int:
        """Return the shard of one symbol; -1 if there is no such symbol."""
        return int(self.of_symbols(np.array([symbol_id]))[0]) if symbol_id in self._names.symbol_by_id else -1

    def of_record(self, record: End | Forget) -> list[int]:
        """Return the shards of a record without rows: that of its symbol, or all."""
        if isinstance(record, Forget) and record.symbol is not None:
            return [partition_of(record.symbol, self.partitions)]
        return list(range(self.partitions))

    def rows(self, frame: pl.DataFrame) -> dict[int, npt.NDArray[np.int64]]:
        """Return the row numbers of each shard, ascending; leave out shards without rows."""
        shard = self.of_symbols(frame["symbol_id"].to_numpy())
        parts = {number: np.flatnonzero(shard == number) for number in range(self.partitions)}
        return {number: rows for number, rows in parts.items() if len(rows)}

    def _learn(self) -> None:
        new = self._names.in_order[self._known :]
        size = max(symbol.id for symbol in new) + 1
        if size > len(self._shard_of):
            more = max(size, 2 * len(self._shard_of)) - len(self._shard_of)
            self._shard_of = np.concatenate([self._shard_of, np.zeros(more, np.int64)])
        for symbol in new:
            self._shard_of[symbol.id] = partition_of(symbol.name, self.partitions)
        self._known += len(new)

"""The newest ticks in memory: the ticks of all segments that have no index yet."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import polars as pl

from stockpulse.market.arrays import array_of
from stockpulse.market.times import from_micros

_CHUNK_ROWS: Final = 1 << 17


@dataclass(frozen=True)
class Chunk:
    """Consecutive ticks of one segment, with the bounds of their event times in UTC microseconds."""

    segment: int
    frame: pl.DataFrame
    min_ts: int
    max_ts: int

    @staticmethod
    def of(segment: int, frame: pl.DataFrame) -> "Chunk":
        """Make a chunk of these ticks."""
        ts = array_of(frame["ts"])
        return Chunk(segment, frame, int(ts.min()), int(ts.max()))

    def __len__(self) -> int:
        return len(self.frame)


class RecentTicks:
    """Chunks of ticks in the order of the log. Chunks never change, so a reader may keep a list of them."""

    def __init__(self) -> None:
        self._chunks: list[Chunk] = []

    def append(self, segment: int, frame: pl.DataFrame) -> None:
        """Add ticks that were just appended to the log."""
        self._chunks.append(Chunk.of(segment, frame))
        while len(self._chunks) > 1 and self._mergeable(self._chunks[-2], self._chunks[-1]):
            newer, older = self._chunks.pop(), self._chunks.pop()
            merged = pl.concat([older.frame, newer.frame], rechunk=True)
            self._chunks.append(
                Chunk(segment, merged, min(older.min_ts, newer.min_ts), max(older.max_ts, newer.max_ts))
            )

    @staticmethod
    def _mergeable(older: Chunk, newer: Chunk) -> bool:
        # Only chunks of like size merge. So each tick is copied about ten times, however small the appends are.
        return older.segment == newer.segment and len(older) < 2 * len(newer) and len(older) + len(newer) <= _CHUNK_ROWS

    def split(self, segment: int, head: int) -> None:
        """End a segment at this offset: later ticks belong to the next segment, which begins here."""
        chunks: list[Chunk] = []
        for chunk in self._chunks:
            if chunk.segment != segment:
                chunks.append(chunk)
                continue
            at = int(chunk.frame["seq"].search_sorted(head))
            parts = ((segment, chunk.frame[:at]), (head, chunk.frame[at:]))
            chunks += [Chunk.of(number, frame) for number, frame in parts if len(frame)]
        self._chunks = chunks

    def drop_rows(self, gone: Callable[[pl.DataFrame], pl.Series]) -> None:
        """Drop the ticks for which `gone` returns True."""
        chunks: list[Chunk] = []
        for chunk in self._chunks:
            kept = chunk.frame.filter(~gone(chunk.frame))
            if len(kept):
                chunks.append(chunk if len(kept) == len(chunk) else Chunk.of(chunk.segment, kept))
        self._chunks = chunks

    def drop_segment(self, segment: int) -> None:
        """Drop a segment from memory, because it has its index now and is read from the database."""
        self._chunks = [chunk for chunk in self._chunks if chunk.segment != segment]

    def chunks(self) -> list[Chunk]:
        """Return the current chunks, oldest first."""
        return list(self._chunks)

    def segments(self) -> set[int]:
        """Return the segments whose ticks are all in memory."""
        return {chunk.segment for chunk in self._chunks}

    def bounds(self, segment: int) -> tuple[datetime, datetime, datetime]:
        """Return the least and greatest event time and the newest `received_at` of a segment in memory."""
        chunks = [chunk for chunk in self._chunks if chunk.segment == segment]
        return (
            from_micros(min(chunk.min_ts for chunk in chunks)),
            from_micros(max(chunk.max_ts for chunk in chunks)),
            max(chunk.frame["received_at"][-1] for chunk in chunks),
        )

"""Counters and lags of the pipeline, for /metrics and /health."""

from dataclasses import dataclass


@dataclass
class Counters:
    """Totals since the start, in rows unless a comment gives another unit."""

    ticks: int = 0
    provider_bars: int = 0
    corrections: int = 0
    """Corrections and cancels of trades that were accepted."""
    corrections_without_trade: int = 0
    """Processed ones whose trade is not stored: it never arrived, or it is no longer kept."""
    bars_not_corrected: int = 0
    """Bars that stay as they are, because their ticks are not all stored."""
    duplicates: int = 0
    rejected: int = 0
    rejected_counted: int = 0
    """Rejected rows that were only counted, because many of their kind arrived."""
    dropped: int = 0
    """Ticks that were dropped because the queue was full and their feed cannot be slowed down."""
    unreadable_conditions: int = 0
    """Ticks whose trade conditions their rule could not read: these count for volume alone."""
    appends: int = 0
    bars_closed: int = 0
    bars_revised: int = 0
    flushes: int = 0
    flush_seconds: float = 0.0


@dataclass
class Lag:
    """Rows that wait for each stage of the pipeline."""

    submitted: int
    with_ids: int
    unprocessed: int
    unflushed: int
    behind: int
    """Symbols whose indicators must catch up; a symbol counts once for every interval."""

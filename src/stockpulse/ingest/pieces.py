"""Cuts large batches into pieces, so that live ticks may come between them.

The cost of a batch lies in the bars that it makes, not in its ticks: a tick a week for decades makes a bar of each
interval with every tick, a busy minute makes one bar of thousands.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import numpy as np
import polars as pl

from stockpulse.ingest.feed import Receipt
from stockpulse.ingest.intake import Submission
from stockpulse.ingest.validate import Validated
from stockpulse.market.arrays import array_of
from stockpulse.market.times import MINUTE_MICROS

BULK_ROWS: Final = 1_000
"""Batches of this size are history or a recording: they wait under load, and batches of live feeds go first."""

PIECE_BARS: Final = 2_500
"""About the number of bars of a piece."""
_LIVE_MINUTES: Final = 2


def in_pieces(submission: Submission) -> list[Submission]:
    """Cut a batch into pieces of about 2,500 bars, in its order; the first one has the rejected rows."""
    good, rejected = submission.checked.good, submission.checked.rejected
    rows = _rows_of_piece(good, of_ticks=submission.kind == "ticks")
    if len(good) <= rows:
        return [submission]
    parts = [
        Validated(part, rejected if at == 0 else rejected.clear()) for at, part in enumerate(good.iter_slices(rows))
    ]
    return [replace(submission, checked=part) for part in parts]


def _rows_of_piece(good: pl.DataFrame, *, of_ticks: bool) -> int:
    if not of_ticks or len(good) <= BULK_ROWS:
        return PIECE_BARS
    minutes = len(np.unique(array_of(good["ts"]) // MINUTE_MICROS))
    if minutes <= _LIVE_MINUTES:
        return len(good)
    bars = min(len(good), minutes * good["symbol"].n_unique())  # at most
    return max(len(good) * PIECE_BARS // bars, BULK_ROWS)


def combined(receipts: Sequence[Receipt]) -> Receipt:
    """Return the outcome of a batch from the outcomes of its pieces."""
    return Receipt(
        sum(one.accepted for one in receipts),
        sum(one.duplicates for one in receipts),
        tuple(row for one in receipts for row in one.rejected),
        tuple(dict.fromkeys(warning for one in receipts for warning in one.warnings)),
    )

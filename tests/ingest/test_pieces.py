"""Batches are cut by the bars that they make."""

import polars as pl
import pytest

from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.ingest.intake import Submission
from stockpulse.ingest.pieces import combined, in_pieces
from stockpulse.ingest.validate import Validated
from stockpulse.market.schemas import BARS, TICKS
from store_stack import DAY, MINUTE, NOW, bar, tick


def submission(rows, schema, kind="ticks"):
    frame = pl.DataFrame([dict.fromkeys(schema) | row for row in rows], schema=schema, orient="row")
    rejected = pl.DataFrame({"row": [7], "reason": ["price: missing"], "raw": [""]})
    return Submission(Feed("history", "24/7"), NOW, Validated(frame, rejected), kind)


BUSY_MINUTE = [tick(f"S{at % 50}", NOW) for at in range(9_000)]
BUSY_DAY = [tick("A", NOW - at // 20 * MINUTE) for at in range(9_000)]
TICK_A_DAY = [tick("A", NOW - at * DAY) for at in range(6_000)]
MINUTES_OF_MANY = [tick(f"S{at % 100}", NOW - at // 100 * MINUTE) for at in range(9_000)]


@pytest.mark.parametrize(
    ("rows", "sizes"),
    [
        (BUSY_MINUTE, [9_000]),
        (BUSY_DAY, [9_000]),
        (TICK_A_DAY[:1_000], [1_000]),
        (TICK_A_DAY, [2_500, 2_500, 1_000]),
        (MINUTES_OF_MANY, [2_500, 2_500, 2_500, 1_500]),
    ],
)
def test_of_ticks(rows, sizes):
    pieces = in_pieces(submission(rows, TICKS))
    assert [len(piece.checked.good) for piece in pieces] == sizes
    assert [len(piece.checked.rejected) for piece in pieces] == [1] + [0] * (len(sizes) - 1)
    assert pl.concat([piece.checked.good for piece in pieces]).equals(submission(rows, TICKS).checked.good)


def test_of_bars():
    rows = [bar("A", "1d", NOW - at * DAY) for at in range(5_001)]
    pieces = in_pieces(submission(rows, BARS, "bars"))
    assert [len(piece.checked.good) for piece in pieces] == [2_500, 2_500, 1]
    assert all(piece.kind == "bars" for piece in pieces)


def test_one_receipt():
    parts = [Receipt(3, 1, ((7, "price: missing"),), ("late",)), Receipt(2, 0, (), ("late", "other"))]
    assert combined(parts) == Receipt(5, 1, ((7, "price: missing"),), ("late", "other"))

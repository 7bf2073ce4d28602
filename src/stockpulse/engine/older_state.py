"""Checkpoints that older versions wrote."""

import numpy as np

from stockpulse.engine.bar_math import BAR, Rows
from stockpulse.engine.exact_sums import UNKNOWN, digits_of

_NANOS = 1_000_000_000


def current_rows(rows: Rows) -> Rows:
    """Return a copy of the bars of a checkpoint as `BAR` records, as migration 0004 converts stored ones.

    Until then the sums were whole units and billionths, and the vwap was computed from the whole volume.
    """
    if rows.dtype == BAR:
        return rows.copy()
    current = np.zeros(len(rows), BAR)
    for name in set(BAR.names or ()) & set(rows.dtype.names or ()):
        current[name] = rows[name]
    silent = rows["notional_units"] < 0
    current["volume_picos"] = rows["volume_nanos"] * 1000
    current["vwap_units"] = np.where(silent, UNKNOWN, current["volume_units"])
    current["vwap_picos"] = np.where(silent, 0, current["volume_picos"])
    for row in np.flatnonzero(~silent):
        nanos = int(rows["notional_units"][row]) * _NANOS + int(rows["notional_nanos"][row])
        for name, digit in zip(("high", "middle", "low"), digits_of(nanos, _NANOS), strict=True):
            current[f"notional_{name}"][row] = digit
    current["notional_high"][silent] = UNKNOWN
    return current

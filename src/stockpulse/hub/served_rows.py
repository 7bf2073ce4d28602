"""The rows of events as the API shows them: names for ids."""

from collections.abc import Sequence
from typing import Final

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import Rows
from stockpulse.engine.signals import SIGNAL_NAMES, Signals
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.storage.served_bars import SERVED_BARS, served_bars
from stockpulse.storage.signals import SERVED_SIGNALS
from stockpulse.storage.tick_reader import SERVED_TICKS

BAR_COLUMNS: Final = tuple(name for name in SERVED_BARS if name not in ("interval", "filled"))
"""The columns of a bar in a message, which has the interval itself."""

_PRICES: Final = pl.col("open", "high", "low", "close")


class ServedRows:
    """Converts the events of the pipeline."""

    def __init__(self, names: Names, rules: Sequence[str], signal_interval: Interval) -> None:
        """`rules` are the names of the rules, in their order."""
        self._names = names
        self._symbol_names = SymbolNames(names)
        self._rules = pl.Series(list(rules), dtype=pl.String)
        self._signal_interval = signal_interval

    def ticks(self, frame: pl.DataFrame) -> pl.DataFrame:
        """Convert `LOGGED_TICKS` to `SERVED_TICKS`."""
        named = self._symbol_names.ticks(frame)
        columns = [named[name].alias(shown) for name, shown in (("size", "volume"), ("ts", "event_time"))]
        return pl.DataFrame([*named, *columns, frame["seq"]]).select(list(SERVED_TICKS))

    def bars(self, rows: Rows, interval: Interval) -> pl.DataFrame:
        """Convert the engine's rows to `SERVED_BARS`, with `BAR_COLUMNS` only."""
        served = served_bars(rows, interval, self._names).select(BAR_COLUMNS)
        return served.with_columns(_PRICES.fill_nan(None)) if np.isnan(rows["open"]).any() else served

    def signals(self, signals: Signals) -> pl.DataFrame:
        """Convert signals to `SERVED_SIGNALS`."""
        return pl.DataFrame(
            {
                "symbol": self._symbol_names.symbols(pl.Series(signals.symbol_id)),
                "timestamp": pl.Series(signals.ts).cast(UTC_MICROS),
                "signal": pl.Series(list(SIGNAL_NAMES)).gather(signals.signal),
                "price": pl.Series(signals.price, nan_to_null=True),
                "rule": self._rules.gather(signals.rule),
                "interval": pl.repeat(self._signal_interval.name, len(signals), dtype=pl.String, eager=True),
                "revision": np.ascontiguousarray(signals.revision),
            }
        ).select(list(SERVED_SIGNALS))

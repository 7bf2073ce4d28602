"""The number of rows that a flush may have, so that it stays short on this machine."""

from typing import Final

_SHORT_SECONDS: Final = 0.2
"""A live bar waits for the current flush and for its own: each should take about this time."""
_FIRST_ROWS: Final = 10_000
_LEAST_ROWS: Final = 2_000
_MOST_ROWS: Final = 50_000
_TELLING_ROWS: Final = 1_000
"""A flush of fewer rows does not measure the time of a row."""
_WEIGHT: Final = 0.3


class FlushSize:
    """Learns from the flushes the number of rows that one stores in a short time."""

    def __init__(self) -> None:
        self.rows = _FIRST_ROWS

    def learn(self, rows: int, seconds: float) -> None:
        """Note the rows and the duration of a flush: a moving average of its speed sets the size."""
        if rows >= _TELLING_ROWS and seconds > 0:
            stored = rows / seconds * _SHORT_SECONDS
            self.rows = int(min(max(self.rows + _WEIGHT * (stored - self.rows), _LEAST_ROWS), _MOST_ROWS))

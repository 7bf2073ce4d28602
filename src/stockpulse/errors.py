"""Everything that StockPulse raises on purpose: one hierarchy, the docstring is the default message."""

import reprlib
from typing import Final

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


class StockPulseError(Exception):
    """Something in StockPulse went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class InvalidInput(StockPulseError, ValueError):
    """A value that somebody gave is not one that is taken."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class NotFound(StockPulseError):
    """There is no such thing here."""


class TooLarge(StockPulseError):
    """More than one request may carry."""


class OutcomeUnknown(StockPulseError):
    """The ticks may or may not be stored; sending them again is safe for ticks with a trade_id."""


class Unavailable(StockPulseError):
    """Cannot answer now; try again shortly."""


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""


class CannotStart(StockPulseError):
    """The process must not run like this; the message says what to change."""


class DataFolderInUse(CannotStart):
    """Another StockPulse runs on this data folder."""


class SchemaOutOfDate(CannotStart):
    """The database's schema is not the one that this version needs: run `alembic upgrade head`."""


class OtherJournal(CannotStart):
    """The checkpoint belongs to another log."""

    def __init__(self, known: str, wanted: str) -> None:
        target = wanted.partition(":")[0]
        way = f"`stockpulse move {target}` takes all over"
        if known.startswith("kafka:") and target == "kafka":
            way = (
                "`stockpulse move postgres` with the settings of that one, then `stockpulse move kafka`, takes all over"
            )
        super().__init__(f"the database follows another log: {known}, and this one is {wanted}; {way}")


class RecordsLost(CannotStart):
    """Records that were not worked in yet are no longer in the log."""


class JournalInUse(CannotStart):
    """Another StockPulse appends to this database."""


class Fenced(StockPulseError):
    """Another process has taken this shard over; this one must stop writing for it."""


def shown(value: object) -> str:
    """A value that somebody sent, as a message may show it: short and on one line, whatever it is."""
    return _SHORT.repr(value)

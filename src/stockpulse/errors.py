"""The exceptions that StockPulse raises on purpose: one hierarchy; the docstring is the default message."""

import reprlib
from typing import Final

_SHORT: Final = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 100


class StockPulseError(Exception):
    """Something in StockPulse went wrong."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (type(self).__doc__ or "").strip())


class InvalidInput(StockPulseError, ValueError):
    """A value is not valid."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field


class NotFound(StockPulseError):
    """The requested object does not exist."""


class Forbidden(StockPulseError):
    """The caller may not do this."""


class Misdirected(StockPulseError):
    """The request is for another server."""


class TooLarge(StockPulseError):
    """The request is too large."""


class OutcomeUnknown(StockPulseError):
    """The ticks may or may not be stored; sending them again is safe for ticks with a trade_id."""


class Unavailable(StockPulseError):
    """The server cannot answer now; try again shortly."""


class DiskFull(Unavailable):
    """The disk of the database is full."""


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""


class CannotStart(StockPulseError):
    """The process cannot start; the message has the remedy."""


class DataFolderInUse(CannotStart):
    """Another StockPulse uses this data folder."""


class SchemaOutOfDate(CannotStart):
    """The schema of the database is not the one that this version needs: run `stockpulse migrate`."""


class OtherJournal(CannotStart):
    """The checkpoint belongs to another log."""

    def __init__(self, known: str, wanted: str) -> None:
        target = wanted.partition(":")[0]
        way = f"`stockpulse move {target}` moves everything"
        if known.startswith("kafka:") and target == "kafka":
            way = "`stockpulse move postgres` with that log's settings, then `stockpulse move kafka`, moves everything"
        super().__init__(f"the database follows another log: {known}, and this one is {wanted}; {way}")


class RecordsLost(CannotStart):
    """The log dropped records before they were processed."""


class JournalInUse(CannotStart):
    """Another StockPulse appends to this database."""


class Fenced(StockPulseError):
    """Another process owns this shard now; this process must stop writing for it."""


def shown(value: object) -> str:
    """Return any value as text for a message: short and on one line."""
    return _SHORT.repr(value)

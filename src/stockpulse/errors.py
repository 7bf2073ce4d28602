"""Everything that StockPulse raises on purpose: one hierarchy, the docstring is the default message."""


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


class JournalInUse(CannotStart):
    """Another StockPulse appends to this database."""


class Fenced(StockPulseError):
    """Another process has taken this shard over; this one must stop writing for it."""

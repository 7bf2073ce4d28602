"""Failures of the commands, as one plain line on stderr."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import asyncpg
import typer
from typer.core import TyperGroup

from stockpulse.errors import DatabaseUnavailable, StockPulseError
from stockpulse.postgres.migrate import UNREACHABLE
from stockpulse.settings import Settings
from stockpulse.telemetry.logs import configure_logging

_DATABASE_FAULTS: Final[tuple[type[BaseException], ...]] = (*UNREACHABLE, asyncpg.PostgresError)


class Commands(TyperGroup):
    """Commands that print an error of StockPulse as one plain line on stderr."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except StockPulseError as error:
            typer.echo(f"stockpulse: {error}", err=True)
            raise typer.Exit(1) from None


def log_trouble_only(settings: Settings) -> None:
    """Log warnings and errors only: the command itself shows its progress."""
    configure_logging(settings.log_format, debug=settings.debug)
    if not settings.debug:
        logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def database_faults() -> Iterator[None]:
    """Turn faults of the database into DatabaseUnavailable."""
    try:
        yield
    except _DATABASE_FAULTS as fault:
        raise DatabaseUnavailable(f"the database does not answer: {fault!r}") from fault

"""Brings the schema up to date, and checks that it is up to date."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from stockpulse.errors import CannotStart, SchemaOutOfDate
from stockpulse.postgres.connect import TRANSIENT, connect

#: Faults of a database that does not answer, as the driver or SQLAlchemy raises them.
UNREACHABLE: Final[tuple[type[BaseException], ...]] = (*TRANSIENT, DBAPIError)


def _config() -> Config:
    """Return Alembic's configuration; the migrations are in the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parent.parent
    places = (package / "migrations", package.parent.parent / "migrations")
    config = Config()
    config.set_main_option("script_location", str(next(place for place in places if place.is_dir())))
    config.set_main_option("path_separator", "os")
    return config


@asynccontextmanager
async def sqlalchemy_engine(dsn: str) -> AsyncIterator[AsyncEngine]:
    """Open an engine for the migrations."""
    # The driver reads the address: SQLAlchemy does not know its parameters, such as sslmode.
    engine = create_async_engine("postgresql+asyncpg://", async_creator=lambda: connect(dsn), poolclass=NullPool)
    try:
        yield engine
    finally:
        await engine.dispose()


async def upgrade(dsn: str) -> None:
    """Bring the schema of this database up to date. Raises CannotStart if a newer StockPulse created it."""

    def run(connection: Connection) -> None:
        _refuse_newer(connection)
        config = _config()
        config.attributes["connection"] = connection
        command.upgrade(config, "head")

    async with sqlalchemy_engine(dsn) as engine, engine.begin() as connection:
        await connection.run_sync(run)


async def is_current(dsn: str) -> bool:
    """Return True if the schema is that of this version. Raises CannotStart if a newer StockPulse created it."""

    def check(connection: Connection) -> bool:
        _refuse_newer(connection)
        return _revisions_of(connection) == set(ScriptDirectory.from_config(_config()).get_heads())

    async with sqlalchemy_engine(dsn) as engine, engine.connect() as connection:
        return await connection.run_sync(check)


async def require_current(dsn: str) -> None:
    """Raise SchemaOutOfDate if the schema is not the one that this version needs."""
    if not await is_current(dsn):
        raise SchemaOutOfDate


def _revisions_of(connection: Connection) -> set[str]:
    return set(MigrationContext.configure(connection).get_current_heads())


def _refuse_newer(connection: Connection) -> None:
    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    unknown = _revisions_of(connection) - known
    if unknown:
        raise CannotStart(f"a newer StockPulse made this database (schema {', '.join(sorted(unknown))}): use that one")

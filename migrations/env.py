"""Runs the migrations on a given connection, on DATABASE_URL, or on the embedded database, in this order."""

import asyncio

import asyncpg
from alembic import context
from alembic.util import CommandError
from sqlalchemy.engine import Connection

from stockpulse.errors import CannotStart
from stockpulse.node.database import database_address
from stockpulse.postgres.connect import TRANSIENT
from stockpulse.postgres.migrate import sqlalchemy_engine
from stockpulse.postgres.tables import metadata
from stockpulse.settings import load_settings

FAULTS: tuple[type[BaseException], ...] = (*TRANSIENT, asyncpg.PostgresError)


def is_ours(name: str | None, kind: str, _parents: object) -> bool:
    """Return False for partitions, which the app creates as data arrives."""
    return not (kind == "table" and name is not None and name not in metadata.tables)


def migrate(connection: Connection) -> None:
    """Bring the schema to the wanted revision."""
    context.configure(connection=connection, target_metadata=metadata, include_name=is_ours)
    with context.begin_transaction():
        context.run_migrations()


async def migrate_by_settings() -> None:
    """From the command line: find the database as the app does."""
    async with (
        database_address(load_settings()) as dsn,
        sqlalchemy_engine(dsn) as engine,
        engine.begin() as connection,
    ):
        await connection.run_sync(migrate)


if context.is_offline_mode():
    # Another style of parameters would double each % of the statements.
    context.configure(
        dialect_name="postgresql",
        dialect_opts={"paramstyle": "named"},
        target_metadata=metadata,
        literal_binds=True,
    )
    with context.begin_transaction():
        context.run_migrations()
elif (given := context.config.attributes.get("connection")) is not None:
    migrate(given)
else:
    try:
        asyncio.run(migrate_by_settings())
    except CannotStart as refusal:
        raise CommandError(str(refusal)) from None
    except FAULTS as fault:
        raise CommandError(f"the database does not answer: {type(fault).__name__}: {fault}") from None

"""The PostgreSQL server that all tests of a run share, with a migrated database as the template of their databases.

It is the embedded server of the app, without durability: data of a test need not survive a crash.
Tests that kill a server start their own.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from shared_server import keep
from stockpulse.postgres import migrate
from stockpulse.postgres.embedded import server_settings
from stockpulse.postgres.embedded.server import EmbeddedPostgres

SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "300",  # several workers, each with an app or two
}


@contextlib.contextmanager
def database_server() -> Iterator[str]:
    """Yield the address of a migrated database on its own server; no connection to it may stay open."""
    server_settings.SETTINGS.update(SETTINGS)
    # Not in pytest's folder: its path may be too long for a socket, and pytest keeps the last three of them.
    with tempfile.TemporaryDirectory(prefix="stockpulse-") as folder:
        server = EmbeddedPostgres(Path(folder) / "data")

        async def start() -> None:
            await server.start()
            await migrate.upgrade(server.dsn)

        try:
            asyncio.run(start())
            yield server.dsn
        finally:
            asyncio.run(server.stop())


if __name__ == "__main__":
    keep(database_server(), *map(Path, sys.argv[1:]))

"""Connections to PostgreSQL, and which of their failures pass by themselves."""

import asyncio
from collections.abc import AsyncIterable, Sequence
from typing import TYPE_CHECKING, Final

import asyncpg

if TYPE_CHECKING:  # generic in the stubs only
    Connection = asyncpg.Connection[asyncpg.Record]
    PooledConnection = asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
    AnyConnection = Connection | PooledConnection
    Pool = asyncpg.Pool[asyncpg.Record]
else:
    Connection = asyncpg.Connection
    AnyConnection = asyncpg.Connection
    Pool = asyncpg.Pool

#: The server is away, starting, stopping, full or out of connections: worth another try.
TRANSIENT: Final[tuple[type[BaseException], ...]] = (
    OSError,
    asyncio.TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the driver, when a dying server's last words come before the next query
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,
    asyncpg.InternalServerError,
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)

_CONNECT_SECONDS: Final = 10
_SETTINGS: Final = {"application_name": "stockpulse", "timezone": "UTC"}


async def connect(dsn: str) -> Connection:
    """A connection of its own, for a task that holds it for long."""
    return await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS, server_settings=_SETTINGS)


async def create_pool(dsn: str, size: int) -> Pool:
    """Connections for queries, given out one at a time."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        timeout=_CONNECT_SECONDS,
        command_timeout=60,
        server_settings=_SETTINGS,
    )


def normal_dsn(url: str) -> str:
    """The address as the driver takes it: `postgres://` and SQLAlchemy's spellings are accepted."""
    scheme, separator, rest = url.partition("://")
    return f"postgresql://{rest}" if separator and scheme.split("+")[0] in {"postgres", "postgresql"} else url


def is_transient(fault: Exception) -> bool:
    """Return True if the server may take the same request later: see TRANSIENT."""
    return isinstance(fault, TRANSIENT)


async def copy_in(
    connection: Connection, table: str, columns: Sequence[str], source: AsyncIterable[bytes], seconds: float
) -> None:
    """COPY into a table in the binary format, and an end of it when the connection dies.

    The driver waits, without any limit, for room to write, and the death of the connection does not wake it up.
    """
    copying = asyncio.create_task(connection.copy_to_table(table, source=source, columns=columns, format="binary"))

    def end(_connection: object) -> None:
        copying.cancel()

    connection.add_termination_listener(end)
    try:
        async with asyncio.timeout(seconds):
            await copying
    except TimeoutError:
        connection.terminate()  # else a ROLLBACK would wait for a server that does not answer
        raise
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise asyncpg.ConnectionDoesNotExistError("connection was lost in the middle of COPY") from None
    finally:
        connection.remove_termination_listener(end)


async def copy_out(connection: AnyConnection, query: str, *arguments: object, seconds: float) -> bytes:
    """What a query finds, as the bytes of a binary COPY."""
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await connection.copy_from_query(query, *arguments, output=take, format="binary", timeout=seconds)
    return b"".join(pieces)


class ReconnectingConnection:
    """One connection that is kept, and made anew after it was lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    async def get(self) -> tuple[Connection, bool]:
        """The connection, and whether it is a new one."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection, False
        self._connection = await connect(self._dsn)
        return self._connection, True

    def drop(self) -> None:
        """Give the connection up at once; what is under way on it fails."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Close it in good order."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            await connection.close(timeout=5)

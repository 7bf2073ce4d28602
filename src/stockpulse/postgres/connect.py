"""Connections to PostgreSQL, and the list of faults after which a retry may succeed."""

import asyncio
import socket
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

_SERVER_FAULTS: Final[tuple[type[Exception], ...]] = (
    asyncpg.PostgresConnectionError,
    asyncpg.InternalClientError,  # the driver, if a dying server's last words come before the next query
    asyncpg.OperatorInterventionError,  # the server starts, stops or has crashed; a query was cancelled
    asyncpg.InsufficientResourcesError,  # the disk is full, or all connections are taken
    asyncpg.InternalServerError,
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
)

#: Faults of a database that does not answer or is starting, stopping, full or busy: another attempt may succeed.
TRANSIENT: Final[tuple[type[Exception], ...]] = (
    *_SERVER_FAULTS,
    asyncpg.InterfaceError,
    OSError,  # also TimeoutError
)

_CONNECT_SECONDS: Final = 10
_SETTINGS: Final = {"application_name": "stockpulse", "timezone": "UTC"}


def is_outage(fault: BaseException) -> bool:
    """Return True if one of the `TRANSIENT` faults is an outage of the database, and not a fault of our code."""
    if isinstance(fault, _SERVER_FAULTS):
        return True
    if isinstance(fault, asyncpg.InterfaceError):
        # One class for "the connection is gone" and for every misuse of the driver: only the words differ.
        return any(word in str(fault) for word in ("is closed", "is closing", "was closed"))
    # A bare OSError may be a full disk. It is the database if it passed through the driver.
    return isinstance(fault, ConnectionError | TimeoutError | socket.gaierror) or _passed_through_driver(fault)


def _passed_through_driver(fault: BaseException) -> bool:
    trace = fault.__traceback__
    while trace is not None:
        if trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "asyncpg":
            return True
        trace = trace.tb_next
    return False


async def connect(dsn: str) -> Connection:
    """Open a connection outside the pool, for a task that holds it for long."""
    return await asyncpg.connect(dsn, timeout=_CONNECT_SECONDS, server_settings=_SETTINGS)


async def create_pool(dsn: str, size: int) -> Pool:
    """Open a pool of connections for queries."""
    return await asyncpg.create_pool(
        dsn,
        min_size=1,
        max_size=size,
        timeout=_CONNECT_SECONDS,
        command_timeout=60,
        server_settings=_SETTINGS,
    )


def is_transient(fault: Exception) -> bool:
    """Return True if the server may take the same request later: see TRANSIENT."""
    return isinstance(fault, TRANSIENT)


async def copy_in(
    connection: Connection, table: str, columns: Sequence[str], source: AsyncIterable[bytes], seconds: float
) -> None:
    """COPY into a table in the binary format; fail when the connection dies.

    The driver alone would wait without end for room to write, since the end of the connection does not wake it up.
    """
    copying = asyncio.create_task(connection.copy_to_table(table, source=source, columns=columns, format="binary"))

    def end(_connection: object) -> None:
        copying.cancel()

    connection.add_termination_listener(end)
    try:
        async with asyncio.timeout(seconds):
            await copying
    except TimeoutError:
        connection.terminate()  # otherwise a ROLLBACK would wait for a server that does not answer
        raise
    except asyncio.CancelledError:
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise
        raise asyncpg.ConnectionDoesNotExistError("connection was lost in the middle of COPY") from None
    finally:
        connection.remove_termination_listener(end)


async def copy_out(connection: AnyConnection, query: str, *arguments: object, seconds: float) -> bytes:
    """Return the result of a query as the bytes of a binary COPY."""
    pieces: list[bytes] = []

    async def take(piece: bytes) -> None:
        pieces.append(piece)

    await connection.copy_from_query(query, *arguments, output=take, format="binary", timeout=seconds)
    return b"".join(pieces)


class ReconnectingConnection:
    """One connection that is kept, and opened again after it was lost."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._connection: Connection | None = None

    async def get(self) -> tuple[Connection, bool]:
        """Return the connection, and True if it is new."""
        if self._connection is not None and not self._connection.is_closed():
            return self._connection, False
        self._connection = await connect(self._dsn)
        return self._connection, True

    def drop(self) -> None:
        """Drop the connection at once; queries under way fail."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    async def close(self) -> None:
        """Close the connection in good order."""
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            await connection.close(timeout=5)

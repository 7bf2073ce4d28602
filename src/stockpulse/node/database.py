"""The database of the process: the configured one, or the embedded server that runs as long as the process."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from typing import Final

from stockpulse.aio.supervisor import Supervisor
from stockpulse.errors import CannotStart, InvalidInput
from stockpulse.market.calendar import Calendar
from stockpulse.market.calendar_corrections import read_corrections
from stockpulse.market.calendars import keep_calendars_in, trading_calendar, use_corrections
from stockpulse.market.symbology import Names
from stockpulse.postgres import migrate
from stockpulse.postgres.address import normal_dsn
from stockpulse.postgres.connect import Pool, create_pool
from stockpulse.postgres.database import Database
from stockpulse.postgres.disk import Disk
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.postgres.pulse import Pulse
from stockpulse.postgres.symbology_store import NameStore
from stockpulse.settings import Settings

_CLOSE_SECONDS: Final = 3
_OWN_CONNECTIONS: Final = 4
"""Of the connections for queries, this many are for the work of the process itself; readers have the others."""
_LEAST_OWN_CONNECTIONS: Final = 2
"""With one, new names would wait while a segment is indexed."""


def disk_of(settings: Settings) -> Disk:
    """Return the disk of the database."""
    return Disk(
        settings.data_dir.expanduser().resolve() if settings.database_url is None else None, settings.disk_reserve_mb
    )


@asynccontextmanager
async def database_address(
    settings: Settings, tasks: Supervisor | None = None, disk: Disk | None = None
) -> AsyncIterator[str]:
    """Yield the address of the database; with `tasks`, the embedded server is watched, and restarted if it dies.

    While the `disk` is full, a server that does not come up is tried again for as long as it takes.
    """
    if settings.database_url is not None:
        yield normal_dsn(settings.database_url.get_secret_value())
        return
    server = EmbeddedPostgres(settings.data_dir, disk or disk_of(settings))
    try:
        await server.start()
        if tasks is None:
            yield server.dsn
        else:
            async with tasks.running("postgres", server.watch):
                yield server.dsn
    finally:
        await server.stop()


@asynccontextmanager
async def open_database(settings: Settings, tasks: Supervisor) -> AsyncIterator[Database]:
    """Yield the database, with its schema up to date.

    Raises CannotStart if it does not answer, if its schema is out of date, or if the default calendar is unknown.
    """
    disk = disk_of(settings)
    # Loading a calendar takes a second, in which the database starts as well.
    async with _loading(settings) as calendar, database_address(settings, tasks, disk) as dsn:
        await _check(settings, dsn, calendar)
        own = min(_OWN_CONNECTIONS, max(_LEAST_OWN_CONNECTIONS, settings.database_pool // 2))
        async with _pool(dsn, own) as pool, _pool(dsn, max(1, settings.database_pool - own)) as readers:
            names = Names()
            name_store = NameStore(pool, names)
            await name_store.load()
            pulse = Pulse(dsn)
            async with tasks.running("pulse", pulse.run):
                yield Database(dsn, pool, readers, names, name_store, disk, pulse)


@asynccontextmanager
async def _loading(settings: Settings) -> AsyncIterator[asyncio.Task[Calendar]]:
    """Load the default calendar in the background; leave no task behind."""
    task = asyncio.create_task(asyncio.to_thread(_load, settings))
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait([task])


def _load(settings: Settings) -> Calendar:
    keep_calendars_in(settings.cache_dir / "calendars")
    try:
        use_corrections(read_corrections(settings.calendar_corrections) if settings.calendar_corrections else {})
    except InvalidInput as wrong:
        raise CannotStart(f"STOCKPULSE_CALENDAR_CORRECTIONS: {wrong}") from None
    return trading_calendar(settings.calendar)


async def _check(settings: Settings, dsn: str, calendar: Awaitable[Calendar]) -> None:
    """Bring the embedded schema up to date, or require it of another database; check the calendar."""
    try:
        await (migrate.upgrade(dsn) if settings.database_url is None else migrate.require_current(dsn))
    except migrate.UNREACHABLE as fault:
        raise CannotStart(f"the database does not answer: {type(fault).__name__}: {fault}") from None
    try:
        await calendar
    except InvalidInput as wrong:
        raise CannotStart(f"STOCKPULSE_CALENDAR: {wrong}") from None


@asynccontextmanager
async def _pool(dsn: str, size: int) -> AsyncIterator[Pool]:
    pool = await create_pool(dsn, size)
    try:
        yield pool
    finally:
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await pool.close()
        except TimeoutError:
            pool.terminate()

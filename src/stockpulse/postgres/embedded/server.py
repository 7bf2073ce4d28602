"""The embedded PostgreSQL: real server binaries from a wheel, started, watched and stopped by the app.

In STOCKPULSE_DATA_DIR there are:

    stockpulse.lock   held by the app that uses the folder, with its pid
    postgres/         the cluster
    run/              the server's socket (elsewhere when this path is too long for a socket)
    pg_hba.conf       lets in only the user of the app
    pg_ident.conf
    postgres.log

The server runs in its own session and outlives a killed app. The next app adopts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from typing import TYPE_CHECKING

import asyncpg
import structlog

from stockpulse.errors import CannotStart
from stockpulse.postgres.connect import TRANSIENT, is_outage
from stockpulse.postgres.disk import Disk
from stockpulse.postgres.embedded.cluster import ROLE, Cluster
from stockpulse.postgres.embedded.folders import FolderLock, make_data_folder
from stockpulse.postgres.embedded.processes import POLL_SECONDS, Process, command_line
from stockpulse.postgres.embedded.server_settings import PORT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from asyncpg import Connection

log = structlog.get_logger(__name__)

DATABASE = "stockpulse"

START_SECONDS = 600  # the replay of a long WAL is part of a start
ORPHAN_SECONDS = 60
LEFTOVER_SECONDS = 15
STOP_SIGNALS = (
    (signal.SIGINT, 7),  # fast: roll back, checkpoint, end
    (signal.SIGQUIT, 2),  # immediate: the next start replays the WAL
    (signal.SIGKILL, 2),
)
WATCH_SECONDS = 0.25
FULL_DISK_FIRST_SECONDS = 1.0
FULL_DISK_LONGEST_SECONDS = 30.0
WATCH_STARTS = 8  # starts that may fail in a row: the cause of the first end may end the next server too
PROGRESS_SECONDS = 5
ANSWER_SECONDS = 10

# Messages of a new server while something of a killed one still runs.
SHARED_MEMORY = "pre-existing shared memory block"  # its child processes
PID_FILE = 'lock file "postmaster.pid" already exists'  # the postmaster itself, which had just started


class EmbeddedPostgres:
    """One PostgreSQL server for one app on one data folder."""

    def __init__(self, data_dir: Path, disk: Disk | None = None) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._disk = disk or Disk(self._data_dir)
        self._cluster = Cluster(self._data_dir)
        self._lock: FolderLock | None = None
        self._postmaster: Process | None = None
        self._stopping = False

    @property
    def dsn(self) -> str:
        """The address of the database."""
        return f"postgresql://{ROLE}@/{DATABASE}?port={PORT}&host={self._cluster.sockets}"

    async def start(self) -> None:
        """Lock the folder, create the cluster if it is missing, and start or adopt a server."""
        with self._explained():
            make_data_folder(self._data_dir)
            self._lock = FolderLock(self._data_dir / "stockpulse.lock")
            self._stopping = False
            try:
                self._cluster.prepare()
                if not self._cluster.is_finished():
                    await self._cluster.make()
                await self._bring_up()
            except BaseException:
                await self.stop()
                raise

    async def watch(self) -> None:
        """Restart the server whenever it ends, until cancelled.

        Raises CannotStart if every start fails; while the disk is full, it waits and tries again without end.
        """
        failures, delay = 0, FULL_DISK_FIRST_SECONDS
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._stopping or self._postmaster is None or self._postmaster.is_alive():
                continue
            log.error("postgres died", pid=self._postmaster.pid, log=self._cluster.log.tail())
            try:
                with self._explained():
                    await self._bring_up()
                failures, delay = 0, FULL_DISK_FIRST_SECONDS
            except CannotStart as refusal:
                if (full := self._disk.lacks_room_to_start()) and not self._stopping:
                    log.warning("postgres cannot start on a full disk, waiting for room", disk=full, in_seconds=delay)
                    await self._wait_for_room(delay)
                    delay = min(2 * delay, FULL_DISK_LONGEST_SECONDS)
                    continue
                failures += 1
                if failures == WATCH_STARTS and not self._stopping:
                    raise
                log.warning("postgres did not come up", error=str(refusal))

    async def _wait_for_room(self, seconds: float) -> None:
        """Wait until the disk has room, and at most so long: the server may need less than we ask for."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._disk.lacks_room_to_start():  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(WATCH_SECONDS)

    async def stop(self) -> None:
        """Shut the server down, also in the middle of a start, and release the folder."""
        self._stopping = True  # from here on no server is started
        try:
            if self._postmaster is not None:
                await self._shut_down(self._postmaster)
                self._postmaster = None
        finally:
            if self._lock is not None:
                self._lock.release()
                self._lock = None

    async def _bring_up(self) -> None:
        """Start or adopt a server, and create our database if it is missing."""
        deadline = time.monotonic() + START_SECONDS
        retry_deadline = time.monotonic() + ORPHAN_SECONDS
        while (connection := await self._adopt(deadline) or await self._start_new(deadline)) is None:
            said = self._cluster.log.tail()
            if time.monotonic() > retry_deadline or not (SHARED_MEMORY in said or PID_FILE in said):
                raise CannotStart(f"PostgreSQL ended at its start; {self._cluster.log.path} says: {said}")
            log.warning("something of a killed postgres still runs", log=said)
            if SHARED_MEMORY in said:
                self._cluster.kill_orphans()
            await asyncio.sleep(WATCH_SECONDS)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()
        log.info("postgres is up", pid=self._postmaster.pid if self._postmaster else None)

    async def _adopt(self, deadline: float) -> Connection | None:
        """Adopt the server that a killed app left; return None if no server runs."""
        pid, _ = self._cluster.pid_file()
        process = Process.find(pid) if pid and self._cluster.owns(pid) else None
        if process is None:
            self._cluster.remove_stale_files()
            return None
        self._postmaster = process
        connection = None
        if command_line(process.pid) == " ".join(self._cluster.server_command()):
            log.info("postgres is still up from before", pid=pid)
            connection = await self._connect_when_ready(process, deadline)
        if connection is not None:
            if await self._take_over(connection):
                return connection
            await connection.close()
        await self._shut_down(process)
        return None

    async def _take_over(self, connection: Connection) -> bool:
        """End the sessions of the killed app, such as half a COPY; return False if they do not end."""
        if await connection.fetchval("SHOW data_directory") != str(self._cluster.path):
            return False
        end = time.monotonic() + LEFTOVER_SECONDS
        while time.monotonic() < end:
            others = await connection.fetch(
                "SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            if not others:
                return True
            log.info("ended the connections of the app before", connections=len(others))
        return False

    async def _start_new(self, deadline: float) -> Connection | None:
        """Start a server; return None if it ended at once."""
        if self._stopping:
            raise CannotStart("PostgreSQL is being stopped")
        self._cluster.log.rotate()
        process = self._postmaster = self._cluster.run(self._cluster.server_command())
        return await self._connect_when_ready(process, deadline)

    async def _connect_when_ready(self, process: Process, deadline: float) -> Connection | None:
        """Wait while the server recovers; return None if it ended."""
        next_report = time.monotonic() + PROGRESS_SECONDS
        while process.is_alive():
            pid, status = self._cluster.pid_file()
            if pid == process.pid and status == "ready" and (connection := await self._connect()):
                return connection
            if time.monotonic() > deadline:
                raise CannotStart(
                    f"PostgreSQL did not get ready; {self._cluster.log.path} says: {self._cluster.log.tail()}"
                )
            if time.monotonic() > next_report:
                log.info("waiting for postgres", pid=process.pid, status=status)
                next_report += PROGRESS_SECONDS
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def _connect(self) -> Connection | None:
        """Open a connection for housekeeping; return None if the server does not accept one now."""
        try:
            return await asyncpg.connect(
                host=str(self._cluster.sockets), port=PORT, user=ROLE, database="postgres", timeout=ANSWER_SECONDS
            )
        except TRANSIENT as fault:  # it starts, stops or died, or the connections of the dead app are not all gone
            if not is_outage(fault):
                raise
            return None

    async def _shut_down(self, process: Process) -> None:
        """Stop the server, with a stronger signal each time; none loses committed data."""
        for number, seconds in STOP_SIGNALS:
            process.signal(number)
            if await process.ended(within=seconds):
                break
            log.warning("postgres does not stop", pid=process.pid, signal=number.name)
        if process.exit_code() != 0:
            self._cluster.kill_orphans()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a refusal of the system or the server into CannotStart with the remedy."""
        try:
            yield
        except CannotStart as refusal:
            if not (full := self._disk.lacks_room_to_start()):
                raise
            raise CannotStart(f"{full}; {refusal}") from refusal
        except OSError as error:
            raise CannotStart(f"cannot use STOCKPULSE_DATA_DIR={self._data_dir}: {error}") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CannotStart(f"PostgreSQL refuses: {error}; see {self._cluster.log.path}") from error

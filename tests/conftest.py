"""The fixtures, markers and options that all tests share.

Fixtures:

    postgres_dsn   a fresh, migrated database
    empty_dsn      a fresh database without a schema
    cache_dir      the folder where the apps of all tests keep compiled loops
    compiled       the same folder, after the loops that the apps need by default have been compiled
    serve          `async with serve(dsn, symbols=("AAPL",)) as client`: the app, started and stopped as uvicorn does it
    client         a client of the app on a fresh database, without a provider

Markers, for `pytest -m`:

    kafka      the test needs a real Kafka broker (every test that uses one of its fixtures)
    crash      the test kills, freezes or cuts off running processes (every test in tests/crash)
    slow       the test needs a database, the app or another process, or it takes more than a second
    thorough   the test takes more than a second of processor time: it runs only with `--thorough`, as in `.ci/run`
    longest    the test takes about a minute or more: it runs only with `--longest`

Commands:

    pytest                                               everything but the thorough tests, in parallel
    pytest -m "not kafka and not crash and not slow"     the quick check while you work
    pytest -n 0                                          in one process; so is a test that you name: `pytest file::test`
    pytest --thorough                                    everything but the longest tests
    pytest --longest                                     all tests
    pytest --hypothesis-profile=more                     100 examples of each property instead of 25
    pytest --hypothesis-profile=long --timeout=0         thousands of examples
"""

import asyncio
import fcntl
import os
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import httpx2
import hypothesis
import platformdirs
import pytest
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

import database_server
from app_signals import stopping_by_signal
from shared_server import shared
from stockpulse import app as composition
from stockpulse.api.context import Context
from stockpulse.indicators.compiler import Compiler
from stockpulse.market.calendars import keep_calendars_in
from stockpulse.node import parts
from stockpulse.postgres.embedded.server import DATABASE
from stockpulse.settings import Settings, variables_of

pytest_plugins = ["kafka_fixtures"]

Serve = Callable[..., AbstractAsyncContextManager[httpx2.AsyncClient]]

hypothesis.settings.register_profile("quick", max_examples=25, derandomize=True, deadline=None)
hypothesis.settings.register_profile("more", max_examples=100, derandomize=True, deadline=None)
hypothesis.settings.register_profile("long", max_examples=5000, deadline=None)

CRASH_GROUPS = 2
"""At most this many crash tests run at a time: each runs several processes, and more would starve each other."""

KAFKA_FIXTURES = {"kafka", "kafka_jars"}
"""Each test with a broker has one of these among its fixtures."""

SLOW_FIXTURES = {"_template_dsn", "compiled", "app"}
"""Each test with a database or a running app has one of these among its fixtures."""

MOST_WORKERS = 8
"""With more workers, they wait for the one database server."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--thorough", action="store_true", help="run the tests marked `thorough` too")
    parser.addoption("--longest", action="store_true", help="run the tests marked `thorough` or `longest` too")


def pytest_configure(config: pytest.Config) -> None:
    if not config.getoption("--hypothesis-profile"):
        hypothesis.settings.load_profile("quick")


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return one worker more than there are cores, because slow tests wait; none where single tests are named."""
    if all("::" in argument for argument in config.args):
        return 0
    waiting = 0 if "not slow" in config.option.markexpr else 1
    return min((os.cpu_count() or 1) + waiting, MOST_WORKERS)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Set the markers that follow from a test's folder and fixtures; skip long tests unless they are asked for."""
    wanted = {"longest": config.getoption("--longest")}
    wanted["thorough"] = config.getoption("--thorough") or wanted["longest"]
    crashes = 0
    for item in items:
        if "tests/crash/" in item.path.as_posix():
            item.add_marker(pytest.mark.crash)
            item.add_marker(pytest.mark.xdist_group(f"crash{crashes % CRASH_GROUPS}"))
            crashes += 1
        if KAFKA_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.kafka)
        if SLOW_FIXTURES & set(item.fixturenames):
            item.add_marker(pytest.mark.slow)
        for marker, asked_for in wanted.items():
            if item.get_closest_marker(marker) and not asked_for:
                item.add_marker(pytest.mark.skip(reason=f"takes long: pytest --{marker} runs it"))


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests see the defaults, independent of the environment."""
    for field in Settings.model_fields.keys() - {"cache_dir"}:
        for variable in variables_of(field):
            monkeypatch.delenv(variable, raising=False)


@pytest.fixture(scope="session", autouse=True)
def cache_dir() -> Iterator[Path]:
    """Return the folder with compiled loops and calendars that all runs share, apart from the user's own.

    A loop's name is a digest of its source, so a changed loop is compiled again.
    """
    folder = platformdirs.user_cache_path("stockpulse-tests") / "indicators"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keep_calendars_in(folder / "calendars")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("STOCKPULSE_CACHE_DIR", str(folder))
        yield folder


@pytest.fixture(scope="session")
def compiled(cache_dir: Path) -> Path:
    """Compile the default indicators if no run has done so; without this, the first app takes half a minute for it."""
    spec = parts.build_engine_spec(Settings(_env_file=None))
    compiler, instances = Compiler(cache_dir / "loops"), spec.instances
    with (cache_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one process compiles, the others wait
        if not compiler.is_prepared(instances):
            compiler.load(instances)
    return cache_dir


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Return a folder that the workers of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent  # a worker's folder lies in that of the run


@pytest.fixture(scope="session")
def _template_dsn(run_dir: Path) -> Iterator[str]:
    """Return the address of the migrated database that is the template of all others, on the server of this run."""
    folder = run_dir / "postgres"
    folder.mkdir(exist_ok=True)
    with shared(folder, database_server.__file__) as dsn:
        yield dsn


@pytest.fixture(scope="session")
def _databases(_template_dsn: str) -> Iterator[Callable[[str], None]]:
    """Return a function that executes a command on the server, on one connection for the whole session."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(_of_database(_template_dsn, "postgres")))
        yield lambda command: runner.run(connection.execute(command))
        runner.run(connection.close())


def _new_database(execute: Callable[[str], None], template_dsn: str, template: str) -> Iterator[str]:
    """Yield the address of a new copy of `template`; drop it afterwards, even with open connections."""
    name = f"test_{uuid.uuid4().hex}"
    execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")  # without fsync it is the cheaper one
    yield _of_database(template_dsn, name)
    execute(f"DROP DATABASE {name} WITH (FORCE)")


def _of_database(dsn: str, database: str) -> str:
    return dsn.replace(f"/{DATABASE}?", f"/{database}?")


@pytest.fixture
def postgres_dsn(_databases: Callable[[str], None], _template_dsn: str) -> Iterator[str]:
    yield from _new_database(_databases, _template_dsn, DATABASE)


@pytest.fixture
def empty_dsn(_databases: Callable[[str], None], _template_dsn: str) -> Iterator[str]:
    yield from _new_database(_databases, _template_dsn, "template0")


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    # Logging stays pytest's; logging in production has its own tests.
    monkeypatch.setattr(composition, "configure_logging", lambda *_, **__: None)

    @asynccontextmanager
    async def served(dsn: str, **settings: Any) -> AsyncIterator[httpx2.AsyncClient]:
        app = composition.create_app(Settings(_env_file=None, **{"database_url": dsn, "provider": "none"} | settings))
        with stopping_by_signal() as stopped:
            async with _living(app) as state:
                transport = httpx2.ASGITransport(_with_state(app, state))
                async with httpx2.AsyncClient(
                    transport=transport, base_url="http://localhost", headers={"Content-Type": "application/json"}
                ) as client:
                    yield client
        assert not stopped, "a background task failed and brought the app down; its log says why"

    return served


@pytest.fixture
async def client(serve: Serve, postgres_dsn: str) -> AsyncIterator[httpx2.AsyncClient]:
    async with serve(postgres_dsn) as client:
        yield client


@pytest.fixture
def contexts(monkeypatch: pytest.MonkeyPatch) -> list[Context]:
    """The parts of each app that a test starts, for what HTTP has no way in for; ask for it before `client`."""
    seen: list[Context] = []
    running = composition.running

    @asynccontextmanager
    async def noted(*arguments: Any) -> AsyncIterator[Context]:
        async with running(*arguments) as context:
            seen.append(context)
            yield context

    monkeypatch.setattr(composition, "running", noted)
    return seen


@asynccontextmanager
async def _living(app: FastAPI) -> AsyncIterator[Any]:
    """The app's lifespan in its own task: pytest sets a fixture up in another task than it tears it down."""
    state: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    over = asyncio.Event()

    async def live() -> None:
        async with app.router.lifespan_context(app) as given:
            state.set_result(given)
            await over.wait()

    life = asyncio.create_task(live())
    await asyncio.wait([life, state], return_when=asyncio.FIRST_COMPLETED)
    if life.done():
        life.result()  # it could not start, and says why
    try:
        yield state.result()
    finally:
        over.set()
        await life


def _with_state(app: FastAPI, state: dict[str, Any]) -> Any:
    """Pass the state of a lifespan to requests, as uvicorn does and the transport does not."""

    async def app_with_state(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "state": dict(state)}, receive, send)

    return app_with_state

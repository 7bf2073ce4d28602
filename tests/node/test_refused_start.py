"""A start that is refused at any step leaves no task, no connection and no server behind.

Every function and class of StockPulse that the composition root calls is one step. A first start counts the steps;
then each of them fails in turn.
"""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import asyncpg
import psutil
import pytest
from prometheus_client import CollectorRegistry

from app_signals import stopping_by_signal
from stockpulse.node import database, feeds, lifecycle, log, maintenance, parts, roles, sources
from stockpulse.node.lifecycle import running
from stockpulse.pipeline import shard_opener, shards
from stockpulse.settings import Settings

MODULES = (database, feeds, lifecycle, log, maintenance, parts, roles, sources, shard_opener, shards)


class Refused(Exception):
    """The fault of the step under test."""


class Steps:
    """Counts the calls of the composition root; the call with the number `refused_at` fails."""

    def __init__(self, refused_at: int | None = None) -> None:
        self.refused_at = refused_at
        self.names: list[str] = []
        self.over = False

    def wrap(self, module: ModuleType, name: str, step: Callable[..., object]) -> Callable[..., object]:
        def stepped(*arguments: object, **options: object) -> object:
            if self.over or not in_the_start():
                return step(*arguments, **options)
            self.names.append(f"{module.__name__}.{name}")
            if len(self.names) - 1 == self.refused_at:
                raise Refused(self.names[-1])
            return step(*arguments, **options)

        return stepped


@contextmanager
def counted(steps: Steps) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            for name, step in list(vars(module).items()):
                if is_step(step):
                    patch.setattr(module, name, steps.wrap(module, name, step))
        patch.setattr(roles, "ROLES", {name: getattr(roles, f"run_{name}") for name in roles.ROLES})
        patch.setattr(lifecycle, "ROLES", roles.ROLES)
        yield


def is_step(value: object) -> bool:
    if not (inspect.isfunction(value) or inspect.isclass(value)) or not value.__module__.startswith("stockpulse."):
        return False
    return not (inspect.isclass(value) and issubclass(value, BaseException))


def in_the_start() -> bool:
    """Return False in a background task: the supervisor gives those names, and a fault of theirs refuses no start."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread
        return False
    return task is not None and task.get_name().startswith("Task-")


async def start(settings: Settings, steps: Steps) -> None:
    async with running(settings, CollectorRegistry()):
        steps.over = True


async def steps_of_a_start(settings: Settings) -> list[str]:
    steps = Steps()
    with counted(steps):
        await start(settings, steps)
    return steps.names


async def refuse(settings: Settings, at: int) -> None:
    steps = Steps(at)
    with counted(steps), stopping_by_signal(), pytest.raises(Refused):
        await start(settings, steps)
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not left, f"tasks are left: {left}"


async def no_connections(dsn: str, step: str) -> None:
    """Require that there are no other connections; a closed connection may end a little later in the server."""
    query = "SELECT pid, query FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    own = await asyncpg.connect(dsn)
    try:
        for _ in range(100):
            if not (left := await own.fetch(query)):
                return
            await asyncio.sleep(0.02)
        pytest.fail(f"refused at {step}, connections are left: {left}")
    finally:
        await own.close()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.timeout(900)  # more than a hundred starts
async def test_at_every_step(postgres_dsn: str, cache_dir: Path) -> None:
    settings = Settings(_env_file=None, database_url=postgres_dsn, provider="simulated", symbols=("A",))
    names = await steps_of_a_start(settings)
    assert {"stockpulse.node.roles.run_all", "stockpulse.pipeline.shard_opener.Sink"} <= set(names)
    for at in range(len(names)):
        await refuse(settings, at)
        await no_connections(postgres_dsn, names[at])


@pytest.mark.thorough
@pytest.mark.slow
async def test_with_a_server_of_its_own(tmp_path: Path, cache_dir: Path) -> None:
    settings = Settings(_env_file=None, data_dir=tmp_path / "data", provider="none")
    names = await steps_of_a_start(settings)
    first = {name: at for at, name in reversed(list(enumerate(names)))}
    chosen = ["database.create_pool", "log.PostgresJournal", "shard_opener.Sink", "roles.start_maintenance"]
    for step in chosen:
        await refuse(settings, next(at for name, at in first.items() if name.endswith(step)))
        assert not servers_of(tmp_path)


def servers_of(folder: Path) -> list[psutil.Process]:
    """Return the processes of the servers in a folder: PostgreSQL works in its data directory."""
    return [
        process for process in psutil.process_iter(["cwd"]) if Path(process.info["cwd"] or "/").is_relative_to(folder)
    ]

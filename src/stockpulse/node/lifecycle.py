"""One process without HTTP: the start of its parts from the settings, and their stop."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CollectorRegistry

from stockpulse.aio.supervisor import Supervisor
from stockpulse.api.context import Context
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.errors import CannotStart
from stockpulse.journal.kafka.connection import KAFKA_TRANSIENT
from stockpulse.node.database import open_database
from stockpulse.node.log import open_log
from stockpulse.node.node import Node, Timing
from stockpulse.node.parts import build_engine_spec
from stockpulse.node.roles import ROLES
from stockpulse.node.sources import check_options, open_sources
from stockpulse.node.transport import open_transport
from stockpulse.pipeline.events import Listener
from stockpulse.pipeline.latest_prices import LatestPrices
from stockpulse.postgres.connect import TRANSIENT
from stockpulse.settings import Settings
from stockpulse.storage.partitions import Partitions
from stockpulse.storage.rejected_kinds import RejectedKinds

_REAL_TIME: Final = Timing()


def supervisor() -> Supervisor:
    """Return the supervisor of a process: it restarts tasks when the database or Kafka was away."""
    return Supervisor((*TRANSIENT, *KAFKA_TRANSIENT))


@asynccontextmanager
async def running(
    settings: Settings,
    registry: CollectorRegistry,
    timing: Timing = _REAL_TIME,
    spec: EngineSpec | None = None,
    listeners: Sequence[Listener] = (),
) -> AsyncIterator[Context]:
    """Run all parts of the role, from the recovered state to the last flush.

    Without a `spec` the settings define the calculation. The `listeners` receive the events of the shards of this
    process. Raises CannotStart, with the remedy in one line; then no task, connection or server is left.
    """
    _check_role(settings)
    check_options(settings)
    async with (
        supervisor() as tasks,
        open_database(settings, tasks) as database,
        open_log(settings, database, tasks) as log,
        open_transport(settings, database, tasks, timing.now) as transport,
        open_sources(settings, transport, timing.now) as sources,
    ):
        node = Node(
            settings=settings,
            spec=spec or build_engine_spec(settings),
            database=database,
            log=log,
            tasks=tasks,
            timing=timing,
            partitions=Partitions(database.pool),
            sources=sources,
            prices=LatestPrices(timing.now),
            listeners=tuple(listeners),
            rejected_kinds=RejectedKinds(settings.dead_letters_per_minute),
        )
        async with ROLES[settings.role](node, registry) as context:
            yield context


def _check_role(settings: Settings) -> None:
    """Require a common log and a common database for several processes."""
    if settings.role == "all":
        return
    for value, name in (
        (settings.kafka_bootstrap_servers, "KAFKA_BOOTSTRAP_SERVERS"),
        (settings.database_url, "DATABASE_URL"),
    ):
        if value is None:
            raise CannotStart(f"STOCKPULSE_ROLE: got {settings.role!r}, which needs {name}")

"""Moving from one log to the other: the old one is drained, and the state of its shards is divided among the new ones.

Revisions keep growing, since each log counts its seqs above those of earlier logs.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from stockpulse.aio.supervisor import Supervisor
from stockpulse.engine.checkpoint_state import encode
from stockpulse.errors import CannotStart
from stockpulse.journal.backends import LogParts
from stockpulse.journal.followed_log import (
    Entering,
    Leaving,
    change_logs,
    checkpoints_of,
    first_of,
    followed_log,
    next_slot,
    retired_at,
)
from stockpulse.journal.kafka.offsets import bounds_of
from stockpulse.journal.postgres import SHARD, PostgresJournal
from stockpulse.journal.routing import Routing
from stockpulse.node.database import open_database
from stockpulse.node.kafka import kafka_target
from stockpulse.node.lifecycle import supervisor
from stockpulse.node.log import embedded_log, kafka_log
from stockpulse.node.node import Node, Timing
from stockpulse.node.parts import build_engine_spec, open_publisher, open_shards
from stockpulse.pipeline.provider_clocks import ProviderClocks
from stockpulse.pipeline.shards import Shards
from stockpulse.postgres.database import Database
from stockpulse.settings import Settings
from stockpulse.storage.partitions import Partitions

Target = Literal["kafka", "postgres"]


@dataclass(frozen=True)
class Moved:
    """The number of shards and symbols that a move of the log covered."""

    shards: int
    symbols: int


async def move(settings: Settings, target: Target) -> Moved:
    """Move the database to the other log; return the size of the move.

    No other process may use the database at the same time; a process that does is fenced.
    """
    async with _ground(settings) as (database, tasks):
        current = await followed_log(database.pool)
        if current is None:
            raise CannotStart("the database follows no log yet: there is nothing to move, just start")
        if target == "kafka" and not settings.kafka_bootstrap_servers:
            raise CannotStart("KAFKA_BOOTSTRAP_SERVERS is not set: it says where to move to")
        if (target == "postgres") == (current == "postgres"):
            raise CannotStart(f"the database follows {current} already")
        move_log = _to_kafka if target == "kafka" else _to_postgres
        return await move_log(settings, database, tasks)


@asynccontextmanager
async def _ground(settings: Settings) -> AsyncIterator[tuple[Database, Supervisor]]:
    async with supervisor() as tasks, open_database(settings, tasks) as database:
        yield database, tasks


async def _to_kafka(settings: Settings, database: Database, tasks: Supervisor) -> Moved:
    async with (
        embedded_log(settings, database, tasks) as log,
        _drained(settings, database, log, tasks) as (shards, leaving),
    ):
        engine = shards.owned[SHARD].processor.engine.unlocked
        target = await kafka_target(settings)
        routing = Routing(database.names, target.partitions)
        slot, retired = await next_slot(database.pool), await retired_at(database.pool, target.identity)
        starts, _ = await bounds_of(target.connection, target.topic, target.partitions)
        symbol_ids = np.array(sorted(database.names.symbol_by_id), np.int64)
        shard_of = routing.of_symbols(symbol_ids)
        entering = [
            Entering(
                shard,
                target.identity,
                first_of(slot + shard),
                first_of(slot + shard) + max(retired.get(shard, 0), starts[shard]),
                encode(engine.snapshot(symbol_ids[shard_of == shard])),
            )
            for shard in range(target.partitions)
        ]
        if isinstance(log.journal, PostgresJournal):
            await log.journal.seal()
        await change_logs(database.pool, leaving, entering)
        return Moved(target.partitions, len(symbol_ids))


async def _to_postgres(settings: Settings, database: Database, tasks: Supervisor) -> Moved:
    async with (
        kafka_log(settings, database, tasks) as log,
        _drained(settings, database, log, tasks) as (shards, leaving),
    ):
        engine = build_engine_spec(settings).new_engine()
        engine.restore(0, [one.processor.engine.unlocked.snapshot() for one in shards.owned.values()])
        for one, left in zip(shards.owned.values(), leaving, strict=True):
            if left.offset > one.source.segments.open:
                await one.source.segments.seal(left.offset)
                await one.source.segments.index_sealed()
        head = first_of(await next_slot(database.pool))
        entering = [Entering(SHARD, "postgres", 0, head, encode(engine.snapshot()))]
        await change_logs(database.pool, leaving, entering, head=head)
        return Moved(1, len(database.names.symbol_by_id))


@asynccontextmanager
async def _drained(
    settings: Settings, database: Database, log: LogParts, tasks: Supervisor
) -> AsyncIterator[tuple[Shards, list[Leaving]]]:
    """Yield all shards with the whole log processed and stored, and the final position of each shard."""
    node = Node(settings, build_engine_spec(settings), database, log, tasks, Timing(), Partitions(database.pool))
    clocks = ProviderClocks(database.names, log.routing, node.timing.now)
    async with open_publisher(node) as publisher, open_shards(node, clocks, *publisher) as shards:
        await shards.take_all(log.logs.shards)
        leaving = []
        for shard, one in shards.owned.items():
            await one.processor.writer.flush_once()
            first_seq = one.source.external.first_seq if one.source.external is not None else 0
            leaving.append(Leaving(shard, one.source.log.identity, one.sink.epoch, one.sink.offset, first_seq))
        yield shards, leaving


async def accept_loss(settings: Settings) -> list[str]:
    """Continue without the lost records, at offsets that the partitions have; return the losses as text."""
    async with _ground(settings) as (database, _):
        target = await kafka_target(settings)
        oldest, ends = await bounds_of(target.connection, target.topic, target.partitions)
        losses, leaving, entering = [], [], []
        slot = await next_slot(database.pool)
        for one in await checkpoints_of(database.pool, target.identity):
            known = one.offset - one.first_seq
            start = min(max(known, oldest[one.shard]), ends[one.shard])
            if start != known:
                losses.append(f"partition {one.shard}: processed up to {known:,}, continues at {start:,}")
            leaving.append(one)
            first_seq = first_of(slot + one.shard)
            entering.append(Entering(one.shard, target.identity, first_seq, first_seq + start, b""))
        if losses:
            await change_logs(database.pool, leaving, entering, keep_states=True)
        return losses

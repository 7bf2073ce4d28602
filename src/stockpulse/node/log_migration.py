"""From one log to the other, with all that the database holds: the old one is drained, its state divided anew.

Revisions go on growing, since each log counts its offsets above those of the logs before.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from stockpulse.engine.checkpoint_state import State, encode
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
from stockpulse.node.parts import Foundation, embedded_log, flow_of, kafka_log, kafka_target
from stockpulse.pipeline.shards import Shards

Target = Literal["kafka", "postgres"]


@dataclass(frozen=True)
class Moved:
    """What a move came to."""

    shards: int
    symbols: int


async def move(base: Foundation, target: Target) -> Moved:
    """Have the database follow the other log. Nothing else may run on it; whatever does is fenced."""
    current = await followed_log(base.pool)
    if current is None:
        raise CannotStart("the database follows no log yet: there is nothing to be moved, just start")
    if target == "kafka" and not base.settings.kafka_bootstrap_servers:
        raise CannotStart("KAFKA_BOOTSTRAP_SERVERS is not set: it says where to move to")
    if (target == "postgres") == (current == "postgres"):
        raise CannotStart(f"the database follows {current} already")
    return await (_to_kafka(base) if target == "kafka" else _to_postgres(base))


async def _to_kafka(base: Foundation) -> Moved:
    log = await embedded_log(base)
    shards, leaving = await _drained(base, log)
    engine = shards.owned[SHARD].processor.engine
    target = await kafka_target(base.settings)
    routing = Routing(base.names, target.partitions)
    slot, retired = await next_slot(base.pool), await retired_at(base.pool, target.identity)
    starts, _ = await bounds_of(target.connection, target.topic, target.partitions)
    symbol_ids = np.array(sorted(base.names.symbol_by_id), np.int64)
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
    journal = log.journal
    if isinstance(journal, PostgresJournal):
        await journal.seal()
    await change_logs(base.pool, leaving, entering)
    return Moved(target.partitions, len(symbol_ids))


async def _to_postgres(base: Foundation) -> Moved:
    log = await kafka_log(base)
    shards, leaving = await _drained(base, log)
    engine = base.spec.new_engine()
    engine.restore(0, _states(shards))
    for one, left in zip(shards.owned.values(), leaving, strict=True):
        if left.offset > one.source.segments.open:
            await one.source.segments.seal(left.offset)
            await one.source.segments.index_sealed()
    head = first_of(await next_slot(base.pool))
    await change_logs(base.pool, leaving, [Entering(SHARD, "postgres", 0, head, encode(engine.snapshot()))], head=head)
    return Moved(1, len(base.names.symbol_by_id))


def _states(shards: Shards) -> list[State]:
    return [one.processor.engine.snapshot() for one in shards.owned.values()]


async def _drained(base: Foundation, log: LogParts) -> tuple[Shards, list[Leaving]]:
    """All shards, with all that is in the log worked in and stored, as they are left."""
    _, shards = await flow_of(base, log)
    await shards.take_all(log.logs.shards)
    leaving = []
    for shard, one in shards.owned.items():
        await one.processor.writer.flush_once()
        first_seq = one.source.external.first_seq if one.source.external is not None else 0
        leaving.append(Leaving(shard, one.source.log.identity, one.sink.epoch, one.sink.offset, first_seq))
    return shards, leaving


async def accept_loss(base: Foundation) -> list[str]:
    """Go on where the partitions have records, whatever was lost of them; returns what was, in words."""
    target = await kafka_target(base.settings)
    oldest, ends = await bounds_of(target.connection, target.topic, target.partitions)
    losses, leaving, entering = [], [], []
    slot = await next_slot(base.pool)
    for one in await checkpoints_of(base.pool, target.identity):
        known = one.offset - one.first_seq
        start = min(max(known, oldest[one.shard]), ends[one.shard])
        if start != known:
            losses.append(f"partition {one.shard}: worked in up to {known:,}, goes on at {start:,}")
        leaving.append(one)
        first_seq = first_of(slot + one.shard)
        entering.append(Entering(one.shard, target.identity, first_seq, first_seq + start, b""))
    if losses:
        await change_logs(base.pool, leaving, entering, keep_states=True)
    return losses

"""The partitions that Kafka's group coordination assigns to this process.

The group only shares the partitions out. Nothing is read through it, and no offset is committed to it: offsets live
in the database, beside the rows that follow from them. Assignment alone grants no ownership of a shard; the epoch in
the database does.
"""

import asyncio
from collections.abc import Iterable
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from stockpulse.journal.kafka.connection import KafkaConnection, is_transient, open_consumer

_POLL_MILLIS: Final = 250
_SESSION_MILLIS: Final = 6000
_HEARTBEAT_MILLIS: Final = 500
_PAUSE_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """The membership of this process in the group that shares the partitions of a topic."""

    def __init__(self, connection: KafkaConnection, topic: str, group: str) -> None:
        self._connection = connection
        self._topic = topic
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self.assigned: set[int] = set()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Stay in the group until cancelled. Wait for brokers that do not answer."""
        while True:
            try:
                await self._attend()
            except (KafkaError, OSError, TimeoutError) as fault:
                if not is_transient(fault):
                    raise
                log.warning("the group does not answer", group=self._group, error=repr(fault))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _attend(self) -> None:
        async with open_consumer(
            self._connection,
            group_id=self._group,
            session_timeout_ms=_SESSION_MILLIS,
            heartbeat_interval_ms=_HEARTBEAT_MILLIS,
        ) as consumer:
            self._consumer = consumer
            consumer.subscribe([self._topic], listener=self)
            while True:  # the group expels members that do not poll
                await consumer.getmany(timeout_ms=_POLL_MILLIS)

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Do nothing: Kafka revokes all partitions before it assigns them again, and most stay with their owner."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Note the new share."""
        places = list(assigned)
        if self._consumer is not None:
            self._consumer.pause(*places)
        self.assigned = {place.partition for place in places}
        self.changed.set()
        log.info("partitions assigned", ours=sorted(self.assigned))

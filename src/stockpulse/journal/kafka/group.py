"""Which partitions are this process's share, as Kafka's group coordination has it.

Nothing is read through the group and no offset is committed to it: offsets are in the database, with what follows
from them. And its word alone makes nobody the owner of a shard: taking it over there fences the one before.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import structlog
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.abc import ConsumerRebalanceListener
from aiokafka.errors import KafkaError

from stockpulse.journal.kafka.connection import KafkaConnection, ask_gently, passes

_POLL_MILLIS: Final = 250
_SESSION_MILLIS: Final = 6000
_HEARTBEAT_MILLIS: Final = 500
_PAUSE_SECONDS: Final = 1.0

log = structlog.get_logger(__name__)


class Membership(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    """A member of the group that shares the partitions of a topic."""

    def __init__(self, connection: KafkaConnection, topic: str, group: str) -> None:
        self._connection = connection
        self._topic = topic
        self._group = group
        self._consumer: AIOKafkaConsumer | None = None
        self.assigned: set[int] = set()
        self.changed = asyncio.Event()

    async def run(self) -> None:
        """Be a member, until cancelled; brokers that are away are waited for."""
        while True:
            try:
                await self._attend()
            except (KafkaError, OSError, TimeoutError) as fault:
                if not passes(fault):
                    raise
                log.warning("the group does not answer", group=self._group, error=repr(fault))
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _attend(self) -> None:
        self._consumer = consumer = AIOKafkaConsumer(
            **self._connection.options,
            group_id=self._group,
            enable_auto_commit=False,
            session_timeout_ms=_SESSION_MILLIS,
            heartbeat_interval_ms=_HEARTBEAT_MILLIS,
        )
        try:
            await consumer.start()
            ask_gently(consumer._client)  # noqa: SLF001 - a consumer does not show its client
            consumer.subscribe([self._topic], listener=self)
            while True:  # who does not ask for records is thrown out
                await consumer.getmany(timeout_ms=_POLL_MILLIS)
        finally:
            with suppress(KafkaError):
                await consumer.stop()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """All are, before they are given out anew: what is ours then stays where it is."""

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """The new share."""
        places = list(assigned)
        if self._consumer is not None:
            self._consumer.pause(*places)
        self.assigned = {place.partition for place in places}
        self.changed.set()
        log.info("partitions are shared out", ours=sorted(self.assigned))

"""Follow a topic from its end."""

from collections.abc import AsyncIterator

from aiokafka import TopicPartition

from stockpulse.journal.kafka.connection import KafkaConnection, open_consumer

_POLL_MILLIS = 500


async def tail(connection: KafkaConnection, topic: str, partitions: int) -> AsyncIterator[list[bytes | None]]:
    """Yield the values of new records without end, in order within each partition."""
    async with open_consumer(connection, auto_offset_reset="latest") as consumer:
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        while True:
            found = await consumer.getmany(timeout_ms=_POLL_MILLIS)
            values = [record.value for records in found.values() for record in records]
            if values:
                yield values

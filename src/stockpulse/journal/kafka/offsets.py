"""The first and the next offset of partitions."""

from aiokafka import TopicPartition

from stockpulse.aio.retry import retry
from stockpulse.journal.kafka.connection import KafkaConnection, is_transient, open_consumer


async def bounds_of(connection: KafkaConnection, topic: str, partitions: int) -> tuple[dict[int, int], dict[int, int]]:
    """Return, for each partition of a topic, the partition offset of its oldest record and of its next one."""
    places = [TopicPartition(topic, number) for number in range(partitions)]

    async def ask() -> tuple[dict[int, int], dict[int, int]]:
        async with open_consumer(connection) as consumer:
            first = await consumer.beginning_offsets(places)
            last = await consumer.end_offsets(places)
        return {place.partition: first[place] for place in places}, {place.partition: last[place] for place in places}

    return await retry(ask, "asking for the bounds of partitions", is_transient)

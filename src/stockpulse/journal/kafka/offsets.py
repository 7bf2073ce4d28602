"""Where partitions begin and end."""

from aiokafka import AIOKafkaConsumer, TopicPartition

from stockpulse.journal.kafka.connection import KafkaConnection, until_answered


async def bounds_of(connection: KafkaConnection, topic: str, partitions: int) -> tuple[dict[int, int], dict[int, int]]:
    """The offset of the oldest record, and of the next one, of each partition of a topic."""
    places = [TopicPartition(topic, number) for number in range(partitions)]

    async def ask() -> tuple[dict[int, int], dict[int, int]]:
        consumer = AIOKafkaConsumer(**connection.options, enable_auto_commit=False)
        try:
            await consumer.start()
            first = await consumer.beginning_offsets(places)
            last = await consumer.end_offsets(places)
        finally:
            await consumer.stop()
        return {place.partition: first[place] for place in places}, {place.partition: last[place] for place in places}

    return await until_answered(ask, "asking for the bounds of partitions")

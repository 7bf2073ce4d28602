"""Following a topic from where it ends now."""

from collections.abc import AsyncIterator

from aiokafka import AIOKafkaConsumer, TopicPartition

from stockpulse.journal.kafka.connection import KafkaConnection, ask_gently

_POLL_MILLIS = 500


async def tail(connection: KafkaConnection, topic: str, partitions: int) -> AsyncIterator[list[bytes | None]]:
    """The values of records as they come, in order for each partition, for ever."""
    consumer = AIOKafkaConsumer(**connection.options, auto_offset_reset="latest", enable_auto_commit=False)
    try:
        await consumer.start()
        ask_gently(consumer._client)  # noqa: SLF001 - a consumer does not show its client
        consumer.assign([TopicPartition(topic, number) for number in range(partitions)])
        while True:
            found = await consumer.getmany(timeout_ms=_POLL_MILLIS)
            values = [record.value for records in found.values() for record in records]
            if values:
                yield values
    finally:
        await consumer.stop()

"""The test broker itself: the tests of the Kafka journal rely on this behaviour."""

import asyncio
import ssl
from pathlib import Path

import pytest

from broker import Broker

aiokafka = pytest.importorskip("aiokafka")
admin = pytest.importorskip("aiokafka.admin")
errors = pytest.importorskip("aiokafka.errors")

VALUES = [f"value {number}".encode() for number in range(500)]


async def make_topic(bootstrap: str, name: str) -> None:
    client = admin.AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    await client.start()
    try:
        await client.create_topics([admin.NewTopic(name, 1, 1)])
    finally:
        await client.close()


async def send(bootstrap: str, topic: str, values: list[bytes], **options: object) -> None:
    producer = aiokafka.AIOKafkaProducer(bootstrap_servers=bootstrap, acks="all", **options)
    try:
        await producer.start()
        await asyncio.gather(*[await producer.send(topic, value) for value in values])
    finally:
        await producer.stop()  # after a start that failed as well, which `async with` does not do


async def read(bootstrap: str, topic: str, count: int, **options: object) -> list[bytes]:
    """Read the first records of a topic with one partition."""
    values: list[bytes] = []
    consumer = aiokafka.AIOKafkaConsumer(bootstrap_servers=bootstrap, auto_offset_reset="earliest", **options)
    consumer.assign([aiokafka.TopicPartition(topic, 0)])
    async with asyncio.timeout(30), consumer:
        while len(values) < count:
            for records in (await consumer.getmany(timeout_ms=1000)).values():
                values += [record.value for record in records]
    return values


async def test_shared_kafka_keeps_what_is_sent(kafka: str, topic: str) -> None:
    await make_topic(kafka, topic)
    await send(kafka, topic, VALUES)
    assert await read(kafka, topic, len(VALUES)) == VALUES


async def test_topics_are_not_made_by_a_slip(kafka: str, topic: str) -> None:
    with pytest.raises(errors.UnknownTopicOrPartitionError):
        await send(kafka, topic, VALUES[:1], request_timeout_ms=1000)


@pytest.mark.thorough
async def test_own_broker_is_killed_and_comes_back_with_its_log(own_broker: Broker) -> None:
    await make_topic(own_broker.bootstrap, "killed")
    await send(own_broker.bootstrap, "killed", VALUES)
    bootstrap = own_broker.bootstrap
    own_broker.kill()
    with pytest.raises(errors.KafkaConnectionError):
        await send(own_broker.bootstrap, "killed", VALUES)
    await asyncio.to_thread(own_broker.start)
    assert own_broker.bootstrap == bootstrap
    assert await read(own_broker.bootstrap, "killed", len(VALUES)) == VALUES


@pytest.mark.thorough
async def test_own_broker_is_frozen_thaws_and_can_be_stopped_frozen(own_broker: Broker) -> None:
    await make_topic(own_broker.bootstrap, "frozen")
    async with aiokafka.AIOKafkaProducer(bootstrap_servers=own_broker.bootstrap) as producer:
        await producer.send_and_wait("frozen", b"before")
        own_broker.freeze()
        sent = asyncio.ensure_future(producer.send_and_wait("frozen", b"meanwhile"))
        await asyncio.sleep(0.5)
        assert not sent.done()
        own_broker.thaw()
        await sent
    assert await read(own_broker.bootstrap, "frozen", 2) == [b"before", b"meanwhile"]
    own_broker.freeze()
    await asyncio.to_thread(own_broker.stop)
    with pytest.raises(errors.KafkaConnectionError):
        await send(own_broker.bootstrap, "frozen", [b"after"])


@pytest.mark.thorough
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
async def test_secured_broker_knows_its_user(secured_broker: Broker, mechanism: str) -> None:
    await make_topic(secured_broker.bootstrap, mechanism)
    login = login_at(secured_broker, secured_broker.password, mechanism)
    await send(secured_broker.secure_bootstrap, mechanism, VALUES, **login)
    assert await read(secured_broker.secure_bootstrap, mechanism, len(VALUES), **login) == VALUES


@pytest.mark.thorough
@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-512"])
async def test_secured_broker_turns_others_away(
    secured_broker: Broker, mechanism: str, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(errors.KafkaConnectionError):
        await send(secured_broker.secure_bootstrap, "none", VALUES, **login_at(secured_broker, "a guess", mechanism))
    assert "SaslAuthenticationFailed" in caplog.text
    assert "Failed authentication" in secured_broker.tail()


def login_at(broker: Broker, password: str, mechanism: str) -> dict[str, object]:
    return {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": mechanism,
        "sasl_plain_username": broker.user,
        "sasl_plain_password": password,
        "ssl_context": strict_context(broker.ca_file),
    }


def strict_context(ca_file: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(ca_file))
    context.verify_flags |= ssl.VERIFY_X509_STRICT  # the default from Python 3.13 on
    return context


async def test_mock_cluster_speaks(mock_cluster: str) -> None:
    await send(mock_cluster, "imitated", VALUES)
    assert set(await read(mock_cluster, "imitated", 1)) <= set(VALUES)

"""Kafka for tests; without Java or Maven they are skipped with a reason.

kafka           bootstrap servers of the broker that all tests of a run share: KAFKA_BOOTSTRAP_SERVERS, if it was set
                when pytest began, else a broker that is started for the run
topic           the prefix of a test's topics on that broker; the topics are deleted after the test
own_broker      a started `Broker` that the test may stop, kill, freeze and start again
secured_broker  a broker for the tests of a module, with a second listener that requires a password
mock_cluster    bootstrap servers of librdkafka's mock cluster, for machines without Java
"""

import contextlib
import os
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import broker
from broker import SOON_BACK, Broker, Unavailable, jars
from shared_server import locked, shared

#: Read before a fixture hides the settings of the machine from the tests.
GIVEN = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")


@pytest.fixture(scope="session")
def kafka_dir(run_dir: Path) -> Path:
    """Return the folder of this run for all that concerns Kafka."""
    folder = run_dir / "kafka"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def kafka_jars(kafka_dir: Path) -> Path:
    """Return the folder with Kafka's jars; if they cannot be had, no other worker waits for the same again."""
    excuse = kafka_dir / "unavailable"
    with locked(kafka_dir / "jars.lock"):
        if excuse.exists():
            pytest.skip(excuse.read_text())
        try:
            return jars()
        except Unavailable as reason:
            excuse.write_text(str(reason))
            pytest.skip(str(reason))


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, kafka_dir: Path) -> Iterator[str]:
    if GIVEN:
        yield GIVEN
        return
    jars = request.getfixturevalue("kafka_jars")
    with shared(kafka_dir, broker.__file__, str(jars)) as bootstrap:
        yield bootstrap


@pytest.fixture
async def topic(kafka: str) -> AsyncIterator[str]:
    admin_module = pytest.importorskip("aiokafka.admin")
    prefix = f"t{uuid.uuid4().hex}"
    yield prefix
    with contextlib.suppress(Exception):  # a topic that stays harms no other test
        admin = admin_module.AIOKafkaAdminClient(bootstrap_servers=kafka)
        try:
            await admin.start()
            await admin.delete_topics([name for name in await admin.list_topics() if name.startswith(prefix)])
        finally:
            await admin.close()


@pytest.fixture
def own_broker(kafka_jars: Path) -> Iterator[Broker]:
    with Broker(kafka_jars, **SOON_BACK) as own:
        yield own


@pytest.fixture(scope="module")
def secured_broker(kafka_jars: Path) -> Iterator[Broker]:
    with Broker(kafka_jars, secured=True) as secured:
        yield secured


@pytest.fixture
def mock_cluster() -> Iterator[str]:
    """It creates topics on request and has no logins; it ends with the fixture."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    cluster = confluent_kafka.Producer({"bootstrap.servers": "in this process", "test.mock.num.brokers": 3})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{node.host}:{node.port}" for node in brokers)
    del cluster

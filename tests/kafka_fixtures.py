"""Kafka for tests, skipped with a reason where there is none.

kafka           bootstrap servers of the one Kafka that all tests of a run share; KAFKA_BOOTSTRAP_SERVERS, if it was set
                when pytest began, else a broker started for it
topic           what the names of a test's topics on it begin with; they are deleted after the test
own_broker      a started `Broker` that the test may stop, kill, freeze and start again
secured_broker  one for the tests of a module, with a listener that wants a password as well
mock_cluster    bootstrap servers of librdkafka's imitation of a cluster, for machines without Java
"""

import contextlib
import fcntl
import os
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import broker
from broker import SOON_BACK, Broker, Unavailable, answers, jars

#: Read before a fixture hides the settings of the machine from the tests.
GIVEN = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that the workers of this run have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "kafka"  # the workers' folders stand in one of the run
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def kafka_jars(run_dir: Path) -> Path:
    """Where Kafka is; if it cannot be had, no other worker waits for the same again."""
    excuse = run_dir / "unavailable"
    with _locked(run_dir / "jars.lock"):
        if excuse.exists():
            pytest.skip(excuse.read_text())
        try:
            return jars()
        except Unavailable as reason:
            excuse.write_text(str(reason))
            pytest.skip(str(reason))


@pytest.fixture(scope="session")
def kafka(request: pytest.FixtureRequest, run_dir: Path) -> Iterator[str]:
    if GIVEN:
        yield GIVEN
        return
    # Each worker holds `users` while it needs the broker, and lets go even if it crashes; the keeper looks at that.
    users, address = run_dir / "users.lock", run_dir / "address"
    with users.open("w") as held:
        with _locked(run_dir / "start.lock"):
            fcntl.flock(held, fcntl.LOCK_SH)  # waits while the keeper of one that was left by all stops it
            if not (address.exists() and _lives(address.read_text())):
                _start_kept(request.getfixturevalue("kafka_jars"), users, address)
            bootstrap = address.read_text()
        yield bootstrap


@pytest.fixture
async def topic(kafka: str) -> AsyncIterator[str]:
    admin_module = pytest.importorskip("aiokafka.admin")
    prefix = f"t{uuid.uuid4().hex}"
    yield prefix
    with contextlib.suppress(Exception):  # what stays is in nobody's way
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
    """Topics come into being when they are asked for; there are no logins, and it is gone with the fixture."""
    confluent_kafka = pytest.importorskip("confluent_kafka")
    cluster = confluent_kafka.Producer({"bootstrap.servers": "in this process", "test.mock.num.brokers": 3})
    brokers = cluster.list_topics(timeout=10).brokers.values()
    yield ",".join(f"{node.host}:{node.port}" for node in brokers)
    del cluster


def _start_kept(jars: Path, users: Path, address: Path) -> None:
    command = [sys.executable, broker.__file__, str(jars), str(users), str(address)]
    log = users.with_name("keeper.log")
    with log.open("w") as output:
        keeper = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=output, start_new_session=True)
    keeper.returncode = 0  # nobody waits for it: it outlives this process if others of the run are busy for longer
    assert keeper.stdout is not None
    with keeper.stdout as said:
        assert said.readline(), f"Kafka did not start:\n{log.read_text()}"


def _lives(bootstrap: str) -> bool:
    """Whether the broker that another worker wanted is still there."""
    host, _, port = bootstrap.rpartition(":")
    return answers(host, int(port))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

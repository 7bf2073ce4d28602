"""Create the topics that are missing and check those that exist."""

import asyncio
import time
from dataclasses import dataclass
from typing import Any, Final

from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.conn import create_conn
from aiokafka.errors import (
    AuthenticationFailedError,
    KafkaError,
    SaslAuthenticationFailed,
    TopicAlreadyExistsError,
    UnknownTopicOrPartitionError,
    UnsupportedSaslMechanismError,
    for_code,
)

from stockpulse.errors import CannotStart
from stockpulse.journal.kafka.connection import KafkaConnection, is_transient

_REFUSALS: Final = (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)
_HOUR_MILLIS: Final = 3_600_000
_MAJORITY_OF: Final = 3
_PATIENCE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class TopicNames:
    """The names of the topics."""

    raw: str = "market.prices.raw"
    ohlcv: str = "market.prices.ohlcv"
    analytics: str = "market.analytics"
    signals: str = "market.signals"

    @property
    def derived(self) -> tuple[str, str, str]:
        """The topics whose records are derived from the raw topic."""
        return self.ohlcv, self.analytics, self.signals


@dataclass(frozen=True)
class NewTopics:
    """The settings of missing topics; existing topics are not changed."""

    partitions: int = 6
    replication: int | None = None
    """None: three, or the number of brokers if there are fewer."""
    retention_hours: int = 168


@dataclass(frozen=True)
class Topic:
    """The description of a topic by the brokers."""

    name: str
    partitions: int
    replication: int
    settings: dict[str, str]


@dataclass(frozen=True)
class Cluster:
    """A cluster and StockPulse's topics in it."""

    id: str
    topics: dict[str, Topic]


async def cluster_with(connection: KafkaConnection, names: TopicNames, new: NewTopics | None) -> Cluster:
    """Return the cluster with its topics; create missing topics if `new` has their settings.

    Wait for brokers that do not answer yet. Raises CannotStart if they do not answer in time, and if a topic is
    missing or unfit.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await _cluster_with(connection, names, new)
        except (KafkaError, OSError, TimeoutError) as fault:
            await _require_entry(connection)
            if time.monotonic() > deadline or not is_transient(fault):
                servers = connection.bootstrap_servers
                raise CannotStart(f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {servers}: {fault!r}") from None
        await asyncio.sleep(_PAUSE_SECONDS)


async def _require_entry(connection: KafkaConnection) -> None:
    """Raise CannotStart if a broker refuses the credentials, which looks like an outage to clients."""
    host, _, port = connection.bootstrap_servers.split(",")[0].strip().rpartition(":")
    options = {name: value for name, value in connection.options.items() if name != "bootstrap_servers"}
    try:
        conn = await create_conn(host.strip("[]"), int(port), **options)
    except _REFUSALS as refused:
        raise CannotStart(
            f"Kafka does not let {connection.username} in ({type(refused).__name__}): check STOCKPULSE_KAFKA_USERNAME,"
            " STOCKPULSE_KAFKA_PASSWORD and STOCKPULSE_KAFKA_SASL_MECHANISM"
        ) from None
    except (KafkaError, OSError, TimeoutError, ValueError):
        return  # an outage after all
    conn.close()


async def _cluster_with(connection: KafkaConnection, names: TopicNames, new: NewTopics | None) -> Cluster:
    admin = AIOKafkaAdminClient(**connection.options)
    try:
        await admin.start()
        wanted = (names.raw, *names.derived)
        there = await _described(admin, wanted)
        missing = [name for name in wanted if name not in there]
        described: dict[str, Any] = await admin.describe_cluster()
        if missing and new is None:
            raise CannotStart(f"there is no topic {', '.join(missing)}: `stockpulse topics create` makes it")
        if missing and new is not None:
            await _create(admin, missing, names, new, new.replication or min(3, len(described["brokers"])))
            there = await _described(admin, wanted)
            if len(there) < len(wanted):  # created, but not every broker knows it yet
                raise UnknownTopicOrPartitionError
        _check(there[names.raw])
        return Cluster(str(described["cluster_id"]), there)
    finally:
        await admin.close()


async def _create(
    admin: AIOKafkaAdminClient, missing: list[str], names: TopicNames, new: NewTopics, replication: int
) -> None:
    common = {"retention.ms": str(new.retention_hours * _HOUR_MILLIS), "cleanup.policy": "delete"}
    if replication >= _MAJORITY_OF:
        common["min.insync.replicas"] = "2"  # an acknowledged record survives the loss of a broker
    # Records of other programs are stamped by the brokers' clock, not by the writer's.
    of_raw = {"message.timestamp.type": "LogAppendTime"}
    wanted = [
        NewTopic(name, new.partitions, replication, topic_configs=common | (of_raw if name == names.raw else {}))
        for name in missing
    ]
    response = await admin.create_topics(wanted)
    for name, code, *message in response.topic_errors:
        error = for_code(code)
        if code and error is not TopicAlreadyExistsError:  # another process was faster
            raise CannotStart(f"topic {name} cannot be created: {error.__name__} {message[0] if message else ''}")


async def _described(admin: AIOKafkaAdminClient, names: tuple[str, ...]) -> dict[str, Topic]:
    """Describe the topics that exist."""
    found = {one["topic"]: one for one in await admin.describe_topics(list(names)) if one["error_code"] == 0}
    settings = await _settings_of(admin, list(found)) if found else {}
    return {
        name: Topic(name, len(one["partitions"]), len(one["partitions"][0]["replicas"]), settings.get(name, {}))
        for name, one in found.items()
    }


async def _settings_of(admin: AIOKafkaAdminClient, names: list[str]) -> dict[str, dict[str, str]]:
    resources = [ConfigResource(ConfigResourceType.TOPIC, name) for name in names]
    settings: dict[str, dict[str, str]] = {}
    for response in await admin.describe_configs(resources):
        for _code, _message, _type, name, entries in response.resources:
            settings[name] = {entry[0]: entry[1] for entry in entries}
    return settings


def _check(raw: Topic) -> None:
    policy = raw.settings.get("cleanup.policy", "delete")
    if "compact" in policy:
        raise CannotStart(f"topic {raw.name} has cleanup.policy={policy}, which drops ticks; it takes delete")

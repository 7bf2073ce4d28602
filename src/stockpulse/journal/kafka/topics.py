"""The topics: created where they are missing, checked where they are there."""

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
from stockpulse.journal.kafka.connection import KafkaConnection, passes

_REFUSALS: Final = (AuthenticationFailedError, SaslAuthenticationFailed, UnsupportedSaslMechanismError)
_HOUR_MILLIS: Final = 3_600_000
_MAJORITY_OF: Final = 3
_PATIENCE_SECONDS: Final = 30.0
_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class TopicNames:
    """What the topics are called."""

    raw: str = "market.prices.raw"
    ohlcv: str = "market.prices.ohlcv"
    analytics: str = "market.analytics"
    signals: str = "market.signals"

    @property
    def derived(self) -> tuple[str, str, str]:
        """Those that follow from the raw one."""
        return self.ohlcv, self.analytics, self.signals


@dataclass(frozen=True)
class NewTopics:
    """How topics are made that are not there yet; those that are there stay as they are."""

    partitions: int = 6
    replication: int | None = None
    """None: three, or as many as there are brokers."""
    retention_hours: int = 168


@dataclass(frozen=True)
class Topic:
    """A topic as it is."""

    name: str
    partitions: int
    replication: int
    settings: dict[str, str]


@dataclass(frozen=True)
class Cluster:
    """A cluster and the topics of ours in it."""

    id: str
    topics: dict[str, Topic]


async def cluster_with(connection: KafkaConnection, names: TopicNames, new: NewTopics | None) -> Cluster:
    """The cluster, with all topics there and fit for their use; missing ones are made, if it is said how.

    Raises CannotStart where one is missing or not fit. Brokers that are not there yet are waited for, for a while.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            return await _cluster_with(connection, names, new)
        except (KafkaError, OSError, TimeoutError) as fault:
            await _require_entry(connection)
            if time.monotonic() > deadline or not passes(fault):
                servers = connection.bootstrap_servers
                raise CannotStart(f"KAFKA_BOOTSTRAP_SERVERS: no broker answers at {servers}: {fault!r}") from None
        await asyncio.sleep(_PAUSE_SECONDS)


async def _require_entry(connection: KafkaConnection) -> None:
    """Raises CannotStart where a broker answers and does not let us in: to clients that looks like an outage."""
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
        return  # away, then
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
            if len(there) < len(wanted):  # made, but not known everywhere yet
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
    # What others write is judged by the brokers' clock, not by theirs.
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
    """Those of the topics that there are."""
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

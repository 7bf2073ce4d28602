"""The Kafka of the settings: the connection to its brokers, its topics, the format of records."""

from dataclasses import dataclass

from stockpulse.journal.codecs import Codec
from stockpulse.journal.codecs.choice import choose
from stockpulse.journal.kafka.connection import KafkaConnection
from stockpulse.journal.kafka.journal import identity_of
from stockpulse.journal.kafka.topics import Cluster, NewTopics, TopicNames, cluster_with
from stockpulse.settings import Settings


def connection_of(settings: Settings) -> KafkaConnection:
    """Return the address of the brokers and the log-in."""
    return KafkaConnection(
        settings.kafka_bootstrap_servers or "",
        settings.kafka_security_protocol,
        settings.kafka_sasl_mechanism,
        settings.kafka_username,
        settings.kafka_password.get_secret_value() if settings.kafka_password else None,
        str(settings.kafka_ca_file) if settings.kafka_ca_file else None,
    )


def topics_of(settings: Settings) -> TopicNames:
    """Return the names of the topics."""
    return TopicNames(
        settings.kafka_topic_raw,
        settings.kafka_topic_ohlcv,
        settings.kafka_topic_analytics,
        settings.kafka_topic_signals,
    )


def codec_of(settings: Settings) -> Codec:
    """Return the configured codec for records on Kafka."""
    secret = settings.schema_registry_secret
    return choose(
        settings.kafka_codec,
        settings.schema_registry_url,
        settings.schema_registry_key,
        secret.get_secret_value() if secret else None,
    )


@dataclass(frozen=True)
class KafkaTarget:
    """The configured Kafka, and the raw topic on it."""

    connection: KafkaConnection
    cluster: Cluster
    topic: str

    @property
    def partitions(self) -> int:
        """The number of partitions of the raw topic."""
        return self.cluster.topics[self.topic].partitions

    @property
    def identity(self) -> str:
        """The identity of this log, as checkpoints name it."""
        return identity_of(self.cluster.id, self.topic, self.partitions)


async def kafka_target(settings: Settings, *, create: bool = True) -> KafkaTarget:
    """Return the configured Kafka with its topics. Raises CannotStart if one is missing and not created."""
    connection = connection_of(settings)
    new = None
    if create:
        new = NewTopics(settings.kafka_partitions, settings.kafka_replication, settings.kafka_retention_hours)
    return KafkaTarget(connection, await cluster_with(connection, topics_of(settings), new), settings.kafka_topic_raw)

"""The address of the brokers, the temporary faults, and clients that stop on every path."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from ssl import SSLContext
from typing import Any, Final

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import (
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
    RequestTimedOutError,
)
from aiokafka.helpers import create_ssl_context

from stockpulse.errors import CannotStart

REQUEST_SECONDS: Final = 10.0
"""A broker that does not answer within this time counts as gone."""

KAFKA_TRANSIENT: Final[tuple[type[BaseException], ...]] = (
    KafkaConnectionError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
    RequestTimedOutError,
)
"""Faults after which the supervisor restarts a task."""

_METADATA_PAUSE_SECONDS: Final = 0.1


@dataclass(frozen=True)
class KafkaConnection:
    """The address of the brokers and the credentials."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments that every client of aiokafka takes."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.bootstrap_servers,
            "security_protocol": self.security_protocol,
            "request_timeout_ms": int(REQUEST_SECONDS * 1000),
            "client_id": "stockpulse",
        }
        if self.security_protocol.endswith("SSL"):
            options["ssl_context"] = self._ssl_context
        if self.security_protocol.startswith("SASL"):
            options |= {
                "sasl_mechanism": self.sasl_mechanism,
                "sasl_plain_username": self.username,
                "sasl_plain_password": self.password,
            }
        return options

    @cached_property
    def _ssl_context(self) -> SSLContext:
        try:
            context: SSLContext = create_ssl_context(cafile=self.ca_file)
        except OSError as wrong:
            raise CannotStart(f"STOCKPULSE_KAFKA_CA_FILE: cannot be read: {wrong}") from None
        return context


def is_transient(fault: Exception) -> bool:
    """Return True if the fault comes from an outage, so that another try may succeed."""
    if isinstance(fault, KafkaError):
        return bool(fault.retriable) or isinstance(fault, KafkaConnectionError)
    return isinstance(fault, OSError | TimeoutError)


@asynccontextmanager
async def open_consumer(connection: KafkaConnection, **options: Any) -> AsyncIterator[AIOKafkaConsumer]:
    """Start a consumer that commits no offsets, and stop it at the end."""
    consumer = AIOKafkaConsumer(**connection.options, enable_auto_commit=False, **options)
    try:
        await consumer.start()
        ask_gently(consumer._client)  # noqa: SLF001 - a consumer does not show its client
        yield consumer
    finally:
        with suppress(KafkaError):
            await consumer.stop()


def ask_gently(client: Any) -> None:
    """Make a started client of aiokafka pause before it asks again for the leader of a partition.

    While a partition has no leader, aiokafka asks thousands of times a second.
    """
    ask = client._metadata_update  # noqa: SLF001 - there is no setting for it

    async def ask_and_pause(*arguments: Any, **options: Any) -> Any:
        known = await ask(*arguments, **options)
        partitions = [one for topic in client.cluster._partitions.values() for one in topic.values()]  # noqa: SLF001
        if not known or any(one.leader == -1 for one in partitions):
            await asyncio.sleep(_METADATA_PAUSE_SECONDS)
        return known

    client._metadata_update = ask_and_pause  # noqa: SLF001

"""How brokers are reached, and which of their failures pass by themselves."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import cached_property
from ssl import SSLContext
from typing import Any, Final, TypeVar

import structlog
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

_T = TypeVar("_T")

REQUEST_SECONDS: Final = 10.0
"""So long a broker may take for an answer; a frozen one is noticed then."""

KAFKA_TRANSIENT: Final[tuple[type[BaseException], ...]] = (
    KafkaConnectionError,
    KafkaTimeoutError,
    LeaderNotAvailableError,
    NodeNotReadyError,
    NotLeaderForPartitionError,
    RequestTimedOutError,
)
"""What a task of the supervisor may start again after."""

_FIRST_DELAY: Final = 0.1
_LONGEST_DELAY: Final = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class KafkaConnection:
    """Where the brokers are, and who asks."""

    bootstrap_servers: str
    security_protocol: str = "PLAINTEXT"
    sasl_mechanism: str = "PLAIN"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """What every client of aiokafka is given."""
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


def passes(fault: BaseException) -> bool:
    """Whether a failure is one of an outage, and worth another try."""
    if isinstance(fault, KafkaError):
        return bool(fault.retriable) or isinstance(fault, KafkaConnectionError)
    return isinstance(fault, OSError | TimeoutError)


async def until_answered(attempt: Callable[[], Awaitable[_T]], what: str) -> _T:
    """Try until it succeeds, waiting longer each time, as long as the brokers are merely away."""
    delay = _FIRST_DELAY
    while True:
        try:
            return await attempt()
        except Exception as fault:
            if not passes(fault):
                raise
            log.warning("failed, trying again", what=what, error=repr(fault), in_seconds=delay)
        await asyncio.sleep(delay)
        delay = min(2 * delay, _LONGEST_DELAY)


def ask_gently(client: Any) -> None:
    """Have a client of aiokafka, once started, pause between two questions for the leader of a partition.

    While there is none it asks without a pause, thousands of times a second.
    """
    ask = client._metadata_update  # noqa: SLF001 - there is no setting for it

    async def ask_and_pause(*arguments: Any, **options: Any) -> Any:
        known = await ask(*arguments, **options)
        partitions = [one for topic in client.cluster._partitions.values() for one in topic.values()]  # noqa: SLF001
        if not known or any(one.leader == -1 for one in partitions):
            await asyncio.sleep(_FIRST_DELAY)
        return known

    client._metadata_update = ask_and_pause  # noqa: SLF001

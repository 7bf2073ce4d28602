"""The schema registry, through Confluent's client. Its calls block: make them in a thread."""

import time
from collections.abc import Callable
from typing import Final

from confluent_kafka.schema_registry import Schema, SchemaRegistryClient
from confluent_kafka.schema_registry.error import SchemaRegistryError

from stockpulse.errors import CannotStart, Unavailable

_TIMEOUT_SECONDS: Final = 5
_UNKNOWN_SECONDS: Final = 10
_LARGEST_ID: Final = 2**31 - 1
_REFUSED, _FORBIDDEN, _NOT_FOUND, _CONFLICT = 401, 403, 404, 409
_PASSING: Final = (408, 429)
_FAULT_OF_SERVER: Final = 500


class Registry:
    """Looks up schemas by id, and registers ours.

    `clock` returns seconds that only grow. Every call raises Unavailable if the registry does not answer.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        secret: str | None = None,
        *,
        retries: int = 2,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        conf: dict[str, str | int] = {
            "url": url,
            "timeout": _TIMEOUT_SECONDS,
            "max.retries": retries,
            "retries.wait.ms": 200,
        }
        if key is not None:
            conf["basic.auth.user.info"] = f"{key}:{secret or ''}"
        try:
            self._client = SchemaRegistryClient(conf)
        except ValueError as fault:
            raise CannotStart(f"SCHEMA_REGISTRY_URL: {fault}") from None
        self._clock = clock
        self._unknown_since: dict[int, float] = {}

    def register(self, subject: str, schema: str) -> int:
        """Return the id of our schema; register the schema if it is new.

        Raises CannotStart if the registry refuses the schema, most often because it is not compatible with an earlier
        version of the subject.
        """
        try:
            return self._client.register_schema(subject, Schema(schema, "AVRO"))
        except SchemaRegistryError as refused:
            raise _refusal(subject, refused) from refused
        except Exception as fault:  # see _outage
            raise _outage(fault) from fault

    def schema(self, number: int) -> str | None:
        """Return the Avro schema with this id; None if there is none. The client caches schemas.

        An unknown id is remembered for ten seconds only: a replica of the registry may be behind.
        """
        since = self._unknown_since.get(number)
        if not 0 < number <= _LARGEST_ID or (since is not None and self._clock() - since < _UNKNOWN_SECONDS):
            return None
        try:
            found = self._client.get_schema(number)
        except SchemaRegistryError as fault:
            if not _says_unknown(fault):
                raise _outage(fault) from fault
            self._forget_old()
            self._unknown_since[number] = self._clock()
            return None
        except Exception as fault:  # see _outage
            raise _outage(fault) from fault
        return found.schema_str if found.schema_type in (None, "AVRO") else None

    def _forget_old(self) -> None:
        """Expire entries for unknown ids, so that bogus ids cannot grow the cache."""
        now = self._clock()
        self._unknown_since = {
            number: since for number, since in self._unknown_since.items() if now - since < _UNKNOWN_SECONDS
        }


def _says_unknown(fault: SchemaRegistryError) -> bool:
    """Return True for an answer of the registry itself (40403), and not for a page of a proxy."""
    return (
        fault.http_status_code == _NOT_FOUND
        and str(fault.error_code).startswith("404")
        and fault.error_code != _NOT_FOUND
    )


def _refusal(subject: str, refused: SchemaRegistryError) -> Exception:
    status = refused.http_status_code
    if status in (_REFUSED, _FORBIDDEN):
        return CannotStart(
            f"the schema registry does not let us register {subject} (HTTP {status}):"
            " check STOCKPULSE_SCHEMA_REGISTRY_KEY and STOCKPULSE_SCHEMA_REGISTRY_SECRET"
        )
    if status in _PASSING or status >= _FAULT_OF_SERVER:
        return _outage(refused)
    if status == _CONFLICT:
        return CannotStart(
            f"the schema registry has a schema of {subject} that ours is not compatible with: {refused.error_message}"
        )
    return CannotStart(f"the schema registry refuses our schema of {subject}: {refused}")


def _outage(fault: Exception) -> Unavailable:
    """Turn any other fault into Unavailable: the client passes on the faults of its HTTP library, which may change."""
    return Unavailable(f"the schema registry does not answer as it should: {fault!r}")

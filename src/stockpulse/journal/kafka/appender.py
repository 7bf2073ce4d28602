"""Append to the partitions of a topic, each batch exactly once.

aiokafka's idempotent producer retries with the same sequence number while a broker does not answer. A batch that it
gives up (the broker no longer knows the sequence number, for example) may still be in the log. The appender then
searches the log for the mark that each batch carries on its first record.
"""

import asyncio
import contextlib
import itertools
import math
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import structlog
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from stockpulse.aio import offload
from stockpulse.aio.retry import retry
from stockpulse.errors import StockPulseError
from stockpulse.journal.kafka.connection import KafkaConnection, ask_gently, is_transient, open_consumer

_BATCH_BYTES: Final = 768 * 1024  # brokers take a megabyte by default
_AROUND_BYTES: Final = 24  # the header of a record
_MARK: Final = "stockpulse-batch"
_STOP_SECONDS: Final = 3.0
_REFUSALS: Final = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError, MessageSizeTooLargeError)
_SETTLE_SECONDS: Final = 1.0  # a batch still under way arrives before the log is searched

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Run:
    """Consecutive records: the partition offset of the first one, and their number."""

    base: int
    count: int


@dataclass(frozen=True)
class _Piece:
    """Records that are sent as one batch: the broker takes all of them or none."""

    mark: bytes
    keys: Sequence[bytes]
    values: Sequence[bytes]


class Appender:
    """Appends to one topic; made by `open_appender`."""

    def __init__(
        self, connection: KafkaConnection, topic: str, producer: AIOKafkaProducer, ends: Mapping[int, int]
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._producer = producer
        self._given_up = asyncio.Event()  # set when `_producer` is replaced; each producer has its own
        self._renewing = asyncio.Lock()
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._under_way: dict[int, float] = {}
        self.ends = dict(ends)
        """For each partition, the partition offset after the newest batch of this appender."""

    def waiting_seconds(self) -> float:
        """Return the waiting time of the oldest batch without an acknowledgement, in seconds."""
        return time.monotonic() - min(self._under_way.values(), default=time.monotonic())

    def is_idle(self, partition: int) -> bool:
        """Return True if no batch is on its way to this partition."""
        return partition not in self._under_way

    async def append(self, partition: int, keys: Sequence[bytes], values: Sequence[bytes]) -> list[Run]:
        """Append records to a partition, wait for the acknowledgement, and return their places.

        Outages are waited for. A partition takes one call at a time.
        """
        self._under_way[partition] = time.monotonic()
        try:
            runs = await self._append(partition, self._cut(keys, values))
        finally:
            del self._under_way[partition]
        self.ends[partition] = max(run.base + run.count for run in runs)  # batches found in the log may be out of order
        return _joined(runs)

    def _cut(self, keys: Sequence[bytes], values: Sequence[bytes]) -> list[_Piece]:
        """Cut the records into pieces that fit into one batch each."""
        sizes = np.fromiter(map(len, keys), np.int64, len(keys)) + np.fromiter(map(len, values), np.int64, len(keys))
        ends = np.cumsum(sizes + _AROUND_BYTES)
        pieces, first = [], 0
        while first < len(keys):
            taken = ends[first - 1] if first else 0
            last = max(int(np.searchsorted(ends, taken + _BATCH_BYTES, side="right")), first + 1)
            mark = f"{self._name}:{next(self._numbers)}".encode()
            pieces.append(_Piece(mark, keys[first:last], values[first:last]))
            first = last
        return pieces

    async def _append(self, partition: int, pieces: list[_Piece]) -> list[Run]:
        runs: dict[bytes, Run] = {}
        while left := [piece for piece in pieces if piece.mark not in runs]:
            given_up = self._given_up
            faults = await self._send(partition, left, runs)
            if faults:
                log.warning("outcome unknown, searching the log", partition=partition, error=repr(faults[0]))
                await self._renew(given_up)
                await asyncio.sleep(_SETTLE_SECONDS)
                find = partial(self._find, partition, [piece for piece in left if piece.mark not in runs])
                runs |= await retry(find, "searching the log for batches", is_transient)
        return [runs[piece.mark] for piece in pieces]

    async def _send(self, partition: int, pieces: list[_Piece], runs: dict[bytes, Run]) -> list[BaseException]:
        """Send the pieces once, add the acknowledged pieces to `runs`, and return the faults of the others."""
        producer = self._producer
        outcomes: list[asyncio.Future[Any]] = []
        for piece in pieces:
            builder = await offload.run(len(piece.keys), partial(_filled, producer, piece))
            outcomes.append(await self._submit(producer, builder, partition))
        given_up = asyncio.create_task(self._given_up.wait())
        acknowledged: asyncio.Future[Any] = asyncio.gather(*outcomes, return_exceptions=True)
        await asyncio.wait([acknowledged, given_up], return_when=asyncio.FIRST_COMPLETED)
        given_up.cancel()
        faults: list[BaseException] = []
        for piece, outcome in zip(pieces, outcomes, strict=True):
            fault = _fault_of(outcome)
            if fault is None:
                runs[piece.mark] = Run(outcome.result().offset, len(piece.keys))
            elif isinstance(fault, _REFUSALS):
                raise fault
            else:
                faults.append(fault)
        return faults

    async def _submit(self, producer: AIOKafkaProducer, builder: Any, partition: int) -> asyncio.Future[Any]:
        """Hand a batch to the producer; try again while its buffer of two batches per partition is full."""
        while not self._given_up.is_set():
            try:
                outcome: asyncio.Future[Any] = await producer.send_batch(builder, self._topic, partition=partition)
            except KafkaError as fault:
                if not isinstance(fault, KafkaTimeoutError | KafkaConnectionError):
                    return _failed(fault)
                log.warning("no room for a batch yet", partition=partition, error=repr(fault))
            else:
                return outcome
        return _failed(_GivenUp())

    async def _renew(self, given_up: asyncio.Event) -> None:
        """Replace the producer that failed, unless another call has done it; its batches under way fail too."""
        async with self._renewing:
            if given_up is self._given_up:
                given_up.set()
                former, self._producer = self._producer, await _started(self._connection)
                self._given_up = asyncio.Event()
                await _stop(former)

    async def _find(self, partition: int, pieces: list[_Piece]) -> dict[bytes, Run]:
        """Search the log for the pieces; return the places of the pieces that it has."""
        wanted = {piece.mark: len(piece.keys) for piece in pieces}
        place = TopicPartition(self._topic, partition)
        found: dict[bytes, Run] = {}
        async with open_consumer(self._connection, auto_offset_reset="none") as consumer:
            consumer.assign([place])
            oldest = (await consumer.beginning_offsets([place]))[place]  # retention may drop records in an outage
            consumer.seek(place, max(self.ends[partition], oldest))
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=500)).get(place, []):
                    mark = dict(record.headers).get(_MARK)
                    if mark in wanted:
                        found[mark] = Run(record.offset, wanted[mark])
        return found

    async def close(self) -> None:
        """Stop. The outcome of batches that are not acknowledged by then stays unknown."""
        await _stop(self._producer)


@asynccontextmanager
async def open_appender(connection: KafkaConnection, topic: str, ends: Mapping[int, int]) -> AsyncIterator[Appender]:
    """Connect an appender to a topic, and stop it at the end.

    `ends` holds the partition offset of the next record for each partition.
    """
    appender = Appender(connection, topic, await _started(connection), ends)
    try:
        yield appender
    finally:
        await appender.close()


async def _started(connection: KafkaConnection) -> AIOKafkaProducer:
    """Return a connected producer; wait for brokers that do not answer."""

    async def start() -> AIOKafkaProducer:
        producer = AIOKafkaProducer(
            **connection.options, acks="all", enable_idempotence=True, max_batch_size=_BATCH_BYTES, linger_ms=0
        )
        # While a partition has no leader (a broker in a clean shutdown, for example), the producer would give batches
        # up after a request's time, and their sequence numbers with them: the broker would refuse all later batches.
        producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 - there is no setting for it
        try:
            await producer.start()
        except BaseException:
            await _stop(producer)
            raise
        ask_gently(producer.client)
        return producer

    return await retry(start, "connecting a producer", is_transient)


class _GivenUp(StockPulseError):
    """The producer was replaced before it received an acknowledgement."""


def _failed(fault: BaseException) -> asyncio.Future[Any]:
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    outcome.set_exception(fault)
    return outcome


def _fault_of(outcome: asyncio.Future[Any]) -> BaseException | None:
    """Return the reason why the place of a batch is unknown; None if it is known."""
    if not outcome.done() or outcome.cancelled():
        return _GivenUp()
    fault = outcome.exception()
    if fault is None and outcome.result().offset < 0:  # a duplicate, whose place the broker does not tell
        return StockPulseError("acknowledged without an offset")
    return fault


def _filled(producer: AIOKafkaProducer, piece: _Piece) -> Any:
    builder = producer.create_batch()
    headers = [(_MARK, piece.mark)]
    for key, value in zip(piece.keys, piece.values, strict=True):
        if builder.append(key=key, value=value, timestamp=None, headers=headers) is None:
            raise StockPulseError(f"a piece of {len(piece.keys)} records does not fit into a batch")
        headers = []
    return builder


def _joined(runs: list[Run]) -> list[Run]:
    joined = runs[:1]
    for run in runs[1:]:
        last = joined[-1]
        if last.base + last.count == run.base:
            joined[-1] = Run(last.base, last.count + run.count)
        else:
            joined.append(run)
    return joined


async def _stop(producer: AIOKafkaProducer) -> None:
    """Stop a producer whose brokers may not answer: its own `stop` would never return."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await producer.stop()
    except (TimeoutError, KafkaError):
        with contextlib.suppress(KafkaError):
            await producer._sender.close()  # noqa: SLF001 - `stop` closes it only after all batches
            await producer.client.close()

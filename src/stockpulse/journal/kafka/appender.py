"""Sending to the partitions of a topic, each batch exactly once, and telling at which offsets it stands.

aiokafka's idempotent producer tries again, under the same sequence number, for as long as a broker is away. What it
does give up (a sequence that the broker does not know any more, say) may have landed before: then the log itself is
asked. Each batch carries a mark for that on its first record.
"""

import asyncio
import contextlib
import itertools
import math
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import (
    ClusterAuthorizationFailedError,
    KafkaConnectionError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    TopicAuthorizationFailedError,
)

from stockpulse.aio import offload
from stockpulse.errors import StockPulseError
from stockpulse.journal.kafka.connection import KafkaConnection, ask_gently, until_answered

_BATCH_BYTES: Final = 768 * 1024  # brokers take a megabyte by default
_AROUND_BYTES: Final = 24  # what stands before a record
_MARK: Final = "stockpulse-batch"
_STOP_SECONDS: Final = 3.0
_REFUSALS: Final = (TopicAuthorizationFailedError, ClusterAuthorizationFailedError, MessageSizeTooLargeError)
_SETTLE_SECONDS: Final = 1.0  # what may still be on its way arrives before the log is asked

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Run:
    """Records that stand one after the other."""

    base: int
    count: int


@dataclass(frozen=True)
class _Piece:
    """What is sent as one batch, and so lands whole or not at all."""

    mark: bytes
    keys: Sequence[bytes]
    values: Sequence[bytes]


class Appender:
    """Appends to one topic."""

    def __init__(self, connection: KafkaConnection, topic: str) -> None:
        self._connection = connection
        self._topic = topic
        self._producer: AIOKafkaProducer | None = None
        self._given_up = asyncio.Event()  # the producer that there is; replaced together with it
        self._renewing = asyncio.Lock()
        self._name = uuid.uuid4().hex
        self._numbers = itertools.count()
        self._under_way: dict[int, float] = {}
        self.ends: dict[int, int] = {}
        """For each partition where the newest batch of ours ends, or where the partition ended at the start."""

    async def start(self, ends: dict[int, int]) -> None:
        """Begin; `ends` are where the partitions end now."""
        self.ends = dict(ends)
        self._producer = await self._started()

    async def _started(self) -> AIOKafkaProducer:
        async def start() -> AIOKafkaProducer:
            producer = AIOKafkaProducer(
                **self._connection.options,
                acks="all",
                enable_idempotence=True,
                max_batch_size=_BATCH_BYTES,
                linger_ms=0,
            )
            # While a partition has no leader, as when a broker stops in good order, batches would be given up after
            # a request's time, and their sequence numbers with them: nothing that follows would be taken any more.
            producer._message_accumulator._batch_ttl = math.inf  # noqa: SLF001 - there is no setting for it
            try:
                await producer.start()
            except BaseException:
                await _stopped(producer)
                raise
            ask_gently(producer.client)
            return producer

        return await until_answered(start, "connecting of a producer")

    def waiting_seconds(self) -> float:
        """How long the oldest batch has been waiting for its acknowledgement."""
        return time.monotonic() - min(self._under_way.values(), default=time.monotonic())

    def is_idle(self, partition: int) -> bool:
        """Whether nothing is on its way to this partition."""
        return partition not in self._under_way

    async def append(self, partition: int, keys: Sequence[bytes], values: Sequence[bytes]) -> list[Run]:
        """Append records to a partition; returns where they stand, once they are acknowledged. Outages are waited for.

        One call at a time for each partition.
        """
        self._under_way[partition] = time.monotonic()
        try:
            runs = await self._append(partition, self._cut(keys, values))
        finally:
            del self._under_way[partition]
        self.ends[partition] = max(run.base + run.count for run in runs)  # settled ones need not be in order
        return _joined(runs)

    def _cut(self, keys: Sequence[bytes], values: Sequence[bytes]) -> list[_Piece]:
        """Pieces that fit into one batch each."""
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
                log.warning("outcome unknown, asking the log", partition=partition, error=repr(faults[0]))
                await self._renew(given_up)
                await asyncio.sleep(_SETTLE_SECONDS)
                find = partial(self._find, partition, [piece for piece in left if piece.mark not in runs])
                runs |= await until_answered(find, "settling of an append")
        return [runs[piece.mark] for piece in pieces]

    async def _send(self, partition: int, pieces: list[_Piece], runs: dict[bytes, Run]) -> list[BaseException]:
        """One try with the producer that there is; returns why not all were acknowledged with their offsets."""
        producer = self._producer
        if producer is None:
            raise StockPulseError("the appender has not been started")
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
        """Have a batch sent: two at a time may wait for each partition, and there is a limit to waiting for room."""
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
        """A new producer in the place of the one that failed; what that still had under way fails too."""
        async with self._renewing:
            if given_up is self._given_up:
                given_up.set()
                former, self._producer = self._producer, await self._started()
                self._given_up = asyncio.Event()
                if former is not None:
                    await _stopped(former)

    async def _find(self, partition: int, pieces: list[_Piece]) -> dict[bytes, Run]:
        """Which of the pieces have landed after all."""
        wanted = {piece.mark: len(piece.keys) for piece in pieces}
        place = TopicPartition(self._topic, partition)
        consumer = AIOKafkaConsumer(**self._connection.options, auto_offset_reset="none", enable_auto_commit=False)
        found: dict[bytes, Run] = {}
        try:
            await consumer.start()
            consumer.assign([place])
            oldest = (await consumer.beginning_offsets([place]))[place]  # an outage may be longer than what is kept
            consumer.seek(place, max(self.ends[partition], oldest))
            end = (await consumer.end_offsets([place]))[place]
            while await consumer.position(place) < end:
                for record in (await consumer.getmany(place, timeout_ms=500)).get(place, []):
                    mark = dict(record.headers).get(_MARK)
                    if mark in wanted:
                        found[mark] = Run(record.offset, wanted[mark])
        finally:
            await consumer.stop()
        return found

    async def close(self) -> None:
        """Stop; what is not acknowledged by then stays unknown."""
        if self._producer is not None:
            await _stopped(self._producer)


class _GivenUp(StockPulseError):
    """The producer was replaced before it had an acknowledgement."""


def _failed(fault: BaseException) -> asyncio.Future[Any]:
    outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    outcome.set_exception(fault)
    return outcome


def _fault_of(outcome: asyncio.Future[Any]) -> BaseException | None:
    """Why it is not known where a batch stands."""
    if not outcome.done() or outcome.cancelled():
        return _GivenUp()
    fault = outcome.exception()
    if fault is None and outcome.result().offset < 0:  # known already to the broker, which does not say where
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


async def _stopped(producer: AIOKafkaProducer) -> None:
    """Stop a producer, whose brokers may not answer any more: `stop` alone waits for them for ever."""
    try:
        async with asyncio.timeout(_STOP_SECONDS):
            await producer.stop()
    except (TimeoutError, KafkaError):
        with contextlib.suppress(KafkaError):
            await producer._sender.close()  # noqa: SLF001 - there is no other way
            await producer.client.close()

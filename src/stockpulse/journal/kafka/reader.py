"""Reading a partition of the raw topic: ours and whatever others have written, as batches of the log."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stockpulse.aio import offload
from stockpulse.errors import Unavailable
from stockpulse.ingest.validate import Validated, validate_bars, validate_ticks
from stockpulse.journal.codecs import RECORDED_BARS, RECORDED_TICKS, Codec, Decoded
from stockpulse.journal.kafka.connection import KafkaConnection, ask_gently, until_answered
from stockpulse.journal.offset_order import runs_in_order
from stockpulse.journal.records import Appended, Bars, End, Ticks, Unreadable
from stockpulse.journal.routing import partition_of
from stockpulse.journal.symbol_names import RecordEncoder
from stockpulse.market.schemas import BARS, COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, PRIMARY, TICKS, UTC_MICROS
from stockpulse.market.symbology import PROVIDER
from stockpulse.postgres.connect import until_done

_MOST_RECORDS: Final = 50_000
_FETCH_BYTES: Final = 8 << 20
_FETCH_WAIT_MILLIS: Final = 100  # so long a change of place waits for a question that is under way
_POLL_MILLIS: Final = 500
_OTHERS: Final = "kafka"
"""The provider of ticks whose writer does not name one."""

_ALL_FLAGS: Final = COUNTS_FOR_PRICE | COUNTS_FOR_VOLUME | PRIMARY
_FARTHEST: Final = 86_400_000_000  # no clock is wrong by more than a day


@dataclass(frozen=True)
class Interpreter:
    """What it takes to understand records; the readers of all partitions share it."""

    codec: Codec
    encoder: RecordEncoder
    tolerance: timedelta
    partitions: int


class PartitionReader:
    """Reads one partition from any offset; `first_seq` is what its offsets are counted from."""

    def __init__(
        self, connection: KafkaConnection, topic: str, shard: int, first_seq: int, interpreter: Interpreter
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._shard = shard
        self._first_seq = first_seq
        self._interpreter = interpreter
        self._place = TopicPartition(topic, shard)
        self._consumer: AIOKafkaConsumer | None = None

    async def bounds(self) -> tuple[int, int]:
        """The offsets, as the log's `seq`, of the oldest record there is and of the next one."""

        async def ask() -> tuple[int, int]:
            consumer = await self._assigned()
            first = await consumer.beginning_offsets([self._place])
            last = await consumer.end_offsets([self._place])
            return first[self._place] + self._first_seq, last[self._place] + self._first_seq

        return await until_answered(ask, "asking for the bounds of a partition")

    async def read(self, offset: int, until: int | None = None) -> AsyncIterator[Appended]:
        """The records from this offset on, up to another one or, without it, for ever."""
        consumer = await until_answered(self._assigned, "connecting of a consumer")
        consumer.resume(self._place)
        position = offset - self._first_seq
        consumer.seek(self._place, position)
        try:
            while until is None or position + self._first_seq < until:
                found = await consumer.getmany(self._place, timeout_ms=_POLL_MILLIS, max_records=_MOST_RECORDS)
                after = await consumer.position(self._place)
                if after == position:
                    continue
                records = found.get(self._place, [])
                if until is not None:
                    records = [record for record in records if record.offset + self._first_seq < until]
                    after = min(after, until - self._first_seq)
                async for appended in self._understood(records, position, after):
                    yield appended
                position = after
        finally:
            with suppress(KafkaError):
                consumer.pause(self._place)  # nothing is fetched ahead for nobody

    async def _assigned(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = AIOKafkaConsumer(
                **self._connection.options,
                auto_offset_reset="none",
                enable_auto_commit=False,
                isolation_level="read_committed",  # what others take back was never there
                fetch_max_wait_ms=_FETCH_WAIT_MILLIS,
                max_partition_fetch_bytes=_FETCH_BYTES,
            )
            try:
                await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
            ask_gently(consumer._client)  # noqa: SLF001 - a consumer does not show its client
            consumer.assign([self._place])
            consumer.pause(self._place)
            self._consumer = consumer
        return self._consumer

    async def close(self) -> None:
        """Let the connection go."""
        if self._consumer is not None:
            await self._consumer.stop()

    # Understanding ------------------------------------------------------------------------------

    async def _understood(self, records: list[Any], before: int, after: int) -> AsyncIterator[Appended]:
        """These records, and whatever offsets between are none, as consecutive batches."""
        last = before + self._first_seq
        if records:
            values = [record.value for record in records]
            offsets = np.array([record.offset for record in records], np.int64)
            stamps = np.array([record.timestamp for record in records], np.int64) * 1000
            decode = partial(self._interpreter.codec.decode, values)
            decoded = await until_done(
                lambda: offload.run(len(values), decode), "decoding", lambda: None, transient=(Unavailable,)
            )
            for batch, end in await self._batches(decoded, offsets + self._first_seq, stamps):
                yield Appended(self._shard, batch, last, end)
                last = end
        if last < after + self._first_seq:  # only what is no record of anybody: the marks of transactions
            nothing = pl.DataFrame(schema=_UNREADABLE)
            yield Appended(self._shard, Unreadable(nothing), last, after + self._first_seq)

    async def _batches(
        self, decoded: Decoded, seq: Any, stamps: Any
    ) -> list[tuple[Ticks | Bars | End | Unreadable, int]]:
        """Batches in the order of their offsets, each with its end."""
        broken = [_placed(decoded.broken, decoded.broken, seq)]
        ticks = self._checked(decoded.ticks, seq, stamps, RECORDED_TICKS, validate_ticks, broken)
        bars = self._checked(decoded.bars, seq, stamps, RECORDED_BARS, validate_bars, broken)
        encoder = self._interpreter.encoder
        frames = [
            await until_done(lambda: encoder.ticks(ticks), "numbering of new names", lambda: None),
            await until_done(lambda: encoder.bars(bars), "numbering of new names", lambda: None),
            pl.concat(broken).sort("seq"),
            pl.DataFrame(decoded.ends, schema={"row": pl.Int64, "provider": pl.String}, orient="row").select(
                pl.Series("seq", seq[[row for row, _ in decoded.ends]], dtype=pl.Int64), "provider"
            ),
        ]
        return list(_in_order(frames))

    def _checked(
        self,
        frame: pl.DataFrame,
        seq: Any,
        stamps: Any,
        schema: pl.Schema,
        validate: Callable[[pl.DataFrame, Any, timedelta], Validated],
        broken: list[pl.DataFrame],
    ) -> pl.DataFrame:
        """The rows that may go on, with `seq`; the others are added to the broken ones."""
        if len(frame) == 0:
            return pl.DataFrame(schema={**schema, "seq": pl.Int64})
        frame = _completed(frame, seq, stamps, self._interpreter.tolerance)
        received = frame["received_at"].max()
        checked = validate(frame, received, self._interpreter.tolerance)
        broken.append(_placed(checked.rejected, frame[checked.rejected["row"].to_numpy()], seq))
        here = self._here(checked.good)
        if not here.all():
            astray = checked.good.filter(~here)
            kind = pl.lit("trade" if "size" in schema else "bar").alias("type")
            record = pl.struct(kind, *(TICKS if "size" in schema else BARS), "provider")
            raw = astray.select(record.struct.json_encode()).to_series()
            broken.append(
                pl.DataFrame(
                    {"seq": astray["seq"], "reason": pl.repeat(self._astray(), len(astray), eager=True), "raw": raw},
                    schema=_UNREADABLE,
                )
            )
        return checked.good.filter(here)

    def _here(self, frame: pl.DataFrame) -> pl.Series:
        symbols = frame["symbol"].unique()
        here = [one for one in symbols if partition_of(one, self._interpreter.partitions) == self._shard]
        return frame["symbol"].is_in(here)

    def _astray(self) -> str:
        return (
            f"on partition {self._shard} of {self._topic}, where its symbol does not belong: write with the symbol as"
            " key and the partitioner murmur2_random, then `stockpulse dlq retry` appends it rightly"
        )


_UNREADABLE: Final = pl.Schema({"seq": pl.Int64(), "reason": pl.String(), "raw": pl.String()})


def _placed(rejected: pl.DataFrame, at: pl.DataFrame, seq: Any) -> pl.DataFrame:
    """What is rejected, by its offset."""
    return pl.DataFrame(
        {"seq": seq[at["row"].to_numpy()], "reason": rejected["reason"], "raw": rejected["raw"]}, schema=_UNREADABLE
    )


def _completed(frame: pl.DataFrame, seq: Any, stamps: Any, tolerance: timedelta) -> pl.DataFrame:
    """Rows with their offset and what their writer left out; who is judged by the brokers' clock is judged here.

    Who says when it was received was there then, and has judged it by that.
    """
    rows = frame["row"].to_numpy()
    stamped = pl.Series("stamped", stamps[rows]).cast(UTC_MICROS)
    frame = frame.with_columns(
        pl.Series("seq", seq[rows], dtype=pl.Int64), stamped, pl.col("provider").fill_null(_OTHERS)
    ).with_columns(pl.col("received_at").fill_null(pl.col("stamped")))
    wrong = (
        pl.when(pl.col("ts") > pl.col("received_at") + tolerance)
        .then(pl.lit("ts: in the future"))
        .when(pl.col("received_at") > pl.col("stamped") + timedelta(microseconds=_FARTHEST))
        .then(pl.lit("received_at: in the future"))
        .when(~pl.col("provider").str.contains(f"^{PROVIDER}$"))
        .then(pl.lit("provider: takes 1 to 32 of a-z 0-9 _, beginning with a letter"))
    )
    if "flags" in frame.columns:
        wrong = wrong.when(~pl.col("flags").is_between(0, _ALL_FLAGS)).then(pl.lit(f"flags: takes 0 to {_ALL_FLAGS}"))
    frame = frame.with_columns(pl.coalesce("problem", wrong).alias("problem"))
    own = pl.struct(pl.exclude("row", "seq", "stamped", "problem", "raw")).struct.json_encode()
    needs_raw = pl.col("problem").is_not_null() & pl.col("raw").is_null()
    if frame.select(needs_raw.any()).item():
        frame = frame.with_columns(pl.when(needs_raw).then(own).otherwise("raw").alias("raw"))
    return frame.drop("stamped")


def _in_order(frames: Sequence[pl.DataFrame]) -> Iterator[tuple[Ticks | Bars | End | Unreadable, int]]:
    """Rows of several kinds as batches, in the order of their offsets."""
    for kind, frame in runs_in_order(frames):
        if kind == 3:  # noqa: PLR2004 - as they stand above
            for seq, provider in frame.iter_rows():
                yield End(provider), seq + 1
        else:
            yield (Ticks, Bars, Unreadable)[kind](frame), int(frame["seq"][-1]) + 1

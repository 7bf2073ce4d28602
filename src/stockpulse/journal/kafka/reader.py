"""Read a partition of the raw topic: records of StockPulse and of other programs, as batches of the log."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final

import numpy as np
import polars as pl
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from stockpulse.aio import offload
from stockpulse.aio.retry import retry
from stockpulse.errors import Unavailable
from stockpulse.ingest.corrected_trades import SEARCHED
from stockpulse.ingest.validate import Validated, validate_bars, validate_corrections, validate_ticks
from stockpulse.journal.codecs import RECORDED_BARS, RECORDED_CORRECTIONS, RECORDED_TICKS, Codec, Decoded
from stockpulse.journal.kafka.connection import KafkaConnection, is_transient, open_consumer
from stockpulse.journal.offset_order import runs_in_order
from stockpulse.journal.records import Appended, Bars, Batch, Corrections, End, Forget, Ticks, Unreadable
from stockpulse.journal.routing import partition_of
from stockpulse.journal.symbol_names import RecordEncoder
from stockpulse.market.schemas import ALL_FLAGS, BARS, CORRECTIONS, DAY_APART, TICKS, UNREADABLE, UTC_MICROS
from stockpulse.market.symbology import PROVIDER
from stockpulse.postgres import connect

_MOST_RECORDS: Final = 50_000
_FETCH_BYTES: Final = 8 << 20
_FETCH_WAIT_MILLIS: Final = 100  # a seek waits up to this long for a fetch that is under way
_POLL_MILLIS: Final = 500
_OTHERS: Final = "kafka"
"""The provider of records whose writer does not name one."""

_FARTHEST: Final = 86_400_000_000  # microseconds: a clock that is wrong by more than a day is refused


@dataclass(frozen=True)
class Interpreter:
    """The tools to decode records, shared by the readers of all partitions."""

    codec: Codec
    encoder: RecordEncoder
    tolerance: timedelta
    partitions: int


class PartitionReader:
    """Reads one partition from any offset. `first_seq` is the seq of partition offset 0."""

    def __init__(
        self, connection: KafkaConnection, topic: str, shard: int, first_seq: int, interpreter: Interpreter
    ) -> None:
        self._connection = connection
        self._topic = topic
        self._shard = shard
        self._interpreter = interpreter
        self._place = TopicPartition(topic, shard)
        self._consumer: AIOKafkaConsumer | None = None
        self._open = AsyncExitStack()
        self.first_seq = first_seq

    async def bounds(self) -> tuple[int, int]:
        """Return the seq of the oldest record in the partition and that of the next one."""

        async def ask() -> tuple[int, int]:
            consumer = await self._assigned()
            first = await consumer.beginning_offsets([self._place])
            last = await consumer.end_offsets([self._place])
            return first[self._place] + self.first_seq, last[self._place] + self.first_seq

        return await retry(ask, "asking for the bounds of a partition", is_transient)

    async def read(self, offset: int, until: int | None = None) -> AsyncIterator[Appended]:
        """Yield the records with offset <= seq < until; without `until`, never end."""
        consumer = await retry(self._assigned, "connecting a consumer", is_transient)
        consumer.resume(self._place)
        position = offset - self.first_seq
        consumer.seek(self._place, position)
        try:
            while until is None or position + self.first_seq < until:
                found = await consumer.getmany(self._place, timeout_ms=_POLL_MILLIS, max_records=_MOST_RECORDS)
                after = await consumer.position(self._place)
                if after == position:
                    continue
                records = found.get(self._place, [])
                if until is not None:
                    records = [record for record in records if record.offset + self.first_seq < until]
                    after = min(after, until - self.first_seq)
                async for appended in self._decoded(records, position, after):
                    yield appended
                position = after
        finally:
            with suppress(KafkaError):
                consumer.pause(self._place)  # stop fetching ahead

    async def _assigned(self) -> AIOKafkaConsumer:
        if self._consumer is None:
            consumer = await self._open.enter_async_context(
                open_consumer(
                    self._connection,
                    auto_offset_reset="none",
                    isolation_level="read_committed",  # skip records of aborted transactions
                    fetch_max_wait_ms=_FETCH_WAIT_MILLIS,
                    max_partition_fetch_bytes=_FETCH_BYTES,
                )
            )
            consumer.assign([self._place])
            consumer.pause(self._place)
            self._consumer = consumer
        return self._consumer

    async def close(self) -> None:
        """Close the connection."""
        await self._open.aclose()

    # Decoding -----------------------------------------------------------------------------------

    async def _decoded(self, records: list[Any], before: int, after: int) -> AsyncIterator[Appended]:
        """Yield these records as consecutive batches from `before` to `after`, partition offsets without gaps."""
        last = before + self.first_seq
        if records:
            values = [record.value for record in records]
            offsets = np.array([record.offset for record in records], np.int64)
            stamps = np.array([record.timestamp for record in records], np.int64) * 1000
            decode = partial(self._interpreter.codec.decode, values)
            decoded = await retry(
                lambda: offload.run(len(values), decode), "decoding", lambda fault: isinstance(fault, Unavailable)
            )
            for batch, end in await self._batches(decoded, offsets + self.first_seq, stamps):
                yield Appended(self._shard, batch, last, end)
                last = end
        if last < after + self.first_seq:  # the rest are no records but the marks of transactions
            nothing = pl.DataFrame(schema=_UNREADABLE)
            yield Appended(self._shard, Unreadable(nothing), last, after + self.first_seq)

    async def _batches(self, decoded: Decoded, seq: Any, stamps: Any) -> list[tuple[Batch | Unreadable, int]]:
        """Return batches in the order of the log, each with the offset after it."""
        broken = [_placed(decoded.broken, decoded.broken, seq), self._astray_forgets(decoded, seq)]
        ticks = self._checked(decoded.ticks, seq, stamps, _TRADE, broken)
        bars = self._checked(decoded.bars, seq, stamps, _BAR, broken)
        amends = _with_times(decoded.corrections)
        amends = self._checked(amends, seq, stamps, _CORRECTION, broken)
        encoder = self._interpreter.encoder
        frames = [
            await retry(lambda: encoder.ticks(ticks), "assigning ids to new names", connect.is_transient),
            await retry(lambda: encoder.bars(bars), "assigning ids to new names", connect.is_transient),
            await retry(lambda: encoder.corrections(amends), "assigning ids to new names", connect.is_transient),
            pl.concat(broken).sort("seq"),
            pl.DataFrame(decoded.ends, schema={"row": pl.Int64, "provider": pl.String}, orient="row").select(
                pl.Series("seq", seq[[row for row, _ in decoded.ends]], dtype=pl.Int64), "provider"
            ),
        ]
        forgets = {int(seq[row]): forget for row, forget in decoded.forgets if self._belongs(forget)}
        frames.append(pl.DataFrame({"seq": list(forgets)}, schema={"seq": pl.Int64}))
        return list(_in_order(frames, forgets))

    def _checked(
        self,
        frame: pl.DataFrame,
        seq: Any,
        stamps: Any,
        kind: "_Kind",
        broken: list[pl.DataFrame],
    ) -> pl.DataFrame:
        """Return the valid rows, with `seq`; add the others to `broken`."""
        if len(frame) == 0:
            return pl.DataFrame(schema={**kind.schema, "seq": pl.Int64})
        foreign = frame["received_at"].is_null().alias("foreign")
        frame = _completed(frame, seq, stamps, self._interpreter.tolerance).with_columns(foreign)
        received = frame["received_at"].max()
        checked = self._interpreter.encoder.within_limits(kind.validate(frame, received, self._interpreter.tolerance))
        broken.append(_placed(checked.rejected, frame[checked.rejected["row"].to_numpy()], seq))
        here = self._here(checked.good)
        if not here.all():
            astray = checked.good.filter(~here)
            record = pl.struct(pl.lit(kind.type).alias("type"), *kind.resent, "provider")
            raw = astray.select(record.struct.json_encode()).to_series()
            broken.append(
                pl.DataFrame(
                    {"seq": astray["seq"], "reason": pl.repeat(self._astray(), len(astray), eager=True), "raw": raw},
                    schema=_UNREADABLE,
                )
            )
        return checked.good.filter(here).drop("foreign")

    def _here(self, frame: pl.DataFrame) -> pl.Series:
        symbols = frame["symbol"].unique()
        here = [one for one in symbols if partition_of(one, self._interpreter.partitions) == self._shard]
        return frame["symbol"].is_in(here)

    def _belongs(self, forget: Forget) -> bool:
        """Return True unless the symbol of the forget belongs to another partition."""
        return forget.symbol is None or partition_of(forget.symbol, self._interpreter.partitions) == self._shard

    def _astray_forgets(self, decoded: Decoded, seq: Any) -> pl.DataFrame:
        rows = [(seq[row], self._astray(), str(one)) for row, one in decoded.forgets if not self._belongs(one)]
        return pl.DataFrame(rows, schema=_UNREADABLE, orient="row")

    def _astray(self) -> str:
        return (
            f"on partition {self._shard} of {self._topic}, where its symbol does not belong: write with the symbol as"
            " key and the partitioner murmur2_random, then `stockpulse dlq retry` appends it rightly"
        )


@dataclass(frozen=True)
class _Kind:
    """A kind of record in rows."""

    type: str
    schema: pl.Schema
    validate: Callable[[pl.DataFrame, Any, timedelta], Validated]
    resent: tuple[str, ...]
    """The columns of a record that was on the wrong partition, to be sent again."""


_TRADE: Final = _Kind("trade", RECORDED_TICKS, validate_ticks, tuple(TICKS))
_BAR: Final = _Kind("bar", RECORDED_BARS, validate_bars, tuple(BARS))
_CORRECTION: Final = _Kind("correction", RECORDED_CORRECTIONS, validate_corrections, (*CORRECTIONS, "since", "sent_at"))

_UNREADABLE: Final = pl.Schema({"seq": pl.Int64(), "reason": pl.String(), "raw": pl.String()})


def _placed(rejected: pl.DataFrame, at: pl.DataFrame, seq: Any) -> pl.DataFrame:
    """Return rejected rows as `seq`, `reason`, `raw`."""
    return pl.DataFrame(
        {"seq": seq[at["row"].to_numpy()], "reason": rejected["reason"], "raw": rejected["raw"]}, schema=_UNREADABLE
    )


def _with_times(corrections: pl.DataFrame) -> pl.DataFrame:
    """Add the times that the writers of corrections left out."""
    return corrections.with_columns(
        pl.col("since").fill_null(pl.col("ts") - SEARCHED), pl.col("sent_at").fill_null(pl.col("ts"))
    )


def _completed(frame: pl.DataFrame, seq: Any, stamps: Any, tolerance: timedelta) -> pl.DataFrame:
    """Add `seq` and the fields that the writer left out, and check times against the brokers' clock.

    If the writer set `received_at`, it has already checked `ts` against its own clock.
    """
    rows = frame["row"].to_numpy()
    stamped = pl.Series("stamped", stamps[rows]).cast(UTC_MICROS)
    frame = frame.with_columns(
        pl.Series("seq", seq[rows], dtype=pl.Int64), stamped, pl.col("provider").fill_null(_OTHERS)
    ).with_columns(pl.col("received_at").fill_null(pl.col("stamped")))
    since = pl.col("since") if "since" in frame.columns else pl.col("ts")
    wrong = (
        pl.when(since > pl.col("ts"))
        .then(pl.lit("since: after ts"))
        .when(pl.col("ts") > pl.col("received_at") + tolerance)
        .then(pl.lit("ts: in the future"))
        .when(pl.col("received_at") > pl.col("stamped") + timedelta(microseconds=_FARTHEST))
        .then(pl.lit("received_at: in the future"))
        .when(~pl.col("provider").str.contains(f"^{PROVIDER}$"))
        .then(pl.lit("provider: takes 1 to 32 of a-z 0-9 _, beginning with a letter"))
    )
    if "flags" in frame.columns:
        flags = pl.col("flags")
        of_day = flags.is_between(0, ALL_FLAGS) & (flags & DAY_APART != 0)
        known = flags.is_between(0, DAY_APART - 1) | of_day | (flags & ~UNREADABLE).is_between(0, DAY_APART - 1)
        wrong = wrong.when(~known).then(pl.lit(f"flags: takes 0 to 7, and up to {ALL_FLAGS} with {DAY_APART}"))
    frame = frame.with_columns(pl.coalesce("problem", wrong).alias("problem"))
    own = pl.struct(pl.exclude("row", "seq", "stamped", "problem", "raw")).struct.json_encode()
    needs_raw = pl.col("problem").is_not_null() & pl.col("raw").is_null()
    if frame.select(needs_raw.any()).item():
        frame = frame.with_columns(pl.when(needs_raw).then(own).otherwise("raw").alias("raw"))
    return frame.drop("stamped")


def _in_order(
    frames: Sequence[pl.DataFrame], forgets: Mapping[int, Forget]
) -> Iterator[tuple[Batch | Unreadable, int]]:
    """Yield rows of several kinds as batches in the order of the log, each with the offset after it."""
    for kind, frame in runs_in_order(frames):
        if kind == 4:  # noqa: PLR2004 - as they stand above
            for seq, provider in frame.iter_rows():
                yield End(provider), seq + 1
        elif kind == 5:  # noqa: PLR2004
            for seq in frame["seq"]:
                yield forgets[seq], seq + 1
        else:
            yield (Ticks, Bars, Corrections, Unreadable)[kind](frame), int(frame["seq"][-1]) + 1

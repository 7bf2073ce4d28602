"""The derived topics on Kafka: bars, indicators and signals, for other programs and for processes of role `api`.

Everything is published before the flush that stores the same. A restart may publish it again: at least once, keyed by
symbol, and the highest revision of a bar stands.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.indicators import DAILY, INTRADAY
from stockpulse.engine.signals import SIGNAL_NAMES, Signals
from stockpulse.engine.step import BarEvents
from stockpulse.journal.codecs import OHLCV, Codec
from stockpulse.journal.kafka.appender import Appender
from stockpulse.journal.routing import partition_of
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.pipeline.events import IndicatorEvents, Listener
from stockpulse.storage.served_bars import served_bars

_QUEUE_ROWS: Final = 100_000

_Encode = Callable[[pl.DataFrame], list[bytes]]


class DerivedTopic:
    """One derived topic: takes frames, appends their rows as records, in order."""

    def __init__(self, appender: Appender, partitions: int, encode: _Encode) -> None:
        self._appender = appender
        self._partitions = partitions
        self._encode = encode
        self._waiting: deque[pl.DataFrame] = deque()
        self._rows = 0  # waiting, or being appended
        self._changed = asyncio.Condition()
        self._partition_of: dict[str, int] = {}
        self._came = asyncio.Event()

    def put(self, frame: pl.DataFrame) -> None:
        """Queue rows to be published."""
        if len(frame):
            self._waiting.append(frame)
            self._rows += len(frame)
            self._came.set()

    async def until_room(self) -> None:
        """Wait until the queue has room."""
        await self._until(lambda: self._rows < _QUEUE_ROWS)

    async def until_delivered(self) -> None:
        """Wait until everything queued before is on the brokers' disks."""
        await self._until(lambda: self._rows == 0)

    async def _until(self, reached: Callable[[], bool]) -> None:
        async with self._changed:
            await self._changed.wait_for(reached)

    async def run(self) -> None:
        """Publish until cancelled. Records stay in the queue until they are acknowledged."""
        while True:
            await self._came.wait()
            self._came.clear()
            while self._waiting:
                frames = list(self._waiting)
                await self._append(pl.concat(frames, how="diagonal_relaxed"))
                for frame in frames:
                    self._waiting.popleft()
                    self._rows -= len(frame)
                async with self._changed:
                    self._changed.notify_all()

    async def _append(self, frame: pl.DataFrame) -> None:
        parts = await offload.run(len(frame), partial(self._encoded, frame))
        await asyncio.gather(*[self._appender.append(number, *part) for number, part in parts.items()])

    def _encoded(self, frame: pl.DataFrame) -> dict[int, tuple[list[bytes], list[bytes]]]:
        symbols = frame["symbol"]
        distinct = symbols.unique().to_list()
        for symbol in [one for one in distinct if one not in self._partition_of]:
            self._partition_of[symbol] = partition_of(symbol, self._partitions)
        places = symbols.replace_strict(
            {symbol: self._partition_of[symbol] for symbol in distinct}, return_dtype=pl.Int64
        ).to_numpy()
        parts = {}
        for number in np.unique(places).tolist():
            part = frame[np.flatnonzero(places == number)]
            parts[number] = (part["symbol"].cast(pl.Binary).to_list(), self._encode(part))
        return parts


class KafkaPublisher(Listener):
    """Publishes bars, indicators and signals of the shards."""

    def __init__(
        self, names: Names, codec: Codec, spec: EngineSpec, topics: Callable[[_Encode, str], DerivedTopic]
    ) -> None:
        """`topics` makes the topic of a kind: "ohlcv", "analytics" or "signals"."""
        self._names = names
        self._symbol_names = SymbolNames(names)
        self._rules = [rule.name for rule in spec.rules.rules]
        self._tracks = spec.tracks
        self._bars = topics(codec.encode_ohlcv, "ohlcv")
        self._indicators = topics(codec.encode_analytics, "analytics")
        self._signals = topics(codec.encode_signals, "signals")
        self._topics = (self._bars, self._indicators, self._signals)

    async def run(self) -> None:
        """Publish, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for topic in self._topics:
                group.create_task(topic.run())

    def on_bars(self, bars: BarEvents) -> None:
        """Queue bars that form, have closed, were revised or are gone."""
        self._bars.put(bars_frame(self._names, bars.rows, bars.interval, removed=bars.removed))

    def on_indicators(self, indicators: IndicatorEvents) -> None:
        """Queue indicators of closed bars."""
        self._indicators.put(self._indicators_frame(indicators.tier, indicators.rows))

    def on_signals(self, signals: Signals) -> None:
        """Queue signals of closed bars."""
        self._signals.put(self._signals_frame(signals))

    async def until_room(self) -> None:
        """Wait until every topic's queue has room."""
        for topic in self._topics:
            await topic.until_room()

    async def until_delivered(self) -> None:
        """Wait until everything heard so far is on the brokers' disks."""
        for topic in self._topics:
            await topic.until_delivered()

    def _indicators_frame(self, tier: str, rows: DerivedRows) -> pl.DataFrame:
        track = self._tracks[tier]
        labels = [output for one in track.bundle.instances for output in one.indicator.outputs]
        return pl.DataFrame(
            {
                "symbol": self._symbol_names.symbols(pl.Series(rows.symbol_id)),
                "interval": pl.repeat(track.interval.name, len(rows), eager=True),
                "timestamp": pl.Series(rows.ts).cast(UTC_MICROS),
                "revision": rows.revision,
                **{label: rows.values[:, at] for at, label in enumerate(labels)},
            }
        )

    def _signals_frame(self, signals: Signals) -> pl.DataFrame:
        interval = next(track.interval.name for name, track in self._tracks.items() if name not in (INTRADAY, DAILY))
        return pl.DataFrame(
            {
                "symbol": self._symbol_names.symbols(pl.Series(signals.symbol_id)),
                "interval": pl.repeat(interval, len(signals), eager=True),
                "timestamp": pl.Series(signals.ts).cast(UTC_MICROS),
                "rule": pl.Series(self._rules).gather(signals.rule),
                "signal": pl.Series(list(SIGNAL_NAMES)).gather(signals.signal),
                "price": pl.Series(signals.price, nan_to_null=True),
                "revision": signals.revision,
            }
        )


def bars_frame(names: Names, rows: Rows, interval: Interval, *, removed: bool = False) -> pl.DataFrame:
    """Return the engine's rows as OHLCV; bars without a price are left out."""
    served = served_bars(rows[~np.isnan(rows["open"])], interval, names)
    deleted = pl.lit(removed or None, pl.Boolean).alias("deleted")
    return served.rename({"ts": "timestamp"}).with_columns(deleted).select(list(OHLCV))

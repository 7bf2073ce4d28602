"""The derived topics: bars, indicators and signals, for other programs and for the processes that answer requests.

What follows from the log is published before it counts as stored, so a restart publishes again what may be missing:
at least once, keyed by symbol, and the highest revision of a bar stands.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.aio.row_queue import RowQueue
from stockpulse.engine.bar_math import Rows
from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.indicators import DAILY, INTRADAY, AnalyticsChanges
from stockpulse.engine.signals import SIGNAL_NAMES, Signals
from stockpulse.journal.codecs import OHLCV, Codec
from stockpulse.journal.kafka.appender import Appender
from stockpulse.journal.routing import partition_of
from stockpulse.journal.symbol_names import SymbolNames
from stockpulse.market.intervals import Interval
from stockpulse.market.schemas import UTC_MICROS
from stockpulse.market.symbology import Names
from stockpulse.storage.bar_reader import served_bars

_QUEUE_ROWS: Final = 100_000

_Encode = Callable[[pl.DataFrame], list[bytes]]


class Topic:
    """A derived topic: frames in, records out, in order."""

    def __init__(self, appender: Appender, partitions: int, encode: _Encode) -> None:
        self._appender = appender
        self._partitions = partitions
        self._encode = encode
        self._waiting: RowQueue[pl.DataFrame | asyncio.Future[None]] = RowQueue(_QUEUE_ROWS)
        self._partition_of: dict[str, int] = {}

    async def put(self, frame: pl.DataFrame) -> None:
        """Have rows published; waits while there are too many."""
        if len(frame):
            await self._waiting.put(frame, len(frame))

    async def published(self) -> None:
        """Returns once all that was put before is on the brokers' disks."""
        done = asyncio.get_running_loop().create_future()
        await self._waiting.put(done, 0)
        await done

    async def run(self) -> None:
        """Publish, until cancelled."""
        while True:
            items = await self._waiting.take(_QUEUE_ROWS)
            frames = [item for item in items if isinstance(item, pl.DataFrame)]
            if frames:
                await self._append(pl.concat(frames, how="diagonal_relaxed"))
            for item in items:
                if isinstance(item, asyncio.Future) and not item.done():
                    item.set_result(None)

    async def _append(self, frame: pl.DataFrame) -> None:
        parts = await offload.run(len(frame), partial(self._encoded, frame))
        await asyncio.gather(*[self._appender.append(number, *part) for number, part in parts.items()])

    def _encoded(self, frame: pl.DataFrame) -> dict[int, tuple[list[bytes], list[bytes]]]:
        symbols = frame["symbol"]
        for symbol in set(symbols.unique()) - self._partition_of.keys():
            self._partition_of[symbol] = partition_of(symbol, self._partitions)
        places = symbols.replace_strict(self._partition_of, return_dtype=pl.Int64).to_numpy()
        parts = {}
        for number in np.unique(places).tolist():
            part = frame[np.flatnonzero(places == number)]
            parts[number] = (part["symbol"].cast(pl.Binary).to_list(), self._encode(part))
        return parts


class KafkaPublisher:
    """What the engine makes, as rows of the derived topics."""

    def __init__(self, names: Names, codec: Codec, spec: EngineSpec, topics: Callable[[_Encode, str], Topic]) -> None:
        """`topics` makes the topic of a kind: "ohlcv", "analytics" or "signals"."""
        self._names = names
        self._symbol_names = SymbolNames(names)
        self._rules = [rule.name for rule in spec.rules.rules]
        self._tracks = spec.tracks
        self._bars = topics(codec.encode_ohlcv, "ohlcv")
        self._analytics = topics(codec.encode_analytics, "analytics")
        self._signals = topics(codec.encode_signals, "signals")

    async def run(self) -> None:
        """Publish, until cancelled."""
        async with asyncio.TaskGroup() as group:
            for topic in (self._bars, self._analytics, self._signals):
                group.create_task(topic.run())

    async def bars(self, interval: Interval, rows: Rows) -> None:
        """Bars as they close, are revised, or form."""
        await self._bars.put(bars_frame(self._names, rows, interval))

    async def analytics(self, changes: AnalyticsChanges) -> None:
        """Indicators and signals of closed bars."""
        for name in (INTRADAY, DAILY):
            if name in changes.tracks:
                await self._analytics.put(self._derived_frame(name, changes.tracks[name].derived))
        if changes.signals is not None:
            await self._signals.put(self._signals_frame(changes.signals))

    async def published(self) -> None:
        """Returns once all that was given before is on the brokers' disks."""
        for topic in (self._bars, self._analytics, self._signals):
            await topic.published()

    def _derived_frame(self, name: str, derived: DerivedRows) -> pl.DataFrame:
        track = self._tracks[name]
        labels = [output for one in track.bundle.instances for output in one.indicator.outputs]
        return pl.DataFrame(
            {
                "symbol": self._symbol_names.symbols(pl.Series(derived.symbol_id)),
                "interval": pl.repeat(track.interval.name, len(derived), eager=True),
                "timestamp": pl.Series(derived.ts).cast(UTC_MICROS),
                "revision": derived.revision,
                **{label: derived.values[:, at] for at, label in enumerate(labels)},
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


def bars_frame(names: Names, rows: Rows, interval: Interval) -> pl.DataFrame:
    """The engine's rows as OHLCV; what has no price is left out."""
    served = served_bars(rows[~np.isnan(rows["open"])], interval, names)
    return served.rename({"ts": "timestamp"}).select(list(OHLCV))

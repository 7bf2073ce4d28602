"""Writes the data derived from bars: indicators, signals, and the anchors of indicators."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import numpy as np

from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.engine.indicator_track import TrackChanges, TrackSpec
from stockpulse.engine.indicators import DAILY, INTRADAY, SIGNAL_TRACK, AnalyticsChanges, RealtimeSnapshot
from stockpulse.engine.signals import Signals
from stockpulse.indicators.evaluation import Bundle
from stockpulse.indicators.stored import STORED_INDICATORS
from stockpulse.market.times import from_micros, micros
from stockpulse.postgres.binary_copy import Layout
from stockpulse.postgres.connect import Connection, Pool
from stockpulse.storage.partitions import BARS
from stockpulse.storage.upsert import Staging

TABLES: Final = {INTRADAY: "intraday_analytics", DAILY: "daily_analytics"}
"""The table of each track's values; signals have another table."""

_NO_TIME: Final = "timestamptz 'epoch'"


class AnalyticsWriter:
    """Writes for one shard. `rule_ids` are the ids of its rules, in their order."""

    def __init__(self, tracks: Mapping[str, TrackSpec], rule_ids: list[int]) -> None:
        self._tracks = tracks
        self._minutes = tracks[SIGNAL_TRACK].interval.minutes if SIGNAL_TRACK in tracks else 0
        self._rule_ids = np.array(rule_ids, np.int64)
        self._stored = _stored(self._tracks[INTRADAY].bundle)
        values = dict.fromkeys(self._stored, "float8")
        nan = dict.fromkeys(self._stored, "'NaN'")
        bar = Layout({"symbol_id": "int4", "ts": "timestamptz", "revision": "int8"} | values)
        # An equal revision is replaced: the definition of an indicator may have changed.
        guard = "t.revision <= excluded.revision"
        self._values = {
            name: Staging(table, bar, ("symbol_id", "ts"), guard=guard, nulls=nan) for name, table in TABLES.items()
        }
        realtime = {"symbol_id": "int4", "calculated_at": "timestamptz", "price_at": "timestamptz", "price": "float8"}
        realtime |= {"moving_average": "float8", "ts": "timestamptz"}
        self._realtime = Staging(
            "realtime_analytics",
            Layout(realtime | values),
            ("symbol_id", "calculated_at"),
            nulls=nan | {"moving_average": "'NaN'", "ts": _NO_TIME},
        )
        signal = {"symbol_id": "int4", "minutes": "int4", "rule_id": "int4", "ts": "timestamptz", "signal": "int2"}
        self._signals = Staging(
            "signals",
            Layout(signal | {"price": "float8", "revision": "int8"}),
            ("symbol_id", "minutes", "rule_id", "ts"),
            guard=guard,
        )

    async def make_staging(self, connection: Connection) -> None:
        """Create the temporary tables that a new connection needs."""
        for staging in (*self._values.values(), self._realtime, self._signals):
            await staging.make(connection)

    async def write(self, connection: Connection, changes: AnalyticsChanges) -> None:
        """Write the changes, within a transaction."""
        for name, changed in changes.tracks.items():
            if changed.dropped:
                await self._delete(connection, name, changed.dropped)
            if name in self._values:
                await self._values[name].write(connection, self._columns(changed.derived))
            await _write_anchors(connection, self._tracks[name], changed)
        if changes.signals is not None:
            await self._write_signals(connection, changes.signals)

    async def _delete(self, connection: Connection, track: str, bars: list[tuple[int, int]]) -> None:
        """Delete the data derived from deleted bars."""
        table = TABLES.get(track, "signals")
        own = f" AND t.minutes = {self._minutes}" if table == "signals" else ""
        await connection.execute(
            f"DELETE FROM {table} t USING unnest($1::int[], $2::timestamptz[]) AS d (symbol_id, ts)"  # noqa: S608 - ours
            f" WHERE t.symbol_id = d.symbol_id AND t.ts = d.ts{own}",
            [symbol_id for symbol_id, _ in bars],
            [from_micros(ts) for _, ts in bars],
        )

    def _columns(self, derived: DerivedRows) -> dict[str, Any]:
        values = {output: derived.values[:, column] for output, column in self._stored.items()}
        return {"symbol_id": derived.symbol_id, "ts": derived.ts, "revision": derived.revision} | values

    async def _write_signals(self, connection: Connection, signals: Signals) -> None:
        columns = {
            "symbol_id": signals.symbol_id,
            "minutes": np.full(len(signals), self._minutes),
            "rule_id": self._rule_ids[signals.rule],
            "ts": signals.ts,
            "signal": signals.signal,
            "price": signals.price,
            "revision": signals.revision,
        }
        await self._signals.write(connection, columns)

    async def write_realtime(self, connection: Connection, realtime: RealtimeSnapshot, now: datetime) -> None:
        """Write a real-time snapshot, within a transaction."""
        prices, newest = realtime.prices, realtime.newest
        count = len(prices.symbol_id)
        ts = np.zeros(count, np.int64)
        values = np.full((count, len(self._stored)), np.nan)
        at = np.searchsorted(prices.symbol_id, newest.symbol_id)
        ts[at] = newest.ts
        values[at] = newest.values[:, list(self._stored.values())]
        columns = {
            "symbol_id": prices.symbol_id,
            "calculated_at": np.full(count, micros(now)),
            "price_at": prices.ts,
            "price": prices.price,
            "moving_average": prices.average,
            "ts": ts,
        }
        await self._realtime.write(connection, columns | dict(zip(self._stored, values.T, strict=True)))


def _stored(bundle: Bundle) -> dict[str, int]:
    """Return the outputs that have a column in the tables, with their place among the bundle's outputs."""
    outputs = [output for one in bundle.instances for output in one.indicator.outputs]
    return {output: place for place, output in enumerate(outputs) if output in STORED_INDICATORS}


async def drop_other_states(pool: Pool, tracks: Iterable[TrackSpec]) -> None:
    """Delete the anchors of tracks that are not calculated any more, or whose definition has changed."""
    await pool.execute(
        "DELETE FROM indicator_states WHERE track || ' ' || definition <> ALL ($1::text[])",
        [f"{track.name} {track.definition}" for track in tracks],
    )


async def drop_old_states(pool: Pool, track: TrackSpec, now: datetime) -> int:
    """Delete anchors from before the oldest kept bars, except the newest of each symbol. Return their number."""
    table = BARS.get(track.interval)
    if table is None:
        return 0
    done = await pool.execute(
        "DELETE FROM indicator_states s WHERE s.track = $1 AND EXISTS (SELECT FROM indicator_states n"
        " WHERE n.track = s.track AND n.symbol_id = s.symbol_id AND n.ts > s.ts AND n.ts < $2)",
        track.name,
        now - table.kept,
    )
    return int(done.rpartition(" ")[2])


async def _write_anchors(connection: Connection, track: TrackSpec, changes: TrackChanges) -> None:
    if changes.outdated:
        await connection.execute(
            "DELETE FROM indicator_states s USING unnest($2::int[], $3::timestamptz[]) AS o (symbol_id, ts)"
            " WHERE s.track = $1 AND s.symbol_id = o.symbol_id AND s.ts > o.ts",
            track.name,
            list(changes.outdated),
            [from_micros(ts) for ts in changes.outdated.values()],
        )
    if changes.anchors:
        await connection.executemany(
            "INSERT INTO indicator_states VALUES ($1, $2, $3, $4, $5)"
            " ON CONFLICT (track, symbol_id, ts)"
            " DO UPDATE SET definition = excluded.definition, state = excluded.state",
            [(track.name, one.symbol_id, from_micros(one.ts), track.definition, one.blob) for one in changes.anchors],
        )

"""The sink: bars, state and checkpoint, all of it or nothing."""

import numpy as np
import pytest

from bare_sink import flush_of, written
from stockpulse.engine.bar_math import BAR, NEVER_CLOSED, NEVER_OPENED
from stockpulse.engine.checkpoint_state import SYMBOL_STATE, Changes
from stockpulse.errors import CannotStart
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.times import micros
from stockpulse.postgres.connect import create_pool
from stockpulse.storage.bar_rows import LAYOUT, copy_out
from stockpulse.storage.partitions import BARS_1M, Partitions
from store_stack import DAY, MINUTE, NOW, engine_rows

BIG = 2**63 - 1
FIELDS = [name for name in BAR.names if name not in ("final", "dirty")]
T = micros(NOW)


@pytest.fixture
async def pool(postgres_dsn):
    pool = await create_pool(postgres_dsn, 4)
    yield pool
    await pool.close()


@pytest.fixture
async def new_sink(postgres_dsn, pool):
    sinks = []

    def make(journal="postgres"):
        sinks.append(written(postgres_dsn, Partitions(pool), 0, journal))
        return sinks[-1]

    yield make
    for sink in sinks:
        await sink.close()


@pytest.fixture
async def sink(new_sink):
    sink = new_sink()
    await sink.take(1, 100)
    return sink


def changes(offset, bars=None, **state):
    return Changes(offset, True, bars or {}, state)


def some_bars(count=3, revision=1, **columns):
    given = {"symbol_id": 1, "ts": T + np.arange(count) * 60_000_000, "open": 5.0, "revision": revision} | columns
    return engine_rows(count, **given)


def symbols(*ids, watermark=0):
    rows = np.zeros(len(ids), SYMBOL_STATE)
    rows["symbol_id"], rows["watermark"] = ids, watermark
    return rows


async def stored(pool, table):
    async with pool.acquire() as connection:
        return await copy_out(connection, f"SELECT {', '.join(LAYOUT.columns)} FROM {table} ORDER BY symbol_id, ts")


async def parts(pool):
    rows = await pool.fetch("SELECT part FROM checkpoint_parts ORDER BY part")
    return [row["part"] for row in rows]


class TestBars:
    @pytest.mark.parametrize(("interval", "table"), [(M1, "bars_1m"), (M5, "intraday_ohlcv"), (D1, "historical_ohlcv")])
    async def test_of_strange_values_are_stored_as_they_are(self, sink, pool, interval, table):
        floats = np.array([np.nan, np.inf, -np.inf, 5e-324, -0.0, 1.7976931348623157e308, 0.1])
        rows = some_bars(7)
        for name in ("open", "high", "low", "close"):
            rows[name] = floats
        for name in ("volume_units", "vwap_units", "notional_high", "trade_count", "revision"):
            rows[name] = [0, 1, -1, BIG, 2**53 + 1, 10**18, -(2**63)]
        rows["open_ts"] = rows["open_seq"] = [NEVER_OPENED, 0, -1, T, BIG, 1, 2]
        rows["close_ts"] = rows["close_seq"] = [NEVER_CLOSED, 0, -1, T, BIG, 1, 2]
        for name in ("volume_picos", "vwap_picos", "notional_middle", "notional_low"):
            rows[name] = [0, 10**12 - 1, 1, 2**62 - 1, 0, 0, 5]
        rows["by_minutes"] = [True, False, False, True, False, False, False]
        rows["provider_id"] = [0, 1, 2**31 - 1, 0, 0, 0, 7]
        rows["end"] = rows["ts"] + 1
        await sink.flush(flush_of(changes(101, {interval: rows}), {}), NOW)
        back = await stored(pool, table)
        for name in FIELDS:
            assert back[name].tobytes() == rows[name].tobytes(), name
        assert back["final"].all()

    async def test_from_1990_to_now(self, sink, pool):
        ts = np.linspace(micros(NOW.replace(year=1990)), T, 40).astype(np.int64) // 300_000_000 * 300_000_000
        rows = some_bars(40, ts=ts)
        await sink.flush(flush_of(changes(101, {M1: rows, M5: rows, D1: rows}), {}), NOW)
        for table in ("bars_1m", "intraday_ohlcv", "historical_ohlcv"):
            assert (await stored(pool, table))["ts"].tolist() == ts.tolist()

    async def test_of_a_higher_revision_replace(self, sink, pool):
        await sink.flush(flush_of(changes(101, {M1: some_bars(revision=[5, 5, 5])}), {}), NOW)
        await sink.flush(flush_of(changes(102, {M1: some_bars(revision=[4, 5, 6], open=[7.0, 8.0, 9.0])}), None), NOW)
        rows = await stored(pool, "bars_1m")
        assert rows["revision"].tolist() == [5, 5, 6]
        assert rows["open"].tolist() == [5.0, 5.0, 9.0]

    async def test_come_to_a_partition_that_was_dropped(self, sink, pool):
        old = some_bars(1, ts=T - 400 * 1440 * 60_000_000)
        await sink.flush(flush_of(changes(101, {M1: old, M5: old}), {}), NOW)
        later = NOW + 91 * DAY
        assert len(await sink._partitions.drop_old(BARS_1M, later)) == 1
        assert len(await stored(pool, "bars_1m")) == 0
        await sink.flush(flush_of(changes(102, {M1: old}), None), later + MINUTE)
        assert len(await stored(pool, "bars_1m")) == 1
        assert len(await stored(pool, "intraday_ohlcv")) == 1


class TestCheckpoint:
    async def test_of_the_first_start(self, new_sink, pool):
        found = await new_sink().take(1, 100)
        assert (found.offset, found.parts) == (100, [])
        row = await pool.fetchrow("SELECT journal, epoch, journal_offset FROM checkpoints")
        assert tuple(row) == ("postgres", 1, 100)

    async def test_is_what_was_flushed(self, sink, new_sink):
        whole = {"1m": some_bars(2), "symbols": symbols(1)}
        await sink.flush(flush_of(changes(150), whole), NOW)
        await sink.flush(flush_of(changes(160, symbols=symbols(2)), None), NOW)
        await sink.flush(flush_of(changes(160, **{"1m": some_bars(1)}), None), NOW)
        found = await new_sink().take(2, 0)
        assert found.offset == 160
        assert [sorted(part) for part in found.parts] == [["1m", "symbols"], ["symbols"], ["1m"]]
        assert found.parts[0]["1m"].tobytes() == whole["1m"].tobytes()
        assert found.parts[1]["symbols"]["symbol_id"].tolist() == [2]

    async def test_of_another_log_is_refused(self, sink, new_sink):
        with pytest.raises(CannotStart, match="follows another log: postgres, and this one is kafka:abc"):
            await new_sink("kafka:abc").take(2, 0)

    async def test_names_its_epoch(self, sink, new_sink, pool):
        await new_sink().take(7, 0)
        assert await pool.fetchval("SELECT epoch FROM checkpoints") == 7

    async def test_and_bars_are_there_together_or_not_at_all(self, sink, pool):
        await sink.flush(flush_of(changes(101, {M1: some_bars(1)}), {}), NOW)
        broken = some_bars(3, symbol_id=2)
        broken["ts"] = T  # three for one bucket: the database refuses
        with pytest.raises(Exception, match="second time"):
            await sink.flush(flush_of(changes(105, {M1: some_bars(1, revision=9), D1: broken}), None), NOW)
        assert await pool.fetchval("SELECT journal_offset FROM checkpoints") == 101
        assert (await stored(pool, "bars_1m"))["revision"].tolist() == [1]
        assert await parts(pool) == [0]


class TestParts:
    async def test_begin_with_the_whole(self, sink, pool):
        assert sink.wants_whole()
        await sink.flush(flush_of(changes(101), {"symbols": symbols(1)}), NOW)
        assert not sink.wants_whole()
        for offset in range(102, 106):
            await sink.flush(flush_of(changes(offset, symbols=symbols(1)), None), NOW)
        assert await parts(pool) == [0, 1, 2, 3, 4]

    async def test_give_way_to_the_whole_when_they_outgrow_it(self, sink, pool):
        await sink.flush(flush_of(changes(101), {"1m": some_bars(10)}), NOW)
        offset = 102
        while not sink.wants_whole():
            await sink.flush(flush_of(changes(offset, **{"1m": some_bars(2000)}), None), NOW)
            offset += 1
        assert len(await parts(pool)) > 3
        await sink.flush(flush_of(changes(offset), {"1m": some_bars(10)}), NOW)
        assert await parts(pool) == [0]
        assert not sink.wants_whole()

    async def test_give_way_to_the_whole_when_they_are_many(self, sink, pool):
        await sink.flush(flush_of(changes(101), {"symbols": symbols(1)}), NOW)
        flushes = 0
        while not sink.wants_whole():
            await sink.flush(flush_of(changes(101, symbols=symbols(1)), None), NOW)
            flushes += 1
            assert flushes <= 600
        assert flushes > 100

    async def test_go_on_after_a_restart(self, sink, new_sink, pool):
        await sink.flush(flush_of(changes(101), {"symbols": symbols(1)}), NOW)
        await sink.flush(flush_of(changes(102, symbols=symbols(2)), None), NOW)
        again = new_sink()
        await again.take(2, 0)
        assert not again.wants_whole()
        await again.flush(flush_of(changes(103, symbols=symbols(3)), None), NOW)
        assert await parts(pool) == [0, 1, 2]
        ids = [part["symbols"]["symbol_id"].tolist() for part in (await new_sink().take(3, 0)).parts]
        assert ids == [[1], [2], [3]]

    async def test_same_offset_flushed_again(self, sink, pool):
        """Bars close by the clock while the log does not grow."""
        await sink.flush(flush_of(changes(100, {M1: some_bars(1)}), {}), NOW)
        await sink.flush(flush_of(changes(100, {M1: some_bars(2)}), None), NOW)
        assert len(await stored(pool, "bars_1m")) == 2
        assert await parts(pool) == [0, 1]

"""From a submission to stored bars, on a real database."""

import asyncio
import itertools

import numpy as np
import polars as pl
import pytest

from bare_sink import run_step
from stockpulse.engine.bar_engine import END_OF_TIME, BarEngine
from stockpulse.engine.bar_math import BAR
from stockpulse.engine.batches import bar_batches, tick_batch
from stockpulse.ingest.feed import Feed
from stockpulse.journal.records import Ticks
from stockpulse.journal.segments import first_offset
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5
from stockpulse.market.times import micros
from stockpulse.pipeline import flush_size
from stockpulse.postgres import migrate
from stockpulse.providers.trade_conditions import alpaca
from store_stack import BARS, DAY, HOUR, MINUTE, NOW, SECOND, TICKS, bar, frame_of_ticks, stack, tick

LIVE = Feed("live", "24/7")
TAPE = Feed("tape", "24/7", Clock.EVENT)
STOCKS = Feed("stocks", "XNYS", Clock.EVENT, rule=alpaca)
EARLIER = NOW - 3 * DAY
MIDNIGHT = NOW.replace(hour=0, minute=0)


SYMBOLS = ("AIG", "BTC/USD", "IBM")
FIELDS = [name for name in BAR.names if name not in ("final", "dirty")]


async def tables(parts):
    """The stored bars of each interval, in order."""
    return {interval.name: await parts.stored(interval) for interval in BASE_INTERVALS}


class TestSubmit:
    async def test_answers_when_durable(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            receipt = await parts.submit(LIVE, tick("A", NOW), tick("A", NOW, -1), tick("B", NOW, trade_id="1"))
            assert await parts.pool.fetchval("SELECT count(*) FROM realtime_prices") == 2
            assert (receipt.accepted, receipt.duplicates) == (2, 0)
            assert [(row, reason.split(":")[0]) for row, reason in receipt.rejected] == [(1, "price")]
            letters = await parts.pool.fetch("SELECT source, reason, record, received_at FROM dead_letters")
            assert [(row["source"], row["received_at"]) for row in letters] == [("live", NOW)]
            assert '"price":-1.0' in letters[0]["record"]
            again = await parts.submit(LIVE, tick("B", NOW, trade_id="1"), tick("A", NOW))
            assert (again.accepted, again.duplicates) == (1, 1)

    async def test_nothing_and_nothing_good(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            assert (await parts.submit(LIVE)).accepted == 0
            assert (await parts.submit(LIVE, of_bars=True)).accepted == 0
            receipt = await parts.submit(LIVE, tick("?", NOW), tick("A", NOW + DAY))
            assert (receipt.accepted, len(receipt.rejected)) == (0, 2)
            assert parts.journal.head == first_offset(1)
            assert parts.names.symbols == {}

    async def test_poison_ends_in_dead_letters_whatever_it_holds(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            texts = ["\0", "\x1f", "\U0001f4a5" * 5000, "'; DROP TABLE dead_letters; --", "\\", '"', "\ud7ff"]
            rows = [tick(text, NOW) for text in texts] + [tick("A", NOW, exchange=text) for text in texts]
            receipt = await parts.submit(LIVE, *rows)
            # An exchange may be any printable ASCII character: the backslash and the quotation mark are accepted.
            assert [row for row, _ in receipt.rejected] == [*range(11), 13]
            assert receipt.accepted == 2
            stored = "SELECT exchange FROM realtime_prices JOIN tick_kinds ON id = kind_id ORDER BY seq"
            assert [row["exchange"] for row in await parts.pool.fetch(stored)] == ["\\", '"']
            kept = await parts.pool.fetch("SELECT record FROM dead_letters ORDER BY id")
            assert len(kept) == len(receipt.rejected)
            assert all(len(row["record"]) <= 8192 for row in kept)

    async def test_what_the_parser_says_is_kept_whatever_it_holds(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            row = dict.fromkeys(TICKS) | {"problem": "ts: got '\0'", "raw": "\0\n'"}
            schema = {**TICKS, "problem": pl.String, "raw": pl.String}
            receipt = await parts.ingestor.submit(pl.DataFrame([row], schema=schema, orient="row"), LIVE)
            assert receipt.rejected == ((0, "ts: got '\0'"),)
            (kept,) = await parts.pool.fetch("SELECT reason, record FROM dead_letters")
            assert tuple(kept) == ("ts: got '\ufffd'", "\ufffd\n'")

    async def test_counts(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, *(tick("A", EARLIER + n * MINUTE, trade_id=str(n % 4)) for n in range(4)))
            await parts.submit(
                TAPE, *(tick("A", EARLIER + n * MINUTE, trade_id=str(n % 4)) for n in range(4)), tick("A", NOW, 0)
            )
            await parts.submit(TAPE, bar("B", "5m", EARLIER.replace(minute=0)), of_bars=True)
            await parts.ingestor.end(TAPE)
            await parts.submit(TAPE, tick("A", EARLIER))
            await parts.settled()
            counters = parts.pipeline.counters
            assert (counters.ticks, counters.duplicates, counters.rejected) == (5, 4, 1)
            assert (counters.provider_bars, counters.appends) == (1, 4)
            assert counters.bars_closed == 4 + 1 + 1 + 1
            assert counters.bars_revised == 3  # its minute, its five minutes, its day
            lag = parts.pipeline.lag()
            assert (lag.submitted, lag.with_ids, lag.unprocessed, lag.unflushed) == (0, 0, 0, 0)

    async def test_whoever_gives_up_waiting_leaves_the_others_alone(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            impatient = [asyncio.create_task(parts.submit(LIVE, tick("A", NOW))) for _ in range(20)]
            patient = [asyncio.create_task(parts.submit(LIVE, tick("B", NOW))) for _ in range(20)]
            await asyncio.sleep(0)
            for task in impatient[::2]:
                task.cancel()
            receipts = await asyncio.gather(*patient, *impatient[1::2])
            assert all(receipt.accepted == 1 for receipt in receipts)
            await parts.settled()
            assert parts.ingestor.unanswered == 0
            assert (await parts.latest("B", M1, 1))[0]["trade_count"] == 20

    @pytest.mark.thorough
    async def test_many_at_once_are_all_there_in_the_order_of_each(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:

            async def send(name):
                for price in range(1, 21):
                    await parts.submit(LIVE, tick(name, NOW, price))

            await asyncio.gather(*(send(f"S{n}") for n in range(15)))
            await parts.settled()
            for n in range(15):
                (row,) = await parts.latest(f"S{n}", M1, 5)
                assert (row["open"], row["close"], row["trade_count"]) == (1.0, 20.0, 20)


class TestLargeBatches:
    """History comes in pieces, and live ticks come between them."""

    @pytest.fixture(autouse=True)
    def _short_flushes(self, monkeypatch):
        monkeypatch.setattr(flush_size, "_FIRST_ROWS", 2_000)
        monkeypatch.setattr(flush_size, "_MOST_ROWS", 2_000)

    async def test_live_ticks_pass_decades_of_bars(self, postgres_dsn):
        days = [MIDNIGHT - (10_000 - at) * DAY for at in range(10_000)]
        async with stack(postgres_dsn) as parts:
            async with parts.processor.writer._one_flush:  # nothing is stored meanwhile
                history = asyncio.create_task(submit_days(parts, days))
                while not parts.ingestor.held_back:
                    await asyncio.sleep(0.001)
                await parts.submit(LIVE, tick("NEW", NOW))
                while parts.shard.offset < parts.journal.head:
                    await asyncio.sleep(0.001)
                assert [row["close"] for row in await parts.latest("NEW", M1, 1)] == [100.0]
                assert parts.ingestor.held_back
                assert not history.done()
            assert (await history).accepted == len(days)
            await parts.settled()
            daily = await parts.stored(D1)
            assert np.count_nonzero(daily["symbol_id"] == parts.symbol("OLD").id) == len(days)
            assert parts.ingestor.held_back == parts.ingestor.unanswered == 0

    @pytest.mark.thorough
    async def test_have_one_receipt_and_keep_their_order(self, postgres_dsn):
        days = [NOW - (3_000 - at) * DAY for at in range(3_000)]
        rows = [tick("A", day, price=at + 1, trade_id=str(at)) for at, day in enumerate(days)]
        async with stack(postgres_dsn) as parts:
            first = asyncio.create_task(parts.submit(TAPE, *rows[:-1], tick("A", NOW, -1), rows[7]))
            while not parts.ingestor.unanswered:
                await asyncio.sleep(0.001)
            then = asyncio.create_task(parts.submit(TAPE, rows[-1]))
            receipt = await first
            assert (receipt.accepted, receipt.duplicates, len(receipt.rejected)) == (2_999, 1, 1)
            assert (await then).accepted == 1
            stored = await parts.pool.fetch("SELECT price FROM realtime_prices ORDER BY seq")
            assert [row["price"] for row in stored] == [at + 1 for at in range(3_000)]

    async def test_go_on_when_their_sender_gives_up(self, postgres_dsn):
        days = [MIDNIGHT - (8_000 - at) * DAY for at in range(8_000)]
        async with stack(postgres_dsn) as parts:
            async with parts.processor.writer._one_flush:
                history = asyncio.create_task(submit_days(parts, days))
                while not parts.ingestor.held_back:
                    await asyncio.sleep(0.001)
                history.cancel()
            assert (await parts.submit(TAPE, tick("OLD", NOW))).accepted == 1
            await parts.settled()
            assert len(await parts.stored(D1)) == len(days)

    async def test_of_daily_bars_need_no_partitions(self, postgres_dsn):
        days = [MIDNIGHT - (3_000 - at) * DAY for at in range(3_000)]
        async with stack(postgres_dsn) as parts:
            await submit_days(parts, days)
            await parts.settled()
            assert await parts.pool.fetchval("SELECT count(*) FROM time_partitions WHERE ends_at < now()") == 0


async def submit_days(parts, days):
    return await parts.submit(TAPE, *(bar("OLD", "1d", day) for day in days), of_bars=True)


class TestRedelivery:
    @pytest.mark.thorough
    async def test_across_a_restart(self, postgres_dsn):
        rows = [tick("A", NOW, n + 1, trade_id=str(n), exchange="Q" if n % 2 else None) for n in range(6)]
        async with stack(postgres_dsn) as parts:
            assert (await parts.submit(LIVE, *rows[:4])).accepted == 4
        for memory_rows in (100, 0, 100):
            async with stack(postgres_dsn, memory_rows=memory_rows) as parts:
                receipt = await parts.submit(LIVE, *rows[:4])
                assert (receipt.accepted, receipt.duplicates) == (0, 4)
        async with stack(postgres_dsn) as parts:
            assert (await parts.submit(LIVE, *rows)).accepted == 2

    async def test_of_another_provider_is_none(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(LIVE, tick("A", NOW, trade_id="1"))
            assert (await parts.submit(Feed("other", "24/7"), tick("A", NOW, trade_id="1"))).accepted == 1


class TestTwoProviders:
    async def test_volume_is_of_one_of_them(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            other = Feed("other", "24/7")
            for n in range(10):
                await parts.submit(LIVE, tick("A", NOW - n * SECOND, 10, 1), tick("B", NOW, 1, 1))
                await parts.submit(other, tick("A", NOW - n * SECOND, 99, 7), tick("C", NOW, 3, 3))
            await parts.settled()
            (row,) = await parts.latest("A", D1, 1)
            assert (row["volume"], row["trade_count"], row["high"]) == (10.0, 10, 10.0)
            assert (await parts.latest("C", D1, 1))[0]["volume"] == 30.0
            # All of them are stored and shown.
            assert len(await parts.ticks.latest(parts.symbol("A").id, 99)) == 20

    async def test_the_other_takes_over_after_a_silence(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            other = Feed("other", "24/7")
            await parts.submit(LIVE, tick("A", NOW, 1))
            parts.clock.at = NOW + 61 * SECOND
            await parts.submit(other, tick("A", NOW + 61 * SECOND, 2))
            await parts.submit(LIVE, tick("A", NOW + 61 * SECOND, 3))
            await parts.settled()
            assert [row["close"] for row in await parts.latest("A", M1, 5)] == [1.0, 2.0]

    async def test_real_data_takes_over_from_simulated_data(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            simulated = Feed("simulated", "24/7")
            await parts.submit(simulated, tick("A", NOW, 1))
            await parts.submit(LIVE, tick("A", NOW, 2))
            await parts.submit(simulated, tick("A", NOW, 3))
            await parts.settled()
            (row,) = await parts.latest("A", M1, 5)
            assert (row["open"], row["close"], row["trade_count"]) == (1.0, 2.0, 2)
            assert parts.pipeline.clocks.provider_of(parts.symbol("A").id) == parts.names.providers["live"].id


class TestClosing:
    async def test_the_wall_clock_closes_the_bars_of_a_quiet_symbol(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(LIVE, tick("A", NOW))
            parts.clock.at = NOW + 61 * SECOND
            await asyncio.sleep(0.35)
            await parts.settled()
            assert len(await parts.stored(M1)) == 0
            parts.clock.at = NOW + 62 * SECOND
            while not len(await parts.stored(M1)):
                await asyncio.sleep(0.05)
            assert (await parts.latest("A", M1, 1))[0]["final"]
            assert len(await parts.stored(M5)) == 0

    async def test_less_the_delay_that_the_provider_declares(self, postgres_dsn):
        delayed = Feed("delayed", "24/7", delay_micros=900_000_000)
        async with stack(postgres_dsn) as parts:
            await parts.submit(delayed, tick("A", NOW - 16 * MINUTE))
            await parts.submit(delayed, tick("B", NOW - 16 * MINUTE - 2 * SECOND))
            await asyncio.sleep(0.35)
            await parts.settled()
            # 15:14 is over at 15:15, and 15:15 is where its clock stands, less the lateness.
            assert [(await parts.latest(name, M1, 1))[0]["final"] for name in "AB"] == [False, True]

    async def test_the_end_of_a_recording_closes_its_bars_and_no_others(self, postgres_dsn):
        other = Feed("other", "24/7", Clock.EVENT)
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", EARLIER))
            await parts.submit(other, tick("B", EARLIER))
            await parts.settled()
            assert [len(rows) for rows in (await tables(parts)).values()] == [0, 0, 0]
            await parts.ingestor.end(TAPE)
            assert [len(rows) for rows in (await tables(parts)).values()] == [1, 1, 1]
            assert not (await parts.latest("B", M1, 1))[0]["final"]

    async def test_the_end_of_an_unknown_recording_closes_nothing(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", EARLIER))
            await parts.ingestor.end(Feed("nobody", "24/7", Clock.EVENT))
            await parts.settled()
            assert not (await parts.latest("A", M1, 1))[0]["final"]
            assert [len(rows) for rows in (await tables(parts)).values()] == [0, 0, 0]
            assert (await parts.submit(TAPE, tick("A", EARLIER))).accepted == 1

    async def test_a_recording_that_goes_on_after_its_end(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", EARLIER, 1))
            await parts.ingestor.end(TAPE)
            await parts.submit(TAPE, tick("A", EARLIER + MINUTE, 2))
            await parts.settled()
            assert [row["final"] for row in await parts.latest("A", M1, 5)] == [True, False]
            (day,) = await parts.latest("A", D1, 5)
            assert (day["close"], day["volume"], day["final"]) == (2.0, 2.0, True)
            await parts.ingestor.end(TAPE)
            assert [row["final"] for row in await parts.latest("A", M1, 5)] == [True, True]
            (stored,) = await parts.pool.fetch("SELECT close FROM historical_ohlcv")
            assert stored["close"] == 2.0


class TestPresents:
    async def test_of_a_live_feed_is_the_wall_clock(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(LIVE, tick("A", NOW - HOUR))
            await parts.settled()
            clocks = parts.pipeline.clocks
            parts.clock.at = NOW + HOUR
            assert clocks.of_symbol(parts.symbol("A").id) == NOW + HOUR
            assert clocks.of_providers() == {parts.names.providers["live"].id: NOW + HOUR}

    async def test_of_a_recording_is_its_greatest_time(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", EARLIER + HOUR), tick("A", EARLIER), tick("B", EARLIER))
            await parts.settled()
            clocks = parts.pipeline.clocks
            for name in "AB":
                assert clocks.of_symbol(parts.symbol(name).id) == EARLIER + HOUR
            assert clocks.watermark() == EARLIER + HOUR
            await parts.ingestor.end(TAPE)
            assert clocks.of_symbol(parts.symbol("A").id) == EARLIER + HOUR

    async def test_of_what_nobody_sent_is_the_wall_clock(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            assert parts.pipeline.clocks.of_symbol(12345) == NOW
            assert parts.pipeline.clocks.provider_of(12345) == 0

    async def test_is_known_after_a_restart(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", EARLIER))
        async with stack(postgres_dsn) as parts:
            assert parts.pipeline.clocks.of_symbol(parts.symbol("A").id) == EARLIER


class TestLateTicks:
    async def test_of_other_days_revise_what_is_stored(self, postgres_dsn):
        """The bars of each day come back into memory, and go out again as if all had come in order."""
        random = np.random.default_rng(11)
        loaded = []
        days = [random_ticks(random, NOW - day * DAY, 120) for day in (8, 5, 2, 1)]
        pieces = [day[at::3] for at in range(3) for day in days]
        async with stack(postgres_dsn) as parts:
            reads = parts.processor._reads
            load_stored = reads.bars

            async def load(wanted):
                rows = await load_stored(wanted)
                loaded.append(len(rows))
                return rows

            reads.bars = load
            for piece in pieces:
                await parts.ingestor.submit(piece, STOCKS)
                await parts.settled()
            await parts.ingestor.end(STOCKS)
            revised = await tables(parts)
            assert sum(loaded) > 20
            assert parts.pipeline.counters.bars_revised > 20
            assert len(await parts.resident(M1)) <= 6
            wanted = await recomputed(parts)
        assert_same_tables(revised, wanted)

    @pytest.mark.thorough
    async def test_after_a_restart(self, postgres_dsn):
        random = np.random.default_rng(12)
        days = [random_ticks(random, NOW - day * DAY, 60) for day in (8, 5, 2)]
        for piece in [day[at::2] for at in range(2) for day in days]:
            async with stack(postgres_dsn) as parts:
                await parts.ingestor.submit(piece, STOCKS)
                await parts.ingestor.end(STOCKS)
        async with stack(postgres_dsn) as parts:
            assert_same_tables(await tables(parts), await recomputed(parts))


class TestRestart:
    @pytest.mark.thorough
    @pytest.mark.parametrize("seed", [1, 2])
    async def test_state_of_the_database_is_the_live_state(self, postgres_dsn, seed):
        random = np.random.default_rng(seed)
        async with stack(postgres_dsn) as parts:
            for _ in range(8):
                await parts.ingestor.submit(random_ticks(random, NOW - DAY, 30), STOCKS)
                if random.random() < 0.6:
                    await parts.settled()
            await parts.settled()
            live = {interval: await parts.resident(interval) for interval in BASE_INTERVALS}
            symbols = parts.shard.snapshot()["symbols"]
        async with stack(postgres_dsn) as parts:
            again = {interval: await parts.resident(interval) for interval in BASE_INTERVALS}
            assert parts.shard.offset == parts.journal.head
            names = [name for name in symbols.dtype.names if name != "dirty"]
            assert parts.shard.snapshot()["symbols"][names].tolist() == symbols[names].tolist()
        for interval in BASE_INTERVALS:
            assert keyed(again[interval]) == keyed(live[interval])


def keyed(rows):
    return {(row[0], row[1]): tuple(map(str, row[:-1])) for row in rows.tolist()}


class TestProviderBars:
    async def test_replace_what_trades_made_and_stay(self, postgres_dsn):
        minute = NOW.replace(minute=10)
        async with stack(postgres_dsn) as parts:
            await parts.submit(TAPE, tick("A", minute, 1, 1), tick("A", minute + MINUTE, 2, 2))
            await parts.submit(TAPE, bar("A", "1m", minute, 50, 500, trade_count=5), of_bars=True)
            await parts.submit(TAPE, tick("A", minute + SECOND, 99, 99))
            await parts.ingestor.end(TAPE)
            first, second = await parts.latest("A", M1, 5)
            assert (first["close"], first["volume"], first["source"]) == (50.0, 500.0, "tape")
            assert (second["close"], second["source"]) == (2.0, "trades")
            (five,) = await parts.latest("A", M5, 5)
            assert (five["open"], five["close"], five["volume"], five["trade_count"]) == (50.0, 2.0, 502.0, 6)

    async def test_a_daily_one_has_the_label_of_its_calendar(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            friday = NOW - 3 * DAY
            await parts.submit(STOCKS, bar("IBM", "1d", friday), bar("BTC/USD", "1d", friday), of_bars=True)
            await parts.ingestor.end(STOCKS)
            assert [row["ts"] for row in await parts.latest("IBM", D1, 2)] == [friday.replace(hour=5, minute=0)]
            assert [row["ts"] for row in await parts.latest("BTC/USD", D1, 2)] == [friday.replace(hour=0, minute=0)]
            assert parts.symbol("BTC/USD").calendar == "24/7"

    async def test_and_ticks_in_one_log_stand_in_their_order(self, postgres_dsn):
        minute = NOW.replace(minute=10)
        async with stack(postgres_dsn) as parts:
            sent = [
                asyncio.create_task(
                    parts.submit(TAPE, bar("A", "1m", minute, n + 1), of_bars=True)
                    if n % 2
                    else parts.submit(TAPE, tick("A", minute, n + 1))
                )
                for n in range(20)
            ]
            await asyncio.gather(*sent)
            await parts.ingestor.end(TAPE)
            (row,) = await parts.latest("A", M1, 5)
            assert (row["close"], row["source"]) == (20.0, "tape")
            kinds = [type(one.batch).__name__ async for one in parts.journal.replay(0, parts.journal.head)]
            assert kinds == ["Ticks", "Bars"] * 10


class TestAnySplit:
    """However the records are cut into submissions: the same tables, byte for byte."""

    @pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.thorough)])
    async def test_leaves_the_same_bars(self, postgres_dsn, empty_dsn, seed):
        random = np.random.default_rng(seed)
        await migrate.upgrade(empty_dsn)
        async with stack(postgres_dsn) as one, stack(empty_dsn) as other:
            for parts in (one, other):  # so that they have the same numbers
                await parts.submit(STOCKS, *(tick(name, NOW - 9 * DAY) for name in SYMBOLS))
            for _ in range(5):
                records = some_records(random)
                for parts in (one, other):
                    await submit_in_pieces(parts, records, random)
                if random.random() < 0.5:
                    for parts in (one, other):
                        await parts.ingestor.end(STOCKS)
            for parts in (one, other):
                await parts.ingestor.end(STOCKS)
            assert one.journal.head == other.journal.head
            first, second = await tables(one), await tables(other)
            assert_same_tables(first, second)
            assert all(len(rows) > 5 for rows in first.values())
            assert_same_tables(first, await recomputed(one))


def random_ticks(random, around, count):
    """Trades of a day, in and out of the session, some of which do not count."""
    ts = (
        micros(around)
        + random.integers(-6 * 60, 6 * 60, count) * 60_000_000
        + random.integers(0, 3, count) * 20_000_000
    )
    conditions = pl.Series([[None, "@", "I", "M"][at] for at in random.integers(0, 4, count)], dtype=pl.String)
    return frame_of_ticks(
        random.choice(SYMBOLS, count),
        np.minimum(ts, micros(NOW)),
        np.round(random.uniform(10, 20, count), 2),
        np.round(random.uniform(0, 100, count), 3),
        conditions=conditions,
    )


def some_records(random):
    """Frames of ticks and of bars in an order."""
    records = []
    for _ in range(4):
        around = NOW - int(random.integers(0, 4)) * DAY
        records.append((random_ticks(random, around, int(random.integers(1, 80))), False))
        start = around.replace(minute=0)
        rows = [
            bar(
                str(random.choice(["IBM", "BTC/USD"])),
                str(random.choice(["1m", "1m", "5m", "1d"])),
                start - int(random.integers(0, 30)) * 5 * MINUTE,
                random.integers(5, 25),
                random.integers(0, 1000),
                trade_count=None if random.random() < 0.5 else int(random.integers(0, 9)),
                vwap=None if random.random() < 0.5 else 15.5,
            )
            for _ in range(int(random.integers(1, 6)))
        ]
        if random.random() < 0.7:
            frame = pl.DataFrame([dict.fromkeys(BARS) | row for row in rows], schema=BARS, orient="row")
            records.append((frame, True))
    return records


async def submit_in_pieces(parts, records, random):
    """One after the other, or several at once, in their order."""
    waiting = []
    for frame, of_bars in records:
        at = 0
        while at < len(frame):
            size = int(random.choice([1, 2, 10, 1000]))
            piece = frame[at : at + size]
            waiting.append(asyncio.create_task(parts.ingestor.submit(piece, STOCKS, of_bars=of_bars)))
            at += size
            await asyncio.sleep(0)
            if random.random() < 0.3:
                await asyncio.gather(*waiting)
            if random.random() < 0.1:
                await parts.settled()
    receipts = await asyncio.gather(*waiting)
    assert all(receipt.rejected == () for receipt in receipts)


async def recomputed(parts):
    """The tables, worked out from the log alone by a shard that keeps everything in memory."""
    shard = BarEngine()
    for symbol in parts.names.symbols.values():
        shard.learn(symbol.id, trading_calendar(symbol.calendar))
    calendars = {symbol.id: trading_calendar(symbol.calendar) for symbol in parts.names.symbols.values()}
    async for appended in parts.journal.replay(0, parts.journal.head):
        frame = appended.batch.frame
        if isinstance(appended.batch, Ticks):
            batch = tick_batch(frame, parts.names)
        else:
            batch = bar_batches(frame, calendars.__getitem__, extended_day=False)
        run_step(shard.step(batch, {}), lambda _wanted: np.empty(0, BAR))
    shard.close({provider.id: END_OF_TIME for provider in parts.names.providers.values()})
    return {interval.name: shard.resident(interval) for interval in BASE_INTERVALS}


def assert_same_tables(found, wanted):
    for name, rows in wanted.items():
        here, there = ([tuple(map(repr, row)) for row in bars[FIELDS].tolist()] for bars in (found[name], rows))
        differing = [pair for pair in itertools.zip_longest(here, there) if pair[0] != pair[1]]
        assert not differing, f"{name}: {len(differing)} differ, the first: {differing[0]}"

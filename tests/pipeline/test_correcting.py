"""Corrected and cancelled trades: all stored data becomes equal to data with the right trades."""

import contextlib
import itertools

import hypothesis
import polars as pl
import pytest
from hypothesis import strategies as st
from log_reference import AT, TAPE, Killed, assert_right, ended, plain, settled, walk

from stockpulse.ingest.feed import Feed
from stockpulse.journal.records import Forget
from stockpulse.journal.segments import first_offset
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1
from stockpulse.market.schemas import CORRECTIONS, TICKS
from stockpulse.pipeline import shard_processor
from stockpulse.pipeline.dead_letter_retry import retry
from stockpulse.postgres.connect import connect
from stockpulse.providers.trade_conditions import RULES
from stockpulse.storage.dead_letters import DeadLetterStore
from store_stack import DAY, HOUR, MINUTE, NOW, SECOND, tick


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(shard_processor, "_CLOCK_SECONDS", 0.01)


def fix(symbol, ts, trade_id, price=None, size=None, **fields):
    row = {"symbol": symbol, "ts": ts, "trade_id": trade_id, "price": price, "size": size, **fields}
    return dict.fromkeys(CORRECTIONS) | row


async def amend(parts, feed, *rows):
    return await parts.ingestor.amend(pl.DataFrame(list(rows), schema=CORRECTIONS), feed)


def numbered(symbol, start, count, price=10.0):
    return [tick(symbol, start + n * SECOND, price + n, 1 + n, trade_id=str(n)) for n in range(count)]


class TestBars:
    async def test_are_those_without_a_cancelled_trade(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *numbered("A", AT, 5), *walk("A", AT + 5 * MINUTE, 20))
            await ended(parts)
            before = (await parts.stored(M1))[0]
            receipt = await amend(parts, TAPE, fix("A", AT + 9 * SECOND, "4"))
            assert receipt.accepted == 1
            await settled(parts)
            await assert_right(parts)
            [row, *_] = await parts.stored(M1)
            assert (row["high"], row["close"], row["trade_count"]) == (13, 13, 4)
            assert row["revision"] == parts.journal.head - 1 > before["revision"]

    async def test_are_those_with_the_right_price(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *numbered("A", AT, 5), *walk("A", AT + 5 * MINUTE, 20))
            await ended(parts)
            await amend(parts, TAPE, fix("A", AT + 3 * MINUTE, "2", 50, 7, new_trade_id="2b"))
            await settled(parts)
            await assert_right(parts)
            [row, *_] = await parts.between("A", M1)
            assert (row["high"], row["close"], row["volume"], row["trade_count"]) == (50, 14, 15 - 3 + 7, 5)
            newest = await parts.ticks.latest(parts.symbol("A").id, 30)
            served = {row["trade_id"]: row for row in newest.iter_rows(named=True) if row["trade_id"] is not None}
            assert {name: row["price"] for name, row in served.items()} == {
                "0": 10,
                "1": 11,
                "2b": 50,
                "3": 13,
                "4": 14,
            }
            assert served["2b"]["event_time"] == AT + 2 * SECOND

    @pytest.mark.parametrize("conditions", ["40", "0"])
    async def test_are_those_with_the_right_opening_print(self, postgres_dsn, conditions):
        feed = Feed("tape", "24/7", Clock.EVENT, rule=RULES["algoseek"])
        midnight = AT.replace(hour=0, minute=0, second=0, microsecond=0)
        prints = [tick("A", midnight, 10, 1, trade_id="0", conditions="0")]
        prints += [tick("A", midnight + n * SECOND, 10 + n, 1, trade_id=str(n), conditions="40") for n in (1, 2)]
        async with plain(postgres_dsn) as parts:
            await parts.submit(feed, *prints)
            for n in (1, 2):  # each to the price 20, later to 30
                for later in (1, 2):
                    fixed = fix("A", midnight + later * HOUR, str(n), 10 * later + 10, 1, conditions=conditions)
                    assert (await amend(parts, feed, fixed)).accepted == 1
            await ended(parts)
            await assert_right(parts)
            [day] = await parts.stored(D1)
            assert (day["open"], day["high"], day["trade_count"]) == (30 if conditions == "40" else 10, 30, 3)


class TestTicks:
    async def test_are_served_as_corrected(self, postgres_dsn):
        async with plain(postgres_dsn, segment_rows=20) as parts:
            for n in range(4):  # in indexed segments, in sealed segments and in memory
                rows = numbered("A", AT + n * HOUR, 15)
                await parts.submit(TAPE, *[row | {"trade_id": f"{n}-{row['trade_id']}"} for row in rows])
                if n == 1:
                    await parts.segments.index_sealed()
            for n in range(4):
                later = AT + n * HOUR + MINUTE
                await amend(parts, TAPE, fix("A", later, f"{n}-3"), fix("A", later, f"{n}-14", 500, 1))
            await ended(parts)
            await assert_right(parts)
        for _ in range(2):
            async with plain(postgres_dsn) as parts:
                symbol = parts.symbol("A").id
                newest = await parts.ticks.latest(symbol, 100)
                assert len(newest) == 4 * 14
                assert newest.filter(pl.col("price") == 500)["event_time"].to_list() == [
                    AT + n * HOUR + 14 * SECOND for n in (3, 2, 1, 0)
                ]
                summary = await parts.ticks.summary(symbol, AT, AT + HOUR)
                assert (summary.count, summary.max_price, summary.sum_volume) == (14, 500, sum(range(1, 15)) - 4 + 1)
                counted = await parts.ticks.counted(symbol, AT, AT + HOUR, 1000)  # for bars of seconds
                assert counted["price"].to_list() == [10, 11, 12, *range(14, 24), 500]
                await parts.segments.index_sealed()

    async def test_are_forgotten_together_with_their_corrections(self, postgres_dsn):
        rows = numbered("A", AT, 5)
        fixes = [fix("A", AT + MINUTE, "1"), fix("A", AT + MINUTE, "2", 50, 1)]
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *rows)
            assert (await amend(parts, TAPE, *fixes)).accepted == 2
            await parts.ingestor.forget(Forget("A", None))
            assert (await parts.submit(TAPE, *rows)).accepted == 5
            assert (await amend(parts, TAPE, *fixes)).accepted == 2
            assert (await amend(parts, TAPE, *fixes)).duplicates == 2
            await ended(parts)
            await assert_right(parts)
            assert [row["trade_count"] for row in await parts.stored(M1)] == [4]
            await parts.ingestor.forget(Forget(None, "tape"))
        async with plain(postgres_dsn) as parts:
            assert (await parts.submit(TAPE, *rows)).accepted == 5

    async def test_give_the_price_of_the_moment_back(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *numbered("A", AT, 7))
            await settled(parts)
            await amend(parts, TAPE, fix("A", AT + MINUTE, "6"))
            await settled(parts)
            changed = parts.engine.analytics.prices.changed()
            assert (changed.price.tolist(), changed.average.tolist()) == ([15], [13])

    async def test_go_with_their_segments(self, postgres_dsn):
        async with plain(postgres_dsn, segment_rows=5) as parts:
            await parts.submit(TAPE, *numbered("A", AT, 5))
            await amend(parts, TAPE, fix("A", AT + MINUTE, "4", 3, 3), fix("A", AT + MINUTE, "1"))
            await parts.submit(TAPE, *numbered("B", AT, 5))
            await parts.submit(TAPE, *numbered("C", AT, 5))
            await ended(parts)
            await parts.segments.index_sealed()
            kept = "SELECT (SELECT count(*) FROM cancelled_ticks), (SELECT count(*) FROM corrections)"
            assert tuple(await parts.pool.fetchrow(kept)) == (2, 2)
            await parts.segments.drop_older(NOW + DAY, parts.journal.head)
            assert tuple(await parts.pool.fetchrow(kept)) == (0, 0)


class TestNotStored:
    async def test_bars_whose_ticks_are_not_all_kept_stay(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            rows = walk("A", AT, 4)
            await parts.submit(TAPE, *[row | {"trade_id": str(n)} for n, row in enumerate(rows)])
            await ended(parts)
            await parts.pool.execute("DELETE FROM realtime_prices WHERE price = 101")  # as retention does, by segments
            parts.segments.recent.drop_rows(lambda ticks: ticks["price"] == 101)
            await amend(parts, TAPE, fix("A", AT + HOUR, "2", 500, 1))
            await settled(parts)
            counters = parts.pipeline.counters
            assert (counters.bars_not_corrected, counters.corrections_without_trade) == (2, 0)
            assert [row["close"] for row in await parts.stored(M1)] == [100, 101, 500, 103]
            assert [(row["high"], row["trade_count"]) for row in await parts.stored(D1)] == [(103, 4)]
            # The trade itself is gone: its bar stays too, and gets no second trade.
            await amend(parts, TAPE, fix("A", AT + MINUTE, "1", 700, 1))
            await settled(parts)
            assert (counters.bars_not_corrected, counters.corrections_without_trade) == (5, 1)
            assert [row["trade_count"] for row in await parts.stored(M1)] == [1, 1, 1, 1]
            assert [row["trade_count"] for row in await parts.stored(D1)] == [4]

    async def test_a_wrong_row_is_a_dead_letter_that_can_be_sent_again(self, postgres_dsn):
        async with plain(postgres_dsn) as parts:
            await parts.submit(TAPE, *numbered("A", NOW - HOUR, 3))
            receipt = await amend(
                parts,
                TAPE,
                fix("A", AT, None),
                fix("A", AT, "1", 5),
                fix("A", NOW + HOUR, "1", 5, 6, new_trade_id="1b"),
                fix("A", AT, "1", conditions="@"),
            )
            assert [reason.split(":")[0] for _, reason in receipt.rejected] == [
                "trade_id",
                "price, size",
                "ts",
                "price, size",
            ]
            letters = await DeadLetterStore(parts.pool).newest(10)
            parts.clock.advance(2 * HOUR)
            clock = parts.names.providers[TAPE.provider].clock
            done = await retry(letters, parts.ingestor, parts.names, "24/7", NOW + 2 * HOUR, SECOND)
            assert (len(done.done), len(done.refused)) == (1, 3)
            assert parts.names.providers[TAPE.provider].clock is clock is Clock.EVENT
            await settled(parts)
            [row] = await parts.latest("A", M1, 5)
            assert (row["low"], row["high"], row["trade_count"]) == (5, 12, 3)


# Any history ------------------------------------------------------------------------------------

SIP = Feed("alpaca", "24/7", Clock.EVENT, rule=RULES["alpaca"])
SYMBOLS = ("A", "B")
BEGIN = AT - 2 * DAY
REPLAYED = ("symbol_id", "ts", "revision", "open", "high", "low", "close", "trade_count")

seconds = st.sampled_from([0, 1, 2, 59, 60, 61, 299, 300, 310, 4000, 86_399, 86_400, 86_410, 100_000])
ids = st.integers(0, 7).map(str)
amounts = st.integers(1, 9)
codes = st.sampled_from([None, "@", "I", "M", "T", "4", "@,Z", "9"])
trades = st.tuples(st.just("trade"), st.sampled_from(SYMBOLS), ids, seconds, amounts, amounts, codes)
cancels = st.tuples(st.just("cancel"), st.sampled_from(SYMBOLS), ids, st.sampled_from([0, 5]))
corrections = st.tuples(
    st.just("correct"), st.sampled_from(SYMBOLS), ids, st.sampled_from([0, 5]), amounts, amounts, codes, st.booleans()
)
acts = st.one_of(
    st.lists(trades, min_size=1, max_size=8),
    st.lists(st.one_of(cancels, corrections), min_size=1, max_size=5),
    st.sampled_from(["again", "flush", "kill", "end"]),
)


class Vendor:
    """A vendor's messages, and the trades that stand after all of them. Each vendor has symbols of its own."""

    number = itertools.count()

    def __init__(self):
        self.prefix = f"V{next(self.number)}."
        self.times = {}  # when each trade happened, by symbol and id
        self.known = {}  # when each trade that was delivered happened
        self.settled = set()  # trades that a correction before them has settled
        self.standing = {}
        self.messages = 0
        self.sent = []

    def time_of(self, symbol, name, second=0):
        return self.times.setdefault((symbol, name), BEGIN + second * SECOND)

    def trades(self, rows):
        sent = []
        for _, letter, name, second, price, size, code in rows:
            symbol = self.prefix + letter
            ts = self.time_of(symbol, name, second)
            row = tick(symbol, ts, price, size, trade_id=name, conditions=code, tape="A")
            sent.append(row)
            if (symbol, name) not in self.known and (symbol, name) not in self.settled:
                self.known[symbol, name] = ts
                self.standing[symbol, name] = (ts, float(price), float(size))
        return sent

    def fixes(self, rows):
        return [self._fix(*row) for row in rows]

    def _fix(self, _kind, letter, name, later, price=None, size=None, code=None, renamed=False):
        symbol = self.prefix + letter
        key = symbol, name
        self.messages += 1
        ts = self.time_of(symbol, name, 86_400) + later * SECOND + self.messages * SECOND / 1000
        row = fix(symbol, ts, name, conditions=code, tape=None if price is None else "A")
        self.standing.pop(key, None)
        if price is None:
            self.settled.add(key)
            return row
        right = f"{name}r{self.messages}" if renamed else name
        at = self.known.get(key, ts)
        self.settled |= {key, (symbol, right)}
        self.known[symbol, right] = self.times[symbol, right] = at
        self.standing[symbol, right] = (at, float(price), float(size))
        return row | {"price": float(price), "size": float(size), "new_trade_id": right if renamed else None}


async def standing(parts, vendor):
    query = "SELECT symbol, trade_id, event_time, price, volume FROM stock_ticks WHERE starts_with(symbol, $1)"
    rows = await parts.pool.fetch(query, vendor.prefix)
    return {(row[0], row[1]): tuple(row)[2:] for row in rows}


async def all_bars(parts):
    return {interval: await parts.stored(interval) for interval in BASE_INTERVALS}


async def begin_anew(dsn):
    """Drop all that follows from the log: the next start replays the log in batches of its own."""
    connection = await connect(dsn)
    derived = ["bars_1m", "intraday_ohlcv", "historical_ohlcv", "cancelled_ticks", "checkpoint_parts", "signals"]
    derived += ["intraday_analytics", "daily_analytics", "realtime_analytics", "indicator_states"]
    await connection.execute("; ".join(f"DELETE FROM {table}" for table in derived))
    await connection.execute(f"UPDATE checkpoints SET journal_offset = {first_offset(1)}")
    await connection.close()


async def act(parts, vendor, what):
    match what:
        case "flush":
            await parts.flush()
        case "end":
            await parts.ingestor.end(SIP)
        case "kill":
            raise Killed
        case "again":
            for frame in vendor.sent:
                receipt = await (await parts.ingestor.enqueue_any(frame, SIP))
                assert receipt.accepted == 0
        case [["trade", *_], *_]:
            frame = pl.DataFrame([dict.fromkeys(TICKS) | row for row in vendor.trades(what)], schema=TICKS)
            vendor.sent.append(frame)
            await parts.ingestor.submit(frame, SIP)
        case _:
            frame = pl.DataFrame(vendor.fixes(what), schema=CORRECTIONS)
            vendor.sent.append(frame)
            assert (await parts.ingestor.amend(frame, SIP)).accepted == len(frame)


@pytest.mark.thorough
@hypothesis.settings(
    max_examples=6, phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck)
)
@hypothesis.given(history=st.lists(acts, min_size=3, max_size=12))
async def test_any_history(postgres_dsn, history):
    """Whatever is corrected, in any order and however often the process dies, data is that of the right trades."""
    vendor = Vendor()
    pending = list(history)
    while pending:
        with contextlib.suppress(Killed):
            async with plain(postgres_dsn) as parts:
                while pending:
                    await act(parts, vendor, pending.pop(0))
    async with plain(postgres_dsn) as parts:
        await ended(parts, SIP)
        await assert_right(parts)
        assert await standing(parts, vendor) == vendor.standing
        bars = await all_bars(parts)
    await begin_anew(postgres_dsn)
    async with plain(postgres_dsn) as parts:
        await ended(parts, SIP)
        again = await all_bars(parts)
        for interval, rows in bars.items():
            for name in REPLAYED:
                assert again[interval][name].tobytes() == rows[name].tobytes(), (interval, name)

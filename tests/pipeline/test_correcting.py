"""Corrected and cancelled trades: all stored data becomes equal to data with the right trades."""

import contextlib
import itertools

import hypothesis
import polars as pl
import pytest
from hypothesis import strategies as st
from log_reference import AT, TAPE, Killed, assert_right, ended, plain, settled, walk

from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M1
from stockpulse.market.schemas import CORRECTIONS, TICKS
from stockpulse.pipeline import shard_processor
from stockpulse.providers.trade_conditions import RULES
from store_stack import DAY, MINUTE, SECOND, tick


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


# Any history ------------------------------------------------------------------------------------

SIP = Feed("alpaca", "24/7", Clock.EVENT, rule=RULES["alpaca"])
SYMBOLS = ("A", "B")
BEGIN = AT - 2 * DAY

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


@hypothesis.settings(
    max_examples=12, phases=[hypothesis.Phase.generate], suppress_health_check=list(hypothesis.HealthCheck)
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

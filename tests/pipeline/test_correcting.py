"""Corrected and cancelled trades: all stored data becomes equal to data with the right trades."""

import polars as pl
import pytest
from log_reference import AT, TAPE, assert_right, ended, plain, settled, walk

from stockpulse.market.intervals import M1
from stockpulse.market.schemas import CORRECTIONS
from stockpulse.pipeline import shard_processor
from store_stack import MINUTE, SECOND, tick


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

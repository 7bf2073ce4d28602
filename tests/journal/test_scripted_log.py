"""The scripted log keeps the contract of a real one."""

import asyncio
import itertools

import pytest

from journal_log import ticks
from stockpulse.journal.records import Appended, End, Ticks, Unreadable
from stockpulse.journal.routing import Routing
from stockpulse.market.symbology import Names, Symbol
from stockpulse.testing import ScriptedLog, ScriptedShardLog


@pytest.fixture
def log() -> ScriptedLog:
    names = Names()
    names.add_symbols(Symbol(number, name, "24/7") for number, name in enumerate(("AAPL", "MSFT", "TSLA"), 1))
    return ScriptedLog(Routing(names, 2))


async def replayed(log: ScriptedLog, shard: int, offset: int, until: int) -> list[Appended]:
    return [one async for one in ScriptedShardLog(log, shard, None).replay(offset, until)]


async def test_rows_go_to_the_shards_of_their_symbols(log):
    appended = await log.put(ticks(50))
    assert sorted(one.shard for one in appended) == [0, 1]
    for one in appended:
        assert set(log.routing.of_symbols(one.batch.frame["symbol_id"].to_numpy())) == {one.shard}
        assert one.batch.frame["seq"].to_list() == list(range(one.before, one.after))


async def test_replays_any_part(log):
    for seed in range(4):
        await log.put(ticks(30, seed))
    first, end = log.first_seqs[0], log.end(0)
    whole = [seq for one in await replayed(log, 0, first, end) for seq in one.batch.frame["seq"]]
    assert whole == list(range(first, end))
    for offset, until in ((first + 1, end - 1), (first + 10, first + 11), (end - 1, end)):
        part = await replayed(log, 0, offset, until)
        assert [seq for one in part for seq in one.batch.frame["seq"]] == list(range(offset, until))
        assert (part[0].before, part[-1].after) == (offset, until)
        assert all(one.after == after.before for one, after in itertools.pairwise(part))
    assert await replayed(log, 0, end, end) == []


async def test_ends_and_unreadable_records_take_their_place(log):
    await log.put(End("file"))
    await log.put(Unreadable(ticks(3).frame), [1])
    assert [(type(one.batch), one.after - one.before) for one in log.batches[1]] == [(End, 1), (Unreadable, 3)]
    assert [type(one.batch) for one in log.batches[0]] == [End]


async def test_a_follower_gets_what_is_appended_later(log):
    followed = ScriptedShardLog(log, 0, None).follow(log.first_seqs[0])
    waiting = asyncio.ensure_future(anext(followed))
    await asyncio.sleep(0)
    assert not waiting.done()
    await log.put(End("file"), [0])
    assert (await waiting).batch == End("file")
    await followed.aclose()


async def test_records_of_others_are_foreign_once_own_ones_are_processed(log):
    own = ScriptedShardLog(log, 0, {})
    first = log.first_seqs[0]
    assert await own.foreign_end(first) == 0
    await log.put(End("file"), [0])
    assert await own.foreign_end(first) == first + 1
    assert await ScriptedShardLog(log, 0, {0: first + 5}).foreign_end(first + 1) == 0
    assert await ScriptedShardLog(log, 0, None).foreign_end(first) == 0  # it follows everything anyway


async def test_raises_what_the_script_says(log):
    await log.put(ticks(9))
    log.faults += [TimeoutError("away"), OSError("reset")]
    with pytest.raises(TimeoutError):
        await replayed(log, 0, log.first_seqs[0], log.end(0))
    with pytest.raises(OSError, match="reset"):
        await replayed(log, 0, log.first_seqs[0], log.end(0))
    assert isinstance((await replayed(log, 0, log.first_seqs[0], log.end(0)))[0].batch, Ticks)

"""The log in PostgreSQL: a replay from any offset yields each record once and in order."""

import itertools

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from journal_log import NOW, T, bars, offsets, opened, records, replayed, some, ticks
from stockpulse.journal import tick_rows
from stockpulse.journal.records import Appended, Bars, Forget, Ticks
from stockpulse.journal.segments import SEGMENT_OFFSETS, first_offset, segment_of
from stockpulse.market.schemas import LOGGED_BARS, LOGGED_TICKS

SEEDS = range(25)


async def appended_all(journal, batches):
    return [(await journal.append(batch))[0] for batch in batches]


@pytest.fixture
async def names(postgres_dsn):
    async with opened(postgres_dsn) as journal:
        await journal.segments._pool.execute(
            "INSERT INTO symbols (symbol, calendar) VALUES ('A', '24/7'), ('B', '24/7'), ('C', '24/7');"
            "INSERT INTO providers (name, clock, delay_us) VALUES ('p', 'wall', 0), ('q', 'wall', 0);"
            "INSERT INTO tick_kinds (provider_id, exchange, conditions, flags)"
            " VALUES (1, '', '', 7), (1, 'N', '@', 7), (2, '', '', 7)"
        )


class TestAppend:
    async def test_gives_offsets_one_after_the_other(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            done = await appended_all(journal, [some(seed) for seed in SEEDS])
        first = first_offset(1)
        assert offsets(done) == list(range(first, first + len(offsets(done))))
        assert done[0].before == first
        for one, following in itertools.pairwise(done):
            assert one.after == following.before
        assert journal.head == done[-1].after

    async def test_gives_the_records_as_they_will_be_read(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            done = await appended_all(journal, [some(seed) for seed in SEEDS])
            assert records(await replayed(journal, 0)) == records(done)
        for appended in done:
            schema = LOGGED_TICKS if isinstance(appended.batch, Ticks) else LOGGED_BARS
            assert appended.batch.frame.schema == schema

    async def test_goes_on_where_it_was_after_a_restart(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            before = (await journal.append(ticks(3)))[0]
        async with opened(postgres_dsn) as journal:
            assert journal.head == before.after
            assert journal.epoch == 2
            after = (await journal.append(ticks(2)))[0]
        assert (after.before, offsets([after])) == (before.after, [before.after, before.after + 1])

    @pytest.mark.thorough
    async def test_a_large_batch(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            done = (await journal.append(ticks(250_000)))[0]
            again = await replayed(journal, done.before)
            assert [len(appended.batch.frame) for appended in again] == [100_000, 100_000, 50_000]
            joined = pl.concat(appended.batch.frame for appended in again)
            assert joined.drop("trade_id").equals(done.batch.frame.drop("trade_id"))


class TestReplay:
    async def test_from_any_offset_is_exactly_what_follows(self, postgres_dsn):
        async with opened(postgres_dsn, rows=150) as journal:
            whole = records(await appended_all(journal, [some(seed) for seed in SEEDS]))
            places = [record[1] for record in whole]
            for start in [0, *places[::37], places[-1], journal.head, journal.head + 10]:
                assert records(await replayed(journal, start)) == [one for one in whole if one[1] >= start]

    async def test_chains(self, postgres_dsn):
        async with opened(postgres_dsn, rows=150) as journal:
            await appended_all(journal, [some(seed) for seed in SEEDS])
            batches = await replayed(journal, 0)
            at = 0
            for appended in batches:
                seq = appended.batch.frame["seq"]
                assert appended.before == at <= seq[0]
                assert seq.is_sorted()
                at = appended.after
                assert at == seq[-1] + 1
            assert at == journal.head

    async def test_of_an_empty_log(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            assert await replayed(journal, 0) == []
            assert await replayed(journal, journal.head) == []

    async def test_over_a_restart_and_a_sealing(self, postgres_dsn):
        async with opened(postgres_dsn, rows=40) as journal:
            whole = records(await appended_all(journal, [some(seed) for seed in SEEDS]))
            await journal.segments.index_sealed()
        async with opened(postgres_dsn, rows=40) as journal:
            assert records(await replayed(journal, 0)) == whole

    async def test_ticks_and_bars_in_the_order_of_the_log(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            await appended_all(journal, [ticks(2), bars(1), bars(2), ticks(1), bars(1)])
            kinds = [(type(one.batch), len(one.batch.frame)) for one in await replayed(journal, 0)]
        assert kinds == [(Ticks, 2), (Bars, 3), (Ticks, 1), (Bars, 1)]


class TestForgets:
    async def test_are_replayed_at_their_place(self, postgres_dsn, names):
        async with opened(postgres_dsn, rows=30) as journal:
            forgets = [Forget("A", "p", 0, 60_000_000), Forget(None, "q"), Forget("B", None, 5)]
            forgets.append(Forget("NONE", "nobody"))
            done = []
            for forget in forgets:
                done += await appended_all(journal, [ticks(20), forget, bars(3)])
            for start in (0, done[4].before, done[4].after, journal.head):
                again = await replayed(journal, start)
                told = [(one.batch, one.after) for one in again if isinstance(one.batch, Forget)]
                want = [(one.batch, one.after) for one in done if isinstance(one.batch, Forget) and one.before >= start]
                # Names that the database does not know come back as names that nothing has.
                want = [(Forget("", "") if one.symbol == "NONE" else one, after) for one, after in want]
                assert told == want
        async with opened(postgres_dsn) as journal:
            assert len([one for one in await replayed(journal, 0) if isinstance(one.batch, Forget)]) == 4

    async def test_leave_the_rows_and_take_the_ticks_out_of_memory_and_of_the_keys(self, postgres_dsn, names):
        async with opened(postgres_dsn) as journal:
            [first, _, last] = await appended_all(journal, [ticks(40, seed=1), Forget("A", None), ticks(40, seed=2)])
        kept = [first.batch.frame.filter(pl.col("symbol_id") != 1), last.batch.frame]
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(1000)
            assert_frame_equal(pl.concat([one.frame for one in journal.segments.recent.chunks()]), pl.concat(kept))
            keys = pl.concat(kept).filter(pl.col("trade_id").is_not_null()).select(list(tick_rows.KEYS))
            assert_frame_equal(await journal.recent_keys(), keys)
            assert sum(len(one.batch) for one in await replayed(journal, 0)) == 81


class TestOpenSegment:
    async def test_comes_back_into_memory_whole(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            done = [one for one in await appended_all(journal, map(some, SEEDS)) if isinstance(one.batch, Ticks)]
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(10_000)
            recent = pl.concat(chunk.frame for chunk in journal.segments.recent.chunks())
            assert recent.schema == LOGGED_TICKS
            assert recent.equals(pl.concat(one.batch.frame for one in done))

    async def test_is_sealed_when_it_is_large(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            done = (await journal.append(ticks(30)))[0]
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(29)
            assert journal.segments.recent.chunks() == []
            assert list(journal.segments.sealed) == [first_offset(1)]
            assert journal.head == first_offset(2)
            assert offsets([(await journal.append(ticks(1)))[0]]) == [first_offset(2)]
            assert offsets(await replayed(journal, 0)) == [*offsets([done]), first_offset(2)]
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(29)
            assert (journal.head, len(journal.segments.recent.chunks())) == (first_offset(2) + 1, 1)

    async def test_with_as_many_as_may_be_is_not_sealed(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            (await journal.append(ticks(30)))[0]
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(30)
            assert journal.segments.sealed == {}

    async def test_with_bars_alone(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            (await journal.append(bars(3)))[0]
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(100)
            assert journal.segments.recent.chunks() == []

    async def test_without_anything(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            await journal.load_open_segment(0)
            assert journal.head == first_offset(1)


class TestRecentKeys:
    def expected(self, appended):
        frames = [one.batch.frame.filter(pl.col("trade_id").is_not_null()) for one in appended]
        return pl.concat(frames).select(list(tick_rows.KEYS))

    async def test_are_those_with_a_trade_id_in_the_order_of_the_log(self, postgres_dsn, names):
        async with opened(postgres_dsn) as journal:
            done = await appended_all(journal, [ticks(40, seed=1), ticks(40, seed=2)])
        async with opened(postgres_dsn) as journal:
            assert_frame_equal(await journal.recent_keys(), self.expected(done))

    async def test_reach_back_over_a_sealing(self, postgres_dsn, names):
        async with opened(postgres_dsn, rows=100) as journal:
            done = await appended_all(journal, [ticks(150, seed=1), ticks(60, seed=2)])
        async with opened(postgres_dsn) as journal:
            assert_frame_equal(await journal.recent_keys(), self.expected(done))
            await journal.load_open_segment(10)
            assert len(await journal.recent_keys()) == len(self.expected(done[1:]))

    async def test_of_an_empty_log(self, postgres_dsn):
        async with opened(postgres_dsn) as journal:
            assert len(await journal.recent_keys()) == 0


async def test_skipped_offsets_are_of_no_record(postgres_dsn):
    async with opened(postgres_dsn, rows=10) as journal:
        done = await appended_all(journal, [ticks(10), bars(4), ticks(10), ticks(1)])
        assert [segment_of(seq) // SEGMENT_OFFSETS for one in done for seq in offsets([one])[:1]] == [1, 2, 2, 3]
        assert [one.before for one in done[1:]] == [one.after for one in done[:-1]]
        assert (await replayed(journal, done[0].after))[0].before == done[0].after
        in_between = done[0].after + 100
        assert offsets(await replayed(journal, in_between)) == offsets(done[1:])


def test_segments_and_their_offsets():
    assert first_offset(3) == 3 * SEGMENT_OFFSETS
    assert segment_of(first_offset(3)) == segment_of(first_offset(4) - 1) == first_offset(3)


def test_an_appended_batch_says_where_it_stands():
    appended = Appended(0, ticks(1), 5, 6)
    assert (appended.before, appended.after) == (5, 6)
    assert (NOW.timestamp() * 1e6) == T

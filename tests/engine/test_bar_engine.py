"""The stored bars depend only on the records of the log and their order."""

import math
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from engine_reference import (
    BAR,
    CALENDAR,
    DAY,
    END,
    FIELDS,
    LATENESS,
    MADE_BY_TRADES,
    MINUTE,
    SECOND,
    Drive,
    Given,
    Tick,
    assert_same,
    bars_of,
    bits,
    logs,
    micros,
    notional,
    properties,
    provider_bars,
    row_bits,
    run,
    schedules,
)
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.engine.bar_engine import END_OF_TIME
from stockpulse.engine.batches import bar_batches
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5
from stockpulse.market.schemas import LOGGED_BARS, PRIMARY

T = micros("2024-03-05T15:00")  # a Tuesday, 10:00 in New York
CRYPTO, STOCK, FUTURE = 1, 2, 9
REVISION, END_FIELD = FIELDS.index("revision"), FIELDS.index("end")


@pytest.fixture(scope="module", autouse=True)
def _calendars():
    """Make them now, so that Hypothesis does not find its first example slow."""
    for name in CALENDAR.values():
        trading_calendar(name)


def tick(seq, ts, price=100.0, size=1.0, *, symbol=CRYPTO, provider=1, flags=7):
    return Tick(seq, symbol, provider, ts, price, size, flags)


def own(seq, ts, price=100.0, volume=1.0, *, symbol=CRYPTO, provider=2, interval=M1, count=-1, vwap=math.nan):
    return Given(seq, symbol, provider, interval, ts, (price, price, price, price), volume, count, vwap)


def bar(drive, interval, ts, symbol=CRYPTO):
    return dict(zip(FIELDS, drive.bars(interval)[symbol, ts], strict=True))


def told(events):
    return [
        (event.interval, int(row["ts"]), "revised" if event.revised else "closed")
        for event in events
        for row in event.rows
    ]


class TestStored:
    @pytest.mark.slow
    @given(logs(), schedules, st.booleans())
    @properties(2)
    def test_and_announced_is_what_the_log_says_however_it_was_worked_in(self, log, schedule, extended):
        drive = run(log, schedule, extended=extended)
        wanted = bars_of(log, extended=extended)
        for interval in BASE_INTERVALS:
            assert_same(drive.bars(interval), wanted[interval], str(interval))
            assert_same(drive.store.bars(interval), wanted[interval], f"stored {interval}")
            assert_same(highest_revisions(drive.events, interval), wanted[interval], f"announced {interval}")

    @given(logs(), schedules, schedules)
    @properties(0.5)
    def test_two_histories_leave_the_same_bytes(self, log, one, other):
        first, second = run(log, one), run(log, other)
        for interval in BASE_INTERVALS:
            stored = [np.array([*drive.store.rows[interval].values()], BAR) for drive in (first, second)]
            assert row_bits(stored[0]) == row_bits(stored[1])

    @given(logs(), schedules)
    @properties(0.5)
    def test_a_flush_leaves_little_in_memory(self, log, schedule):
        drive = Drive(log)
        for what, how in schedule:
            if what == "take":
                drive.take(*how)
            elif what == "close":
                drive.close(how)
            elif what != "look":
                drive.flush()
                drive.assert_holds_little()

    @given(logs(bars=False, opening=False), st.randoms(use_true_random=False), schedules)
    @properties()
    def test_the_order_of_ticks_matters_only_among_equal_stamps(self, log, random, schedule):
        first, second = run(log, []), run(permuted(log, random), schedule)
        for interval in BASE_INTERVALS:
            assert without_offsets(first.bars(interval)) == without_offsets(second.bars(interval))

    def test_a_flush_leaves_the_newest_final_bar_beside_an_older_open_one(self):
        # Provider 2 lags behind provider 1, so its late tick opens a bar that no clock has passed yet.
        log = [tick(0, T), tick(1, T + 3 * MINUTE), tick(2, T + MINUTE, provider=2)]
        drive = Drive(log, lateness=DAY)
        drive.take(2, {1: END_OF_TIME})
        drive.take(1, {})
        assert drive.shard.resident(M1)["final"].tolist() == [True, False, True]
        drive.flush()
        drive.assert_holds_little()
        drive.finish()
        drive.assert_right_so_far()


def highest_revisions(events, of_interval):
    """The bars of a consumer that keeps the highest revision of each bar."""
    kept = {}
    for interval, key, values, _ in events:
        if interval is of_interval:
            had = kept.setdefault(key, values)
            assert had[REVISION] != values[REVISION] or bits(had) == bits(values), "two bars of one revision"
            if had[REVISION] < values[REVISION]:
                kept[key] = values
    return kept


def permuted(log, random):
    """The same ticks in another order, except for ticks of one symbol with equal times, renumbered."""
    places = list(range(len(log)))
    random.shuffle(places)
    order = {}
    for place in places:
        order.setdefault((log[place].symbol, log[place].ts), []).append(place)
    queues = {key: iter(sorted(group)) for key, group in order.items()}
    shuffled = [log[next(queues[log[place].symbol, log[place].ts])] for place in places]
    return [Tick(number, t.symbol, t.provider, t.ts, t.price, t.size, t.flags) for number, t in enumerate(shuffled)]


def without_offsets(bars):
    kept = [at for at, name in enumerate(FIELDS) if name not in ("open_seq", "close_seq", "revision")]
    return {key: bits(values[at] for at in kept) for key, values in bars.items()}


class TestEvents:
    # That revisions grow and that a bar is announced as new only once is asserted in Drive.

    @given(logs(), schedules)
    @properties()
    def test_a_bar_is_announced_when_a_clock_passes_its_end_and_not_before(self, log, schedule):
        drive, announced = Drive(one_provider_each(log)), set()
        for what, how in schedule:
            if what == "take":
                count, clocks = how
                for _ in range(min(count, len(log) - drive.at)):
                    drive.take(1, clocks)
                    announced |= due(drive.done, clocks)
            elif what == "close":
                drive.close(how)
                announced |= due(drive.done, how)
            else:
                drive.flush()
            assert {(interval, key) for interval, key, _, _ in drive.events} == announced


def due(log, clocks):
    """The bars whose end the watermark of their symbol, or the clock of its provider, has passed."""
    marks, provider = {}, {}
    for record in log:
        of_a_feed = isinstance(record, Given)
        if of_a_feed or record.flags & PRIMARY:
            mark = 0 if of_a_feed else record.ts
            marks[record.symbol] = max(marks.get(record.symbol, 0), mark)
            provider[record.symbol] = record.provider
    return {
        (interval, key)
        for interval, bars in bars_of(log).items()
        for key, values in bars.items()
        if values[END_FIELD] + LATENESS <= max(marks[key[0]], clocks.get(provider[key[0]], 0))
    }


def one_provider_each(log):
    """A symbol has one clock."""
    return [type(record)(**(vars(record) | {"provider": 1 + record.symbol % 3})) for record in log]


class TestClosing:
    def test_a_quiet_symbol_by_its_providers_clock(self):
        drive = Drive([tick(0, T + 30 * SECOND)])
        drive.take(1, {1: T + MINUTE + LATENESS - 1})
        assert drive.events == []
        assert told(drive.shard.close({2: END_OF_TIME})) == []
        assert told(drive.shard.close({1: T + MINUTE + LATENESS - 1})) == []
        assert told(drive.shard.close({1: T + MINUTE + LATENESS})) == [(M1, T, "closed")]
        assert told(drive.shard.close({1: T + MINUTE + LATENESS})) == []
        midnight = T // DAY * DAY + DAY
        assert told(drive.shard.close({1: midnight + LATENESS})) == [(M5, T, "closed"), (D1, midnight - DAY, "closed")]

    def test_a_busy_symbol_by_its_watermark(self):
        end = T + MINUTE
        drive = Drive([tick(0, T), tick(1, end + LATENESS - 1), tick(2, end + LATENESS), tick(3, end - 1)])
        drive.take(2, {})
        assert drive.events == []
        drive.take(1, {})
        assert [(interval, key[1], revised) for interval, key, _, revised in drive.events] == [(M1, T, False)]
        drive.take(1, {})
        assert [(interval, key[1], revised) for interval, key, _, revised in drive.events[1:]] == [(M1, T, True)]

    def test_another_symbols_ticks_close_nothing(self):
        drive = Drive([tick(0, T), tick(1, T + DAY, symbol=3)])
        drive.take(2, {})
        assert drive.events == []

    def test_a_tick_of_a_secondary_feed_moves_no_clock(self):
        drive = Drive([tick(0, T), tick(1, T + DAY, provider=2, flags=3)])
        drive.take(2, {2: END_OF_TIME})
        assert drive.events == []
        assert drive.shard.provider_of(CRYPTO) == 1
        assert drive.shard.newest(1) == T
        assert drive.shard.newest(2) == 0

    @pytest.mark.parametrize(
        ("trade", "close"),
        [
            ("2024-11-29T15:00", "2024-11-29T18:00"),  # half day: 13:00 in New York
            ("2024-03-08T15:00", "2024-03-08T21:00"),  # winter
            ("2024-03-11T15:00", "2024-03-11T20:00"),  # summer
        ],
    )
    def test_a_day_with_its_session(self, trade, close):
        drive = Drive([tick(0, micros(trade), symbol=STOCK)])
        drive.take(1, {1: micros(close) + LATENESS - 1})
        assert D1 not in [event[0] for event in drive.events]
        drive.close({1: micros(close) + LATENESS})
        assert [event[0] for event in drive.events].count(D1) == 1

    def test_an_announcement_changes_no_value(self):
        drive = Drive([tick(0, T), tick(1, T, 101.5), own(2, T + MINUTE)])
        drive.take(3, {})
        before = {interval: drive.bars(interval) for interval in BASE_INTERVALS}
        drive.close(END)
        assert len(drive.events) == 4
        assert before == {interval: drive.bars(interval) for interval in BASE_INTERVALS}

    def test_clocks_that_step_back_close_nothing_twice(self):
        drive = Drive([tick(0, T), tick(1, T + 10)])
        drive.take(1, {1: T + 5 * MINUTE + LATENESS})
        drive.close({1: 0})
        drive.close({})
        drive.take(1, {1: T})
        assert [revised for _, _, _, revised in drive.events] == [False, False, True, True]


class TestTrades:
    def test_one_tick(self):
        drive = run([tick(7, T + 3, 2.5, 0.1)], [])
        assert bar(drive, M1, T) == {
            "symbol_id": CRYPTO,
            "ts": T,
            "end": T + MINUTE,
            "open": 2.5,
            "high": 2.5,
            "low": 2.5,
            "close": 2.5,
            "open_ts": T + 3,
            "open_seq": 7,
            "close_ts": T + 3,
            "close_seq": 7,
            "volume_units": 0,
            "volume_picos": 100_000_000_000,
            "vwap_units": 0,
            "vwap_picos": 100_000_000_000,
            "notional_high": 0,
            "notional_middle": 2**36,  # a quarter
            "notional_low": 0,
            "trade_count": 1,
            "revision": 7,
            "provider_id": MADE_BY_TRADES,
            "by_minutes": False,
        }

    def test_a_minute_without_a_price_is_stored_all_the_same(self):
        drive = run([tick(0, T, size=5.0, flags=6), tick(1, T + MINUTE, size=2.0, flags=6)], [("take", (1, END))])
        minute, five = bar(drive, M1, T), bar(drive, M5, T)
        assert math.isnan(minute["open"])
        assert math.isnan(five["high"])
        assert (minute["volume_units"], five["volume_units"], five["trade_count"]) == (5, 7, 2)

    def test_a_price_comes_to_a_bucket_that_had_none(self):
        drive = run([tick(0, T, flags=6), tick(1, T + MINUTE, 50.0, flags=5), tick(2, T + 2, 60.0, flags=5)], [])
        assert [bar(drive, M5, T)[name] for name in ("open", "high", "low", "close")] == [60.0, 60.0, 50.0, 50.0]
        assert bar(drive, M5, T)["trade_count"] == 1

    @pytest.mark.parametrize("flags", [0, 1, 2, 3, 4])
    def test_what_counts_for_nothing_makes_no_bar(self, flags):
        drive = run([tick(3, T, flags=flags)], [])
        assert [drive.bars(interval) for interval in BASE_INTERVALS] == [{}, {}, {}]
        assert drive.shard.offset == 4
        assert drive.offset == 4

    def test_a_trade_outside_the_session_belongs_to_no_day(self):
        log = [
            tick(0, micros("2024-03-05T14:29:59.999999"), symbol=STOCK),
            tick(1, micros("2024-03-05T21:00"), symbol=STOCK),
        ]
        assert run(log, []).bars(D1) == {}
        (key,) = run(log, [], extended=True).bars(D1)
        assert key == (STOCK, micros("2024-03-05T05:00"))

    def test_a_trade_of_last_year_finds_its_stored_bars(self):
        log = [tick(0, T, 10.0), tick(1, T + 400 * DAY, 20.0), tick(2, T + 401 * DAY, 20.0), tick(3, T, 30.0)]
        drive = run(log, [("take", (3, END)), ("flush", False), ("take", (1, END))])
        assert bar(drive, D1, T // DAY * DAY)["high"] == 30.0
        assert bar(drive, D1, T // DAY * DAY)["open"] == 10.0
        drive.assert_right_so_far()

    def test_an_old_bucket_that_was_never_stored_is_new(self):
        drive = run([tick(0, T), tick(1, T - 30 * DAY)], [("take", (1, END)), ("flush", False)])
        assert [revised for _, _, _, revised in drive.events] == [False] * 6


class TestProviderBars:
    def test_it_stands_in_the_place_of_trades(self):
        drive = run([tick(0, T, 90.0, 7.0), tick(1, T + MINUTE, 91.0, 2.0), own(2, T, 100.0, 3.0), tick(3, T, 1.0)], [])
        assert (bar(drive, M1, T)["open"], bar(drive, M1, T)["provider_id"]) == (100.0, 2)
        five = bar(drive, M5, T)
        assert (five["open"], five["low"], five["close"], five["volume_units"]) == (100.0, 91.0, 91.0, 5)
        assert (five["trade_count"], notional(five), five["revision"]) == (-1, None, 2)
        assert five["provider_id"] == MADE_BY_TRADES

    def test_a_newer_one_that_says_more_makes_the_longer_bars_known(self):
        log = [tick(0, T), own(1, T), own(2, T, 100.0, 3.0, count=4, vwap=10.0)]
        drive = run(log, [("take", (1, {}))] * 3)
        assert (bar(drive, D1, T // DAY * DAY)["trade_count"], notional(bar(drive, M5, T))) == (4, 30)

    def test_the_last_of_several_in_one_batch(self):
        log = [own(0, T, 1.0), own(1, T, 2.0), own(2, T + MINUTE, 4.0), own(3, T, 3.0)]
        drive = run(log, [("take", (9, {}))])
        assert (bar(drive, M1, T)["open"], bar(drive, M5, T)["open"], bar(drive, M5, T)["revision"]) == (3.0, 3.0, 3)

    def test_longer_ones_stay_whatever_comes_below_them(self):
        day = T // DAY * DAY
        log = [own(0, T, 5.0, interval=M5), own(1, day, 6.0, interval=D1), tick(2, T), own(3, T, 7.0), own(4, T, 8.0)]
        drive = run(log, [("take", (1, {}))] * 5)
        assert (bar(drive, M5, T)["open"], bar(drive, D1, day)["open"], bar(drive, M1, T)["open"]) == (5.0, 6.0, 8.0)

    def test_one_batch_announces_a_bucket_in_the_order_of_revisions(self):
        # The 5-minute bar is older in the log than the minute, and both come in one batch.
        log = [tick(0, T), own(1, T, 5.0, interval=M5), own(2, T, 6.0)]
        drive = run(log, [("take", (1, END)), ("take", (2, END))])
        fives = [values[REVISION] for interval, _, values, _ in drive.events if interval is M5]
        assert fives == [0, 1]

    def test_a_day_that_begins_on_the_eve_is_rebuilt_from_all_of_it(self):
        # Monday of the CME begins on Sunday evening, before the midnight that labels it.
        eve, day = micros("2024-03-04T00:30"), micros("2024-03-04T06:00")
        log = [
            tick(0, eve, 10.0, 7.0, symbol=FUTURE),
            tick(1, T - DAY, 20.0, 1.0, symbol=FUTURE),
            own(2, T - DAY, 30.0, 2.0, symbol=FUTURE),
        ]
        for schedule in ([], [("take", (2, END)), ("flush", False)]):
            monday = bar(run(log, schedule), D1, day, FUTURE)
            assert (monday["open"], monday["close"], monday["volume_units"]) == (10.0, 30.0, 9)

    @pytest.mark.parametrize(("extended", "volume"), [(False, 5), (True, 25)])
    def test_a_rebuilt_day_has_the_minutes_of_its_session(self, extended, volume):
        # Before the open, at it, in the last minute and at the close of a half day.
        times = ["14:29", "14:30", "17:59", "18:00"]
        minutes = [micros(f"2024-11-29T{time}") for time in times]
        log = [tick(at, minute, size=2.0 + 8 * (at in (0, 3)), symbol=STOCK) for at, minute in enumerate(minutes)]
        log.append(own(4, minutes[1], volume=3.0, symbol=STOCK))
        drive = run(log, [("take", (4, END)), ("flush", False)], extended=extended)
        day = bar(drive, D1, micros("2024-11-29T05:00"), STOCK)
        assert day["volume_units"] == volume

    def test_of_two_providers_the_newer_record_says_whose_clock_counts(self):
        drive = Drive([own(0, T + MINUTE, provider=2), own(1, T, provider=3)])
        drive.take(2, {})
        assert drive.shard.provider_of(CRYPTO) == 3

    def test_a_volume_just_below_a_unit(self):
        drive = run([own(0, T, volume=0.9999999999996, vwap=1.0)], [])
        for interval in (M1, M5):
            whole = bar(drive, interval, T)
            assert (whole["volume_units"], whole["volume_picos"]) == (1, 0)
            assert notional(whole) == Fraction(0.9999999999996)


class TestFrames:
    @given(logs(), st.booleans())
    @properties(0.5)
    def test_bar_batches_are_the_records_of_each_interval(self, log, extended):
        bars = [record for record in log if isinstance(record, Given)]
        batches = bar_batches(frame_of(bars), lambda symbol: trading_calendar(CALENDAR[symbol]), extended_day=extended)
        assert len({batch.interval for batch in batches}) == len(batches)
        for batch in batches:
            wanted = provider_bars(batch.interval, [b for b in bars if b.interval is batch.interval], extended=extended)
            assert batch.rows.tobytes() == wanted.rows.tobytes()
        assert sum(len(batch.rows) for batch in batches) == len({(b.interval, b.symbol, b.ts) for b in bars})

    def test_the_longest_interval_is_first(self):
        bars = [own(0, T), own(1, T, interval=M5), own(2, T // DAY * DAY, interval=D1)]
        batches = bar_batches(frame_of(bars), lambda _: trading_calendar("24/7"), extended_day=False)
        assert [batch.interval for batch in batches] == [D1, M5, M1]


def frame_of(bars):
    lengths = {M1: 1, M5: 5, D1: 1440}
    names = ("open", "high", "low", "close")
    rows = [
        {
            "seq": b.seq,
            "symbol_id": b.symbol,
            "provider_id": b.provider,
            "minutes": lengths[b.interval],
            "ts": b.ts,
            "received_at": b.ts,
            **dict(zip(names, b.prices, strict=True)),
            "volume": b.volume,
            "trade_count": b.trade_count,
            "vwap": b.vwap,
        }
        for b in bars
    ]
    plain = pl.Schema({name: pl.Int64 if isinstance(kind, pl.Datetime) else kind for name, kind in LOGGED_BARS.items()})
    return pl.DataFrame(rows, schema=plain).cast(LOGGED_BARS)

"""A shard that comes back from its checkpoint is the shard that went."""

import numpy as np
import pytest
from engine_reference import (
    CALENDAR,
    DAY,
    END,
    MINUTE,
    Drive,
    Tick,
    by_key,
    logs,
    micros,
    notional,
    properties,
    row_bits,
    schedules,
    tick_batch,
    volume,
)
from hypothesis import given
from hypothesis import strategies as st

from bare_sink import run_step
from stockpulse.engine.bar_math import BAR, vwap_of
from stockpulse.engine.checkpoint_state import SYMBOL_STATE, decode, encode
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5

T = micros("2024-03-05T15:00")


@pytest.fixture(scope="module", autouse=True)
def _calendars():
    for name in CALENDAR.values():
        trading_calendar(name)


def tick(seq, ts, price=100.0, symbol=1):
    return Tick(seq, symbol, 1, ts, price, 1.0, 7)


def everything(shard):
    """All that a shard is, as bytes."""
    state = shard.snapshot()
    symbols = state["symbols"].copy()
    symbols["dirty"] = False
    return shard.offset, symbols.tobytes(), [row_bits(state[interval.name]) for interval in BASE_INTERVALS]


def back(drive):
    """A shard made from the checkpoint."""
    shard = drive.new_engine()
    shard.restore(drive.offset, [decode(part) for part in drive.parts])
    return shard


def play(drive, schedule):
    for what, how in schedule:
        if what == "take":
            drive.take(*how)
        elif what == "close":
            drive.close(how)
        elif what == "crash":
            drive.crash()
        elif what != "look":
            drive.flush(whole=bool(how))


class TestRestored:
    @given(logs(), schedules)
    @properties()
    def test_from_the_whole_and_what_followed_it_is_the_living_one(self, log, schedule):
        drive = Drive(log)
        play(drive, schedule)
        drive.flush()
        assert everything(back(drive)) == everything(drive.shard)

    @given(logs(), schedules)
    @properties(0.5)
    def test_from_a_snapshot_between_two_flushes(self, log, schedule):
        drive = Drive(log)
        play(drive, schedule)
        shard = drive.new_engine()
        shard.restore(drive.shard.offset, [decode(encode(drive.shard.snapshot()))])
        drive.flush()  # the snapshot counts as stored
        assert everything(shard) == everything(drive.shard)

    @given(logs(), schedules, schedules)
    @properties(0.5)
    def test_goes_on_as_if_nothing_had_happened(self, log, before, after):
        alive, came_back = Drive(log), Drive(log)
        for drive in (alive, came_back):
            play(drive, before)
            drive.flush()
        came_back.engine = came_back.shard = back(came_back)
        for drive in (alive, came_back):
            drive.events.clear()
            play(drive, [step for step in after if step[0] != "crash"])
            drive.finish()
        assert repr(alive.events) == repr(came_back.events)
        assert everything(alive.shard) == everything(came_back.shard)
        assert alive.offset == came_back.offset
        for interval in BASE_INTERVALS:
            assert repr(alive.store.bars(interval)) == repr(came_back.store.bars(interval))

    def test_nothing_comes_back_from_nothing(self):
        drive = Drive([])
        drive.shard.restore(17, [])
        assert drive.shard.offset == 17
        assert not drive.shard.take_changes()

    def test_a_symbol_may_be_learned_after_it(self):
        drive = Drive([tick(0, T, symbol=2)])
        drive.take(1, {})
        drive.flush()
        shard = type(drive.shard)()
        shard.restore(drive.offset, [decode(part) for part in drive.parts])
        for symbol, calendar in CALENDAR.items():
            shard.learn(symbol, trading_calendar(calendar))
        loaded = []
        run_step(shard.step(tick_batch([tick(1, T + MINUTE, symbol=2)]), {}), loaded.append)
        assert loaded == []
        (day,) = shard.resident(D1)
        assert (day["ts"], day["trade_count"]) == (micros("2024-03-05T05:00"), 2)


class TestChanges:
    # Drive asserts that they have changed rows only.

    def test_are_none_when_nothing_came(self):
        drive = Drive([tick(0, T)])
        drive.take(1, {})
        assert drive.shard.take_changes()
        assert not drive.shard.take_changes()
        drive.close({1: 0})
        assert not drive.shard.take_changes()

    def test_are_an_offset_when_what_came_made_no_bar(self):
        drive = Drive([Tick(4, 1, 1, T, 1.0, 1.0, 0)])
        drive.take(1, {})
        changes = drive.shard.take_changes()
        assert (changes.offset, changes.bars, changes.state) == (5, {}, {})

    def test_hold_forming_bars_in_the_state_alone(self):
        drive = Drive([tick(0, T), tick(1, T + 2 * MINUTE)])
        drive.take(2, {})
        changes = drive.shard.take_changes()
        assert {interval.name: by_key(rows).keys() for interval, rows in changes.bars.items() if len(rows)} == {
            "1m": {(1, T)}
        }
        assert {name: len(rows) for name, rows in changes.state.items()} == {"1m": 2, "5m": 1, "1d": 1, "symbols": 1}

    def test_what_changes_during_a_flush_is_in_the_next(self):
        drive = Drive([tick(0, T), tick(1, T + 1), tick(2, T + DAY)])
        drive.take(1, END)
        drive.begin_flush()
        drive.take(2, END)
        drive.end_flush()
        assert len(drive.shard.resident(M1)) == 2
        drive.flush()
        assert [len(drive.shard.resident(interval)) for interval in BASE_INTERVALS] == [1, 1, 1]
        drive.assert_right_so_far()

    def test_what_was_taken_is_a_copy(self):
        drive = Drive([tick(0, T), tick(1, T, 500.0)])
        drive.take(1, END)
        changes = drive.shard.take_changes()
        drive.take(1, END)
        assert changes.bars[M1]["high"].tolist() == [100.0]
        assert changes.state[M1.name]["high"].tolist() == [100.0]
        held = drive.shard.resident(M5)
        held["high"] = 0.0
        assert drive.shard.resident(M5)["high"].tolist() == [500.0]


class TestBlob:
    @given(logs(), st.integers(1, 40))
    @properties(0.5)
    def test_comes_back_byte_for_byte(self, log, count):
        drive = Drive(log)
        drive.take(count, {})
        state = drive.shard.snapshot()
        again = decode(encode(state))
        assert again.keys() == state.keys() == {"1m", "5m", "1d", "symbols"}
        for name, rows in state.items():
            assert (again[name].dtype, again[name].tobytes()) == (rows.dtype, rows.tobytes())

    def test_of_nothing(self):
        state = {"1m": np.empty(0, BAR), "symbols": np.empty(0, SYMBOL_STATE)}
        assert {name: len(rows) for name, rows in decode(encode(state)).items()} == {"1m": 0, "symbols": 0}
        assert decode(encode({})) == {}


class TestOlderCheckpoint:
    """Sums were whole units and billionths; the vwap was made of the whole volume."""

    SUMS = ("volume_units", "volume_nanos", "notional_units", "notional_nanos")

    def older(self, rows, sums):
        kept = [name for name in BAR.names if not name.startswith(("volume", "vwap", "notional", "by_minutes"))]
        old = np.zeros(len(rows), [(name, BAR[name]) for name in kept] + [(name, "i8") for name in self.SUMS])
        for name in kept:
            old[name] = rows[name]
        for name, value in zip(self.SUMS, sums, strict=True):
            old[name] = value
        return old

    def test_goes_on(self):
        drive = Drive([tick(0, T, 2.5), tick(1, T + 1, 3.5)])
        drive.take(1, {})
        state = drive.shard.snapshot()
        for interval in BASE_INTERVALS:
            state[interval.name] = self.older(state[interval.name], (1, 500_000_000, 3, 750_000_000))
        drive.engine = drive.shard = drive.new_engine()
        drive.shard.restore(1, [decode(encode(state))])
        drive.take(1, {})
        for interval in BASE_INTERVALS:
            rows = drive.shard.resident(interval)
            assert (volume(rows[0]), volume(rows[0], "vwap"), notional(rows[0])) == (2.5, 2.5, 7.25)
            assert vwap_of(rows) == [2.9]
            assert (rows["open"], rows["close"], rows["by_minutes"]) == (2.5, 3.5, False)

    def test_a_vwap_that_was_unknown_stays_unknown(self):
        drive = Drive([tick(0, T, 2.5)])
        drive.take(1, {})
        old = self.older(drive.shard.snapshot()[M1.name], (1, 0, -1, 0))
        shard = drive.new_engine()
        shard.restore(1, [{M1.name: old}])
        (row,) = shard.resident(M1)
        assert (volume(row), volume(row, "vwap"), notional(row)) == (1, None, None)

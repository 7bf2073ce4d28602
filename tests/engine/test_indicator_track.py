"""Indicators and signals of the engine equal those of one calculation over all bars, for any sequence of events."""

from unittest import mock

import numpy as np
import pytest
from engine_reference import CALENDAR, END, MINUTE, Drive, Tick, bits, follow, logs, micros, schedules
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.engine import indicator_track as track_module
from stockpulse.engine.bar_math import BAR, newest_of_each, volume_of
from stockpulse.engine.derived_rows import DerivedRows
from stockpulse.engine.engine_spec import EngineSpec
from stockpulse.engine.indicator_track import Track, TrackSpec
from stockpulse.engine.indicators import DAILY, INTRADAY, SIGNAL_TRACK
from stockpulse.engine.last_prices import POINTS, LastPrices
from stockpulse.engine.signals import Rule, Rules
from stockpulse.indicators.algebra import INPUTS
from stockpulse.indicators.calendar_inputs import calendar_inputs
from stockpulse.indicators.catalogue import CATALOGUE
from stockpulse.indicators.evaluation import Bundle, Instance
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.schemas import COUNTS_FOR_PRICE, COUNTS_FOR_VOLUME, PRIMARY
from stockpulse.rules import parse

#: Short, so that few bars fill their windows: a sum, a mean without end, one of sessions, a cumulated one, a maximum.
INSTANCES = [
    Instance(CATALOGUE["sma"], {"period": 3}),
    Instance(CATALOGUE["ema"], {"period": 2}),
    Instance(CATALOGUE["vwap"]),
    Instance(CATALOGUE["obv"]),
    Instance(CATALOGUE["donchian"], {"period": 2}),
]
RULES = Rules(
    [
        Rule("turn", parse("close > sma(2)"), parse("close < sma(2) and volume > 0")),
        Rule(
            "earlier",
            parse("crosses_above(close, ema(2)) or change_pct(2) > 1"),
            parse("close < lowest(low, 3)[1] or (close / volume)[2] > 50"),
        ),
    ]
)

_loops = {}


def plain(loop):
    """The loop as Python: nothing is compiled."""
    if loop.name not in _loops:
        world = {}
        exec(loop.text, world)
        _loops[loop.name] = world["loop"]
    return _loops[loop.name]


class TracksDrive(Drive):
    """An engine with tracks over one log, and their stored data."""

    def __init__(self, log, **options):
        self.derived, self.signals, self.anchors = {}, {}, {}
        self.functions = plain
        super().__init__(log, **options)

    def new_engine(self):
        spec = EngineSpec(self.lateness, self.extended, tuple(INSTANCES), RULES, M1)
        engine = spec.new_engine()
        for symbol, calendar in CALENDAR.items():
            engine.bars.learn(symbol, trading_calendar(calendar))
        if self.functions:
            engine.analytics.set_functions(self.functions)
        return engine

    def start(self):
        super().start()
        self.engine.analytics.schedule_history(CALENDAR)

    @property
    def tracks(self):
        return self.engine.analytics.tracks

    def _assert_only_what_changed(self, changes):
        """Said of bars in Drive."""

    def commit(self):
        changes = self.pending and self.pending[0].analytics
        super().commit()
        if not changes:
            return
        for name, changed in changes.tracks.items():
            for row, key in enumerate(
                zip(changed.derived.symbol_id.tolist(), changed.derived.ts.tolist(), strict=True)
            ):
                had = self.derived.get((name, key))
                revision = int(changed.derived.revision[row])
                assert had is None or had[0] <= revision, "the revision went down"
                self.derived[name, key] = (revision, changed.derived.values[row].tolist())
            for symbol, until in changed.outdated.items():
                for key in [key for key in self.anchors if key[:2] == (name, symbol) and key[2] > until]:
                    del self.anchors[key]
            self.anchors |= {(name, anchor.symbol_id, anchor.ts): anchor for anchor in changed.anchors}
        if changes.signals is not None:
            said = changes.signals
            keys = zip(said.symbol_id.tolist(), said.ts.tolist(), said.rule.tolist(), strict=True)
            self.signals |= dict(zip(keys, said.signal.tolist(), strict=True))

    def catch_up(self, most):
        """Calculate a part of the missing bars, as `IndicatorCatchUp` does."""
        for name, track in self.tracks.items():
            if not track.is_behind():
                continue
            symbol_id, until = track.to_rewind(2)
            if len(symbol_id):
                track.rewind(symbol_id, [one for one in map(self._anchor(name), symbol_id, until) if one])
            symbol_id, start = track.positions(3)
            if len(symbol_id):
                self._go_on(track, symbol_id, start, most)

    def _anchor(self, name):
        def find(symbol, until):
            kept = [key for key in self.anchors if key[:2] == (name, symbol) and key[2] <= until]
            return self.anchors[max(kept)] if kept else None

        return find

    def _go_on(self, track, symbol_id, start, most):
        stored = [
            row
            for (symbol, ts), row in sorted(self.store.rows[track.interval].items())
            if symbol in symbol_id and ts >= start[symbol_id.tolist().index(symbol)] and not np.isnan(row["open"])
        ]
        rows, complete = np.empty(0, BAR), []
        memory = self.shard.selected(track.interval, final=True)
        for symbol, begin in zip(symbol_id.tolist(), start.tolist(), strict=True):
            page = np.array([row for row in stored if row["symbol_id"] == symbol][:most] or [], BAR)
            complete.append(len(page) < most)
            end = np.iinfo(np.int64).max if complete[-1] else page["ts"][-1] + 1
            mine = memory[(memory["symbol_id"] == symbol) & (memory["ts"] >= begin) & (memory["ts"] < end)]
            rows = np.concatenate([rows, newest_of_each(np.concatenate([page, mine]))])
        track.catch_up(symbol_id, rows, complete=np.array(complete))

    def finish(self):
        super().finish()
        for _ in range(10_000):
            if not any(track.is_behind() for track in self.tracks.values()):
                break
            self.catch_up(4)
            self.flush()
        else:
            raise AssertionError("it never catches up")
        self.flush()

    def wanted(self, name):
        """One calculation over all final bars: {(symbol, ts): (revision, values)}."""
        track = self.tracks[name]
        rows = np.array([row for _, row in sorted(self.store.rows[track.interval].items())], BAR)
        rows = rows[~np.isnan(rows["open"])]
        found = {}
        for symbol in np.unique(rows["symbol_id"]):
            mine = rows[rows["symbol_id"] == symbol]
            columns = {one: np.ascontiguousarray(mine[one]) for one in INPUTS[:4]}
            columns["volume"] = volume_of(mine)
            columns |= calendar_inputs(trading_calendar(CALENDAR[int(symbol)]), track.interval, mine["ts"])
            zero, bundle = np.zeros(1, np.int64), track.bundle
            out = bundle.calculate(plain, bundle.fresh(1), zero, zero, zero + len(mine), columns)
            revision = np.maximum.accumulate(mine["revision"])
            derived = DerivedRows(mine["symbol_id"], mine["ts"], revision, columns, out.T)
            for row in range(len(mine)):
                found[int(symbol), int(mine["ts"][row])] = (int(revision[row]), out[:, row].tolist())
            if name == SIGNAL_TRACK:
                said = RULES.signals(derived)
                for ts, rule, signal in zip(said.ts.tolist(), said.rule.tolist(), said.signal.tolist(), strict=True):
                    assert self.signals[int(symbol), ts, rule] == signal
        return found

    def assert_right(self):
        for name in self.tracks:
            have = {key: value for (of, key), value in self.derived.items() if of == name}
            want = self.wanted(name)
            assert have.keys() == want.keys(), name
            for key, (revision, values) in want.items():
                assert have[key][0] == revision, (name, key)
                assert bits(have[key][1]) == bits(values), (name, key)
        rules = range(len(RULES.rules))
        assert self.signals.keys() == {(*key, rule) for of, key in self.derived if of == SIGNAL_TRACK for rule in rules}


@pytest.fixture(autouse=True)
def _small():
    """Anchors every few bars, and pages of a few."""
    with mock.patch.object(track_module, "ANCHOR_BARS", 4), mock.patch.object(track_module, "MAX_BARS_AT_ONCE", 3):
        yield


more = st.lists(st.tuples(st.integers(0, 30), st.integers(1, 6)), max_size=12)


@given(logs(most=60), schedules, more, st.booleans())
def test_are_those_of_one_calculation(log, schedule, parts, late):
    """Late ticks, providers' bars, flushes, crashes; parts of the catching up at any time; loops compiled later."""
    drive = TracksDrive(log)
    drive.functions = None if late else plain
    drive.start()
    at = dict(parts)
    for step, (what, how) in enumerate(schedule):
        follow(drive, what, how)
        if step in at:
            drive.functions = plain
            drive.engine.analytics.set_functions(plain)
            drive.catch_up(at[step])
    drive.functions = plain
    drive.engine.analytics.set_functions(plain)
    drive.finish()
    drive.assert_right()


@given(st.lists(st.floats(1, 100), min_size=2, max_size=30), st.data())
def test_a_look_is_what_a_close_would_be_and_leaves_no_trace(closes, data):
    spec = TrackSpec("t", M5, Bundle(INSTANCES), "any")
    looked, closed = (Track(spec, always_open) for _ in range(2))
    looked.functions = closed.functions = plain
    for at, close in enumerate(closes):
        for other in data.draw(st.lists(st.floats(1, 100), max_size=2)):
            looked.preview(ONE, _bar(at, other))
        seen = looked.preview(ONE, _bar(at, close))
        for track in (looked, closed):
            track.apply(_bar(at, close))
        values = closed._derived[-1].values
        assert bits(seen.values[0].tolist()) == bits(values[0].tolist())
        assert bits(looked._derived[-1].values[0].tolist()) == bits(values[0].tolist())
        held = looked.preview(ONE, _bar(at, close)[:0])
        assert (held.ts.tolist(), bits(held.values[0].tolist())) == (seen.ts.tolist(), bits(values[0].tolist()))


ONE = np.array([1])


def always_open(symbol_id):
    return [(trading_calendar("24/7"), np.arange(len(symbol_id)))]


def _bar(at, close):
    row = np.zeros(1, BAR)
    row["symbol_id"], row["ts"], row["revision"], row["volume_units"] = 1, (at + 1) * M5.micros, at, at % 3
    for name in ("open", "high", "low", "close"):
        row[name] = close
    return row


ticks = st.lists(
    st.tuples(
        st.integers(1, 4),
        st.floats(1, 100),
        st.sampled_from([7, 7, 7, COUNTS_FOR_VOLUME | PRIMARY, 3]),
        st.integers(-30, 3),
    ),
    max_size=40,
)


@given(st.lists(ticks, max_size=6), st.booleans())
def test_last_prices_are_the_newest_by_event_time(batches, twice):
    """Late ticks take their place by event time, equal times stand in the order of the log."""
    prices, kept, seq = LastPrices(), {}, 0
    for batch in batches:
        if not batch:
            continue
        symbol, price, flags, late = (np.array(column) for column in zip(*batch, strict=True))
        numbers = np.arange(seq, seq + len(batch))
        times = 1000 + (numbers + late) * 10
        before = {number: sorted(points)[-POINTS:] for number, points in kept.items()}
        for _ in range(1 + twice):  # after a fault a batch may be applied again
            prices.apply(symbol, times, numbers, price, flags.astype(np.uint8))
        for number, ts, offset, value, flag in zip(
            *(one.tolist() for one in (symbol, times, numbers, price, flags)), strict=True
        ):
            if flag & PRIMARY and flag & COUNTS_FOR_PRICE:
                kept.setdefault(number, []).append((ts, offset, value))
        seq += len(batch)
        newest = {number: sorted(points)[-POINTS:] for number, points in kept.items()}
        again = LastPrices()
        again.restore(prices.snapshot())
        found = prices.changed()
        assert found.symbol_id.tolist() == sorted(one for one in newest if newest[one] != before.get(one))
        for number, ts, price_, average in zip(
            found.symbol_id.tolist(), found.ts, found.price, found.average, strict=True
        ):
            last = newest[number]
            assert (ts, price_) == (last[-1][0], last[-1][2])
            mean = sum(value for *_, value in last) / POINTS
            assert average == pytest.approx(mean) if len(last) == POINTS else np.isnan(average)
        assert len(again.changed().symbol_id) == 0
        assert len(prices.changed().symbol_id) == 0


def test_a_late_tick_does_not_become_the_newest_price():
    prices = LastPrices()
    second, flags = 1_000_000, np.full(6, 7, np.uint8)
    live = np.arange(6) * second + micros("2026-11-24T15:05")
    prices.apply(np.ones(6, np.int64), live, np.arange(6), np.full(6, 10.0), flags)
    assert prices.changed().price.tolist() == [10]
    late = np.array([micros("2026-11-24T14:00")])
    prices.apply(np.ones(1, np.int64), late, np.array([6]), np.array([1.0]), flags[:1])
    assert prices.changed().price.tolist() == []
    newest = prices.changed(also=np.array([1]))
    assert (newest.ts.tolist(), newest.price.tolist(), newest.average.tolist()) == ([live[-1]], [10], [10])


def test_the_mean_of_equal_prices_is_that_price():
    for price in np.random.default_rng(1).integers(1, 10**6, 500) / 1000:
        prices = LastPrices()
        prices.apply(np.ones(5, np.int64), np.arange(5), np.arange(5), np.full(5, price), np.full(5, 7, np.uint8))
        assert prices.changed().average.tolist() == [price]


def test_the_tracks_are_of_their_intervals():
    drive = TracksDrive([])
    assert {name: track.interval for name, track in drive.tracks.items()} == {INTRADAY: M5, DAILY: D1, SIGNAL_TRACK: M1}


@pytest.mark.parametrize("flushed", [True, False])
def test_an_anchor_of_bars_that_changed_is_not_gone_back_to(flushed):
    """A tick late by many bars, then one late by fewer, which must not find a state from before the first."""
    start = micros("2024-03-05T15:00")
    minutes = [Tick(seq, 1, 1, start + seq * 5 * MINUTE, 100.0 + seq % 7, 1.0, 7) for seq in range(40)]
    late = [
        Tick(40, 1, 1, start + 25 * MINUTE + 1, 300.0, 9.0, 7),
        Tick(41, 1, 1, start + 110 * MINUTE + 1, 200.0, 5.0, 7),
    ]
    drive = TracksDrive([*minutes, *late])
    drive.catch_up(1)  # with nothing: from here on bars are calculated as they close
    for _ in minutes:
        drive.take(1, {})
        drive.close(END)
        if flushed:
            drive.flush()
    for page in (6, 7):
        drive.take(1, {})
        while any(track.is_behind() for track in drive.tracks.values()):
            drive.catch_up(page)
            drive.flush()  # a state that is outdated is not looked for before it is deleted
    assert len(drive.anchors) > 5
    drive.finish()
    drive.assert_right()

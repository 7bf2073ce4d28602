"""The expected bars, calculated record by record, and a shard driven as the pipeline drives it.

`bars_of` knows nothing of the engine but the names of a bar's fields. `Drive` runs a shard over a log with any
batches, closings, flushes and crashes, over a `MemoryStore` that stands for the database.
"""

import functools
import math
from dataclasses import dataclass
from fractions import Fraction
from itertools import groupby

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from bare_sink import run_step
from stockpulse.engine.bar_engine import END_OF_TIME, BarEngine
from stockpulse.engine.bar_math import BAR, NEVER_CLOSED, NEVER_OPENED, from_provider
from stockpulse.engine.checkpoint_state import decode, encode
from stockpulse.engine.step import ProviderBars, TickBatch
from stockpulse.market.calendar import NO_DAY
from stockpulse.market.calendars import trading_calendar
from stockpulse.market.intervals import BASE_INTERVALS, D1, M1, M5
from stockpulse.market.schemas import DAY_APART, PRIMARY


def properties(share=1.0):
    """The settings of a property that needs this share of the examples of the profile (see conftest.py)."""
    return settings(
        max_examples=max(1, int(settings().max_examples * share)),
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
PICOS = 10**12
NOTIONAL_BITS = 100
DIGIT = 2**62
LATENESS = 2 * SECOND
MADE_BY_TRADES = 0

#: Around the clock in UTC, New York by day, around the clock but from the evening before.
CALENDAR = {1: "24/7", 2: "XNYS", 3: "24/7", 6: "XNYS", 9: "CMES"}

FIELDS = tuple(name for name in BAR.names if name not in ("final", "dirty"))


# The log --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tick:
    seq: int
    symbol: int
    provider: int
    ts: int
    price: float
    size: float
    flags: int


@dataclass(frozen=True)
class Given:
    """A provider's own bar."""

    seq: int
    symbol: int
    provider: int
    interval: object
    ts: int
    prices: tuple
    volume: float
    trade_count: int = -1
    vwap: float = math.nan


def tick_batch(ticks):
    def column(name, dtype):
        return np.array([getattr(tick, name) for tick in ticks], dtype)

    return TickBatch(
        seq=column("seq", np.int64),
        symbol_id=column("symbol", np.int64),
        provider_id=column("provider", np.int64),
        ts=column("ts", np.int64),
        price=column("price", np.float64),
        size=column("size", np.float64),
        flags=column("flags", np.uint16),
    )


def provider_bars(interval, given, *, extended=False):
    columns = {
        "symbol_id": np.array([bar.symbol for bar in given]),
        "ts": np.array([bar.ts for bar in given]),
        "volume": np.array([bar.volume for bar in given]),
        "trade_count": np.array([bar.trade_count for bar in given]),
        "vwap": np.array([bar.vwap for bar in given]),
        "provider_id": np.array([bar.provider for bar in given]),
    }
    for at, name in enumerate(("open", "high", "low", "close")):
        columns[name] = np.array([bar.prices[at] for bar in given])
    seq = np.array([bar.seq for bar in given])
    end = np.array([end_of(bar.symbol, interval, bar.ts, extended) for bar in given])
    return ProviderBars(interval, from_provider(columns, seq, end))


# The reference --------------------------------------------------------------------------------------


@functools.cache
def bucket_of(symbol, interval, minute, extended):
    """The start of the bucket that a minute lies in; None outside the day's session."""
    if interval is D1:
        label = int(trading_calendar(CALENDAR[symbol]).trading_day(np.array([minute]), extended=extended)[0])
        return None if label == NO_DAY else label
    return minute // interval.micros * interval.micros


@functools.cache
def end_of(symbol, interval, ts, extended):
    if interval is D1:
        return int(trading_calendar(CALENDAR[symbol]).day_end(np.array([ts]), extended=extended)[0])
    return ts + interval.micros


def exact(value):
    """A size as an integer number of trillionths."""
    units = math.floor(value)
    return units * PICOS + round((value - units) * 1e12)


def exact_product(price, size):
    """Price x size, rounded to a float, as an integer number of the last bits of a notional."""
    return round(Fraction(price * size) * 2**NOTIONAL_BITS)


def split_exact(trillionths):
    return (-1, 0) if trillionths is None else divmod(trillionths, PICOS)


def joined_exact(units, picos):
    return None if units < 0 else units * PICOS + picos


def split_notional(number):
    return (-1, 0, 0) if number is None else (number // DIGIT**2, number // DIGIT % DIGIT, number % DIGIT)


def joined_notional(high, middle, low):
    return None if high < 0 else (high * DIGIT + middle) * DIGIT + low


def volume(bar, name="volume"):
    """The volume, or the vwap's own, of a row of the engine or of the reference; None: unknown."""
    trillionths = joined_exact(*(int(bar[f"{name}_{part}"]) for part in ("units", "picos")))
    return None if trillionths is None else Fraction(trillionths, PICOS)


def notional(bar):
    """The sum of price x size of a row of the engine or of the reference; None: unknown."""
    number = joined_notional(*(int(bar[f"notional_{part}"]) for part in ("high", "middle", "low")))
    return None if number is None else Fraction(number, 2**NOTIONAL_BITS)


@dataclass(frozen=True)
class Counted:
    """A trade, and the parts of a bar that it counts for."""

    tick: Tick
    price: bool  # open, high, low and close
    first: bool  # high and low; open and close if there is no price yet
    opening: bool  # before the other trades of its minute
    volume: bool

    @property
    def priced(self):
        return self.price or self.first or self.opening


def _for_intraday(tick):
    return Counted(tick, bool(tick.flags & 1), first=False, opening=False, volume=bool(tick.flags & 2))


def _for_day(tick):
    if not tick.flags & DAY_APART:
        return _for_intraday(tick)
    price, volume, first, opening = (bool(tick.flags & bit) for bit in (16, 32, 64, 128))
    return Counted(tick, price, first, opening, volume)


def bars_of(log, *, extended=False):
    """All bars of a log: {interval: {(symbol, ts): the values of FIELDS}}."""
    ticks = [record for record in log if isinstance(record, Tick) and record.flags & PRIMARY]
    given = {interval: {} for interval in BASE_INTERVALS}
    for record in log:
        if isinstance(record, Given):
            given[record.interval][record.symbol, record.ts] = record
    minutes = _trades_of_minutes(ticks)
    bars = {M1: {key: _bar_of_trades(key, key[1] + MINUTE, trades) for key, trades in minutes.items()}}
    bars[M1] |= {key: _given_bar(bar, extended) for key, bar in given[M1].items()}
    days = _trades_of_days(ticks, extended)
    for interval in (M5, D1):
        parts = _parts_of(interval, bars[M1], extended)
        built = {key: _bar_of_bars(key, interval, of_key, extended) for key, of_key in parts.items()}
        if interval is D1:
            by_minutes = {key for key, of_key in parts.items() if any(part["provider_id"] for part in of_key)}
            for key in by_minutes:
                built[key]["by_minutes"] = True
            built |= {key: _day_of_trades(key, days[key], extended) for key in days.keys() - by_minutes}
        bars[interval] = built | {key: _given_bar(bar, extended) for key, bar in given[interval].items()}
    return {
        interval: {key: tuple(bar[name] for name in FIELDS) for key, bar in sorted(of_one.items())}
        for interval, of_one in bars.items()
    }


def _trades_of_minutes(ticks):
    minutes = {}
    for tick in ticks:
        if tick.flags & 3:
            minutes.setdefault((tick.symbol, tick.ts // MINUTE * MINUTE), []).append(_for_intraday(tick))
    return minutes


def _trades_of_days(ticks, extended):
    """The trades of each day: by the session's hours, but by the date of those that count apart."""
    days = {}
    for tick in ticks:
        apart = bool(tick.flags & DAY_APART)
        if tick.flags & 3 or (apart and tick.flags & 240):
            day = bucket_of(tick.symbol, D1, tick.ts // MINUTE * MINUTE, extended or apart)
            if day is not None:
                days.setdefault((tick.symbol, day), []).append(_for_day(tick))
    return days


def _parts_of(interval, minutes, extended):
    parts = {}
    for symbol, minute in sorted(minutes):
        start = bucket_of(symbol, interval, minute, extended)
        if start is not None:
            parts.setdefault((symbol, start), []).append(minutes[symbol, minute])
    return parts


def _day_of_trades(key, trades, extended):
    apart = any(one.tick.flags & DAY_APART for one in trades)
    return _bar_of_trades(key, end_of(key[0], D1, key[1], extended or apart), trades)


def _bar(key, end, **values):
    bar = {"symbol_id": key[0], "ts": key[1], "end": end, "provider_id": MADE_BY_TRADES, "by_minutes": False}
    for name in ("volume", "vwap"):
        bar[f"{name}_units"], bar[f"{name}_picos"] = split_exact(values.pop(name))
    for name, digit in zip(("high", "middle", "low"), split_notional(values.pop("notional")), strict=True):
        bar[f"notional_{name}"] = digit
    return bar | values


def _given_bar(given, extended):
    end = end_of(given.symbol, given.interval, given.ts, extended)
    prices = dict(zip(("open", "high", "low", "close"), given.prices, strict=True))
    return _bar(
        (given.symbol, given.ts),
        end,
        **prices,
        open_ts=given.ts,
        open_seq=given.seq,
        close_ts=end - 1,
        close_seq=given.seq,
        volume=exact(given.volume),
        vwap=None if math.isnan(given.vwap) else exact(given.volume),
        notional=None if math.isnan(given.vwap) else exact_product(given.vwap, given.volume),
        trade_count=given.trade_count,
        revision=given.seq,
    ) | {"provider_id": given.provider}


_NO_PRICE = {
    "open": math.nan,
    "high": math.nan,
    "low": math.nan,
    "close": math.nan,
    "open_ts": NEVER_OPENED,
    "open_seq": NEVER_OPENED,
    "close_ts": NEVER_CLOSED,
    "close_seq": NEVER_CLOSED,
}


def _bar_of_trades(key, end, trades):
    prices = _NO_PRICE
    values = [one.tick.price for one in trades if one.priced]
    if values:
        opens = [(one.tick.ts, one.tick.seq, one.tick.price) for one in trades if one.priced]
        opens += [(t.ts // MINUTE * MINUTE - 1, -t.seq, t.price) for t in (one.tick for one in trades if one.opening)]
        open_ts, open_seq, opened = min(opens)
        closes = [(one.tick.ts, one.tick.seq, one.tick.price) for one in trades if one.price]
        close_ts, close_seq, closed = max(closes, default=(NEVER_CLOSED, NEVER_CLOSED, opened))
        prices = {"open": opened, "high": max(values), "low": min(values), "close": closed}
        prices |= {"open_ts": open_ts, "open_seq": open_seq, "close_ts": close_ts, "close_seq": close_seq}
    counted = [one.tick for one in trades if one.volume]
    averaged = [one.tick for one in trades if one.volume and one.priced]
    return _bar(
        key,
        end,
        **prices,
        volume=sum(exact(t.size) for t in counted),
        vwap=sum(exact(t.size) for t in averaged),
        notional=sum(exact_product(t.price, t.size) for t in averaged),
        trade_count=len(counted),
        revision=max(one.tick.seq for one in trades),
    )


def _bar_of_bars(key, interval, parts, extended):
    """`parts` are ordered by time."""
    prices = _NO_PRICE
    priced = [part for part in parts if not math.isnan(part["open"])]
    if priced:
        first, last = priced[0], priced[-1]
        prices = {name: first[name] for name in ("open", "open_ts", "open_seq")}
        prices |= {name: last[name] for name in ("close", "close_ts", "close_seq")}
        prices |= {"high": max(p["high"] for p in priced), "low": min(p["low"] for p in priced)}
    sums = {
        name: _sum(joined_exact(part[f"{name}_units"], part[f"{name}_picos"]) for part in parts)
        for name in ("volume", "vwap")
    }
    sums["notional"] = _sum(
        joined_notional(*(part[f"notional_{digit}"] for digit in ("high", "middle", "low"))) for part in parts
    )
    counts = [part["trade_count"] for part in parts]
    return _bar(
        key,
        end_of(key[0], interval, key[1], extended),
        **prices,
        **sums,
        trade_count=-1 if min(counts) < 0 else sum(counts),
        revision=max(part["revision"] for part in parts),
    )


def _sum(numbers):
    """None if one of them is unknown."""
    numbers = list(numbers)
    return None if None in numbers else sum(numbers)


# Comparing, byte for byte ---------------------------------------------------------------------------


def by_key(rows):
    """Rows of the engine in the shape of the reference."""
    table = {(int(row["symbol_id"]), int(row["ts"])): tuple(row[name].item() for name in FIELDS) for row in rows}
    assert len(table) == len(rows), "a bucket stands twice"
    return table


def bits(values):
    """With floats as their bits, and any NaN as one."""
    return tuple(value if isinstance(value, int) else "NaN" if math.isnan(value) else value.hex() for value in values)


def assert_same(got, wanted, where=""):
    """Two {(symbol, ts): values of FIELDS}."""
    assert sorted(got) == sorted(wanted), where
    for key, values in wanted.items():
        differ = [
            f"{name}: {have!r}, not {want!r}"
            for name, have, want in zip(FIELDS, got[key], values, strict=True)
            if bits([have]) != bits([want])
        ]
        assert not differ, f"{where} {key}: {differ}"


def row_bits(rows):
    """Rows as a set of bytes, without their order and without `dirty`."""
    rows = rows.copy()
    rows["dirty"] = False
    return sorted(row.tobytes() for row in rows)


# A shard at work ------------------------------------------------------------------------------------


class MemoryStore:
    """The tables of bars: a lower or an equal revision never takes the place of a higher one."""

    def __init__(self):
        self.rows = {interval: {} for interval in BASE_INTERVALS}

    def upsert(self, interval, rows):
        for row in rows:
            key = (int(row["symbol_id"]), int(row["ts"]))
            had = self.rows[interval].get(key)
            assert row["final"], "only final bars are stored"
            if had is not None:
                assert had["revision"] <= row["revision"], f"{interval} {key}: the revision went down"
            if had is None or had["revision"] < row["revision"]:
                stored = row.copy()
                stored["dirty"] = False
                self.rows[interval][key] = stored
            else:
                same = bits(had[name].item() for name in FIELDS) == bits(row[name].item() for name in FIELDS)
                assert same, f"{interval} {key}: changed under the same revision, which is not stored"

    def load(self, wanted):
        ranges = list(zip(wanted.symbol_id.tolist(), wanted.start.tolist(), wanted.end.tolist(), strict=True))
        found = [
            row
            for (symbol, ts), row in self.rows[wanted.interval].items()
            if any(symbol == of and start <= ts < end for of, start, end in ranges)
        ]
        return np.array(found, BAR) if found else np.empty(0, BAR)

    def bars(self, interval):
        return by_key(self.rows[interval].values())


class Drive:
    """One shard over one log, with crashes and restarts, and the events on the way."""

    def __init__(self, log, *, extended=False, lateness=LATENESS):
        self.log = log
        self.extended = extended
        self.lateness = lateness
        self.store = MemoryStore()
        self.offset, self.parts = 0, []  # the checkpoint
        self.events = []  # of the whole life
        self.head = 0  # the number of processed records at the last crash
        self.start()

    def new_engine(self):
        """Return the engine to drive: bars only."""
        shard = BarEngine(lateness_micros=self.lateness, extended_day=self.extended)
        for symbol, calendar in CALENDAR.items():
            shard.learn(symbol, trading_calendar(calendar))
        return shard

    def start(self):
        """Begin from the checkpoint."""
        self.engine = self.new_engine()
        self.shard = getattr(self.engine, "bars", self.engine)
        self.engine.restore(self.offset, [decode(part) for part in self.parts])
        self.at = sum(record.seq < self.offset for record in self.log)
        self.pending = None
        self.checked_out = {}  # what this run has announced, and its newest revision
        for interval in BASE_INTERVALS:
            for key, row in self.store.rows[interval].items():
                self.checked_out[interval, key] = int(row["revision"])

    def crash(self):
        self.head = max(self.head, self.at)
        self.start()

    @property
    def done(self):
        return self.log[: self.at]

    def take(self, count, clocks):
        """Work in the next records; a log that is read again closes nothing by the clock."""
        if self.at < self.head:
            count, clocks = min(count, self.head - self.at), {}
        records = self.log[self.at : self.at + count]
        for kind, group in groupby(records, type):
            self._process(kind, list(group), clocks)
        self.at += len(records)

    def _process(self, kind, records, clocks):
        batch = tick_batch(records) if kind is Tick else list(self._frame(records))
        self._announce(run_step(self.engine.step(batch, clocks), self.store.load))
        self.shard.offset = max(self.shard.offset, records[-1].seq + 1)

    def _frame(self, records):
        """The order of `batches.bar_batches`: the longest interval first."""
        for interval in reversed(BASE_INTERVALS):
            given = [record for record in records if record.interval is interval]
            if given:
                yield provider_bars(interval, given, extended=self.extended)

    def close(self, clocks):
        self._announce(self.engine.close(clocks))

    def _announce(self, events):
        for event in events:
            assert len(event.rows)
            here = by_key(self.shard.resident(event.interval))
            for key, values in by_key(event.rows).items():
                revision = values[FIELDS.index("revision")]
                before = self.checked_out.get((event.interval, key))
                assert event.revised == (before is not None), f"{event.interval} {key}: announced as the other kind"
                if before is not None:
                    assert revision > before, f"{event.interval} {key}: revised from {before} to {revision}"
                assert bits(values) == bits(here[key]), "announced what is not there"
                self.checked_out[event.interval, key] = revision
                self.events.append((event.interval, key, values, event.revised))

    # Batches continue during a flush; bars may leave the memory only after its commit.

    def begin_flush(self, *, whole=False):
        if self.pending is not None:
            return
        changes = self.engine.take_changes()
        if not changes:
            return
        self._assert_only_what_changed(changes)
        state = self.engine.snapshot() if whole or not self.parts else None
        self.pending = (changes, state is not None, encode(changes.state if state is None else state))

    def commit(self):
        if not self.pending:
            return
        (changes, whole, blob), self.pending = self.pending, ()
        for interval, rows in changes.bars.items():
            self.store.upsert(interval, rows)
        self.offset, self.parts = changes.offset, [blob] if whole else [*self.parts, blob]

    def end_flush(self):
        self.commit()
        if self.pending is not None:
            self.engine.flushed()
            self.pending = None

    def flush(self, *, whole=False):
        self.end_flush()
        self.begin_flush(whole=whole)
        self.end_flush()

    def _assert_only_what_changed(self, changes):
        saved = {}
        for part in self.parts:
            for name, rows in decode(part).items():
                if name != "symbols":
                    saved |= {(name, int(row["symbol_id"]), int(row["ts"])): row_bits(np.array([row])) for row in rows}
        for name, rows in changes.state.items():
            if name != "symbols":
                for row in rows:
                    key = (name, int(row["symbol_id"]), int(row["ts"]))
                    assert saved.get(key) != row_bits(np.array([row])), f"{key} has not changed"

    # Reading ------------------------------------------------------------------------------------

    def bars(self, interval):
        """The bars of a reader: stored bars, replaced by bars in memory."""
        return self.store.bars(interval) | by_key(self.shard.resident(interval))

    def assert_right_so_far(self):
        wanted = bars_of(self.done, extended=self.extended)
        for interval in BASE_INTERVALS:
            assert_same(self.bars(interval), wanted[interval], f"{interval} after {self.at} records")

    def assert_holds_little(self):
        """After a flush: bars that are not final, the newest final bar of each symbol, and bars that changed since."""
        for interval in BASE_INTERVALS:
            rows = self.shard.resident(interval)
            spare = rows[rows["final"] & ~rows["dirty"]]
            symbols = spare["symbol_id"].tolist()
            assert len(symbols) == len(set(symbols)), f"{interval}: more than one stored bar of a symbol is kept"

    def finish(self):
        """All that is left of the log, the end of time, and a last flush."""
        while self.at < len(self.log):
            self.take(len(self.log), {})
        self.close(END)
        self.flush()


END = dict.fromkeys(range(1, 6), END_OF_TIME)


def follow(drive, what, how):
    """One step of a schedule."""
    if what == "take":
        drive.take(*how)
    elif what == "close":
        drive.close(how)
    elif what == "flush":
        drive.flush(whole=how)
    elif what == "begin":
        drive.begin_flush(whole=how)
    elif what == "commit":
        drive.commit()
    elif what == "end":
        drive.end_flush()
    elif what == "crash":
        drive.crash()
    elif what == "look":
        drive.assert_right_so_far()


def run(log, schedule, *, extended=False):
    """Drive a shard over the log by a schedule of (what, how)."""
    drive = Drive(log, extended=extended)
    for what, how in schedule:
        follow(drive, what, how)
    drive.finish()
    return drive


# Strategies -----------------------------------------------------------------------------------------


def micros(text):
    return int(np.datetime64(text, "us").astype(np.int64))


#: Whole minutes around which trades lie, in UTC.
MOMENTS = [
    micros(text)
    for text in (
        "2024-11-29T14:30",  # XNYS opens, on a half day
        "2024-11-29T18:00",  # and closes at 13:00 in New York
        "2024-11-29T21:00",  # when it would close on another day
        "2024-03-08T14:30",  # the last open before the clocks go forward
        "2024-03-11T13:30",  # and the first one after it
        "2024-03-10T07:00",  # the clocks go forward
        "2024-11-03T06:00",  # the clocks go back
        "2024-11-04T14:30",
        "2024-11-04T21:00",
        "2024-02-29T20:58",  # leap day
        "2024-03-01T00:00",  # midnight in UTC, an evening in New York and in Chicago
        "2024-03-01T05:00",  # midnight in New York
        "2024-03-02T15:00",  # a Saturday
        "2024-07-04T15:00",  # a holiday
        "2024-12-02T00:00",  # a Sunday evening: CMES is open, for Monday
        "2024-12-02T06:00",  # midnight in Chicago
        "2024-12-02T16:00",
    )
]

offsets = st.one_of(
    st.integers(-2, 5).map(lambda minutes: minutes * MINUTE),
    st.sampled_from([0, 0, 1, -1, 30 * SECOND, MINUTE - 1, 5 * MINUTE - 1, 90 * SECOND, DAY, -DAY]),
    st.integers(-3 * MINUTE, 8 * MINUTE),
)
prices = st.one_of(
    st.sampled_from([1.0, 100.25, 99.99, 100.1, 1e-6, 123456.789012345, 1 / 3]),
    st.floats(1e-4, 1e6),
)
sizes = st.one_of(
    st.sampled_from([0.0, 1.0, 100.0, 0.1, 0.3, 1e-9, 4e-10, 1e-10, 3e-13, 6e-13, 1 / 3, 0.9999999999, 1e12]),
    st.floats(0.0, 1e6),
)
FLAGS = [7, 7, 7, 7, 7, 5, 6, 5, 6, 4, 3, 0]
#: For the day by the date: as in the minutes, volume alone, nothing, first price, price without volume, everything of a
#: trade that counts for no minute, and what no rule would say.
DAY_FLAGS = [15 | 48, 15 | 32, 15, 15 | 96, 12 | 16, 12 | 48, 14 | 96, 11 | 48, 13 | 64]
OPENING_FLAGS = [12 | 48 | 128, 12 | 128, 15 | 32 | 128]
counts_or_unknown = st.sampled_from([-1, 0, 3, 17])
vwaps = st.sampled_from([math.nan, 100.1, 1 / 3, 99.9999999999])


def _ticks(flags):
    return st.tuples(
        st.sampled_from([*CALENDAR]), offsets, prices, sizes, st.sampled_from(flags), st.sampled_from([1, 1, 1, 2])
    )


_bars = st.tuples(
    st.sampled_from([*CALENDAR]),
    offsets,
    prices,
    sizes,
    st.sampled_from([M1, M1, M1, M5, D1]),
    st.sampled_from([2, 3]),
    counts_or_unknown,
    vwaps,
)


def _label(symbol, interval, ts):
    if interval is D1:
        return int(trading_calendar(CALENDAR[symbol]).floor_date(np.array([ts]))[0])
    return ts // interval.micros * interval.micros


def _record(seq, moment, drawn):
    symbol, offset, price, size, *rest = drawn
    if len(rest) == 2:
        flags, provider = rest
        return Tick(seq, symbol, provider, moment + offset, price, size, flags)
    interval, provider, count, vwap = rest
    ts = _label(symbol, interval, moment + offset)
    return Given(seq, symbol, provider, interval, ts, (price, price * 2, price / 2, price), size, count, vwap)


@st.composite
def logs(draw, *, bars=True, most=40, opening=True):
    """Records that often meet in a bucket, at few moments, out of order, some of them days apart."""
    moments = draw(st.lists(st.sampled_from(MOMENTS), min_size=1, max_size=3))
    symbols = draw(st.sampled_from([[*CALENDAR], [1], [2], [9], [1, 2], [2, 6]]))
    flags = FLAGS + draw(st.sampled_from([[], DAY_FLAGS, DAY_FLAGS + OPENING_FLAGS * opening]))
    ticks = _ticks(flags)
    kinds = st.one_of(ticks, ticks, _bars) if bars else ticks
    drawn = draw(
        st.lists(st.tuples(kinds, st.sampled_from(moments), st.sampled_from([1, 1, 1, 4])), max_size=most, min_size=1)
    )
    log, seq = [], draw(st.sampled_from([0, 1, 1000]))
    for (symbol, *rest), moment, step in drawn:
        log.append(_record(seq, moment, (symbols[symbol % len(symbols)], *rest)))
        seq += step
    return log


clocks = st.dictionaries(
    st.sampled_from([1, 2, 3]),
    st.one_of(
        st.just(END_OF_TIME),
        st.just(0),
        st.tuples(st.sampled_from(MOMENTS), st.integers(-2, 7)).map(lambda t: t[0] + t[1] * MINUTE + LATENESS),
    ),
    max_size=3,
)

_steps = st.one_of(
    st.tuples(st.just("take"), st.tuples(st.integers(1, 9), clocks)),
    st.tuples(st.just("take"), st.tuples(st.integers(1, 3), st.just({}))),
    st.tuples(st.sampled_from(["flush", "begin"]), st.booleans()),
    st.tuples(st.just("flush"), st.just(value=False)),
    st.tuples(st.sampled_from(["commit", "end", "crash", "look"]), st.none()),
    st.tuples(st.just("close"), clocks),
)
schedules = st.lists(_steps, max_size=25)

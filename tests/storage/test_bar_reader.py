"""Reading bars, against an aggregation of the trades one by one, by calendars worked out by hand."""

import itertools
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from stockpulse.ingest.feed import Feed
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import D1, M1, M5, MO1, W1, parse_interval
from stockpulse.market.times import from_micros, micros
from stockpulse.providers.trade_conditions import alpaca
from stockpulse.storage import bar_reader as bars_module
from stockpulse.storage.bar_reader import BarReader
from stockpulse.storage.bar_rows import columns_of
from stockpulse.storage.movers import Move, moves_of
from stockpulse.storage.partitions import BARS_1M
from stockpulse.storage.served_bars import SERVED_BARS
from stockpulse.testing import SetClock
from store_stack import DAY, HOUR, MINUTE, NOW, SECOND, bar, engine_rows, frame_of_ticks, stack, tick

NEW_YORK = ZoneInfo("America/New_York")
ALL = [parse_interval(name) for name in ("1m", "2m", "5m", "7m", "15m", "1h", "4h", "12h", "1d", "1w", "1mo")]
HOLIDAYS = {date(2025, 11, 27), date(2025, 12, 25), date(2026, 1, 1)}
HALF_DAYS = {date(2025, 11, 28), date(2025, 12, 24)}

STOCKS = Feed("tape", "XNYS", Clock.EVENT)
COINS = Feed("coins", "24/7", Clock.EVENT)


class AroundTheClock:
    """Days of UTC."""

    zone = UTC

    def opens(self, day):
        return datetime.combine(day, time(0), UTC)

    def closes(self, day):
        return self.opens(day) + DAY

    def trades_on(self, day):
        return True


class NewYork:
    zone = NEW_YORK

    def opens(self, day):
        return datetime.combine(day, time(9, 30), NEW_YORK).astimezone(UTC)

    def closes(self, day):
        hour = 13 if day in HALF_DAYS else 16
        return datetime.combine(day, time(hour), NEW_YORK).astimezone(UTC)

    def trades_on(self, day):
        return day.weekday() < 5 and day not in HOLIDAYS


def bucket(calendar, interval, ts):
    """The start of a trade's bucket; None where it belongs to none."""
    day = ts.astimezone(calendar.zone).date()
    midnight = datetime.combine(day, time(0), calendar.zone).astimezone(UTC)
    if interval.micros is not None:
        length = timedelta(microseconds=interval.micros)
        opens = calendar.opens(day)
        start = opens + (ts - opens) // length * length
        if start < midnight:  # still on the grid of the day before
            opens = calendar.opens(day - DAY)
            start = opens + (ts - opens) // length * length
        return start
    if not (calendar.trades_on(day) and calendar.opens(day) <= ts < calendar.closes(day)):
        return None
    if interval == W1:
        day -= timedelta(days=day.weekday())
    elif interval == MO1:
        day = day.replace(day=1)
    return datetime.combine(day, time(0), calendar.zone).astimezone(UTC)


def aggregated(calendar, interval, trades):
    """{start: (open, high, low, close, volume, count, vwap)} of (ts, price, size) in the order of the log."""
    groups = {}
    for ts, price, size in trades:
        start = bucket(calendar, interval, ts)
        if start is not None:
            groups.setdefault(start, []).append((ts, price, size))
    return {start: summed(sorted(groups[start], key=lambda trade: trade[0])) for start in sorted(groups)}


def summed(group):
    prices = [price for _, price, _ in group]
    volume = sum(size for _, _, size in group)
    vwap = sum(price * size for _, price, size in group) / volume if volume else None
    return prices[0], max(prices), min(prices), prices[-1], volume, len(group), rounded(vwap)


def rounded(vwap):
    return None if vwap is None else round(vwap, 9)


def assert_same(found, wanted, what):
    """The first difference; pytest's own account of two long lists takes minutes."""
    differing = [pair for pair in itertools.zip_longest(found, wanted) if pair[0] != pair[1]]
    assert not differing, f"{what}: {differing[0]}"


def values(row):
    fields = ("open", "high", "low", "close", "volume", "trade_count")
    return (*(row[field] for field in fields), rounded(row["vwap"]))


def trades_of(random, start, days, count):
    """In no order; prices and sizes are sums of powers of two, so that sums come out the same in any order."""
    minutes = random.integers(0, days * 1440, count)
    times = [
        start + timedelta(minutes=int(m), seconds=int(s))
        for m, s in zip(minutes, random.integers(0, 60, count), strict=True)
    ]
    return [
        (ts, float(price), float(size))
        for ts, price, size in zip(
            times, random.integers(400, 800, count) / 4, random.integers(0, 50, count), strict=True
        )
    ]


def frame_of(symbol, trades):
    ts, price, size = zip(*trades, strict=True)
    return frame_of_ticks([symbol] * len(ts), [micros(at) for at in ts], price, size)


WEEKS = {
    "spring forward": datetime(2026, 3, 4, tzinfo=UTC),
    "fall back": datetime(2025, 10, 29, tzinfo=UTC),
    "thanksgiving": datetime(2025, 11, 24, tzinfo=UTC),
    "end of the year": datetime(2025, 12, 22, tzinfo=UTC),
}


@pytest.mark.parametrize("paging", [17, pytest.param(20_000, marks=pytest.mark.thorough)])
@pytest.mark.parametrize("week", WEEKS)
@pytest.mark.parametrize(("feed", "calendar"), [(STOCKS, NewYork()), (COINS, AroundTheClock())], ids=["xnys", "24/7"])
async def test_bars_are_those_of_the_trades(postgres_dsn, monkeypatch, week, feed, calendar, paging):
    monkeypatch.setattr(bars_module, "_PAGE_ROWS", paging)
    random = np.random.default_rng(sorted(WEEKS).index(week) + paging)
    trades = trades_of(random, WEEKS[week], 8, 900 if paging > 100 else 250)
    async with stack(postgres_dsn, clock=SetClock(NOW + 30 * DAY)) as parts:
        # Some of it stored, some of it in memory, some of it both.
        half = len(trades) // 2
        await parts.ingestor.submit(frame_of("OTHER", trades[:50]), feed)
        await parts.ingestor.submit(frame_of("A", trades[:half]), feed)
        await parts.settled()
        await parts.ingestor.submit(frame_of("A", trades[half:]), feed)
        await parts.ingestor.end(feed)
        far = NOW + 900 * DAY
        for interval in ALL:
            wanted = aggregated(calendar, interval, trades)
            rows = await parts.between("A", interval, as_of=far)
            assert_same([(row["ts"], values(row)) for row in rows], [*wanted.items()], interval)
            assert all(row["final"] and row["source"] == "trades" and row["interval"] == interval.name for row in rows)
            for limit in (1, 3, 40):
                newest = await parts.latest("A", interval, limit, as_of=far)
                assert_same(newest, rows[-limit:], (interval, limit))
            for _ in range(4):
                start, end = sorted(WEEKS[week] + int(n) * SECOND for n in random.integers(-DAY.days, 9 * 86_400, 2))
                inside = [row for row in rows if start <= row["ts"] < end]
                assert_same(await parts.between("A", interval, start, end, as_of=far), inside, (interval, start, end))


async def moves(parts, symbols, start, end):
    return moves_of(await parts.bars.ends_within(M1, [one.id for one in symbols], start, end), parts.names)


class TestEdges:
    @pytest.fixture
    async def parts(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            yield parts

    async def test_of_a_range(self, parts):
        start = NOW.replace(hour=12, minute=0)
        await parts.submit(COINS, *(tick("A", start + n * 5 * MINUTE, n + 1) for n in range(12)))
        await parts.settled()
        quarter = parse_interval("15m")
        whole = await parts.between("A", quarter)
        assert [row["close"] for row in whole] == [3.0, 6.0, 9.0, 12.0]
        # A bucket is in the range if its start is, and then it is whole.
        assert await parts.between("A", quarter, start, start + MINUTE) == whole[:1]
        assert await parts.between("A", quarter, start + SECOND, start + 15 * MINUTE) == []
        assert await parts.between("A", quarter, start + SECOND, start + 15 * MINUTE + SECOND) == whole[1:2]
        assert await parts.between("A", quarter, start + 45 * MINUTE, None) == whole[3:]
        assert await parts.between("A", quarter, start, start) == []
        assert await parts.between("A", quarter, start + HOUR, start) == []

    async def test_of_time(self, parts):
        await parts.submit(COINS, tick("A", NOW))
        await parts.settled()
        first, last = datetime(1, 1, 1, tzinfo=UTC), datetime(2201, 1, 1, tzinfo=UTC)
        for interval in ALL:
            assert len(await parts.between("A", interval, first, last)) == 1
            assert await parts.between("A", interval, first, datetime(1, 1, 2, tzinfo=UTC)) == []
            assert await parts.between("A", interval, last - DAY, last) == []

    async def test_of_a_symbol_without_bars(self, parts):
        await parts.submit(Feed("sender", "24/7", rule=alpaca), tick("A", NOW, conditions="M"))
        await parts.settled()
        for interval in ALL:
            assert await parts.between("A", interval) == []
            assert await parts.latest("A", interval, 5) == []
            assert (await parts.bars.latest(parts.symbol("A"), interval, 5, NOW)).schema == SERVED_BARS
        assert await moves(parts, [parts.symbol("A")], NOW - DAY, NOW + DAY) == []
        assert await moves(parts, [], NOW - DAY, NOW + DAY) == []


class TestForming:
    async def test_bars_say_so(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            start = NOW.replace(minute=0)
            await parts.submit(COINS, *(tick("A", start + n * MINUTE + 10 * SECOND) for n in range(23)))
            await parts.settled()
            as_of = start + 22 * MINUTE
            for name, finals in (("1m", 22), ("5m", 4), ("2m", 11), ("15m", 1), ("1h", 0), ("1d", 0), ("1w", 0)):
                rows = await parts.between("A", parse_interval(name), as_of=as_of)
                assert [row["final"] for row in rows] == [True] * finals + [False], name
                assert await parts.latest("A", parse_interval(name), 99, as_of=as_of) == rows

    async def test_longer_bar_is_not_final_before_its_end(self, postgres_dsn):
        """All its five-minute bars are final, but more may come."""
        async with stack(postgres_dsn) as parts:
            start = NOW.replace(minute=0)
            await parts.submit(COINS, tick("A", start), tick("B", start))
            await parts.ingestor.end(COINS)
            quarter = parse_interval("15m")
            assert [row["final"] for row in await parts.between("A", M5)] == [True]
            assert [row["final"] for row in await parts.between("A", quarter, as_of=start + 10 * MINUTE)] == [False]
            assert [row["final"] for row in await parts.between("A", quarter, as_of=start + 15 * MINUTE)] == [True]


async def test_vwap_of_one_price_is_that_price(postgres_dsn):
    prices = {"A": 1.2345678e-8, "B": 0.1, "C": 189.72, "D": 123_456.789, "E": 1e9}
    async with stack(postgres_dsn) as parts:
        for name, price in prices.items():
            await parts.submit(COINS, tick(name, NOW, price, 1e11 if price < 0.01 else 3.0))
        await parts.settled()
        for name, price in prices.items():
            for interval in (M1, parse_interval("2m"), W1):
                (row,) = await parts.between(name, interval)
                assert row["vwap"] == pytest.approx(price, rel=1e-12)


class TestWithoutPrice:
    async def test_bars_are_hidden_and_their_volume_counts_in_longer_ones(self, postgres_dsn):
        feed = Feed("sender", "24/7", Clock.EVENT, rule=alpaca)
        async with stack(postgres_dsn) as parts:
            start = NOW.replace(minute=0)
            await parts.submit(
                feed,
                tick("A", start, 10, 1),
                tick("A", start + MINUTE, 99, 5, conditions="I"),
                tick("A", start + 2 * MINUTE, 11, 2),
                tick("A", start + 30 * MINUTE, 98, 7, conditions="I"),
            )
            for finish in (parts.settled(), parts.ingestor.end(feed)):
                await finish
                minutes = await parts.between("A", M1)
                assert [(row["ts"], row["close"]) for row in minutes] == [(start, 10.0), (start + 2 * MINUTE, 11.0)]
                (five,) = await parts.between("A", M5)
                assert (five["high"], five["volume"], five["trade_count"]) == (11.0, 8.0, 3)
                assert [row["close"] for row in await parts.latest("A", M1, 2)] == [10.0, 11.0]
            (move,) = await moves(parts, [parts.symbol("A")], start, start + HOUR)
            assert move == Move("A", 10.0, 11.0)
            assert move.change_pct == pytest.approx(10.0)


class TestSource:
    async def test_is_who_gave_the_bar(self, postgres_dsn):
        vendor = Feed("vendor", "24/7")
        async with stack(postgres_dsn) as parts:
            start = NOW.replace(hour=10, minute=0)
            await parts.submit(
                vendor, *(bar("A", "5m", start + n * 5 * MINUTE, n + 1, vwap=2.0) for n in range(6)), of_bars=True
            )
            await parts.submit(vendor, tick("A", start + 31 * MINUTE, 50))
            await parts.submit(vendor, bar("A", "5m", start + 35 * MINUTE, trade_count=3), of_bars=True)
            await parts.settled()
            fives = await parts.between("A", M5)
            assert [row["source"] for row in fives] == ["vendor"] * 6 + ["trades", "vendor"]
            assert [row["trade_count"] for row in fives] == [None] * 6 + [1, 3]
            assert [row["vwap"] for row in fives] == [2.0] * 6 + [50.0, None]
            quarters = await parts.between("A", parse_interval("15m"))
            assert [row["source"] for row in quarters] == ["vendor", "vendor", "trades"]
            assert [row["trade_count"] for row in quarters] == [None, None, 4]
            assert [row["vwap"] for row in quarters] == [2.0, 2.0, None]
            assert [row["volume"] for row in quarters] == [3000.0, 3000.0, 1001.0]


class TestManyRows:
    """Pages of the size that they have."""

    @pytest.mark.thorough
    @pytest.mark.parametrize("count", [20_000, 20_001, 40_000])
    async def test_no_bar_is_lost_or_double_at_the_edge_of_a_page(self, postgres_dsn, count):
        async with stack(postgres_dsn) as parts:
            await parts.submit(COINS, tick("A", NOW))
            of = parts.symbol("A").id
            ts = micros(NOW) // 60_000_000 * 60_000_000 - 60_000_000 * np.arange(count, 0, -1)
            rows = engine_rows(count, symbol_id=of, ts=ts, end=ts + 60_000_000, open=1.0, high=1.0, low=1.0, close=1.0)
            rows["volume_units"], rows["trade_count"], rows["revision"] = 1, 1, 1
            await self.store(parts, rows)
            # The newest 30 are in memory as well, newer than they are stored; one more is there alone.
            memory = np.concatenate([rows[-30:], engine_rows(1, symbol_id=of, ts=micros(NOW), close=7.0)])
            memory["revision"] = 2

            async def in_memory(_interval, _symbol):
                return memory.copy()

            reader = BarReader(parts.pool, parts.names, in_memory)
            pages = [page async for page in reader.between(parts.symbol("A"), M1, None, None, NOW)]
            served = [row for page in pages for row in page.iter_rows(named=True)]
            assert [row["ts"] for row in served] == [from_micros(int(at)) for at in (*ts, micros(NOW))]
            assert [row["revision"] for row in served[-32:]] == [1] + [2] * 31
            assert max(map(len, pages)) <= 20_031
            sevens = [
                row
                async for page in reader.between(parts.symbol("A"), parse_interval("7m"), None, None, NOW)
                for row in page.iter_rows(named=True)
            ]
            assert len({row["ts"] for row in sevens}) == len(sevens)
            assert sum(row["trade_count"] for row in sevens) == count
            assert max(row["trade_count"] for row in sevens) == 7

    async def store(self, parts, rows):
        async with parts.pool.acquire() as connection:
            days = np.unique(rows["ts"] // 86_400_000_000)
            times = [datetime(1970, 1, 1, tzinfo=UTC) + int(day) * DAY for day in days]
            await parts.partitions.ensure(BARS_1M, times, NOW)
            columns = columns_of(rows) | {
                name: [from_micros(int(ts)) for ts in rows[field]] for name, field in (("ts", "ts"), ("ends_at", "end"))
            }
            values = [column if isinstance(column, list) else column.tolist() for column in columns.values()]
            records = zip(*values, strict=True)
            await connection.copy_records_to_table("bars_1m", records=records, columns=list(columns))


async def test_moves_are_those_of_the_minutes(postgres_dsn):
    random = np.random.default_rng(5)
    start = NOW - 3 * HOUR
    trades = {name: [t for t in trades_of(random, start, 1, 300) if t[0] < NOW] for name in ("A", "B", "C")}
    async with stack(postgres_dsn) as parts:
        for name, mine in trades.items():
            await parts.ingestor.submit(frame_of(name, mine), COINS)
        await parts.submit(COINS, tick("QUIET", NOW - 2 * DAY))
        await parts.settled()
        for minutes in (1, 5, 60, 1000):
            since = NOW - minutes * MINUTE
            wanted = []
            for name in ("A", "B"):
                minutes_of = aggregated(AroundTheClock(), M1, trades[name])
                inside = [values for ts, values in minutes_of.items() if since <= ts < NOW]
                if inside:
                    wanted.append(Move(name, inside[0][0], inside[-1][3]))
            symbols = [parts.symbol(name) for name in ("B", "A", "QUIET")]
            found = await moves(parts, symbols, since, NOW)
            assert sorted(found, key=lambda move: move.symbol) == wanted


async def test_two_symbols_do_not_mix(postgres_dsn):
    async with stack(postgres_dsn) as parts:
        await parts.submit(
            COINS, tick("A", NOW, 1), tick("B", NOW, 2), tick("A", NOW - DAY, 3), tick("B", NOW - DAY, 4)
        )
        await parts.settled()
        for interval in (M1, M5, D1):
            assert [row["close"] for row in await parts.between("A", interval)] == [3.0, 1.0]
            assert [row["close"] for row in await parts.latest("B", interval, 9)] == [4.0, 2.0]
            assert {row["symbol"] for row in await parts.between("B", interval)} == {"B"}

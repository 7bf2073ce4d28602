"""Missing history is asked for once, survives faults, and goes into the log beside live ticks."""

import asyncio
import itertools
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest

from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import D1, M1, M5
from stockpulse.market.times import from_micros
from stockpulse.pipeline.backfill.backfills import Group, Requested
from stockpulse.pipeline.backfill.run import Status
from stockpulse.pipeline.backfill.targets import SETTLED, Target
from stockpulse.pipeline.live_feed import feed_of
from stockpulse.pipeline.sources import Source
from stockpulse.providers.base import Capabilities, History, ProviderEntry
from stockpulse.providers.faults import (
    BadRequest,
    NotEntitled,
    QuotaUsedUp,
    RateLimited,
    UnknownSymbol,
    Unreachable,
    WrongKey,
)
from stockpulse.providers.simulated import SIMULATED, SimulatedProvider
from stockpulse.storage.asked_ranges import AskedRanges, Outcome
from stockpulse.testing import ScriptedProvider, SetClock, bars_frame
from store_stack import BARS, DAY, HOUR, MINUTE, NOW, TICKS, bar, stack, tick

LENGTHS = {"1m": MINUTE, "5m": 5 * MINUTE, "1d": DAY}
MIDNIGHT = NOW.replace(hour=0, minute=0)
SETTLED_NOW = NOW + SETTLED  # the last bar is over, and NOW is its end
DAYS = {D1: 730, M5: 31, M1: 1}
HISTORY = {interval.name: History(timedelta(days=4000)) for interval in (D1, M5, M1)}
TARGETS = (Target(D1, DAYS[D1]), Target(M1, DAYS[M1]), Target(M5, DAYS[M5], before_today=True))


class Vendor:
    """A provider with bars of every bucket up to the time of its clock, and no trades."""

    name = "vendor"
    calendar = "24/7"
    clock = Clock.WALL
    can_wait = True
    delay_seconds = 0.0

    def __init__(self, clock, depth=5 * DAY):
        self.now = clock
        self.asked = []
        self._since = NOW - depth

    async def stream(self):
        return
        yield TICKS.to_frame()

    async def history(self, symbols, interval, start, end):
        self.asked += [(symbol, interval, start, end) for symbol in symbols]
        for symbol in symbols:
            async for page in self._pages(symbol, interval, start, end):
                yield page

    async def _pages(self, symbol, interval, start, end):
        length = LENGTHS[interval]
        first = max(start, self._since)
        at = datetime(1970, 1, 5, tzinfo=UTC) + -((datetime(1970, 1, 5, tzinfo=UTC) - first) // length) * length
        at += length * (at < first)
        rows = []
        while at < min(end, self.now()):
            price = 100 + at.hour + at.minute / 60
            rows.append(bar(symbol, interval, at, price, length / MINUTE, trade_count=2, vwap=price))
            at += length
        for begin in range(0, len(rows), 500):
            page = [dict.fromkeys(BARS) | row for row in rows[begin : begin + 500]]
            yield pl.DataFrame(page, schema=BARS, orient="row")


class Stocks(Vendor):
    calendar = "XNYS"


def source_of(provider, history=HISTORY, transient=()):
    entry = ProviderEntry(
        provider.name, lambda _: provider, capabilities=Capabilities(history=history), transient=transient
    )
    return Source(entry, provider, (), feed_of(provider))


async def filled(parts, vendor, *symbols, targets=TARGETS):
    """Load missing history; return the number of bars, and the requests."""
    vendor.asked.clear()
    run = await parts.context.required_backfills.fill_round(targets, Group(symbols, (source_of(vendor),)))
    await parts.settled()
    assert run is None or run.status is Status.COMPLETED
    return 0 if run is None else run.bars, {
        (symbol, interval): (start, end) for symbol, interval, start, end in vendor.asked
    }


class TestRound:
    async def test_of_the_first_start_asks_for_everything(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = Vendor(parts.clock)
            count, asked = await filled(parts, vendor, "A", "B")
            assert asked == {
                (symbol, interval): window
                for symbol in "AB"
                for interval, window in {
                    "1d": (MIDNIGHT - 730 * DAY, MIDNIGHT),
                    "5m": (MIDNIGHT - 30 * DAY, MIDNIGHT),
                    "1m": (MIDNIGHT, NOW),
                }.items()
            }
            before_today = timedelta(hours=8, minutes=30) + 4 * DAY  # of the five days that it has
            assert count == 2 * (4 + before_today // (5 * MINUTE) + 930)
            for interval in (M1, M5, D1):
                rows = await parts.between("A", interval)
                length = LENGTHS[interval.name]
                assert all(later["ts"] - row["ts"] == length for row, later in itertools.pairwise(rows))
                assert rows[-1]["ts"] + length > NOW - 5 * MINUTE

    async def test_the_running_day_is_made_of_its_minutes(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            await filled(parts, Vendor(parts.clock), "A")
            minutes = [row for row in await parts.between("A", M1) if row["ts"] >= MIDNIGHT]
            yesterday, today = (await parts.between("A", D1))[-2:]
            assert (yesterday["source"], today["source"]) == ("vendor", "trades")
            assert today["ts"] == MIDNIGHT
            assert not today["final"]
            assert today["open"] == minutes[0]["open"]
            assert today["close"] == minutes[-1]["close"]
            assert today["high"] == max(row["high"] for row in minutes)
            assert today["low"] == min(row["low"] for row in minutes)
            assert today["volume"] == sum(row["volume"] for row in minutes)
            assert today["trade_count"] == sum(row["trade_count"] for row in minutes) == 2 * 930
            assert today["vwap"] == pytest.approx(sum(row["vwap"] * row["volume"] for row in minutes) / today["volume"])

    async def test_right_again_has_nothing_to_do(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = Vendor(parts.clock)
            await filled(parts, vendor, "A")
            before = await parts.between("A", D1)
            assert await filled(parts, vendor, "A") == (0, {})
            assert [row["volume"] for row in await parts.between("A", D1)] == [row["volume"] for row in before]

    async def test_leaves_the_newest_bar_until_it_is_complete(self, postgres_dsn):
        """A bar that a provider sends before its end would stay as it is then."""
        clock = SetClock(NOW)
        async with stack(postgres_dsn, clock=clock) as parts:
            vendor = Vendor(clock)
            _, asked = await filled(parts, vendor, "A", targets=[Target(M1, days=1)])
            assert asked == {("A", "1m"): (MIDNIGHT, NOW - MINUTE)}
            clock.advance(MINUTE)
            _, asked = await filled(parts, vendor, "A", targets=[Target(M1, days=1)])
            assert asked == {("A", "1m"): (NOW - MINUTE, NOW)}

    async def test_after_a_pause_fills_the_gap(self, postgres_dsn):
        clock = SetClock(SETTLED_NOW)
        async with stack(postgres_dsn, clock=clock) as parts:
            await filled(parts, Vendor(clock), "A")
        clock.at = SETTLED_NOW + 40 * MINUTE
        async with stack(postgres_dsn, clock=clock) as parts:
            _, asked = await filled(parts, Vendor(clock), "A")
            assert asked == {("A", "1m"): (NOW, NOW + 40 * MINUTE)}
        clock.at = SETTLED_NOW + 2 * DAY
        async with stack(postgres_dsn, clock=clock) as parts:
            _, asked = await filled(parts, Vendor(clock), "A")
            assert asked == {
                ("A", "1d"): (MIDNIGHT, MIDNIGHT + 2 * DAY),
                ("A", "5m"): (MIDNIGHT, MIDNIGHT + 2 * DAY),
                ("A", "1m"): (MIDNIGHT + 2 * DAY, NOW + 2 * DAY),
            }
            days = await parts.between("A", D1)
            assert [row["source"] for row in days] == ["vendor"] * (len(days) - 1) + ["trades"]
            fives = await parts.between("A", M5)
            assert all(later["ts"] - row["ts"] == 5 * MINUTE for row, later in itertools.pairwise(fives))

    async def test_days_are_those_of_the_exchange(self, postgres_dsn):
        new_york = NOW.replace(hour=5, minute=0)
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            _, asked = await filled(parts, Stocks(parts.clock), "IBM")
            assert asked["IBM", "1d"][1] == asked["IBM", "5m"][1] == asked["IBM", "1m"][0] == new_york
            today = (await parts.between("IBM", D1))[-1]
            assert (today["ts"], today["trade_count"]) == (new_york, 2 * 60)  # since 9:30

    async def test_days_of_a_pair_are_those_of_utc_whoever_sends_it(self, postgres_dsn):
        """Or its running day would come half done, and stay so."""
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            for _ in range(2):
                _, asked = await filled(parts, Stocks(parts.clock), "BTC/USD")
                assert parts.symbol("BTC/USD").calendar == "24/7"
                assert asked.get(("BTC/USD", "1d"), (None, MIDNIGHT))[1] == MIDNIGHT
            today = (await parts.between("BTC/USD", D1))[-1]
            assert (today["ts"], today["source"], today["trade_count"]) == (MIDNIGHT, "trades", 2 * 930)

    async def test_of_the_simulated_market(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            provider = SimulatedProvider(("AAPL",), now=parts.clock)
            backfills = parts.context.required_backfills
            source = source_of(provider, SIMULATED.capabilities.history)
            run = await backfills.fill_round(TARGETS, Group(("AAPL",), (source,)))
            # Of the first five minutes and the first day there is only a part within the depth.
            assert run.bars == 729 + (30 * 288 - 187) + 930
            await parts.settled()
            assert len(await parts.between("AAPL", D1)) == 730
            assert await backfills.fill_round(TARGETS, Group(("AAPL",), (source,))) is None

    async def test_of_no_symbols(self, postgres_dsn):
        async with stack(postgres_dsn) as parts:
            assert await filled(parts, Vendor(parts.clock)) == (0, {})

    async def test_days_of_our_own_trades_are_asked_for_and_minutes_are_not(self, postgres_dsn):
        clock = SetClock(SETTLED_NOW)
        async with stack(postgres_dsn, clock=clock) as parts:
            vendor = Vendor(clock)
            trades = [tick("A", MIDNIGHT - DAY + minute * MINUTE) for minute in range(1440 + 930)]
            await parts.submit(feed_of(vendor), *trades)
            await parts.settled()
            _, asked = await filled(parts, vendor, "A", targets=[Target(D1, 1), Target(M1, 2)])
            # The newest minute may be incomplete, and with it its half hour is asked for.
            assert asked == {("A", "1d"): (MIDNIGHT - DAY, MIDNIGHT), ("A", "1m"): (NOW - 30 * MINUTE, NOW)}
            assert [row["source"] for row in await parts.between("A", D1)] == ["vendor", "trades"]


def minutes(*symbols, count=10, first=NOW - 30 * MINUTE):
    return bars_frame(*[bar(symbol, "1m", first + n * MINUTE, 100 + n) for symbol in symbols for n in range(count)])


HALF_HOUR = Target(M1, start=int((NOW - 30 * MINUTE).timestamp()) * 1_000_000)


class Waits:
    """Notes the waits of a filler, which do not last, and moves the clock."""

    def __init__(self, parts, monkeypatch):
        self.seconds = []
        self._clock = parts.clock
        monkeypatch.setattr(parts.context.required_backfills._filler, "_sleep", self._sleep)

    async def _sleep(self, seconds):
        self.seconds.append(seconds)
        self._clock.advance(timedelta(seconds=seconds))


async def half_hour(parts, *sources, symbols="ABCD"):
    """Fill the minutes of half an hour before NOW."""
    run = await parts.context.required_backfills.fill_round([HALF_HOUR], Group(tuple(symbols), sources))
    await parts.settled()
    return run


def outcomes(parts, provider, symbols="ABCD"):
    asked = parts.context.required_backfills.asked
    found = {symbol: asked.of(provider, M1, symbol) for symbol in symbols}
    return {symbol: [(one.outcome, one.reason) for one in ranges] for symbol, ranges in found.items()}


class TestAsking:
    async def test_several_symbols_in_one_request(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A", "B", "D"), name="vendor")
            run = await half_hour(parts, source_of(vendor, {"1m": History(DAY, symbols=10)}))
            assert vendor.requests == [(("A", "B", "C", "D"), "1m", NOW - 30 * MINUTE, NOW)]
            assert (run.requests, run.bars, run.done, run.expected) == (1, 30, 120, 120)
            assert outcomes(parts, "vendor") == {
                "A": [(Outcome.COMPLETE, None)],
                "B": [(Outcome.COMPLETE, None)],
                "C": [(Outcome.NOTHING, None)],
                "D": [(Outcome.COMPLETE, None)],
            }
            assert await half_hour(parts, source_of(vendor)) is None
            assert len(vendor.requests) == 1

    async def test_is_remembered_beyond_a_restart(self, postgres_dsn):
        vendor = ScriptedProvider(bars=minutes("A"), name="vendor")
        for _ in range(2):
            async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
                await half_hour(parts, source_of(vendor), symbols="AB")
        assert len(vendor.requests) == 2

    async def test_within_the_windows_and_the_depth_of_the_provider(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(name="vendor")
            limits = {"1d": History(timedelta(days=100), depth=timedelta(days=250), symbols=2)}
            group = Group(("A", "B", "C"), (source_of(vendor, limits),))
            await parts.context.required_backfills.fill_round([Target(D1, 730)], group)
            spans = sorted({(start, end) for _, _, start, end in vendor.requests})
            assert spans == [
                (MIDNIGHT - 249 * DAY, MIDNIGHT - 200 * DAY),
                (MIDNIGHT - 200 * DAY, MIDNIGHT - 100 * DAY),
                (MIDNIGHT - 100 * DAY, MIDNIGHT),
            ]
            assert [symbols for symbols, *_ in vendor.requests] == [("A", "B"), ("C",)] * 3

    async def test_goes_on_where_a_broken_answer_ended(self, postgres_dsn, monkeypatch):
        """Nothing that is durable is asked for again, except the last bar, which may be a part of its symbol's."""
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A", "B", "C", count=30), name="vendor")
            whole = vendor.history

            async def breaks(symbols, interval, start, end):
                sent = 0
                async for frame in whole(symbols, interval, start, end):
                    if sent == 1 and len(vendor.requests) == 1:
                        yield frame.head(10)
                        raise Unreachable("vendor: the connection broke")
                    sent += 1
                    yield frame

            vendor.history = breaks
            waits = Waits(parts, monkeypatch)
            run = await half_hour(parts, source_of(vendor, {"1m": History(DAY, symbols=10)}), symbols="ABC")
            assert vendor.requests == [
                (("A", "B", "C"), "1m", NOW - 30 * MINUTE, NOW),
                (("C",), "1m", NOW - 30 * MINUTE, NOW),
                (("B",), "1m", NOW - 21 * MINUTE, NOW),
            ]
            assert len(waits.seconds) == 1
            assert run.last_fault == "vendor: the connection broke"
            assert {len(await parts.between(symbol, M1)) for symbol in "ABC"} == {30}

    async def test_waits_as_the_provider_says(self, postgres_dsn, monkeypatch):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A"), name="vendor")
            tomorrow = MIDNIGHT + DAY
            vendor.history_faults += [
                RateLimited("vendor: too many requests", SETTLED_NOW + 30 * MINUTE),
                QuotaUsedUp("vendor: the requests of the day are used up", tomorrow),
                RateLimited("vendor: slowly"),
                Unreachable("vendor: down"),
            ]
            waits = Waits(parts, monkeypatch)
            run = await half_hour(parts, source_of(vendor), symbols="A")
            assert waits.seconds[:2] == [1800, (tomorrow - SETTLED_NOW - 30 * MINUTE).total_seconds()]
            assert waits.seconds[3] > waits.seconds[2] > 0
            assert (run.status, run.bars, run.waits_until) == (Status.COMPLETED, 10, None)

    async def test_a_fault_of_a_package_that_passes_waits_too(self, postgres_dsn, monkeypatch):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A"), name="vendor")
            vendor.history_faults += [ConnectionError("hung up"), ZeroDivisionError("a bug")]
            waits = Waits(parts, monkeypatch)
            with pytest.raises(ZeroDivisionError):
                await half_hour(parts, source_of(vendor, transient=(ConnectionError,)), symbols="A")
            assert len(waits.seconds) == 1
            [run] = parts.context.required_backfills.runs
            assert (run.status, run.last_fault) == (Status.FAILED, "a bug")

    @pytest.mark.parametrize("fault", [UnknownSymbol, NotEntitled])
    async def test_a_symbol_that_is_refused_stops_no_other(self, postgres_dsn, fault):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A", "B", "C", "D"), name="vendor")
            whole = vendor.history

            async def refuses(symbols, interval, start, end):
                if "B" in symbols:
                    vendor.requests.append((tuple(symbols), interval, start, end))
                    raise fault("vendor: no symbol B", "B")
                async for frame in whole(symbols, interval, start, end):
                    yield frame

            vendor.history = refuses
            source = source_of(vendor, {"1m": History(DAY, symbols=10)})
            run = await half_hour(parts, source)
            assert [symbols for symbols, *_ in vendor.requests] == [("A", "B", "C", "D"), ("A", "C", "D")]
            assert (run.status, run.refused, run.refusals) == (Status.COMPLETED, 1, ["B: vendor: no symbol B"])
            assert outcomes(parts, "vendor")["B"] == [(Outcome.REFUSED, "vendor: no symbol B")]
            # Later bars of it are not asked for either.
            parts.clock.advance(HOUR)
            await half_hour(parts, source)
            assert [symbols for symbols, *_ in vendor.requests[2:]] == [("A", "C", "D")]
            parts.clock.advance(8 * DAY)
            await half_hour(parts, source)
            assert any("B" in symbols for symbols, *_ in vendor.requests[3:])

    async def test_a_refusal_without_a_name_is_searched(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A", "B", "C", "D"), name="vendor")
            whole = vendor.history

            async def refuses(symbols, interval, start, end):
                if "C" in symbols:
                    raise BadRequest("vendor: invalid request")
                async for frame in whole(symbols, interval, start, end):
                    yield frame

            vendor.history = refuses
            run = await half_hour(parts, source_of(vendor, {"1m": History(DAY, symbols=10)}))
            assert (run.bars, run.refusals) == (30, ["C: vendor: invalid request"])
            assert run.done == run.expected

    async def test_a_plan_without_history_is_asked_once(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(name="vendor")
            vendor.history_faults += [NotEntitled("vendor: the plan has no history")]
            source = source_of(vendor, {"1m": History(DAY, symbols=10)})
            run = await half_hour(parts, source)
            assert (run.requests, run.refused) == (1, 4)
            parts.clock.advance(HOUR)
            assert await half_hour(parts, source) is None

    async def test_a_wrong_key_is_tried_once_and_the_next_provider_is_asked(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            first = ScriptedProvider(name="first")
            first.history_faults += [WrongKey("first: the key is wrong")] * 9
            second = ScriptedProvider(bars=minutes("A"), name="second")
            run = await half_hour(parts, source_of(first), source_of(second), symbols="A")
            assert (run.status, run.bars, run.last_fault) == (Status.COMPLETED, 10, "first: the key is wrong")
            parts.clock.advance(HOUR)
            await half_hour(parts, source_of(first), source_of(second), symbols="A")
            assert len(first.requests) == 1

    async def test_a_wrong_key_of_the_only_provider_fails_the_run(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(name="vendor")
            vendor.history_faults += [WrongKey("vendor: the key is wrong")]
            run = await half_hour(parts, source_of(vendor), symbols="A")
            assert run.status is Status.FAILED
            row = await parts.pool.fetchrow("SELECT status, details FROM etl_runs WHERE source = 'backfill:vendor'")
            assert row["status"] == "failed"
            assert "the key is wrong" in row["details"]

    async def test_the_next_provider_is_asked_for_what_the_first_cannot_give(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            first = ScriptedProvider(bars=minutes("A"), name="first")
            second = ScriptedProvider(bars=minutes("A", "B"), name="second")
            sources = [source_of(first), source_of(second)]
            run = await half_hour(parts, *sources, symbols="AB")
            assert [symbols for symbols, *_ in first.requests] == [("A",), ("B",)]
            assert [symbols for symbols, *_ in second.requests] == [("B",)]
            assert run.bars == 20
            [row] = (await parts.between("B", M1))[:1]
            assert row["source"] == "second"
            assert await half_hour(parts, *sources, symbols="AB") is None

    async def test_is_recorded(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A"), name="vendor")
            run = await half_hour(parts, source_of(vendor), symbols="A")
            row = await parts.pool.fetchrow("SELECT * FROM etl_runs WHERE id = $1", run.id)
            assert (row["source"], row["status"], row["records_processed"]) == ("backfill:vendor", "completed", 10)
            assert row["completed_at"] == SETTLED_NOW

    async def test_an_interrupted_run_has_failed(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(name="vendor")
            vendor.history_faults += [QuotaUsedUp("vendor: no more", NOW + DAY)]
            fill = asyncio.create_task(half_hour(parts, source_of(vendor), symbols="A"))
            query = "SELECT status FROM etl_runs WHERE source = 'backfill:vendor'"
            while await parts.pool.fetchval(query) != "running":
                await asyncio.sleep(0.01)
            fill.cancel()
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            while await parts.pool.fetchval(query) == "running":
                await asyncio.sleep(0.01)
            assert await parts.pool.fetchval(query) == "failed"


class TestOnRequest:
    async def test_asks_for_a_range_and_again_if_told_so(self, postgres_dsn):
        async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
            vendor = ScriptedProvider(bars=minutes("A"), name="vendor")
            backfills = parts.context.required_backfills

            async def ask(*, again):
                wanted = Requested(HALF_HOUR, (Group(("A", "X"), (source_of(vendor),)),), again)
                run = await backfills.request(wanted, parts.context.supervisor)
                while not run.has_ended:
                    await asyncio.sleep(0.01)
                await parts.settled()
                return run

            first = await ask(again=False)
            assert (first.status, first.bars, first.requests) == (Status.COMPLETED, 10, 2)
            assert backfills.find(first.id) is first
            second = await ask(again=False)
            assert (second.status, second.requests) == (Status.COMPLETED, 0)
            third = await ask(again=True)
            assert (third.status, third.requests) == (Status.COMPLETED, 2)


async def test_ranges_and_bars_are_durable_together(postgres_dsn, monkeypatch):
    """If the process dies in the middle of an append, neither is there; otherwise both."""
    async with stack(postgres_dsn, clock=SetClock(SETTLED_NOW)) as parts:
        backfills = parts.context.required_backfills
        write, seen = backfills.asked.write, []

        async def fails(connection, provider, interval, asked):
            await write(connection, provider, interval, asked)
            if not seen:
                seen.append(await parts.pool.fetchval("SELECT count(*) FROM asked_ranges"))
                raise ConnectionResetError("the server is gone")

        monkeypatch.setattr(backfills.asked, "write", fails)
        vendor = ScriptedProvider(bars=minutes("A"), name="vendor")
        await half_hour(parts, source_of(vendor), symbols="A")
        assert seen == [0]  # the transaction was not committed
        again = AskedRanges(parts.pool)
        await again.load()
        [one] = again.of("vendor", M1, "A")
        assert (from_micros(one.start), from_micros(one.end)) == (NOW - 30 * MINUTE, NOW)
        assert await parts.pool.fetchval("SELECT count(*) FROM provider_bars") == 10

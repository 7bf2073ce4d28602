"""Redeliveries, against a model that remembers everything."""

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.ingest.redelivery import KEY, Redeliveries, RedeliveryWindow
from stockpulse.ingest.shard_redeliveries import ShardRedeliveries
from stockpulse.market.clocks import Clock
from stockpulse.market.schemas import TICKS, UTC_MICROS
from stockpulse.market.symbology import Names, ProviderName, Symbol, TickKind

T = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
SECOND = timedelta(seconds=1)


def ticks(keys):
    """Ticks with these keys: (symbol, exchange, trade_id, ts)."""
    rows = [dict(zip(KEY, key, strict=True)) | {"price": 1.0, "size": 1.0, "conditions": None} for key in keys]
    return pl.DataFrame(rows, schema=TICKS, orient="row")


def sift(window, *keys):
    return window.sift(ticks(keys)).tolist()


def key(trade_id, ts=T, symbol="AAPL", exchange=None):
    return (symbol, exchange, trade_id, ts)


def numbered(first, count, ts=T):
    return [key(str(n), ts) for n in range(first, first + count)]


class Everything:
    """The naive window."""

    def __init__(self):
        self.seen = set()

    def sift(self, keys):
        new = []
        for one in keys:
            new.append(one[2] is None or one not in self.seen)
            self.seen.add(one)
        return new


some_keys = st.tuples(
    st.sampled_from(["AAPL", "MSFT"]),
    st.sampled_from([None, "Q", "N"]),
    st.sampled_from([None, "1", "2", "3", "44", "555"]),
    st.integers(0, 3).map(lambda n: T + n * SECOND),
)
batches = st.lists(st.lists(some_keys, max_size=12), max_size=12)


class TestWithinTheWindow:
    @given(batches)
    def test_as_if_everything_were_remembered(self, given_batches):
        window, model = RedeliveryWindow(), Everything()
        for batch in given_batches:
            assert sift(window, *batch) == model.sift(batch)

    @given(batches, st.integers(1, 7))
    def test_however_the_ticks_are_batched(self, given_batches, size):
        keys = [one for batch in given_batches for one in batch]
        whole, pieces = RedeliveryWindow(), RedeliveryWindow()
        parts = [sift(pieces, *keys[at : at + size]) for at in range(0, len(keys), size)]
        assert sift(whole, *keys) == [new for part in parts for new in part]

    def test_as_if_everything_were_remembered_over_many_and_large_batches(self):
        random = np.random.default_rng(1)
        window, model = RedeliveryWindow(window_micros=10**12), Everything()
        for size in random.integers(1, 400, 60):
            batch = [key(str(n), T + int(n) % 7 * SECOND) for n in random.integers(0, 6000, size)]
            assert sift(window, *batch) == model.sift(batch)

    def test_the_first_of_equal_ones_is_new(self):
        assert sift(RedeliveryWindow(), key("1"), key("2"), key("1"), key("1")) == [True, True, False, False]

    @pytest.mark.parametrize(
        "other",
        [key("1", symbol="MSFT"), key("1", exchange="Q"), key("2"), key("1", T + timedelta(microseconds=1)), key("01")],
    )
    def test_any_part_of_the_key_tells_them_apart(self, other):
        window = RedeliveryWindow()
        assert sift(window, key("1")) == [True]
        assert sift(window, other, key("1")) == [True, False]

    def test_without_a_trade_id_nothing_is_a_redelivery(self):
        window = RedeliveryWindow()
        assert sift(window, key(None), key("1"), key(None)) == [True, True, True]
        assert sift(window, key(None), key("1"), key(None)) == [True, False, True]
        assert sift(window, key(None)) == [True]
        assert len(window) == 1

    def test_an_exchange_that_is_not_said_is_one_of_its_own(self):
        window = RedeliveryWindow()
        assert sift(window, key("1"), key("1", exchange="Q")) == [True, True]
        assert sift(window, key("1", exchange="Q"), key("1")) == [False, False]

    def test_nothing(self):
        window = RedeliveryWindow()
        assert sift(window) == []
        assert len(window) == 0

    def test_a_batch_as_slices_of_others(self):
        """Frames from queues are slices and concatenations; the keys in them are the same."""
        window = RedeliveryWindow()
        frame = ticks(numbered(0, 50))
        window.sift(frame[:20])
        glued = pl.concat([frame[40:], frame[10:30], frame[:5]], rechunk=False)
        assert window.sift(glued).tolist() == [True] * 10 + [False] * 10 + [True] * 10 + [False] * 5


class TestTakenBack:
    """Ticks that were taken back may be delivered again, and are redeliveries after that."""

    def test_by_symbol_and_time(self):
        window = RedeliveryWindow()
        keys = [key("1"), key("2", T + SECOND), key("1", symbol="MSFT"), key("3", T + 2 * SECOND)]
        sift(window, *keys)
        window.forget((pl.col("symbol") == "AAPL") & (pl.col("ts") < T + 2 * SECOND))
        assert len(window) == 2
        assert sift(window, *keys) == [True, True, False, False]
        assert sift(window, *keys) == [False] * 4

    @given(batches, st.integers(0, 3), st.integers(1, 4))
    def test_as_if_they_had_never_come(self, given_batches, first, count):
        window, model = RedeliveryWindow(), Everything()
        start, end = T + first * SECOND, T + (first + count) * SECOND
        for batch in given_batches:
            assert sift(window, *batch) == model.sift(batch)
            window.forget((pl.col("symbol") == "AAPL") & pl.col("ts").is_between(start, end, closed="left"))
            model.seen = {one for one in model.seen if one[0] != "AAPL" or not start <= one[3] < end}

    async def test_of_one_provider_or_all(self):
        redeliveries = Redeliveries()
        frame, micros = ticks([key("1"), key("2")]), int(T.timestamp() * 1_000_000)
        for provider in ("a", "b"):
            await redeliveries.sift(frame, provider)
        await redeliveries.forget("AAPL", "a", micros, micros + 1)
        assert [len(await redeliveries.sift(frame, provider)) for provider in ("a", "b")] == [2, 0]
        await redeliveries.forget("MSFT", None, micros, micros + 1)
        await redeliveries.forget(None, None, micros + 1, micros + 2)
        assert [len(await redeliveries.sift(frame, provider)) for provider in ("a", "b")] == [0, 0]
        await redeliveries.forget(None, None, micros, micros + 1)
        assert [len(await redeliveries.sift(frame, provider)) for provider in ("a", "b")] == [2, 2]

    def test_of_a_shard(self):
        names = Names()
        names.add_symbols([Symbol(1, "AAPL", "XNYS"), Symbol(2, "MSFT", "XNYS")])
        names.add_provider(ProviderName(1, "a", Clock.WALL, 0))
        names.add_provider(ProviderName(2, "b", Clock.WALL, 0))
        names.add_kinds([(1, TickKind(1, "", "", 7)), (2, TickKind(1, "N", "", 7)), (3, TickKind(2, "", "", 7))])
        rows = [(symbol, kind) for symbol in (1, 2) for kind in (1, 2, 3)]
        frame = pl.DataFrame(rows, {"symbol_id": pl.Int32, "kind_id": pl.Int32}, orient="row")
        frame = frame.with_columns(trade_id=pl.lit("1"), ts=pl.lit(T).cast(UTC_MICROS))
        window, micros = ShardRedeliveries(names, 1), int(T.timestamp() * 1_000_000)
        assert len(window.sift(frame)) == 6
        window.forget("AAPL", "a", micros, micros + 1)
        assert window.sift(frame).select("symbol_id", "kind_id").rows() == [(1, 1), (1, 2)]
        window.forget(None, "b", micros, micros + 1)
        assert window.sift(frame).select("symbol_id", "kind_id").rows() == [(1, 3), (2, 3)]
        window.forget("NONE", None, micros, micros + 1)
        window.forget(None, "nobody", micros, micros + 1)
        assert len(window.sift(frame)) == 0


class TestForgetting:
    def test_keys_of_the_window_are_kept_while_time_moves_on(self):
        window = RedeliveryWindow(window_micros=10_000_000)
        for second in range(60):
            sift(window, *numbered(second * 3, 3, T + second * SECOND))
            past = [
                one
                for back in range(max(0, second - 10), second + 1)
                for one in numbered(back * 3, 3, T + back * SECOND)
            ]
            assert not any(sift(window, *past))

    def test_older_ones_are_forgotten(self):
        window = RedeliveryWindow(window_micros=10_000_000, most_keys=400, least_keys=0)
        for second in range(100):
            sift(window, *numbered(second * 10, 10, T + second * SECOND))
        assert sift(window, key("0", T)) == [True]
        assert len(window) < 400

    def test_a_replay_faster_than_the_window_may_still_send_again(self):
        """Event time is independent of the time of a request: ten minutes of it can pass in a moment."""
        window = RedeliveryWindow()
        for minute in range(120):
            sift(window, *numbered(minute * 10, 10, T + minute * 60 * SECOND))
        assert sift(window, *numbered(0, 10, T)) == [False] * 10

    def test_a_late_tick_does_not_turn_the_clock_back(self):
        window = RedeliveryWindow(window_micros=10_000_000)
        sift(window, key("new", T))
        sift(window, key("late", T - 3600 * SECOND))
        assert sift(window, key("new", T), key("late", T - 3600 * SECOND)) == [False, False]

    @pytest.mark.parametrize("size", [1, 7, 30, 300])
    def test_memory_is_bounded_whatever_the_batches(self, size):
        window = RedeliveryWindow(most_keys=100)
        for at in range(0, 600, size):
            sift(window, *numbered(at, size))
            assert len(window) <= max(100 + 25, size + 100)

    def test_at_the_bound_the_newest_are_known(self):
        window = RedeliveryWindow(most_keys=1000)
        for at in range(0, 3000, 50):
            sift(window, *numbered(at, 50))
        assert sift(window, *numbered(2250, 750)) == [False] * 750

    def test_one_batch_larger_than_the_bound(self):
        window = RedeliveryWindow(most_keys=10)
        assert all(sift(window, *numbered(0, 100)))
        assert not any(sift(window, *numbered(0, 100)))
        sift(window, *numbered(100, 10))
        assert len(window) < 120

    def test_redeliveries_take_no_room(self):
        window = RedeliveryWindow()
        for _ in range(50):
            sift(window, *numbered(0, 20))
        assert len(window) == 20


def test_many_keys_do_not_collide():
    """64 bits distinguish millions of keys; new keys are recognised as new."""
    window = RedeliveryWindow()
    for at in range(0, 200_000, 50_000):
        frame = pl.DataFrame(
            {"trade_id": [str(n) for n in range(at, at + 50_000)], "symbol": "AAPL", "exchange": "Q", "ts": T},
            schema_overrides={"ts": TICKS["ts"]},
        )
        assert window.sift(frame).all()
        assert not window.sift(frame).any()

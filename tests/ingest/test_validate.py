"""Valid and rejected rows: each rule alone, and all together."""

import math
import re
from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.ingest.validate import SMALLEST_PRICE, validate_bars, validate_ticks
from stockpulse.market.schemas import BARS, TICKS, UTC_MICROS

NOW = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
TOLERANCE = timedelta(seconds=5)
LATEST = NOW + TOLERANCE
EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
MICRO = timedelta(microseconds=1)
MINUTE = timedelta(minutes=1)

A_TICK = {
    "symbol": "AAPL",
    "ts": NOW - MINUTE,
    "price": 189.72,
    "size": 100.0,
    "exchange": None,
    "trade_id": None,
    "conditions": None,
}
A_BAR = {
    "symbol": "AAPL",
    "interval": "1m",
    "ts": NOW - MINUTE,
    "open": 10.0,
    "high": 12.0,
    "low": 9.0,
    "close": 11.0,
    "volume": 1000.0,
    "trade_count": 7,
    "vwap": 10.5,
}


def ticks(*rows):
    return pl.DataFrame([A_TICK | row for row in rows], schema=TICKS, orient="row")


def bars(*rows):
    return pl.DataFrame([A_BAR | row for row in rows], schema=BARS, orient="row")


def reasons(checked):
    return checked.rejected["reason"].to_list()


def reason_of_tick(**fields):
    """Between two good rows, so that a rule that answers for the whole batch is found out."""
    checked = validate_ticks(ticks({}, fields, {}), NOW, TOLERANCE)
    assert len(checked.good) + len(checked.rejected) == 3
    return reasons(checked)[0] if len(checked.rejected) else None


def reason_of_bar(**fields):
    checked = validate_bars(bars({}, fields, {}), NOW, TOLERANCE)
    assert len(checked.good) + len(checked.rejected) == 3
    return reasons(checked)[0] if len(checked.rejected) else None


class TestTick:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("price", value) for value in (None, math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, -5e-324, 1.1e12)),
            *(("price", value) for value in (5e-324, 1e-300, 9.9e-16)),
            *(("size", value) for value in (None, math.nan, math.inf, -math.inf, -1.0, -5e-324, 1.1e12)),
            ("ts", None),
            ("ts", datetime(1970, 1, 1, tzinfo=UTC)),
            ("ts", EARLIEST - MICRO),
            ("ts", LATEST + MICRO),
            ("ts", datetime(2099, 1, 1, tzinfo=UTC)),
            ("symbol", None),
            ("symbol", ""),
            ("symbol", " AAPL"),
            ("symbol", "AAPL "),
            ("symbol", "AAPL\n"),
            ("symbol", "AAPL\0"),
            ("symbol", "AA PL"),
            ("symbol", ".AAPL"),
            ("symbol", "-"),
            ("symbol", "A" * 33),
            ("symbol", "^"),
            ("symbol", "//ES"),
            ("symbol", "=SUM"),
            ("symbol", "_TEST"),
            ("symbol", "A/../B"),
            ("symbol", "A/."),
            ("symbol", "AAPL  261218C0015000"),
            ("symbol", "\u00df"),
            ("symbol", "\u0131"),
            ("symbol", "\u017f"),
            ("symbol", "\u212a"),
            ("symbol", "\uff21"),
            ("symbol", "A" * 5_000_000),
            ("symbol", "ÄÖÜ"),
            ("symbol", "AAPL\u200b"),
            ("symbol", "苹果"),
            ("symbol", "A'; DROP TABLE symbols; --"),
            *(("exchange", value) for value in ("", " ", " Q", "Q ", "Q\n", "Q\x1fX", "\x00", "Q" * 17, "é", "\x7f")),
            *(("conditions", value) for value in ("", " @", "@\t", "@\x1f-", "@" * 65, "@\u00a0I")),
            *(("trade_id", value) for value in ("", " 1", "1 ", "1\n", "\0", "1" * 65, "№1", "x" * 100_000)),
        ],
    )
    def test_is_refused_for_its(self, field, value):
        assert reason_of_tick(**{field: value}).startswith(f"{field}: ")

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *(("price", value) for value in (SMALLEST_PRICE, 1e-9, 1e12)),
            *(("size", value) for value in (0.0, 5e-324, 1e12)),
            ("ts", EARLIEST),
            ("ts", LATEST),
            *(("symbol", value) for value in ("A", "9", "BRK.B", "BTC/USD", "^GSPC"[1:], "ES=F", "A^-/.=", "A" * 32)),
            *(("exchange", value) for value in ("Q", "~", "!", "NYSE ARCA", "Q" * 16)),
            *(("conditions", value) for value in ("@", "@, ,I", "2001", "@" * 64, " ", " ,I", "I, ", " ,F,T")),
            *(("tape", value) for value in "ABCNO"),
            *(("trade_id", value) for value in ("0", "a b", "{52983525029461}", "1" * 64)),
        ],
    )
    def test_is_taken_with_its(self, field, value):
        fields = {"price": 1e-3, "size": 1e-3, field: value}
        assert reason_of_tick(**fields) is None

    def test_price_times_size_has_a_bound(self):
        assert reason_of_tick(price=1e6, size=1e12) is None
        assert reason_of_tick(price=1e9, size=1.001e9) == "size: price x size is absurdly large"
        assert reason_of_tick(price=1e12, size=1e12) == "size: price x size is absurdly large"

    def test_symbols_are_put_in_upper_case(self):
        checked = validate_ticks(ticks({"symbol": "aapl"}, {"symbol": "Btc/usd"}, {}), NOW, TOLERANCE)
        assert checked.good["symbol"].to_list() == ["AAPL", "BTC/USD", "AAPL"]

    def test_everything_null(self):
        nulls = pl.DataFrame({name: [None, None] for name in TICKS}, schema=TICKS)
        checked = validate_ticks(nulls, NOW, TOLERANCE)
        assert len(checked.good) == 0
        assert checked.rejected["row"].to_list() == [0, 1]

    def test_nothing(self):
        checked = validate_ticks(TICKS.to_frame(), NOW, TOLERANCE)
        assert (len(checked.good), len(checked.rejected)) == (0, 0)
        assert checked.good.schema == TICKS

    def test_first_reason_in_the_order_of_the_fields(self):
        assert reason_of_tick(symbol="", price=-1.0).startswith("symbol: ")
        assert reason_of_tick(price=-1.0, size=-1.0).startswith("price: ")

    def test_more_tolerance_lets_later_ones_in(self):
        late = ticks({"ts": NOW + timedelta(seconds=60)})
        assert len(validate_ticks(late, NOW, timedelta(seconds=60)).good) == 1
        assert len(validate_ticks(late, NOW, timedelta(seconds=59)).good) == 0

    def test_of_many_refused_ones_each_has_its_own_reason(self):
        rows = [{"price": -1.0}, {}, {"size": -1.0}, {"symbol": "?"}, {}, {"ts": None}]
        checked = validate_ticks(ticks(*rows), NOW, TOLERANCE)
        assert checked.rejected["row"].to_list() == [0, 2, 3, 5]
        assert [reason.split(":")[0] for reason in reasons(checked)] == ["price", "size", "symbol", "ts"]

    def test_what_was_sent_is_shown_cut_to_a_size(self):
        checked = validate_ticks(ticks({"price": -2.5}, {"symbol": "Z" * 1_000_000}), NOW, TOLERANCE)
        first, second = checked.rejected["raw"]
        assert '"price":-2.5' in first
        assert '"symbol":"AAPL"' in first
        assert len(second) <= 8192


class TestParsersProblem:
    def frame(self, problem, raw, **fields):
        return ticks({}, fields, {}).with_columns(
            problem=pl.Series([None, problem, None], dtype=pl.String), raw=pl.Series([None, raw, None], dtype=pl.String)
        )

    def test_refuses_the_row_with_its_own_words(self):
        checked = validate_ticks(self.frame("price: got 'x'", '{"price":"x"}', price=None), NOW, TOLERANCE)
        assert checked.rejected.rows() == [(1, "price: got 'x'", '{"price":"x"}')]

    def test_refuses_a_row_that_looks_good(self):
        assert len(validate_ticks(self.frame("not an object", "7"), NOW, TOLERANCE).good) == 2

    def test_raw_may_be_missing(self):
        checked = validate_ticks(self.frame("ts: got 'x'", None), NOW, TOLERANCE)
        assert reasons(checked) == ["ts: got 'x'"]
        assert '"symbol":"AAPL"' in checked.rejected["raw"][0]

    def test_without_one_the_row_is_looked_at_like_any_other(self):
        checked = validate_ticks(self.frame(None, None, size=-1.0), NOW, TOLERANCE)
        assert reasons(checked)[0].startswith("size: ")

    def test_columns_of_the_parser_go_no_further(self):
        assert validate_ticks(self.frame(None, None), NOW, TOLERANCE).good.schema == TICKS

    def test_raw_is_cut(self):
        checked = validate_ticks(self.frame("too long", "é" * 100_000), NOW, TOLERANCE)
        assert len(checked.rejected["raw"][0]) <= 8192


class TestBar:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            *((name, value) for name in ("open", "high", "low", "close") for value in (None, math.nan, 0.0, -1.0)),
            *((name, math.inf) for name in ("open", "high", "low", "close")),
            ("volume", None),
            ("volume", math.nan),
            ("volume", -1.0),
            ("volume", math.inf),
            ("volume", 1.1e14),
            ("trade_count", 2**63 - 1),
            ("vwap", math.nan),
            ("vwap", -1.0),
            ("vwap", math.inf),
            ("vwap", 1.1e12),
            ("trade_count", -1),
            ("interval", None),
            ("interval", "2m"),
            ("interval", "1D"),
            ("ts", None),
            ("ts", datetime(1989, 12, 31, 23, 59, tzinfo=UTC)),
            ("ts", NOW + MINUTE),
            ("ts", NOW - timedelta(seconds=1)),
            ("ts", NOW - MINUTE + MICRO),
            ("symbol", None),
            ("symbol", "?"),
        ],
    )
    def test_is_refused_for_its(self, field, value):
        assert re.match(rf"(\w+, )?{field}[,:]", reason_of_bar(**{field: value}))

    @pytest.mark.parametrize(
        ("field", "value"),
        [("trade_count", None), ("vwap", None), ("volume", 0.0), ("vwap", 0.0), ("trade_count", 0), ("ts", EARLIEST)],
    )
    def test_is_taken_with_its(self, field, value):
        assert reason_of_bar(**{field: value}) is None

    def test_high_and_low_enclose_open_and_close(self):
        assert reason_of_bar(high=10.5).startswith("high, low: ")
        assert reason_of_bar(low=10.5).startswith("high, low: ")
        assert reason_of_bar(open=5.0, high=5.0, low=5.0, close=5.0) is None

    def test_five_minute_bars_start_at_five_minutes(self):
        assert reason_of_bar(interval="5m", ts=NOW - 5 * MINUTE) is None
        assert reason_of_bar(interval="5m", ts=NOW - 4 * MINUTE).startswith("ts: ")

    def test_daily_bars_may_say_any_time_of_the_day(self):
        assert reason_of_bar(interval="1d", ts=NOW - timedelta(hours=7, microseconds=3)) is None

    def test_nothing(self):
        checked = validate_bars(BARS.to_frame(), NOW, TOLERANCE)
        assert (len(checked.good), len(checked.rejected)) == (0, 0)

    def test_everything_null(self):
        nulls = pl.DataFrame({name: [None, None] for name in BARS}, schema=BARS)
        assert validate_bars(nulls, NOW, TOLERANCE).rejected["row"].to_list() == [0, 1]

    def test_so_many_that_their_sums_would_overflow_are_refused(self):
        """A month of days of minutes at the bounds stays within 64 bits of whole units."""
        minutes = 31 * 1440
        assert reason_of_bar(trade_count=2**62).startswith("trade_count: ")
        assert reason_of_bar(trade_count=10**12) is None
        assert minutes * 10**12 < 2**63
        for interval, most, count in (("1m", 1e14, minutes), ("5m", 1e14, minutes // 5), ("1d", 1e17, 31)):
            bar = {"interval": interval, "ts": NOW - timedelta(hours=16, minutes=30), "vwap": 0.5}
            assert reason_of_bar(**bar, volume=most) is None
            assert reason_of_bar(**bar, volume=1.01 * most).startswith("volume: ")
            assert reason_of_bar(**bar | {"vwap": 2.0}, volume=most).startswith("volume: vwap x volume ")
            assert count * most < 2**63


# Any frame ------------------------------------------------------------------------------------------

numbers = st.none() | st.floats() | st.sampled_from([0.0, 1.0, 1e12, 1e3, 5e-324])
texts = st.none() | st.text(max_size=20) | st.sampled_from(["AAPL", "aapl", "ß", "Q", "", "\0", "ﬁ", "I" * 17])
times = st.none() | st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(lambda t: t.replace(tzinfo=UTC))  # noqa: DTZ001
near = st.integers(-10_000_000, 10_000_000).map(lambda n: NOW + n * MICRO)
tick_rows = st.lists(
    st.fixed_dictionaries(
        {"symbol": texts, "ts": times | near, "price": numbers, "size": numbers}
        | dict.fromkeys(("exchange", "trade_id", "conditions"), texts)
    )
    | st.just(A_TICK)
)
on_grid = st.integers(0, 30_000_000).map(lambda n: datetime(1970, 1, 1, tzinfo=UTC) + n * MINUTE)
bar_rows = st.lists(
    st.fixed_dictionaries(
        {
            "symbol": texts,
            "interval": st.sampled_from(["1m", "5m", "1d", None, ""]),
            "ts": times | on_grid,
            "trade_count": st.none() | st.integers(-(2**63), 2**63 - 1),
        }
        | dict.fromkeys(("open", "high", "low", "close", "volume", "vwap"), numbers)
    )
    | st.just(A_BAR)
)
SYMBOL = re.compile(r"[/^]?[A-Z0-9][A-Z0-9.\-/^=_:&]{0,31}")


def assert_partition(checked, frame, schema):
    """Good and refused rows together are the rows that came, each in their order, and every reason says why."""
    assert checked.good.schema == schema
    refused = checked.rejected["row"].to_list()
    assert refused == sorted(set(refused))
    stayed = frame.with_row_index("row").filter(~pl.col("row").is_in(refused)).drop("row").select(list(schema))
    expected = stayed.with_columns(pl.col("symbol").str.to_uppercase())
    assert checked.good.equals(expected, null_equal=True)
    assert all(re.match(r"[a-z_, ]+: ", reason) for reason in reasons(checked))
    assert checked.rejected["raw"].null_count() == 0


class TestAnyFrame:
    @given(tick_rows)
    def test_of_ticks_is_parted(self, rows):
        frame = pl.DataFrame(rows, schema=TICKS, orient="row")
        checked = validate_ticks(frame, NOW, TOLERANCE)
        assert_partition(checked, frame, TICKS)
        for row in checked.good.iter_rows(named=True):
            assert SYMBOL.fullmatch(row["symbol"])
            assert EARLIEST <= row["ts"] <= LATEST
            assert 0 < row["price"] <= 1e12
            assert 0 <= row["size"] <= 1e12
            assert row["price"] * row["size"] <= 1e18
            for name, most in (("exchange", 16), ("conditions", 64), ("trade_id", 64)):
                text = row[name]
                if name == "conditions" and text is not None:  # but for codes that are a space
                    text = text.removeprefix(" ,").removesuffix(", ") if text != " " else None
                assert text is None or (text.isascii() and text.isprintable() and text.strip() == text)
                assert text is None or 1 <= len(text) <= most

    @given(bar_rows)
    def test_of_bars_is_parted(self, rows):
        frame = pl.DataFrame(rows, schema=BARS, orient="row")
        checked = validate_bars(frame, NOW, TOLERANCE)
        assert_partition(checked, frame, BARS)
        for row in checked.good.iter_rows(named=True):
            assert SYMBOL.fullmatch(row["symbol"])
            assert EARLIEST <= row["ts"] <= LATEST
            assert 0 < row["low"] <= min(row["open"], row["close"])
            assert max(row["open"], row["close"]) <= row["high"] <= 1e12
            assert 0 <= row["volume"] <= 1e17

    @given(tick_rows, st.integers(0, 20))
    def test_in_pieces_gives_what_it_gives_whole(self, rows, cut):
        frame = pl.DataFrame(rows, schema=TICKS, orient="row")
        whole = validate_ticks(frame, NOW, TOLERANCE)
        parts = [validate_ticks(part, NOW, TOLERANCE) for part in (frame[:cut], frame[cut:])]
        # As it comes from a queue: several chunks in one frame.
        chunked = validate_ticks(pl.concat([frame[:cut], frame[cut:]], rechunk=False), NOW, TOLERANCE)
        assert pl.concat([part.good for part in parts]).equals(whole.good)
        assert reasons(parts[0]) + reasons(parts[1]) == reasons(whole) == reasons(chunked)
        assert chunked.good.equals(whole.good)

    def test_the_type_of_the_times_stays(self):
        assert validate_ticks(ticks({}), NOW, TOLERANCE).good.schema["ts"] == UTC_MICROS

"""One reader for the fields of POST, files, Kafka and dead letters: its valid values, in columns and one by one."""

from datetime import UTC, datetime, timedelta

import polars as pl
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stockpulse.market.columns import NUMBER, TIME
from stockpulse.market.times import read_time

DAY = datetime(2026, 11, 24, tzinfo=UTC)
THREE = DAY + timedelta(hours=15)

TIMES = [
    ("2026-11-24", DAY),
    ("20261124", DAY),
    ("2026-11-24 15:00", THREE),
    ("2026-11-24T15:00", THREE),
    ("2026-11-24T15:00Z", THREE),
    ("2026-11-24t15:00z", THREE),
    ("2026-11-24T15:00:00Z", THREE),
    ("2026-11-24T10:00:00 -0500", THREE),
    ("2026-11-24T10:00:00-0500", THREE),
    ("2026-11-24T10:00:00-05:00", THREE),
    ("2026-11-24T10:00:00-05", THREE),
    ("2026-11-24 10:00 -05", THREE),
    ("2026-11-24 20:30:00.25+05:30", THREE + timedelta(microseconds=250_000)),
    ("2026-11-24 20:30:00,25+0530", THREE + timedelta(microseconds=250_000)),
    (" 2026-11-24T15:00:00.123456789Z ", THREE + timedelta(microseconds=123_456)),
    ("1796137200", datetime(2026, 12, 1, 15, tzinfo=UTC)),
    ("1796137200.999999999", datetime(2026, 12, 1, 15, 0, 0, 999_999, tzinfo=UTC)),
    ("1796137200123", datetime(2026, 12, 1, 15, 0, 0, 123_000, tzinfo=UTC)),
    ("1796137200123456", datetime(2026, 12, 1, 15, 0, 0, 123_456, tzinfo=UTC)),
    ("1796137200123456789", datetime(2026, 12, 1, 15, 0, 0, 123_456, tzinfo=UTC)),
    # POSIX counts a leap second as the first second of the next day.
    ("2016-12-31T23:59:60Z", datetime(2017, 1, 1, tzinfo=UTC)),
    ("2016-12-31T23:59:60.5Z", datetime(2017, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)),
    ("1990-12-31T15:59:60-08:00", datetime(1991, 1, 1, tzinfo=UTC)),
]
NOT_TIMES = [
    "",
    "yesterday",
    "2026-11-31",
    "20261131",
    "20261324",
    "2026-11-24T24:00:00Z",
    "2026-11-24T15",
    "2026-11-24T15:00:00+24:00",
    "2026-11-24T15:00:00+05:60",
    "2026-11-24T15:00:60Z",
    "2016-12-31T23:59:60-08:00",
    "2016-12-31T23:59:61Z",
    "24.11.2026",
    "11/24/2026",
    "-1",
    "99999999999999999999999",
    "1969-12-31T23:59:59Z",
    "2201-01-01",
]


def read(reader, values, dtype=pl.String):
    """The values of a column, each by the way that gives one; an exception where none does."""
    column = pl.Series(values, dtype=dtype)
    found = reader.at_once(column).to_list()
    return [reader.one(value) if one is None else one for one, value in zip(found, column.to_list(), strict=True)]


class TestTime:
    @pytest.mark.parametrize(("text", "moment"), TIMES, ids=[text for text, _ in TIMES])
    def test_of_text(self, text, moment):
        assert read_time(text) == moment
        assert read(TIME, [text]) == [moment]

    def test_of_a_mixed_column(self):
        texts = [text for text, _ in TIMES]
        assert read(TIME, texts) == [moment for _, moment in TIMES]

    @pytest.mark.parametrize("text", NOT_TIMES)
    def test_of_none(self, text):
        assert read_time(text) is None
        assert TIME.at_once(pl.Series([text])).to_list() == [None]
        with pytest.raises(ValueError, match="not a time in the years 1970 to 2200"):
            TIME.one(text)

    @pytest.mark.parametrize("number", [20261124, 20261124.0])
    def test_a_date_may_be_a_number(self, number):
        assert read(TIME, [number], None) == read(TIME, [number, 1.0e9], pl.Float64)[:1] == [DAY]

    @given(
        st.from_regex(
            r"\A ?(19[5-9][0-9]|20[0-9]{2}|22[0-9]{2})-[01][0-9]-[0-3][0-9]"
            r"([Tt ][0-2][0-9]:[0-5][0-9](:[0-6][0-9]([.,][0-9]{1,9})?)?"
            r"( ?([Zz]|[-+ ][0-2][0-9](:?[0-6][0-9])?))?)? ?\Z"
        )
        | st.from_regex(r"\A[0-9]{1,20}(\.[0-9]{0,10})?\Z")
        | st.integers(19_000_101, 22_999_999).map(str)
    )
    @example("1796137200.9999999")
    @example("19700101.0")
    def test_a_column_and_a_value_say_the_same(self, text):
        (found,) = TIME.at_once(pl.Series([text])).to_list()
        assert found in (None, read_time(text))

    @given(st.integers(-(10**10), 10**19) | st.integers(19_000_101, 22_999_999) | st.floats(1, 1e17))
    def test_a_number_and_a_column_of_numbers_say_the_same(self, number):
        dtype = pl.Float64 if isinstance(number, float) else pl.UInt64 if number > 2**62 else pl.Int64
        (found,) = TIME.at_once(pl.Series([number], dtype=dtype)).to_list()
        try:
            alone = TIME.one(number)
        except ValueError:
            alone = None
        if isinstance(number, float) and found is not None and alone is not None:
            assert abs(found - alone) <= timedelta(microseconds=1)  # a float does not hold more
        else:
            assert found in (None, alone)


class TestNumber:
    @pytest.mark.parametrize(("text", "number"), [("1.5", 1.5), (" 168 ", 168.0), ("1.69e2", 169.0), ("+.5", 0.5)])
    def test_of_text(self, text, number):
        assert read(NUMBER, [text, "1"]) == [number, 1.0]
        assert NUMBER.one(text) == number

    @pytest.mark.parametrize("text", ["1,234.5", "1.234,5", "1 234", "$5", "nan", "inf", "1e999", "0x10", "\uff11"])
    def test_of_none(self, text):
        """A comma means thousands to some and decimals to others."""
        assert NUMBER.at_once(pl.Series([text])).to_list() == [None]
        with pytest.raises(ValueError, match="not a number"):
            NUMBER.one(text)

"""Times of a fixed unit: no number is taken for one of another unit."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.market.rows import Field
from stockpulse.providers.epoch_times import MILLISECONDS, SECONDS
from stockpulse.providers.reply_rows import read_objects

JULY = datetime(2026, 7, 14, 14, 3, 21, 123_000, tzinfo=UTC)


def read(reader, *values):
    frame = read_objects([{"ts": value} for value in values], [Field("ts", reader)])
    return frame["ts"].to_list(), frame["problem"].to_list()


def test_the_unit_does_not_depend_on_the_size():
    assert read(MILLISECONDS, 1_784_037_801_123)[0] == [JULY]
    assert read(MILLISECONDS, 86_400_000)[0] == [datetime(1970, 1, 2, tzinfo=UTC)]
    assert read(SECONDS, 1_784_037_801)[0] == [JULY.replace(microsecond=0)]
    assert read(SECONDS, 1_784_037_801.123)[0] == [JULY]


def test_milliseconds_are_never_seconds():
    times, problems = read(SECONDS, 1_784_037_801_123, 1_784_037_801)
    assert times == [None, JULY.replace(microsecond=0)]
    assert problems == ["ts: not a number of seconds in the years 1970 to 2200: 1784037801123", None]


@pytest.mark.parametrize("value", [-1, 2**63, 10**40, 1e300, "1784037801", True, [], {}])
def test_what_is_no_time_is_a_problem(value):
    assert read(SECONDS, value, 5)[0] == [None, datetime(1970, 1, 1, 0, 0, 5, tzinfo=UTC)]


@given(st.lists(st.one_of(st.integers(), st.floats(allow_nan=False), st.none()), min_size=1))
def test_a_value_is_read_alike_alone_and_among_others(values):
    together, problems = read(MILLISECONDS, *values)
    assert together == [read(MILLISECONDS, value)[0][0] for value in values]
    assert [time is None for time in together] == [
        why is not None or value is None for why, value in zip(problems, values, strict=True)
    ]

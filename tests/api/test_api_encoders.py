"""A small answer is written value by value, a large one by expressions: both must be equal."""

import json
import math
from datetime import UTC, datetime
from unittest import mock
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.api import encoders

ZONES = [None, *map(ZoneInfo, ("UTC", "America/New_York", "Asia/Kolkata", "Europe/London", "Pacific/Apia"))]
SCHEMA = pl.Schema(
    {
        "at": pl.Datetime("us", "UTC"),
        "naive": pl.Datetime("us"),
        "price": pl.Float64(),
        "whole": pl.Float64(),
        "count": pl.Int64(),
        "text": pl.String(),
        "flag": pl.Boolean(),
        "kind": pl.Enum(["a", "b"]),
        "nothing": pl.Null(),
    }
)
# Until 2099: of the clocks after it, Polars and Python think differently.
moments = st.datetimes(datetime(1990, 1, 1), datetime(2099, 1, 1))  # noqa: DTZ001
rounded = st.builds(
    lambda moment, to: moment.replace(microsecond=moment.microsecond // to * to),
    moments,
    st.sampled_from([1, 1000, 10**6]),
)
rows = st.tuples(
    st.none() | rounded.map(lambda moment: moment.replace(tzinfo=UTC)),
    st.none() | rounded,
    st.none() | st.floats(),
    st.none() | st.integers(-(2**60), 2**60).map(float) | st.sampled_from([math.nan, math.inf, -0.0]),
    st.none() | st.integers(-(2**63), 2**63 - 1),
    st.none() | st.text(),
    st.none() | st.booleans(),
    st.none() | st.sampled_from(["a", "b"]),
    st.none(),
)


@pytest.mark.thorough
@given(st.lists(rows, max_size=6), st.sampled_from(ZONES))
def test_few_rows_are_written_as_many_are(given_rows, zone):
    frame = pl.DataFrame(given_rows, schema=SCHEMA, orient="row")
    with mock.patch.object(encoders, "_FEW_ROWS", -1):
        many = json.loads(encoders.json_rows(frame, zone), parse_float=repr_of, parse_int=str)
    assert json.loads(encoders.json_rows(frame, zone), parse_float=repr_of, parse_int=str) == many


def repr_of(text):
    """The number itself, since 1e16 may be spelled in several ways; but 1.0 is not 1."""
    return ("float", float(text))

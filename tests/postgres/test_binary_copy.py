"""The binary COPY format: PostgreSQL stores the packed values, and unpacking returns the stored values."""

import asyncio
import math
import struct

import asyncpg
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stockpulse.market.times import EPOCH, from_micros
from stockpulse.postgres.binary_copy import HEADER, TRAILER, Layout, in_slices

COLUMNS = {"a": "int2", "b": "int4", "c": "int8", "d": "float8", "e": "timestamptz"}
FIXED = Layout(COLUMNS)
WITH_TEXT = Layout(COLUMNS, text="t")
TABLE = "CREATE TEMP TABLE copied (a int2, b int4, c int8, d float8, e timestamptz, t text)"

# PostgreSQL's own ends of time are years 4713 BC and 294276; Python's datetimes are from 1 to 9999.
FIRST_MICRO = -62_135_596_800_000_000
LAST_MICRO = 253_402_300_799_999_999


def signed(bits):
    return st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


rows_of = st.lists(
    st.tuples(
        signed(16),
        signed(32),
        signed(64),
        st.floats(),
        st.integers(FIRST_MICRO, LAST_MICRO) | st.sampled_from([0, 946_684_800_000_000, FIRST_MICRO, LAST_MICRO]),
        # Any text without NUL, which PostgreSQL cannot store.
        st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=80),
    ),
    max_size=30,
)


def columns_of(rows):
    types = {"a": np.int16, "b": np.int32, "c": np.int64, "d": np.float64, "e": np.int64}
    return {name: np.array([row[at] for row in rows], dtype) for at, (name, dtype) in enumerate(types.items())}


def bits(row):
    """A float as its bytes, so that NaN is itself and -0.0 is not 0.0."""
    return (*row[:3], "NaN" if math.isnan(row[3]) else struct.pack(">d", row[3]), *row[4:])


async def copy_in(connection, layout, pieces):
    await connection.execute("TRUNCATE copied")
    await connection.copy_to_table("copied", source=in_slices(pieces), columns=layout.columns, format="binary")


async def copy_out(connection, layout):
    pieces = []

    async def take(piece):
        pieces.append(piece)

    query = f"SELECT {', '.join(layout.columns)} FROM copied ORDER BY ctid"
    await connection.copy_from_query(query, output=take, format="binary")
    return b"".join(pieces)


@pytest.fixture
def database(postgres_dsn):
    """`database(coroutine function, *arguments)`: runs it with a connection."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(postgres_dsn, server_settings={"timezone": "UTC"}))
        runner.run(connection.execute(TABLE))
        yield lambda work, *arguments: runner.run(work(connection, *arguments))
        runner.run(connection.close())


one_database = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.thorough
@one_database
@given(rows=rows_of)
def test_fixed_rows_there_and_back(database, rows):
    columns = columns_of(rows)
    database(copy_in, FIXED, FIXED.pack(columns))
    back = FIXED.unpack(database(copy_out, FIXED))
    for name, values in columns.items():
        assert back[name].dtype == values.dtype
        assert back[name].tobytes() == values.tobytes() or np.array_equal(back[name], values, equal_nan=True)


@one_database
@given(rows=rows_of)
def test_what_is_packed_is_what_is_stored(database, rows):
    texts = pl.Series([row[5] for row in rows], dtype=pl.String)
    database(copy_in, WITH_TEXT, WITH_TEXT.pack(columns_of(rows), texts))

    async def fetch(connection):
        return await connection.fetch("SELECT a, b, c, d, e, t FROM copied")

    stored = [bits((*row[:4], (row["e"] - EPOCH), row["t"])) for row in database(fetch)]
    sent = [bits((*row[:4], from_micros(row[4]) - EPOCH, row[5])) for row in rows]
    assert sorted(stored, key=repr) == sorted(sent, key=repr)


def test_rows_of_one_width_keep_their_order(database):
    rows = [(n, n, n, float(n), n, f"{n:04}") for n in range(1000)]
    texts = pl.Series([row[5] for row in rows])
    database(copy_in, WITH_TEXT, WITH_TEXT.pack(columns_of(rows), texts))
    assert FIXED.unpack(database(copy_out, FIXED))["c"].tolist() == list(range(1000))


def test_more_than_one_slice(database):
    count = 40_000
    columns = {name: np.arange(count, dtype=values.dtype) % 30_000 for name, values in columns_of([]).items()}
    texts = pl.Series([None if n % 3 else "x" * (n % 7) for n in range(count)], dtype=pl.String)
    database(copy_in, WITH_TEXT, WITH_TEXT.pack(columns, texts))

    async def totals(connection):
        query = "SELECT count(*), sum(c)::bigint, count(t), sum(length(t)) FROM copied"
        return tuple(await connection.fetchrow(query))

    lengths = texts.drop_nulls().str.len_chars()
    assert database(totals) == (count, int(columns["c"].sum()), len(lengths), lengths.sum())


def test_no_rows():
    assert b"".join(FIXED.pack(columns_of([]))) == HEADER + TRAILER
    assert {len(values) for values in FIXED.unpack(HEADER + TRAILER).values()} == {0}


def test_without_texts_they_are_null(database):
    database(copy_in, WITH_TEXT, WITH_TEXT.pack(columns_of([(1, 2, 3, 4.0, 5, None)] * 3)))

    async def nulls(connection):
        return await connection.fetchval("SELECT count(*) FROM copied WHERE t IS NULL")

    assert database(nulls) == 3


def test_one_row_as_the_documentation_has_it():
    layout = Layout({"n": "int4"}, text="t")
    packed = b"".join(layout.pack({"n": np.array([7])}, pl.Series(["é"])))
    assert packed == HEADER + struct.pack(">hiii", 2, 4, 7, 2) + "é".encode() + TRAILER
    packed = b"".join(layout.pack({"n": np.array([7])}, pl.Series([None], dtype=pl.String)))
    assert packed == HEADER + struct.pack(">hiii", 2, 4, 7, -1) + TRAILER

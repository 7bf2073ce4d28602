"""The schema: the migrations create the schema of `tables.py`, up and down, by every way to run them."""

import asyncio
import contextlib
import os
import re
import subprocess
import sys
from contextlib import asynccontextmanager
from fractions import Fraction
from pathlib import Path
from urllib.parse import quote

import asyncpg
import numpy as np
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from stockpulse.engine.older_state import current_rows
from stockpulse.errors import CannotStart, SchemaOutOfDate
from stockpulse.postgres import migrate
from stockpulse.postgres.address import normal_dsn
from stockpulse.postgres.embedded.server import EmbeddedPostgres
from stockpulse.postgres.tables import metadata

pytestmark = pytest.mark.slow

PROJECT = Path(__file__).parents[2]
SECRET = "p@ss:w/rd?#%"

VIEWS = {
    "stock_ticks": {
        "id": "bigint",
        "symbol": "text",
        "price": "double precision",
        "volume": "double precision",
        "event_time": "timestamp with time zone",
        "provider": "text",
        "exchange": "text",
        "conditions": "text",
        "trade_id": "text",
        "received_at": "timestamp with time zone",
        "tape": "text",
    },
    "price_points": {
        "id": "bigint",
        "symbol": "text",
        "price": "double precision",
        "provider": "text",
        "timestamp": "timestamp with time zone",
        "created_at": "timestamp with time zone",
    },
    "bars": {
        "symbol": "text",
        "interval": "text",
        "ts": "timestamp with time zone",
        "open": "double precision",
        "high": "double precision",
        "low": "double precision",
        "close": "double precision",
        "volume": "double precision",
        "trade_count": "bigint",
        "vwap": "double precision",
        "revision": "bigint",
        "source": "text",
    },
    "stock_bars_1m": {
        "symbol": "text",
        "bucket_start": "timestamp with time zone",
        "open": "double precision",
        "high": "double precision",
        "low": "double precision",
        "close": "double precision",
        "volume_sum": "double precision",
        "tick_count": "bigint",
    },
    "moving_averages": {
        "symbol": "text",
        "price": "double precision",
        "moving_average": "double precision",
        "window_size": "integer",
        "timestamp": "timestamp with time zone",
        "calculated_at": "timestamp with time zone",
    },
    "stock_signals": {
        "symbol": "text",
        "interval": "text",
        "ts": "timestamp with time zone",
        "rule": "text",
        "signal": "text",
        "price": "double precision",
        "revision": "bigint",
    },
}


@asynccontextmanager
async def connected(dsn):
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


async def in_alembic(dsn, run):
    """`run(config, connection)`, where `config` makes Alembic's commands use the connection."""

    def configured(connection):
        config = migrate._config()
        config.attributes["connection"] = connection
        return run(config, connection)

    async with migrate.sqlalchemy_engine(dsn) as engine, engine.begin() as connection:
        return await connection.run_sync(configured)


async def relations(dsn):
    query = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    functions = "SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    async with connected(dsn) as connection:
        return {row[0] for row in await connection.fetch(f"{query} UNION ALL {functions}")}


def alembic(*arguments, **variables):
    """The command line, as a reader of the README types it in the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "alembic", *arguments],
        cwd=PROJECT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


async def catalogue(dsn):
    """The catalogue of a schema, as text: tables, columns, constraints, indexes, views, functions, comments."""
    queries = {
        "columns": "SELECT table_name, ordinal_position, column_name, data_type, udt_name, is_nullable, column_default,"
        " is_identity FROM information_schema.columns WHERE table_schema = 'public'",
        "constraints": "SELECT conrelid::regclass, conname, pg_get_constraintdef(oid) FROM pg_constraint"
        " WHERE connamespace = 'public'::regnamespace",
        "indexes": "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "views": "SELECT viewname, definition FROM pg_views WHERE schemaname = 'public'",
        "functions": "SELECT proname, pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
        " AND prokind = 'f' UNION ALL SELECT aggfnoid::text, aggtransfn::text FROM pg_aggregate a JOIN pg_proc p"
        " ON p.oid = a.aggfnoid WHERE pronamespace = 'public'::regnamespace UNION ALL"
        " SELECT version_num, '' FROM alembic_version UNION ALL SELECT relname, array_to_string(reloptions, ',') ||"
        " coalesce(pg_get_partkeydef(oid), '') FROM pg_class WHERE relnamespace = 'public'::regnamespace",
        "comments": "SELECT c.relname, objsubid, description FROM pg_description d JOIN pg_class c ON c.oid = d.objoid"
        " WHERE c.relnamespace = 'public'::regnamespace",
    }
    async with connected(dsn) as connection:
        return {name: sorted(map(str, await connection.fetch(query))) for name, query in queries.items()}


@pytest.fixture
async def tcp(empty_dsn):
    """A port of this machine behind which the embedded server is, which itself has a socket only."""
    folder = re.search(r"host=([^&]+)", empty_dsn)[1]

    async def forward(reader, writer):
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader, writer):
        to_server = await asyncio.open_unix_connection(f"{folder}/.s.PGSQL.5432")
        async with asyncio.TaskGroup() as both:
            both.create_task(forward(reader, to_server[1]))
            both.create_task(forward(to_server[0], writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


class TestSchema:
    async def test_is_made_in_an_empty_database(self, empty_dsn):
        assert not await migrate.is_current(empty_dsn)
        await migrate.upgrade(empty_dsn)
        assert await migrate.is_current(empty_dsn)
        await migrate.upgrade(empty_dsn)  # again: nothing to do

    async def test_is_what_the_tables_say(self, postgres_dsn):
        await in_alembic(postgres_dsn, lambda config, _: command.check(config))

        def compare(_, connection):
            options = {"compare_type": True, "compare_server_default": True}
            return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

        assert await in_alembic(postgres_dsn, compare) == []

    async def test_is_what_the_tables_say_in_what_alembic_does_not_compare(self, postgres_dsn):
        def read(_, connection):
            inspector = inspect(connection)
            return {
                table: (
                    [column["name"] for column in inspector.get_columns(table)],
                    inspector.get_pk_constraint(table)["name"],
                    inspector.get_pk_constraint(table)["constrained_columns"],
                )
                for table in metadata.tables
            }

        def wanted(table):
            key = table.primary_key
            return (list(table.columns.keys()), str(key.name) if len(key) else None, list(key.columns.keys()))

        assert await in_alembic(postgres_dsn, read) == {name: wanted(table) for name, table in metadata.tables.items()}

    async def test_partitions_are_no_difference(self, serve, postgres_dsn):
        async with serve(postgres_dsn) as client:
            tick = {"symbol": "SPY", "ts": "2026-03-02T14:30:00Z", "price": 684.5, "size": 100}
            assert (await client.post("/api/v1/ticks", json=[tick])).json()["accepted"] == 1
        assert {name for name in await relations(postgres_dsn) if name.startswith("bars_1m_p")}
        await in_alembic(postgres_dsn, lambda config, _: command.check(config))

    @pytest.mark.thorough
    async def test_goes_down_to_nothing_and_up_again(self, empty_dsn):
        await migrate.upgrade(empty_dsn)
        whole = await relations(empty_dsn)
        await in_alembic(empty_dsn, lambda config, _: command.downgrade(config, "base"))
        assert await relations(empty_dsn) == {"alembic_version", "alembic_version_pkc"}
        await migrate.upgrade(empty_dsn)
        assert await relations(empty_dsn) == whole

    async def test_goes_down_with_data_in_it(self, serve, postgres_dsn):
        async with serve(postgres_dsn) as client:
            tick = {"symbol": "SPY", "ts": "2026-03-02T14:30:00Z", "price": 684.5, "size": 100}
            await client.post("/api/v1/ticks", json=[tick])
        await in_alembic(postgres_dsn, lambda config, _: command.downgrade(config, "base"))
        assert await relations(postgres_dsn) == {"alembic_version", "alembic_version_pkc"}


OLD_BARS = [
    # units and billionths of volume and of price x size
    (3, 500_000_000, 31, 250_000_000),
    (0, 1, 0, 7),
    (5, 0, -1, 0),
    (9_000_000_000_000, 999_999_999, 900_000_000_000_000_000, 123_456_789),
    (0, 0, 0, 0),
]


class TestExactSums:
    """Migration 0004 writes the sums of stored bars in other units."""

    async def test_keeps_what_is_stored(self, empty_dsn):
        await in_alembic(empty_dsn, lambda config, _: command.upgrade(config, "0003"))
        async with connected(empty_dsn) as connection:
            await connection.execute("INSERT INTO symbols (symbol, calendar) VALUES ('SPY', 'XNYS')")
            await connection.executemany(
                "INSERT INTO historical_ohlcv VALUES (1, to_timestamp($1::int * 86400), now(), 1, 1e9, 0, 1.5,"
                " 0, 0, 0, 0, $2, $3, $4, $5, 7, 9, 0)",
                [(day, *sums) for day, sums in enumerate(OLD_BARS)],
            )
            before = await connection.fetch("SELECT ts, volume, vwap FROM bars ORDER BY ts")
        await migrate.upgrade(empty_dsn)
        old = np.zeros(len(OLD_BARS), _OLD_BAR)
        for name, column in zip(_OLD_SUMS, zip(*OLD_BARS, strict=True), strict=True):
            old[name] = column
        wanted = current_rows(old)
        names = ("volume_units", "volume_picos", "vwap_units", "vwap_picos", *_DIGITS, "by_minutes")
        async with connected(empty_dsn) as connection:
            rows = await connection.fetch(f"SELECT {', '.join(names)} FROM historical_ohlcv ORDER BY ts")
            after = await connection.fetch("SELECT ts, volume, vwap FROM bars ORDER BY ts")
        assert [tuple(row) for row in rows] == wanted[list(names)].tolist()
        for (units, nanos, *notional), row in zip(OLD_BARS, wanted, strict=True):
            assert volume(row) == Fraction(units * 10**9 + nanos, 10**9)
            exact = Fraction(notional[0] * 10**9 + notional[1], 10**9)
            assert notional_of(row) is None if exact < 0 else 0 <= exact - notional_of(row) < Fraction(1, 2**100)
        for one, other in zip(before, after, strict=True):
            assert one["volume"] == other["volume"]
            assert (one["vwap"] or 0) == pytest.approx(other["vwap"] or 0, rel=1e-15)

    async def test_comes_back(self, empty_dsn):
        await migrate.upgrade(empty_dsn)
        async with connected(empty_dsn) as connection:
            await connection.execute(
                "INSERT INTO historical_ohlcv (symbol_id, ts, ends_at, open, high, low, close, open_us, open_seq,"
                " close_us, close_seq, trade_count, revision, provider_id, by_minutes, volume_units, volume_picos,"
                " vwap_units, vwap_picos, notional_high, notional_middle, notional_low)"
                " VALUES (1, now(), now(), 1, 2, 0.5, 1.5, 0, 0, 0, 0, 7, 9, 0, false,"
                " 3, 500000000000, 3, 500000000000, 0, $1, 0)",
                31 * 2**38 + 2**36,
            )
        await in_alembic(empty_dsn, lambda config, _: command.downgrade(config, "0003"))
        async with connected(empty_dsn) as connection:
            rows = await connection.fetch(f"SELECT {', '.join(_OLD_SUMS)} FROM historical_ohlcv")
        assert [tuple(row) for row in rows] == [(3, 500_000_000, 31, 250_000_000)]


_OLD_SUMS = ("volume_units", "volume_nanos", "notional_units", "notional_nanos")
_OLD_BAR = np.dtype([("symbol_id", "i8"), ("ts", "i8"), *((name, "i8") for name in _OLD_SUMS)])
_DIGITS = ("notional_high", "notional_middle", "notional_low")


def volume(row):
    return Fraction(int(row["volume_units"]) * 10**12 + int(row["volume_picos"]), 10**12)


def notional_of(row):
    high, middle, low = (int(row[name]) for name in _DIGITS)
    return None if high < 0 else Fraction((high * 2**62 + middle) * 2**62 + low, 2**100)


class TestViews:
    @pytest.mark.parametrize("view", VIEWS)
    async def test_have_the_documented_columns(self, postgres_dsn, view):
        query = (
            "SELECT column_name, data_type FROM information_schema.columns WHERE table_name = $1"
            " ORDER BY ordinal_position"
        )
        async with connected(postgres_dsn) as connection:
            assert dict(await connection.fetch(query, view)) == VIEWS[view]

    async def test_show_what_was_sent(self, client, postgres_dsn):
        ticks = [
            {
                "symbol": "SPY",
                "ts": "2026-03-02T14:30:01Z",
                "price": 684.5,
                "size": 100,
                "exchange": "P",
                "trade_id": "7",
            },
            {"symbol": "SPY", "ts": "2026-03-02T14:30:02Z", "price": 685.5, "size": 0.3, "conditions": ["@", "I"]},
        ]
        sent = await client.post("/api/v1/ticks", params={"provider": "desk"}, json=ticks)
        assert sent.json() == {"accepted": 2, "duplicates": 0, "rejected": []}
        async with connected(postgres_dsn) as connection:
            first, second = await connection.fetch(
                "SELECT symbol, price, volume, provider, exchange, conditions, trade_id FROM stock_ticks ORDER BY id"
            )
            assert tuple(first) == ("SPY", 684.5, 100.0, "desk", "P", "", "7")
            assert tuple(second) == ("SPY", 685.5, 0.3, "desk", "", "@,I", None)
            assert await connection.fetchval("SELECT array_agg(price ORDER BY id) FROM price_points") == [684.5, 685.5]
            async with asyncio.timeout(10):
                while await connection.fetchval("SELECT count(*) FROM bars") < 3:
                    await asyncio.sleep(0.05)
            (bar,) = await connection.fetch(
                "SELECT symbol, open, high, low, close, volume_sum, tick_count FROM stock_bars_1m"
            )
            assert tuple(bar) == ("SPY", 684.5, 685.5, 684.5, 685.5, 100.3, 2)
            bars = await connection.fetch("SELECT interval, volume, trade_count, vwap, source FROM bars")
            assert {row["interval"] for row in bars} == {"1m", "5m", "1d"}
            assert {tuple(row)[1:] for row in bars} == {(100.3, 2, (68450 + 685.5 * 0.3) / 100.3, "trades")}


class TestCommandLine:
    @pytest.mark.thorough
    async def test_upgrades_the_database_that_is_set(self, empty_dsn):
        done = alembic("upgrade", "head", DATABASE_URL=empty_dsn)
        assert done.returncode == 0, done.stderr
        assert await migrate.is_current(empty_dsn)

    @pytest.mark.thorough
    def test_writes_a_script_without_a_database(self):
        script = alembic("upgrade", "head", "--sql", DATABASE_URL="postgresql://nobody@localhost:1/none")
        assert script.returncode == 0, script.stderr
        assert "CREATE TABLE realtime_prices" in script.stdout

    @pytest.mark.thorough
    async def test_the_script_makes_the_same_schema(self, empty_dsn, postgres_dsn):
        script = await asyncio.to_thread(alembic, "upgrade", "head", "--sql")
        assert script.returncode == 0, script.stderr
        async with connected(empty_dsn) as connection:
            await connection.execute(script.stdout)
        assert await migrate.is_current(empty_dsn)
        offline, online = await catalogue(empty_dsn), await catalogue(postgres_dsn)
        assert min(len(rows) for rows in online.values()) > 2
        assert offline == online

    @pytest.mark.thorough
    @pytest.mark.parametrize("parameters", ["sslmode=disable", "sslmode=prefer&channel_binding=prefer", "ssl=allow"])
    async def test_takes_the_address_as_clouds_print_it(self, empty_dsn, tcp, parameters):
        """Over TCP, the second of two hosts, with a password."""
        name = empty_dsn.partition("?")[0].rpartition("/")[2]
        url = f"postgres://stockpulse:{quote(SECRET, safe='')}@127.0.0.1:1,127.0.0.1:{tcp}/{name}?{parameters}"
        done = await asyncio.to_thread(alembic, "upgrade", "head", DATABASE_URL=url)
        assert done.returncode == 0, done.stderr
        assert await migrate.is_current(empty_dsn)
        assert await migrate.is_current(normal_dsn(url))

    @pytest.mark.thorough
    @pytest.mark.parametrize("url", [
        "postgresql://me:{}@127.0.0.1:1/prices?sslmode=require",
        "postgresql://me:{}@127.0.0.1:port/prices",
        "postgresql://me:{}#@127.0.0.1/prices",
        "mysql://me:{}@127.0.0.1/prices",
    ])  # fmt: skip
    def test_says_what_is_wrong_in_one_line_without_the_password(self, url):
        done = alembic("upgrade", "head", DATABASE_URL=url.format(quote(SECRET, safe="")))
        said = done.stdout + done.stderr
        assert done.returncode != 0
        assert "Traceback" not in said
        assert "does not answer" in said or "takes an address that begins with postgresql://" in said
        assert SECRET not in said
        assert quote(SECRET, safe="") not in said

    @pytest.mark.thorough
    async def test_upgrades_the_embedded_database(self, tmp_path):
        folder = {"STOCKPULSE_DATA_DIR": str(tmp_path / "data")}
        done = alembic("upgrade", "head", **folder)
        assert done.returncode == 0, done.stderr
        server = EmbeddedPostgres(tmp_path / "data")
        await server.start()
        try:
            assert await migrate.is_current(server.dsn)
            # While an app uses the database, that app manages its schema.
            refused = await asyncio.to_thread(alembic, "upgrade", "head", **folder)
        finally:
            await server.stop()
        assert refused.returncode != 0
        assert f"another StockPulse (pid {os.getpid()}) runs on {tmp_path / 'data'}" in refused.stdout


class TestStart:
    async def test_is_refused_on_a_database_without_a_schema(self, serve, empty_dsn):
        with pytest.raises(SchemaOutOfDate, match="run `stockpulse migrate`"):
            async with serve(empty_dsn):
                pass
        assert await relations(empty_dsn) == set()

    async def test_is_refused_on_the_schema_of_a_newer_version(self, serve, postgres_dsn):
        async with connected(postgres_dsn) as connection:
            await connection.execute("UPDATE alembic_version SET version_num = '9999'")
        with pytest.raises(CannotStart, match="a newer StockPulse made this database"):
            async with serve(postgres_dsn):
                pass

    @pytest.mark.thorough
    def test_under_uvicorn_one_line_says_why(self, empty_dsn):
        ended = subprocess.run(
            [sys.executable, "-m", "uvicorn", "stockpulse.app:app", "--port", "0"],
            env=os.environ | {"DATABASE_URL": empty_dsn, "STOCKPULSE_LOG_FORMAT": "json"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert ended.returncode == 3
        assert "run `stockpulse migrate`" in ended.stderr
        assert "Traceback" not in ended.stderr

"""Addresses of databases as clouds and programs write them, read once for the app and for Alembic."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stockpulse.errors import InvalidInput
from stockpulse.postgres.address import normal_dsn


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("postgresql://", "postgresql:///"),
        ("postgres://me:pw@host/db", "postgresql://me:pw@host/db"),
        ("postgresql+asyncpg://me:pw@host:5433/db?ssl=require", "postgresql://me:pw@host:5433/db?sslmode=require"),
        ("postgres://me:pw@host/db?sslmode=require", "postgresql://me:pw@host/db?sslmode=require"),
        ("postgresql://me:pw@host/db?sslmode=require&channel_binding=require", "postgresql://me:pw@host/db?sslmode=require"),
        ("postgres://me:pw@host:6543/db?pgbouncer=true&connect_timeout=10", "postgresql://me:pw@host:6543/db"),
        ("postgresql:///db?host=/run/postgresql", "postgresql:///db?host=/run/postgresql"),
        ("postgresql://me@%2Frun%2Fpostgresql/db", "postgresql://me@%2Frun%2Fpostgresql/db"),
        ("postgresql://a:1,b:2,[::1]:3/db?target_session_attrs=read-write",
         "postgresql://a:1,b:2,[::1]:3/db?target_session_attrs=read-write"),
        ("postgresql://h/db?sslmode=verify-full&sslrootcert=/etc/ca%20s.pem",
         "postgresql://h/db?sslmode=verify-full&sslrootcert=/etc/ca%20s.pem"),
        ("postgresql://h/db?options=-c%20search_path%3Dmarket", "postgresql://h/db?options=-c%20search_path%3Dmarket"),
        ("postgresql://me:p%40s%2Fs%23%3F@host/db", "postgresql://me:p%40s%2Fs%23%3F@host/db"),
        ("postgresql://me:p@ss@host/db", "postgresql://me:p%40ss@host/db"),
        (" postgresql://host/db\n", "postgresql://host/db"),
    ],
)  # fmt: skip
def test_customary_addresses(written, normal):
    assert normal_dsn(written) == normal
    assert normal_dsn(normal) == normal


@pytest.mark.parametrize(
    "address",
    [
        "",
        "host=localhost dbname=x password=hunter2",
        "mysql://me:hunter2@host/db",
        "postgresql:/me:hunter2@host/db",
        "postgresql://me:hunter2/x@host/db",
        "postgresql://me:hunter2#x@host/db",
        "postgresql://me:hunter2@host:port/db",
        "postgresql://me:hunter2@host:5432:6/db",
    ],
)
def test_others_are_refused_without_being_shown(address):
    with pytest.raises(InvalidInput) as refused:
        normal_dsn(address)
    assert "takes an address that begins with postgresql://" in str(refused.value)
    assert "hunter2" not in str(refused.value)


@given(st.text(), st.text(min_size=1))
def test_any_password_that_is_encoded_comes_through(user, password):
    from urllib.parse import quote, unquote, urlparse

    address = urlparse(normal_dsn(f"postgres://{quote(user, safe='')}:{quote(password, safe='')}@host/db"))
    account = address.netloc.rpartition("@")[0]
    assert tuple(map(unquote, account.partition(":")[::2])) == (user, password)

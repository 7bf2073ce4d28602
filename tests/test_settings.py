"""Settings come from the environment and from `.env`; a wrong setting stops the start with a line about the remedy."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from plugin_package import lay_out
from stockpulse.errors import CannotStart
from stockpulse.node.kafka import codec_of, connection_of
from stockpulse.node.lifecycle import running
from stockpulse.postgres.address import normal_dsn
from stockpulse.providers.options import read_options
from stockpulse.providers.registry import OURS, installed_providers
from stockpulse.settings import Settings, given_variables, load_settings, variables_of

SECRET = "hunter2"
PROVIDERS = ", ".join(name for entry in OURS for name in entry.names)


@pytest.fixture(autouse=True)
def external(tmp_path, monkeypatch):
    """No `.env` of the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def polled(tmp_path, monkeypatch):
    """An installed provider with options."""
    module = """
from stockpulse.providers.base import Option, ProviderEntry
from stockpulse.testing import ScriptedProvider

KEY = Option("key", ("STOCKPULSE_POLLED_KEY", "POLLED_KEY"), "Key, from polled.example.", secret=True)
URL = Option("url", ("STOCKPULSE_POLLED_URL",), "Address.", default="http://polled.example")
ENTRY = ProviderEntry("polled", lambda config: ScriptedProvider(name="polled", live=True), options=(KEY, URL))
"""
    lay_out(tmp_path / "site", "polled-feed", {"polled_feed.py": module}, {"polled": "polled_feed:ENTRY"})
    monkeypatch.syspath_prepend(tmp_path / "site")
    installed_providers.cache_clear()
    yield installed_providers().named("polled")
    installed_providers.cache_clear()
    sys.modules.pop("polled_feed")


def given(monkeypatch, **variables):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings()


def refusal(monkeypatch, **variables):
    with pytest.raises(CannotStart) as refused:
        given(monkeypatch, **variables)
    return str(refused.value)


class TestDefaults:
    def test_need_nothing(self):
        settings = load_settings()
        assert settings.database_url is None
        assert settings.provider == "simulated"
        assert len(settings.symbols) == 6

    def test_stand_for_what_is_empty(self, monkeypatch):
        # As compose passes variables that are not set.
        empty = {name: "" for field in Settings.model_fields for name in variables_of(field)}
        assert given(monkeypatch, **empty) == Settings()

    def test_every_field_says_what_it_means(self):
        for name, field in Settings.model_fields.items():
            assert field.description, name
            assert field.description.endswith((".", "…")), name


class TestNames:
    @pytest.mark.parametrize(
        ("field", "names"),
        [
            ("app_name", ("STOCKPULSE_APP_NAME", "APP_NAME")),
            ("debug", ("STOCKPULSE_DEBUG", "DEBUG")),
            ("database_url", ("STOCKPULSE_DATABASE_URL", "DATABASE_URL")),
            ("provider", ("STOCKPULSE_PROVIDER", "DEFAULT_PROVIDER")),
            ("calendar", ("STOCKPULSE_CALENDAR",)),
            ("kafka_bootstrap_servers", ("STOCKPULSE_KAFKA_BOOTSTRAP_SERVERS", "KAFKA_BOOTSTRAP_SERVERS")),
            ("kafka_topic_raw", ("STOCKPULSE_KAFKA_TOPIC_RAW", "KAFKA_TOPIC_PRICE_EVENTS")),
            ("schema_registry_url", ("STOCKPULSE_SCHEMA_REGISTRY_URL", "SCHEMA_REGISTRY_URL")),
            ("kafka_password", ("STOCKPULSE_KAFKA_PASSWORD",)),
        ],
    )
    def test_ours_and_the_customary_ones(self, field, names):
        assert variables_of(field) == names

    @pytest.mark.parametrize("name", ["STOCKPULSE_PROVIDER", "DEFAULT_PROVIDER"])
    def test_each_of_them_works(self, monkeypatch, name):
        assert given(monkeypatch, **{name: "none"}).provider == "none"

    def test_ours_goes_first(self, monkeypatch):
        assert given(monkeypatch, STOCKPULSE_APP_NAME="ours", APP_NAME="theirs").app_name == "ours"

    def test_others_without_prefix_are_not_ours(self, monkeypatch):
        settings = given(monkeypatch, SYMBOLS="ZZZ", CALENDAR="XLON", PROVIDER="none", DATA_DIR="/nowhere")
        assert settings == Settings()

    def test_what_is_not_known_is_not_looked_at(self, monkeypatch):
        assert given(monkeypatch, STOCKPULSE_POSTGRES_IMAGE="16") == Settings()


class TestDotEnv:
    def test_is_read(self, tmp_path):
        (tmp_path / ".env").write_text("DATABASE_URL=postgresql://u@h/zürich\nSTOCKPULSE_SYMBOLS=SPY,QQQ\n")
        settings = load_settings()
        assert settings.database_url.get_secret_value() == "postgresql://u@h/zürich"
        assert settings.symbols == ("SPY", "QQQ")

    def test_the_environment_goes_first(self, tmp_path, monkeypatch):
        (tmp_path / ".env").write_text("STOCKPULSE_SYMBOLS=SPY\n")
        assert given(monkeypatch, STOCKPULSE_SYMBOLS="QQQ").symbols == ("QQQ",)

    def test_a_wrong_value_there_is_refused_too(self, tmp_path):
        (tmp_path / ".env").write_text("STOCKPULSE_DATABASE_POOL=1\n")
        with pytest.raises(CannotStart, match=r"^STOCKPULSE_DATABASE_POOL: got '1'; must be"):
            load_settings()


class TestValues:
    @pytest.mark.parametrize("value", ["simulated", "test", "Test"])
    def test_the_simulated_provider_has_two_names(self, monkeypatch, value):
        assert given(monkeypatch, DEFAULT_PROVIDER=value).provider == "simulated"

    def test_symbols_are_upper_case_and_once_each(self, monkeypatch):
        assert given(monkeypatch, STOCKPULSE_SYMBOLS=" aapl, brk.b,,AAPL ").symbols == ("AAPL", "BRK.B")

    @pytest.mark.parametrize("scheme", ["postgresql", "postgres", "postgresql+asyncpg"])
    def test_every_customary_spelling_of_a_database(self, monkeypatch, scheme):
        url = given(monkeypatch, DATABASE_URL=f"{scheme}://me:{SECRET}@host:5433/prices?ssl=require").database_url
        assert normal_dsn(url.get_secret_value()) == f"postgresql://me:{SECRET}@host:5433/prices?sslmode=require"

    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("DATABASE_URL", f"postgresql://me:{SECRET}@host/prices"),
            ("STOCKPULSE_KAFKA_PASSWORD", SECRET),
            ("STOCKPULSE_SCHEMA_REGISTRY_SECRET", SECRET),
        ],
    )
    def test_a_secret_is_not_shown(self, monkeypatch, variable, value):
        settings = given(monkeypatch, **{variable: value})
        assert SECRET not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


class TestWrong:
    @pytest.mark.parametrize(
        ("variable", "value", "takes"),
        [
            ("DEBUG", "release", "must be a valid boolean"),
            ("STOCKPULSE_DEBUG", "maybe", "must be a valid boolean"),
            ("STOCKPULSE_LOG_FORMAT", "xml", "must be 'auto', 'console' or 'json'"),
            ("STOCKPULSE_DATABASE_POOL", "1", "must be greater than or equal to 2"),
            ("STOCKPULSE_DATABASE_POOL", "ten", "must be a valid integer"),
            ("STOCKPULSE_SIMULATED_SEED", "1.5", "must be a valid integer"),
            ("STOCKPULSE_SIMULATED_RATE", "0", "must be greater than 0"),
            ("STOCKPULSE_SIMULATED_RATE", "inf", "must be less than or equal to 100000"),
            ("STOCKPULSE_LATENESS_SECONDS", "nan", "must be less than or equal to 3600"),
            ("STOCKPULSE_FUTURE_SECONDS", "-1", "must be greater than or equal to 0"),
            ("STOCKPULSE_PROVIDER", "acne", f"takes one of {PROVIDERS}, none"),
            ("DEFAULT_PROVIDER", "acne", f"takes one of {PROVIDERS}, none"),
            ("STOCKPULSE_SYMBOLS", "AAPL,$$", "takes symbols separated by commas; '$$' is not a symbol"),
            ("STOCKPULSE_ROLE", "worker", "must be 'all', 'ingest', 'process' or 'api'"),
            ("STOCKPULSE_KAFKA_CODEC", "protobuf", "must be 'json' or 'avro'"),
            ("STOCKPULSE_KAFKA_PARTITIONS", "0", "must be greater than or equal to 1"),
            ("STOCKPULSE_KAFKA_REPLICATION", "10", "must be less than or equal to 9"),
            ("STOCKPULSE_KAFKA_RETENTION_HOURS", "0", "must be greater than or equal to 1"),
            (
                "STOCKPULSE_KAFKA_SECURITY_PROTOCOL",
                "TLS",
                "must be 'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'",
            ),
            ("STOCKPULSE_KAFKA_SASL_MECHANISM", "GSSAPI", "must be 'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'"),
        ],
    )
    def test_one_line_names_the_variable_what_it_got_and_what_it_takes(self, monkeypatch, variable, value, takes):
        assert refusal(monkeypatch, **{variable: value}) == f"{variable}: got {value!r}; {takes}"

    @pytest.mark.parametrize("variable", ["DATABASE_URL", "STOCKPULSE_DATABASE_URL"])
    @pytest.mark.parametrize("url", [f"mysql://me:{SECRET}@host/prices", SECRET, f"me:{SECRET}@host"])
    def test_a_secret_is_not_echoed(self, monkeypatch, variable, url):
        assert refusal(monkeypatch, **{variable: url}) == (
            f"{variable}: got a value that is not shown; takes an address that begins with postgresql://: "
            "postgresql://user:password@host:port/database; "
            "in a password, write %2F for /, %23 for #, %3F for ? and %25 for %"
        )

    def test_one_line_for_each(self, monkeypatch):
        said = refusal(monkeypatch, STOCKPULSE_DATABASE_POOL="1", STOCKPULSE_LOG_FORMAT="a\nb", DEBUG="?")
        assert sorted(line.partition(":")[0] for line in said.splitlines()) == [
            "DEBUG",
            "STOCKPULSE_DATABASE_POOL",
            "STOCKPULSE_LOG_FORMAT",
        ]

    def test_a_long_one_is_cut(self, monkeypatch):
        assert len(refusal(monkeypatch, STOCKPULSE_DATABASE_POOL="9" * 10_000)) < 300


class TestKafka:
    @pytest.mark.parametrize("role", ["ingest", "process", "api"])
    @pytest.mark.parametrize(
        ("given", "needed"),
        [
            ({}, "KAFKA_BOOTSTRAP_SERVERS"),
            ({"database_url": "postgresql://me@host/prices"}, "KAFKA_BOOTSTRAP_SERVERS"),
            ({"kafka_bootstrap_servers": "127.0.0.1:1"}, "DATABASE_URL"),
        ],
    )
    async def test_a_part_needs_a_log_and_a_database_in_common_with_the_others(self, role, given, needed):
        with pytest.raises(CannotStart, match=f"^STOCKPULSE_ROLE: got '{role}', which needs {needed}$"):
            async with running(load_settings(role=role, **given), CollectorRegistry()):
                pass

    def test_how_brokers_are_reached_shows_no_password(self, monkeypatch):
        connection = connection_of(given(monkeypatch, STOCKPULSE_KAFKA_PASSWORD=SECRET))
        assert connection.password == SECRET
        assert SECRET not in f"{connection!r} {connection}"

    def test_a_certificate_that_is_not_there_names_the_variable(self, monkeypatch):
        settings = given(
            monkeypatch, STOCKPULSE_KAFKA_SECURITY_PROTOCOL="SSL", STOCKPULSE_KAFKA_CA_FILE="/nowhere/ca.pem"
        )
        with pytest.raises(CannotStart, match=r"^STOCKPULSE_KAFKA_CA_FILE: cannot be read: .*No such file"):
            _ = connection_of(settings).options

    def test_avro_without_a_registry_names_the_variable(self, monkeypatch):
        settings = given(monkeypatch, STOCKPULSE_KAFKA_CODEC="avro")
        with pytest.raises(CannotStart, match="SCHEMA_REGISTRY_URL"):
            codec_of(settings)


@pytest.mark.thorough
class TestFeeds:
    def test_the_simple_case_is_one_feed(self, monkeypatch):
        (one,) = given(monkeypatch, DEFAULT_PROVIDER="test", STOCKPULSE_SYMBOLS="AAPL,BTC/USD").followed
        assert (one.provider, one.symbols) == ("simulated", ("AAPL", "BTC/USD"))
        assert given(monkeypatch, DEFAULT_PROVIDER="none").followed == ()
        assert given(monkeypatch, DEFAULT_PROVIDER="test", STOCKPULSE_SYMBOLS=",").followed == ()

    def test_several_have_symbols_and_calendars(self, monkeypatch, polled):
        text = " test (nyse): aapl, MSFT,BTC/USD (crypto) ; polled: BINANCE:BTCUSDT (24/7), aapl,AAPL; Test: IBM;"
        one, two = given(monkeypatch, STOCKPULSE_FEEDS=text, DEFAULT_PROVIDER="none").followed
        assert (one.provider, one.symbols) == ("simulated", ("AAPL", "MSFT", "BTC/USD", "IBM"))
        assert one.calendars == {"AAPL": "XNYS", "MSFT": "XNYS", "BTC/USD": "24/7"}
        assert (two.provider, two.symbols) == ("polled", ("BINANCE:BTCUSDT", "AAPL"))
        assert str(two) == "polled: BINANCE:BTCUSDT (24/7), AAPL"

    @pytest.mark.parametrize(
        ("text", "why"),
        [
            ("AAPL, MSFT", "takes feeds `provider: SYMBOL, SYMBOL` separated by semicolons; 'AAPL, MSFT' is none"),
            ("test:", "takes feeds `provider: SYMBOL, SYMBOL` separated by semicolons; 'test:' is none"),
            ("test: ,", "takes feeds `provider: SYMBOL, SYMBOL` separated by semicolons; 'test: ,' is none"),
            ("tset: AAPL", "takes one of simulated, test"),
            ("test: A$", "takes symbols separated by commas; 'A$' is not a symbol"),
            ("test: AAPL (XNYZ)", "'XNYZ' is not a trading calendar; XNYS and 24/7 are two"),
            ("test: AAPL (", "takes symbols separated by commas; 'AAPL (' is not a symbol"),
            ("test: AAPL (XNYS) x", "takes symbols separated by commas; 'AAPL (XNYS) x' is not a symbol"),
            ("test: AAPL (XNYS), AAPL (XLON)", "simulated: AAPL has two calendars"),
        ],
    )
    def test_a_wrong_list_is_refused_with_its_wrong_part(self, monkeypatch, text, why):
        said = refusal(monkeypatch, STOCKPULSE_FEEDS=text)
        assert said.startswith(f"STOCKPULSE_FEEDS: got {text!r}; {why}")

    def test_fallbacks_are_providers(self, monkeypatch, polled):
        assert given(monkeypatch, STOCKPULSE_FALLBACKS="Test, polled,test").fallbacks == ("simulated", "polled")
        assert "got 'test, yaho'; takes one of" in refusal(monkeypatch, STOCKPULSE_FALLBACKS="test, yaho")

    @pytest.mark.parametrize("setting", [{"STOCKPULSE_FEEDS": "polled: A"}, {"STOCKPULSE_FALLBACKS": "polled"}])
    async def test_a_missing_key_stops_the_start(self, monkeypatch, polled, setting, tmp_path):
        settings = given(monkeypatch, STOCKPULSE_DATA_DIR=str(tmp_path / "data"), **setting)
        with pytest.raises(CannotStart) as refused:
            async with running(settings, CollectorRegistry()):
                pass
        assert str(refused.value) == (
            "STOCKPULSE_POLLED_KEY (or POLLED_KEY): is not set, and polled needs it. Key, from polled.example."
        )
        assert not (tmp_path / "data").exists()

    def test_options_come_from_the_environment_and_the_file(self, monkeypatch, polled, tmp_path):
        (tmp_path / ".env").write_text("STOCKPULSE_POLLED_KEY=of the file\nSTOCKPULSE_POLLED_URL=\n")
        assert read_options(polled, given_variables()) == {"key": "of the file", "url": "http://polled.example"}
        monkeypatch.setenv("POLLED_KEY", "of the environment")
        monkeypatch.setenv("STOCKPULSE_POLLED_URL", "http://127.0.0.1:1")
        assert read_options(polled, given_variables()) == {"key": "of the environment", "url": "http://127.0.0.1:1"}


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", [[sys.executable, "-m", "uvicorn", "stockpulse.app:app"], [sys.executable, "-m", "stockpulse", "serve"]]
)
def test_the_start_is_refused_with_nothing_but_that_line(command):
    wrong = {"STOCKPULSE_DATABASE_POOL": "1", "STOCKPULSE_DATA_DIR": str(Path("never").resolve())}
    ended = subprocess.run(command, env=os.environ | wrong, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        "stockpulse: STOCKPULSE_DATABASE_POOL: got '1'; must be greater than or equal to 2"
    ]
    assert ended.stdout == ""
    assert not Path("never").exists()


def test_who_may_ask_is_read_and_written_in_one_way():
    found = Settings(
        _env_file=None,
        trusted_networks="192.168.1.0/24, FD00::/8,10.0.0.1",
        hosts="Market.Example, [::2]",
        origins="https://Desk.Example/",
    )
    assert found.trusted_networks == ("192.168.1.0/24", "fd00::/8", "10.0.0.1/32")
    assert found.hosts == ("market.example", "[::2]")
    assert found.origins == ("https://desk.example",)


@pytest.mark.parametrize(
    ("name", "value", "takes"),
    [
        ("trusted_networks", "192.168.1.7/24", "takes networks"),
        ("trusted_networks", "everybody", "takes networks"),
        ("hosts", "market.example:8000", "takes names of hosts without a port"),
        ("hosts", "*", "takes names of hosts"),
        ("origins", "market.example", "takes origins"),
        ("origins", "null", "takes origins"),
    ],
)
def test_who_may_ask_is_refused_with_what_it_takes(name, value, takes):
    with pytest.raises(CannotStart, match=rf"STOCKPULSE_{name.upper()}: got .*{takes}.*{re.escape(repr(value))}"):
        load_settings(_env_file=None, **{name: value})


@pytest.mark.parametrize(
    ("variable", "value", "instead"),
    [
        ("KAFKA_BOOTSTRAP_SERVERS", f"me:{SECRET}@broker:9092", "STOCKPULSE_KAFKA_USERNAME and _PASSWORD"),
        ("KAFKA_BOOTSTRAP_SERVERS", f"broker:9092,SASL_SSL://me:{SECRET}@other:9092", "STOCKPULSE_KAFKA_USERNAME"),
        ("SCHEMA_REGISTRY_URL", f"https://me:{SECRET}@registry", "STOCKPULSE_SCHEMA_REGISTRY_KEY and _SECRET"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(monkeypatch, variable, value, instead):
    monkeypatch.setenv(variable, value)
    with pytest.raises(CannotStart) as refused:
        load_settings(_env_file=None)
    assert instead in str(refused.value)
    assert variable in str(refused.value)
    assert SECRET not in str(refused.value)

"""Settings: one class, read from the environment and from `.env`."""

import json
import os
import re
from collections.abc import Callable
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
)
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    NoDecode,
    SettingsConfigDict,
)

from stockpulse.api.admission.hosts import read_host_name, read_origin
from stockpulse.engine.signals import RULE_NAME
from stockpulse.errors import CannotStart, InvalidInput, NotFound
from stockpulse.market.calendar_corrections import read_corrections
from stockpulse.market.intervals import BASE_INTERVALS, parse_interval
from stockpulse.market.symbology import read_symbol
from stockpulse.postgres.address import normal_dsn
from stockpulse.providers.feed_list import FollowedSymbols, read_feeds, read_provider
from stockpulse.providers.options import Variables
from stockpulse.providers.registry import NO_PROVIDER, installed_providers
from stockpulse.rules import parse

_PREFIX = "STOCKPULSE_"


def _also(name: str, ours: str | None = None) -> Any:
    """Return two names for a field: ours with the prefix, which wins, and the customary one."""
    return AliasChoices(f"{_PREFIX}{ours or name}", name)


class SignalRule(BaseModel):
    """The conditions of a rule to buy and to sell, in the language of `stockpulse.rules`."""

    model_config = ConfigDict(extra="forbid")

    buy: str
    sell: str


class Settings(BaseSettings):
    """All settings. The environment variable of a field is STOCKPULSE_ and its name, unless the field has an alias."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
    )

    app_name: str = Field("StockPulse", validation_alias=_also("APP_NAME"), description="The title of /docs.")
    debug: bool = Field(False, validation_alias=_also("DEBUG"), description="Write debug messages to the log too.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto",
        description="Format of log lines: `console`, `json`, or `auto`: `console` on a terminal, `json` elsewhere.",
    )

    trusted_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Networks whose requests are accepted besides those of this machine, separated by commas:"
        " `192.168.1.0/24,fd00::/8`. There are no API keys yet: every accepted caller may read and change everything."
        " `X-Forwarded-For` counts only from these networks and from this machine.",
    )
    hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Further names of this server in `Host`, separated by commas. The names `localhost`, `127.0.0.1`,"
        " `[::1]` and that of the machine are always valid.",
    )
    origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins of further web pages that may change data, separated by commas (`https://desk.example`)."
        " Pages of this server always may. Set it for a proxy that changes the name of the host.",
    )

    max_connections: int = Field(
        4096,
        ge=8,
        le=60_000,
        description="The most open connections; fewer if the process may not open enough files (`ulimit -n`). At this"
        " limit, connections that wait for their client make room for new ones; if there are none, the answer is 503.",
    )
    max_connections_per_peer: int = Field(
        1024,
        ge=1,
        le=60_000,
        description="The most open connections of one address, or of one /64 network of IPv6; at most three quarters of"
        " all. Then the answer is 429. All clients of a proxy count as one address.",
    )
    max_header_kb: int = Field(
        32,
        ge=1,
        le=256,
        description="The most kilobytes of the header of a request, its address included; then the answer is 431.",
    )
    header_seconds: float = Field(
        10.0,
        gt=0,
        le=3600,
        description="Seconds from the first byte of a header until it is complete; then the answer is 408.",
    )
    body_seconds: float = Field(
        20.0,
        gt=0,
        le=3600,
        description="Seconds between two pieces of the body of a request, which after that time must arrive with 500"
        " bytes per second; then the answer is 408. Also the seconds in which a client must read a part of an answer.",
    )
    idle_seconds: float = Field(
        30.0,
        gt=0,
        le=3600,
        description="Seconds that a connection stays open without a request. uvicorn's `--timeout-keep-alive`, if given"
        ", wins.",
    )

    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("stockpulse", appauthor=False)),
        description="Folder of the embedded database; by default the user data folder of the platform,"
        " `~/.local/share/stockpulse` on Linux.",
    )
    database_url: SecretStr | None = Field(
        None,
        validation_alias=_also("DATABASE_URL"),
        description="A PostgreSQL of version 15 or newer, instead of the embedded one:"
        " `postgresql://user:password@host/name`.",
    )
    disk_reserve_mb: int | None = Field(
        None,
        ge=0,
        description="Megabytes that must be free on the disk of the embedded database; with less, the server accepts no"
        " ticks. By default 200, or a tenth of a disk that is smaller than 2 GB.",
    )
    database_pool: int = Field(
        10,
        ge=2,
        le=200,
        description="Number of database connections for queries, three at least. Up to four of them are for the work of"
        " the server, the others for requests that read.",
    )

    kafka_bootstrap_servers: str | None = Field(
        None,
        validation_alias=_also("KAFKA_BOOTSTRAP_SERVERS"),
        description="Kafka brokers that hold the log, `host:port` separated by commas. Without them the log is in the"
        " database.",
    )
    role: Literal["all", "ingest", "process", "api"] = Field(
        "all",
        description="Work of this process. `all` does everything. With Kafka and a shared database: `ingest` takes"
        " ticks, `process` builds bars and indicators, `api` answers requests.",
    )
    kafka_group: str = Field("stockpulse", description="Consumer group of the processes that share the partitions.")
    kafka_topic_raw: str = Field(
        "market.prices.raw",
        validation_alias=_also("KAFKA_TOPIC_PRICE_EVENTS", "KAFKA_TOPIC_RAW"),
        description="Topic of the log: ticks and providers' bars.",
    )
    kafka_topic_ohlcv: str = Field("market.prices.ohlcv", description="Topic of bars.")
    kafka_topic_analytics: str = Field("market.analytics", description="Topic of indicators.")
    kafka_topic_signals: str = Field("market.signals", description="Topic of signals.")
    kafka_partitions: int = Field(
        6,
        ge=1,
        le=512,
        description="Number of partitions of topics that StockPulse creates. Existing topics keep theirs.",
    )
    kafka_replication: int | None = Field(
        None,
        ge=1,
        le=9,
        description="Number of replicas of topics that StockPulse creates; by default 3, or one for each broker if"
        " there are fewer.",
    )
    kafka_retention_hours: int = Field(168, ge=1, description="Hours that topics created by StockPulse keep records.")
    kafka_codec: Literal["json", "avro"] = Field(
        "json", description="Format of records: `json`, or `avro` with a schema registry."
    )
    schema_registry_url: str | None = Field(
        None, validation_alias=_also("SCHEMA_REGISTRY_URL"), description="URL of the schema registry, for `avro`."
    )
    schema_registry_key: str | None = Field(None, description="User name or API key for the schema registry.")
    schema_registry_secret: SecretStr | None = Field(
        None, description="Password or API secret for the schema registry."
    )
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT",
        description="Protocol of the brokers; `SASL_SSL` for Confluent Cloud and most other cloud services.",
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "PLAIN", description="SASL mechanism: `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`."
    )
    kafka_username: str | None = Field(None, description="User name or API key for the brokers.")
    kafka_password: SecretStr | None = Field(None, description="Password or API secret for the brokers.")
    kafka_ca_file: Path | None = Field(
        None, description="File of certificates (PEM) to trust, if no public authority signed those of the brokers."
    )

    provider: str = Field(
        "simulated",
        validation_alias=_also("DEFAULT_PROVIDER", "PROVIDER"),
        description="The source of live ticks: `simulated` (also called `test`), a provider of an installed package, or"
        " `none`.",
    )
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        ("AAPL", "MSFT", "GOOG", "AMZN", "TSLA", "NVDA"),
        description="Symbols to follow, separated by commas.",
    )
    feeds: Annotated[tuple[FollowedSymbols, ...], NoDecode] = Field(
        (),
        description="Several providers with their symbols, instead of the provider and symbols above:"
        " `alpaca: AAPL, MSFT; finnhub: BINANCE:BTCUSDT (24/7)`. A trading calendar in parentheses is for a symbol, or"
        " behind the name of the provider for its symbols; it counts for symbols that are not known yet.",
    )
    fallbacks: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Providers to ask for latest prices and for history of symbols that no feed has, or after the"
        " provider of the feed, in this order: `alpaca, yahoo`.",
    )
    simulated_rate: float = Field(
        0.5,
        gt=0,
        le=100_000,
        description="Simulated ticks per second of each symbol; 0.5 is one every 2 seconds.",
    )
    simulated_seed: int = Field(0, description="Seed of the simulated market: another seed gives other prices.")

    backfill_daily_days: int = Field(
        3653,
        ge=0,
        le=36_525,
        description="Days of history to have as daily bars. StockPulse asks the providers of the feeds for what is"
        " missing; 0 asks for none.",
    )
    backfill_5m_days: int = Field(
        548, ge=0, le=730, description="Days of history to have as 5-minute bars; 0 asks for none."
    )
    backfill_1m_days: int = Field(
        1,
        ge=0,
        le=90,
        description="Days of history to have as 1-minute bars, the running day included; 0 asks for none.",
    )

    signal_interval: str = Field("1m", description="Interval of the bars that the rules apply to: `1m`, `5m` or `1d`.")
    signal_rules: Annotated[dict[str, SignalRule], NoDecode] = Field(
        {"sma_rsi": SignalRule(buy="sma(20) > sma(50) and rsi(14) < 30", sell="sma(20) < sma(50) and rsi(14) > 70")},
        max_length=20,
        description='Rules for signals, as a JSON object `{"name": {"buy": "condition", "sell": "condition"}}`; `{}`'
        " for no rules. The conditions are those of `/screen`: `crosses_above(sma(20), sma(50))`,"
        " `close > highest(high, 20)[1]`.",
    )
    cache_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_cache_dir("stockpulse", appauthor=False)),
        description="Folder of compiled indicators and of calendars; by default the user cache folder of the platform,"
        " `~/.cache/stockpulse` on Linux.",
    )

    calendar: str = Field(
        "XNYS",
        description="Trading calendar of symbols whose provider does not name one: `XNYS`, `XLON`, `24/7`, …",
    )
    calendar_corrections: str | None = Field(
        None,
        description="Days of calendars to correct, as JSON or the path of a `.json` or `.toml` file:"
        ' `{"XKRX": {"2024-11-14": "10:00-16:30", "2024-12-31": "closed"}}`.',
    )
    extended_day: bool = Field(
        False,
        description="`true` if daily bars include the trades before and after the regular session.",
    )
    lateness_seconds: float = Field(
        2.0, ge=0, le=3600, description="Seconds that a bar waits for late ticks before it is final."
    )
    future_seconds: float = Field(
        5.0, ge=0, le=3600, description="Seconds that the time of a tick may lie in the future."
    )
    read_timeout_seconds: float = Field(
        60.0,
        gt=0,
        le=3600,
        description="Seconds that a read may take before its answer begins; then the answer is 503. If the database"
        " does not answer at all, reads end within seconds.",
    )
    request_memory_mb: int | None = Field(
        None,
        ge=64,
        description="Megabytes of memory that requests may hold at a time: three eighths for answers, the rest for"
        " bodies of `POST /ticks`. A request that finds no room waits for some seconds, and then gets 503. By default"
        " an eighth of the memory of the machine or container, at least 384 and at most 1024.",
    )
    max_symbols: int = Field(
        30_000,  # all shares and funds of the USA and the pairs of several exchanges: about 1 GB
        ge=1,
        le=10_000_000,
        description="The most symbols. Ticks and bars of further symbols are rejected; known symbols are always"
        " accepted.",
    )
    new_symbols_per_minute: int = Field(
        20_000,
        ge=1,
        le=10_000_000,
        description="The most new symbols per minute; after a quiet time, those of five minutes may come at once.",
    )
    max_providers: int = Field(
        1_000, ge=1, le=100_000, description="The most providers. Ticks of further providers are rejected."
    )
    max_tick_kinds: int = Field(
        50_000,
        ge=1,
        le=1_000_000,
        description="The most kinds of ticks: combinations of provider, exchange, conditions and tape. Ticks of further"
        " kinds are rejected.",
    )
    dead_letters_per_minute: int = Field(
        1_000,
        ge=1,
        le=1_000_000,
        description="The most rejected records of one kind (source and reason) that are kept in a minute, and a"
        " twentieth of those of all kinds. Further ones are only counted.",
    )
    raw_market_data_mb: int = Field(
        64,
        ge=0,
        le=100_000,
        description="Megabytes of the newest replies of providers that are kept in `raw_market_data`, without keys; 0"
        " keeps none.",
    )
    raw_market_data_days: int = Field(7, ge=1, le=3650, description="Days for which these replies are kept at most.")
    durable_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="Seconds that POST /ticks waits until ticks are durable, before it answers 503."
    )

    @field_validator("kafka_bootstrap_servers", "schema_registry_url")
    @classmethod
    def _without_password(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and "@" in value:
            names = ("USERNAME", "PASSWORD") if info.field_name == "kafka_bootstrap_servers" else ("KEY", "SECRET")
            stem = "KAFKA" if info.field_name == "kafka_bootstrap_servers" else "SCHEMA_REGISTRY"
            raise ValueError(f"takes no user and no password: set STOCKPULSE_{stem}_{names[0]} and _{names[1]}")
        return value

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        if value.lower() == NO_PROVIDER:
            return NO_PROVIDER
        providers = installed_providers()
        try:
            return providers.named(value.lower()).name
        except NotFound:
            raise ValueError(f"takes one of {', '.join(providers.names)}, {NO_PROVIDER}") from None

    @field_validator("feeds", mode="before")
    @classmethod
    def _readable_feeds(cls, value: object) -> object:
        return read_feeds(value, installed_providers()) if isinstance(value, str) else value

    @field_validator("fallbacks", mode="before")
    @classmethod
    def _known_fallbacks(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        parts = [part for part in value.split(",") if part.strip()]
        return tuple(dict.fromkeys(read_provider(part, installed_providers()) for part in parts))

    @property
    def followed(self) -> tuple[FollowedSymbols, ...]:
        """The symbols of each live feed."""
        if self.feeds:
            return self.feeds
        if self.provider == NO_PROVIDER or not self.symbols:
            return ()
        return (FollowedSymbols(self.provider, self.symbols),)

    def without_feeds(self) -> "Settings":
        """Return the settings for a command that needs no live ticks."""
        return self.model_copy(update={"provider": NO_PROVIDER, "feeds": ()})

    @field_validator("calendar_corrections")
    @classmethod
    def _readable_corrections(cls, value: str | None) -> str | None:
        try:
            read_corrections(value or "{}")
        except InvalidInput as wrong:
            raise ValueError(str(wrong).partition(": ")[2]) from None
        return value

    @field_validator("trusted_networks", mode="before")
    @classmethod
    def _readable_networks(cls, value: object) -> object:
        return _listed(value, _network, "networks, 192.168.1.0/24")

    @field_validator("hosts", mode="before")
    @classmethod
    def _readable_hosts(cls, value: object) -> object:
        return _listed(value, read_host_name, "names of hosts without a port, market.example")

    @field_validator("origins", mode="before")
    @classmethod
    def _readable_origins(cls, value: object) -> object:
        return _listed(value, read_origin, "origins, https://market.example")

    @property
    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """The trusted networks, for comparisons."""
        return tuple(ip_network(text) for text in self.trusted_networks)

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        symbols = {part.strip(): read_symbol(part.strip()) for part in value.split(",") if part.strip()}
        for part, symbol in symbols.items():
            if symbol is None:
                raise ValueError(f"takes symbols separated by commas; {part[:40]!r} is not a symbol")
        return tuple(dict.fromkeys(symbols.values()))

    @field_validator("signal_interval")
    @classmethod
    def _base_interval(cls, value: str) -> str:
        known = {one.name for one in BASE_INTERVALS}
        try:
            name = parse_interval(value).name
        except InvalidInput:
            name = ""
        if name not in known:
            raise ValueError("takes 1m, 5m or 1d")
        return name

    @field_validator("signal_rules", mode="before")
    @classmethod
    def _json(cls, value: object) -> object:
        try:
            return json.loads(value) if isinstance(value, str) else value
        except ValueError as wrong:
            raise ValueError(f"takes rules as JSON: {wrong}") from None

    @field_validator("signal_rules")
    @classmethod
    def _readable_rules(cls, value: dict[str, SignalRule]) -> dict[str, SignalRule]:
        for name, rule in value.items():
            if not re.fullmatch(RULE_NAME, name):
                raise ValueError(f"takes names of lower-case letters, digits, - and _; {name[:40]!r} is not one")
            for side in ("buy", "sell"):
                try:
                    parse(getattr(rule, side), f"{name}.{side}")
                except InvalidInput as wrong:
                    raise ValueError(str(wrong)) from None
        return value

    @field_validator("database_url")
    @classmethod
    def _readable_address(cls, value: SecretStr | None) -> SecretStr | None:
        try:
            normal_dsn(value.get_secret_value() if value else "postgresql://")
        except InvalidInput as wrong:
            raise ValueError(str(wrong).partition(": ")[2]) from None
        return value


def _network(text: str) -> str | None:
    """Return a network in its usual form; None if the text is not a network."""
    try:
        return str(ip_network(text))
    except ValueError:
        return None


def _listed(value: object, read: Callable[[str], str | None], takes: str) -> object:
    """Return the parts of a list with commas, each as `read` returns it. Raises ValueError if that is None."""
    if not isinstance(value, str):
        return value
    found = {part.strip(): read(part.strip()) for part in value.split(",") if part.strip()}
    for part, one in found.items():
        if one is None:
            raise ValueError(f"takes {takes}, separated by commas; {part[:40]!r} is not valid")
    return tuple(dict.fromkeys(found.values()))


def load_settings(**given: Any) -> Settings:
    """Return the settings.

    Raises CannotStart with a line for each wrong variable: its name, its value, the valid values.
    """
    try:
        return Settings(**given)
    except ValidationError as wrong:
        raise CannotStart("\n".join(_complaint(error) for error in wrong.errors())) from None


def given_variables() -> Variables:
    """Return the variables of the environment and those of `.env`, for options of providers."""
    return EnvSettingsSource(Settings).env_vars, DotEnvSettingsSource(Settings).env_vars


def variables_of(field: str) -> tuple[str, ...]:
    """Return the environment variables of a field; the first one that is set wins."""
    alias = Settings.model_fields[field].validation_alias
    if isinstance(alias, AliasChoices):
        return tuple(str(name) for name in alias.choices)
    return (f"{_PREFIX}{field.upper()}",)


def _complaint(error: Any) -> str:
    place = str(error["loc"][0]).upper()
    field = next(name for name in Settings.model_fields if place in {name.upper(), *variables_of(name)})
    may_hold_password = field in {"kafka_bootstrap_servers", "schema_registry_url"} and "@" in str(error["input"])
    secret = may_hold_password or "Secret" in str(Settings.model_fields[field].annotation)
    got = "a value that is not shown" if secret else repr(str(error["input"])[:80])
    said = error["msg"].partition(", unable to ")[0].removeprefix("Value error, ")
    return f"{_given(field)}: got {got}; {said.replace('Input should be', 'must be', 1)}"


def _given(field: str) -> str:
    """Return the variable that gave a field its value; its first name if `.env` gave it."""
    names = variables_of(field)
    given = {name.upper() for name in os.environ}
    return next((name for name in names if name in given), names[0])

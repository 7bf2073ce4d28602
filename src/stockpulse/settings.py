"""Settings: one class, read from the environment and from `.env`."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

import platformdirs
from pydantic import AliasChoices, Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from stockpulse.errors import CannotStart
from stockpulse.names import SYMBOL

_PREFIX = "STOCKPULSE_"


def _bare(name: str) -> Any:
    """A name that the field knows without our prefix; with it, it works as well."""
    return AliasChoices(f"{_PREFIX}{name}", name)


class Settings(BaseSettings):
    """What can be set. The environment variable of a field is STOCKPULSE_ and its name, unless said otherwise."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_file=".env", env_file_encoding="utf-8", extra="ignore", populate_by_name=True
    )

    app_name: str = Field("StockPulse", validation_alias=_bare("APP_NAME"), description="The title that /docs shows.")
    debug: bool = Field(False, validation_alias=_bare("DEBUG"), description="Log debug messages too.")
    log_format: Literal["auto", "console", "json"] = Field(
        "auto", description="`auto` is readable on a terminal and JSON otherwise."
    )

    data_dir: Path = Field(
        default_factory=lambda: Path(platformdirs.user_data_dir("stockpulse", appauthor=False)),
        description="Where the embedded database lives. Default: the platform's user data folder.",
    )
    database_url: SecretStr | None = Field(
        None,
        validation_alias=_bare("DATABASE_URL"),
        description="A PostgreSQL 15 or newer to use instead of the embedded one: `postgresql://user:password@host/name`.",
    )
    database_pool: int = Field(10, ge=2, le=200, description="Connections for queries.")

    provider: str = Field(
        "simulated",
        validation_alias=_bare("DEFAULT_PROVIDER"),
        description="Where live ticks come from: `simulated` (also called `test`), or `none`.",
    )
    symbols: Annotated[tuple[str, ...], NoDecode] = Field(
        ("AAPL", "MSFT", "GOOG", "AMZN", "TSLA", "NVDA"),
        description="Symbols to follow, separated by commas.",
    )
    simulated_rate: float = Field(
        0.5,
        gt=0,
        le=100_000,
        description="Simulated ticks per second of each symbol; 0.5 is one every 2 seconds.",
    )
    simulated_seed: int = Field(0, description="Another seed gives another simulated market.")

    calendar: str = Field(
        "XNYS",
        description="Trading calendar of symbols whose provider has none of its own: `XNYS`, `XLON`, `24/7`, …",
    )
    extended_day: bool = Field(
        False,
        description="Whether daily bars include trades before and after the regular session.",
    )
    lateness_seconds: float = Field(
        2.0, ge=0, le=3600, description="How long a bar waits for late ticks before it is final."
    )
    future_seconds: float = Field(5.0, ge=0, le=3600, description="How far in the future a tick's time may lie.")
    durable_timeout_seconds: float = Field(
        10.0, gt=0, le=300, description="How long POST /ticks waits for durability before it answers 503."
    )

    @field_validator("provider")
    @classmethod
    def _known_provider(cls, value: str) -> str:
        known = {"simulated": "simulated", "test": "simulated", "none": "none"}
        if value.lower() not in known:
            raise ValueError(f"takes one of {', '.join(known)}")
        return known[value.lower()]

    @field_validator("symbols", mode="before")
    @classmethod
    def _split_symbols(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        symbols = tuple(dict.fromkeys(part.strip().upper() for part in value.split(",") if part.strip()))
        wrong = [symbol for symbol in symbols if not re.match(SYMBOL, symbol)]
        if wrong:
            raise ValueError(f"takes symbols separated by commas; {wrong[0]!r} is none")
        return symbols

    @field_validator("database_url")
    @classmethod
    def _postgres_only(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and value.get_secret_value() == "":
            return None
        scheme = value.get_secret_value().partition("://")[0].split("+")[0] if value else "postgresql"
        if scheme not in {"postgres", "postgresql"}:
            raise ValueError("takes an address that begins with postgresql://")
        return value


def load_settings(**given: Any) -> Settings:
    """The settings, or CannotStart with one line for each wrong variable: its name, what it got, what it takes."""
    try:
        return Settings(**given)
    except ValidationError as wrong:
        raise CannotStart("\n".join(_complaint(error) for error in wrong.errors())) from None


def _complaint(error: Any) -> str:
    name = variable_of(str(error["loc"][0]))
    field = Settings.model_fields.get(str(error["loc"][0]).lower().removeprefix(_PREFIX.lower()))
    secret = field is not None and "Secret" in str(field.annotation)
    got = "a value" if secret else repr(str(error["input"])[:80])
    return f"{name}: got {got}; {error['msg'].removeprefix('Value error, ')}"


def variable_of(field: str) -> str:
    """The environment variable that a field is read from."""
    info = Settings.model_fields.get(field.lower().removeprefix(_PREFIX.lower()))
    if info is not None and isinstance(info.validation_alias, AliasChoices):
        return str(info.validation_alias.choices[-1])
    return field.upper() if field.upper().startswith(_PREFIX) else f"{_PREFIX}{field.upper()}"

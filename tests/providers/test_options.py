"""Options of providers are read from variables; a missing key is named."""

import pytest

from stockpulse.errors import InvalidInput
from stockpulse.providers.base import Option, ProviderConfig, ProviderEntry
from stockpulse.providers.options import read_options
from stockpulse.testing import ScriptedProvider

ACME = ProviderEntry(
    "acme",
    lambda _config: ScriptedProvider(name="acme"),
    options=(
        Option("key", ("STOCKPULSE_ACME_KEY", "ACME_API_KEY"), "Key of acme, from acme.example/keys.", secret=True),
        Option("url", ("STOCKPULSE_ACME_URL",), "Address.", default="https://acme.example"),
    ),
)


def test_defaults_are_filled_in():
    assert read_options(ACME, [{"stockpulse_acme_key": " k "}]) == {"key": "k", "url": "https://acme.example"}


def test_the_first_name_wins_and_the_environment_wins_over_the_file():
    both = {"stockpulse_acme_key": "ours", "acme_api_key": "theirs"}
    assert read_options(ACME, [both])["key"] == "ours"
    assert read_options(ACME, [{"acme_api_key": "theirs"}, {"stockpulse_acme_key": "of the file"}])["key"] == "theirs"
    assert read_options(ACME, [{}, both])["key"] == "ours"


def test_a_missing_key_is_named_with_where_to_get_it():
    with pytest.raises(InvalidInput) as missing:
        read_options(ACME, [{"stockpulse_acme_url": "http://127.0.0.1:1"}])
    assert str(missing.value) == (
        "STOCKPULSE_ACME_KEY (or ACME_API_KEY): is not set, and acme needs it. Key of acme, from acme.example/keys."
    )


def test_options_are_not_shown():
    assert "canary" not in repr(ProviderConfig(("A",), options={"key": "canary"}))

"""Values of options: each fault names its variable and what it takes."""

import pytest

from stockpulse.errors import InvalidInput
from stockpulse.providers.base import Option
from stockpulse.providers.option_values import address, whole_number

RATE = Option("per_minute", ("STOCKPULSE_ACME_PER_MINUTE",), "Requests per minute.", default="8")
URL = Option("url", ("STOCKPULSE_ACME_URL",), "The address.", default="https://acme.example/v1/")


def test_whole_numbers():
    assert whole_number(RATE, {}, 1) == 8
    assert whole_number(RATE, {"per_minute": "55"}, 1) == 55


@pytest.mark.parametrize("text", ["", "0", "-1", "8.5", "eight", "٣"])
def test_a_wrong_number_names_its_variable(text):
    with pytest.raises(InvalidInput, match=r"STOCKPULSE_ACME_PER_MINUTE: got .*; takes a whole number"):
        whole_number(RATE, {"per_minute": text}, 1)


def test_an_address_loses_its_last_slash():
    assert address(URL, {}, "https") == "https://acme.example/v1"
    assert address(URL, {"url": "http://127.0.0.1:8000"}, "http", "https") == "http://127.0.0.1:8000"


@pytest.mark.parametrize("text", ["", "acme.example", "ftp://acme", "http://", "http://host:port", "http://a:0"])
def test_a_wrong_address_names_its_variable(text):
    with pytest.raises(InvalidInput, match=r"STOCKPULSE_ACME_URL: got .* begins with http:// or https://"):
        address(URL, {"url": text}, "http", "https")

"""`stockpulse providers` and `providers check`, with servers on loopback that speak as the vendors do."""

import asyncio

import pytest
from click.testing import Result
from starlette.responses import JSONResponse, PlainTextResponse, Response
from typer.testing import CliRunner

from providers.fakes.alpha_vantage import KEY, NO_KEY, AlphaVantage
from providers.fakes.http_server import serving
from providers.fakes.yahoo import Yahoo
from stockpulse.cli import cli

NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no `.env` of the checkout
    for variable in ("STOCKPULSE_ALPHA_VANTAGE_KEY", "ALPHA_VANTAGE_API_KEY"):
        monkeypatch.delenv(variable, raising=False)


async def run(*arguments: str) -> Result:
    """Run the command in a thread, beside the servers of this loop."""
    return await asyncio.to_thread(CliRunner().invoke, cli, list(arguments))


async def checked_alpha_vantage(fake, monkeypatch):
    monkeypatch.setenv("STOCKPULSE_ALPHA_VANTAGE_KEY", KEY)
    async with serving(fake.app) as url:
        monkeypatch.setenv("STOCKPULSE_ALPHA_VANTAGE_URL", url)
        return await run("providers", "check", "alphavantage")


# The list ---------------------------------------------------------------------------------------


async def test_the_list_has_all_providers_with_their_keys(monkeypatch):
    monkeypatch.setenv("STOCKPULSE_FEEDS", "test: A")
    monkeypatch.setenv("STOCKPULSE_FALLBACKS", "yahoo")
    listed = await run("providers", "--url", NOWHERE)
    assert listed.exit_code == 0, listed.output
    rows = {line.split()[0]: line for line in listed.stdout.splitlines() if line.strip()}
    assert {"simulated", "test", "alpaca", "alpha_vantage", "twelvedata", "finnhub", "yahoo", "yfinance"} <= rows.keys()
    assert "missing" in rows["alpha_vantage"]
    assert "not needed" in rows["yahoo"]
    assert "fallback" in rows["yahoo"]
    assert "feed" in rows["simulated"]
    monkeypatch.setenv("ALPHA_VANTAGE_API_KEY", KEY)
    listed = await run("providers", "--url", NOWHERE)
    assert KEY not in listed.output
    assert " set " in next(line for line in listed.stdout.splitlines() if line.startswith("alpha_vantage"))


# Checks -----------------------------------------------------------------------------------------


async def test_a_key_that_works(monkeypatch):
    checked = await checked_alpha_vantage(AlphaVantage(), monkeypatch)
    assert (checked.exit_code, checked.stderr) == (0, "")
    assert checked.stdout == (
        "alpha_vantage: it answers, and takes any key: whether yours is valid shows only in its limits;"
        " 1 of 25 requests of today are used\n"
    )


async def test_a_key_that_is_refused(monkeypatch):
    fake = AlphaVantage()
    fake.scripted = [JSONResponse({"Error Message": f"{NO_KEY} {KEY}"})]
    checked = await checked_alpha_vantage(fake, monkeypatch)
    assert (checked.exit_code, checked.stdout) == (1, "")
    assert checked.stderr.startswith("stockpulse: alpha_vantage: the key is missing or wrong: ")
    assert checked.stderr.endswith(". Check STOCKPULSE_ALPHA_VANTAGE_KEY\n")
    assert KEY not in checked.output


async def test_a_key_that_is_not_set():
    checked = await run("providers", "check", "alpha_vantage")
    assert checked.exit_code == 1
    assert checked.stderr.startswith("stockpulse: STOCKPULSE_ALPHA_VANTAGE_KEY (or ALPHA_VANTAGE_API_KEY): is not set")


async def test_no_network(monkeypatch):
    monkeypatch.setenv("STOCKPULSE_ALPHA_VANTAGE_KEY", KEY)
    monkeypatch.setenv("STOCKPULSE_ALPHA_VANTAGE_URL", NOWHERE)
    checked = await run("providers", "check", "alpha_vantage")
    assert checked.exit_code == 3
    assert checked.stderr.startswith("stockpulse: alpha_vantage does not answer /query: ")
    assert checked.stderr.count("\n") == 1
    assert KEY not in checked.output


@pytest.mark.parametrize(
    ("reply", "status", "said"),
    [
        (None, 0, "yahoo: it answers, and needs no key"),
        (PlainTextResponse("Too Many Requests", 429), 3, "yahoo refuses requests from here for a while"),
        (Response(b"<html>Will be right back", 502), 3, "yahoo has a fault of its own (HTTP 502)"),
        (PlainTextResponse("", 403), 1, "yahoo does not serve this address"),
    ],
)
async def test_a_provider_without_a_key(monkeypatch, reply, status, said):
    fake = Yahoo()
    fake.scripted = [reply] * 4 if reply else []
    async with serving(fake.app) as url:
        monkeypatch.setenv("STOCKPULSE_YAHOO_URL", url)
        checked = await run("providers", "check", "yfinance")
    assert checked.exit_code == status
    assert said in checked.output
    assert checked.output.count("\n") == 1


async def test_an_unknown_provider_and_a_wrong_setting(monkeypatch):
    unknown = await run("providers", "check", "acme")
    assert unknown.exit_code == 1
    assert unknown.stderr.startswith("stockpulse: no provider is called 'acme'; there are simulated, test, ")
    monkeypatch.setenv("STOCKPULSE_YAHOO_PER_MINUTE", "many")
    wrong = await run("providers", "check", "yahoo")
    assert (wrong.exit_code, wrong.stderr) == (
        1,
        "stockpulse: STOCKPULSE_YAHOO_PER_MINUTE: got 'many'; takes a whole number >= 1\n",
    )

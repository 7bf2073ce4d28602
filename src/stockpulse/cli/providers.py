"""`stockpulse providers`: the known providers, and a check of one of them."""

import asyncio
from typing import Annotated, Any, Final

import httpx2
import typer
from rich.console import Console
from rich.table import Table

from stockpulse.cli import failures
from stockpulse.errors import InvalidInput
from stockpulse.market.clocks import utc_now
from stockpulse.market.intervals import MINUTES_OF
from stockpulse.node.sources import sources_of
from stockpulse.pipeline.provider_facts import ProviderFacts, facts_of_all
from stockpulse.providers.base import Capabilities, Provider, ProviderEntry
from stockpulse.providers.faults import TRANSIENT, NotEntitled, ProviderFault, WrongKey
from stockpulse.providers.registry import installed_providers
from stockpulse.providers.transport.transport import Transport
from stockpulse.settings import load_settings

_NARROWEST: Final = 110
_STATE_SECONDS: Final = 2.0
_CHECK_SECONDS: Final = 30.0
_LATER: Final = 3
"""The exit status if nothing needs to be changed, and another attempt may succeed."""

providers = typer.Typer(
    cls=failures.Commands, help="The providers of market data.", invoke_without_command=True, no_args_is_help=False
)


@providers.callback()
def list_providers(
    context: typer.Context,
    url: Annotated[
        str, typer.Option(help="The address of the server whose feeds are shown.")
    ] = "http://127.0.0.1:8000",
) -> None:
    """List the providers: data, limits, whether the key is set, and the state if a server is running."""
    if context.invoked_subcommand is not None:
        return
    sources = sources_of(load_settings(), Transport(), utc_now)
    states = _states(url)
    table = Table("provider", "data", "history", "delay", "limits", "key", "state", box=None, pad_edge=False)
    for one in facts_of_all(sources):
        table.add_row(
            "\n".join(one.entry.names),
            _data_of(one.has),
            _history_of(one.has),
            "" if one.delay_seconds is None else f"{one.delay_seconds:g} s",
            one.has.limits,
            one.key,
            states.get(one.entry.name) or _use_of(one),
        )
    console = Console()
    console.width = max(console.width, _NARROWEST)
    console.print(table)


@providers.command()
def check(name: Annotated[str, typer.Argument(help="A provider: alpaca, yahoo, …")]) -> None:
    """Make one cheap request with your key; say what it may do, or what is wrong.

    The exit status is 0 if all is well, 1 if you have to change something, and 3 if another attempt may succeed later.
    """
    entry = installed_providers().named(name.strip().lower())
    try:
        provider = sources_of(load_settings(), Transport(), utc_now).named(entry.name).provider
    except InvalidInput as missing:
        typer.echo(f"stockpulse: {missing}", err=True)
        raise typer.Exit(1) from None
    try:
        typer.echo(f"{entry.name}: {asyncio.run(_checked(provider))}")
    except TimeoutError:
        _fail(f"{entry.name} does not answer within {_CHECK_SECONDS:g} seconds", _LATER)
    except TRANSIENT as fault:
        _fail(str(fault), _LATER)
    except ProviderFault as fault:
        _fail(f"{fault}{_advice(entry, fault)}", 1)


async def _checked(provider: Provider) -> str:
    try:
        async with asyncio.timeout(_CHECK_SECONDS):
            return await provider.check()
    finally:
        if hasattr(provider, "close"):
            await provider.close()


def _fail(message: str, status: int) -> None:
    typer.echo(f"stockpulse: {message}", err=True)
    raise typer.Exit(status)


def _advice(entry: ProviderEntry, fault: ProviderFault) -> str:
    """Return what helps against a fault, unless its message says so."""
    secrets = [option.variables[0] for option in entry.options if option.secret]
    if any(variable in str(fault) for variable in secrets):
        return ""
    if isinstance(fault, WrongKey) and secrets:
        return f". Check {' and '.join(secrets)}"
    return ". The plan of the key does not include this" if isinstance(fault, NotEntitled) else ""


# The table --------------------------------------------------------------------------------------


def _data_of(has: Capabilities) -> str:
    words = {"stream": has.ticks, "latest": has.latest, "trades": has.trades}
    return ", ".join(word for word, is_there in words.items() if is_there)


def _history_of(has: Capabilities) -> str:
    longest_first = sorted(has.history, key=lambda interval: -MINUTES_OF[interval])
    depths = {interval: has.history[interval].depth for interval in longest_first}
    return "\n".join(f"{one}: {depth.days:,} days" if depth else f"{one}: all" for one, depth in depths.items())


def _use_of(one: ProviderFacts) -> str:
    return "unusable" if one.why and one.uses else ", ".join(one.uses)


def _states(url: str) -> dict[str, str]:
    """Return the states of the feeds of the running server; nothing if none answers."""
    try:
        answer = httpx2.get(f"{url}/api/v1/providers", timeout=_STATE_SECONDS, trust_env=False)
        found: list[dict[str, Any]] = answer.json()["providers"]
        return {one["name"]: one["state"] for one in found if "feed" in one["uses"]}
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError, KeyError, TypeError):
        return {}

"""`stockpulse forget`: take ticks and providers' bars back, through a running server or in the database itself."""

import asyncio
from typing import Annotated, Any, Final

import httpx2
import typer
from prometheus_client import CollectorRegistry

from stockpulse.cli import failures, http_client
from stockpulse.cli.replay_target import server_answers
from stockpulse.errors import InvalidInput, NotFound, StockPulseError, Unavailable, shown
from stockpulse.journal.records import Forget
from stockpulse.market.symbology import check_provider_name, read_symbol
from stockpulse.market.times import EARLIEST, LATEST, micros, read_time
from stockpulse.node.lifecycle import running
from stockpulse.settings import load_settings

_TAKES: Final = "RFC 3339, a date (UTC) or epoch seconds"

_COUNTS: Final = {
    "ticks": "ticks taken back",
    "provider_bars": "bars of providers taken back",
    "bars_changed": "bars rebuilt",
    "bars_removed": "bars deleted",
    "bars_refused": "bars unchanged, because the database no longer has all their ticks",
}


def forget(
    symbol: Annotated[str | None, typer.Argument(help="The symbol. Default: all symbols of the provider.")] = None,
    provider: Annotated[str | None, typer.Option(help="The provider. Default: all providers of the symbol.")] = None,
    start: Annotated[str | None, typer.Option("--from", help=f"Take back ticks from this time on: {_TAKES}.")] = None,
    end: Annotated[str | None, typer.Option("--to", help=f"Take back ticks before this time: {_TAKES}.")] = None,
    url: Annotated[str, typer.Option(help="The address of the server.")] = "http://127.0.0.1:8000",
) -> None:
    """Take back the ticks of a symbol, of a provider, or of a symbol from a provider.

    StockPulse rebuilds bars, indicators and signals without these ticks. If --url is on this machine and no server
    answers, the command writes into the database itself.
    """
    if symbol is None and provider is None:
        raise InvalidInput("SYMBOL", "give a symbol, --provider, or both")
    if provider is not None:
        check_provider_name(provider, "--provider")
    wanted = Forget(
        None if symbol is None else _symbol(symbol),
        provider,
        EARLIEST if start is None else _time("--from", start),
        LATEST if end is None else _time("--to", end),
    )
    if wanted.start >= wanted.end:
        raise InvalidInput("--to", "comes after --from")
    counts = asyncio.run(_forgotten(wanted, url))
    if counts is None:
        typer.echo("The request is in the log; the server is still working on it.")
        return
    for name, text in _COUNTS.items():
        if counts[name] or name == "ticks":
            typer.echo(f"{counts[name]:,} {text}")


def _symbol(text: str) -> str:
    symbol = read_symbol(text)
    if symbol is None:
        raise InvalidInput("SYMBOL", f"got {shown(text)}, which is not a symbol")
    return symbol


def _time(option: str, text: str) -> int:
    moment = read_time(text)
    if moment is None:
        raise InvalidInput(option, f"got {shown(text)}; takes {_TAKES}")
    return micros(moment)


async def _forgotten(wanted: Forget, url: str) -> dict[str, Any] | None:
    """Take the ticks back and return the counts; None if the server answers before it has finished."""
    async with httpx2.AsyncClient(base_url=url, timeout=http_client.TIMEOUT, trust_env=False) as client:
        if await server_answers(client):
            return await _by_server(client, wanted)
    settings = load_settings().without_feeds()
    failures.log_trouble_only(settings)
    typer.echo(f"No server at {url}: forgetting in the database.", err=True)
    with failures.database_faults():
        async with running(settings, CollectorRegistry()) as context:
            names = context.names
            for kind, name, known in (
                ("symbol", wanted.symbol, names.symbols),
                ("provider", wanted.provider, names.providers),
            ):
                if name is not None and name not in known:
                    raise NotFound(f"no such {kind}: {shown(name)}")
            _, outcome = await context.pipeline.intake.enqueue_forget(wanted)
            done = await outcome
            return None if done is None else done.__dict__


async def _by_server(client: httpx2.AsyncClient, wanted: Forget) -> dict[str, Any] | None:
    query = {"symbol": wanted.symbol, "provider": wanted.provider}
    query |= {"start": _text(wanted.start, EARLIEST), "end": _text(wanted.end, LATEST)}
    try:
        response = await client.delete(
            "/api/v1/ticks",
            params={name: value for name, value in query.items() if value is not None},
            headers=http_client.CHANGES,
        )
    except httpx2.TransportError as error:
        raise Unavailable(f"the connection failed, it is safe to try again: {error!r}") from error
    if not response.is_success:
        raise StockPulseError(f"the server refuses: {http_client.message_of(response)}")
    answer: dict[str, Any] = response.json()
    return answer if answer["done"] else None


def _text(value: int, unset: int) -> str | None:
    """Return a time as epoch seconds with microseconds; None if the option was not given."""
    return None if value == unset else f"{value // 1_000_000}.{value % 1_000_000:06d}"

"""`stockpulse backfill`: load bars of the past, through a running server or in the database itself."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final

import httpx2
import typer
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from stockpulse.api.backfill import Wanted, begin, report_of
from stockpulse.api.context import BackfillParts
from stockpulse.cli import failures, http_client
from stockpulse.cli.replay_target import server_answers
from stockpulse.errors import StockPulseError, Unavailable
from stockpulse.node.lifecycle import running
from stockpulse.settings import load_settings

_POLL_SECONDS: Final = 0.5
_SHOWN_REFUSALS: Final = 5
_PATH: Final = "/api/v1/backfill"

_Report = dict[str, Any]
_Ask = Callable[[], Awaitable[_Report]]


def backfill(
    symbols: Annotated[list[str], typer.Argument(help="The symbols.")],
    start: Annotated[str, typer.Option(help="Bars from this time on: RFC 3339, or a date of the exchange.")],
    interval: Annotated[str, typer.Option(help="1m, 5m or 1d.")] = "1d",
    end: Annotated[str | None, typer.Option(help="Bars before this time. Default: up to now.")] = None,
    provider: Annotated[
        str | None, typer.Option(help="The provider to ask. Default: those of the settings, in their order.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask again for ranges that were asked for, if their bars are not stored.")
    ] = False,
    url: Annotated[str, typer.Option(help="The address of the server.")] = "http://127.0.0.1:8000",
) -> None:
    """Load bars of the past that are missing.

    StockPulse asks only for bars that the trading calendar expects, that are not stored, and that it has not asked for
    before. If --url is on this machine and no server answers, the command writes into the database itself.
    """
    wanted = Wanted(symbols=symbols, interval=interval, start=start, end=end, provider=provider, again=again)
    report = asyncio.run(_backfilled(wanted, url))
    typer.echo(_summary(report))
    if report["status"] != "completed":
        raise StockPulseError(f"the backfill has failed: {report['last_fault']}")


async def _backfilled(wanted: Wanted, url: str) -> _Report:
    """Carry out a backfill, with a progress bar; return its final state."""
    async with _begun(wanted, url) as (first, ask):
        with _progress() as progress:
            task = progress.add_task("", total=None, text="")
            report = first
            while True:
                total = report["expected_bars"] or None
                progress.update(task, total=total, completed=report["done_bars"], text=_state(report))
                if report["completed_at"] is not None:
                    progress.update(task, total=total or 1, completed=total or 1)
                    return report
                await asyncio.sleep(_POLL_SECONDS)
                report = await ask()


@asynccontextmanager
async def _begun(wanted: Wanted, url: str) -> AsyncIterator[tuple[_Report, _Ask]]:
    """Begin a backfill at the server or, if nothing listens there on this machine, in this process.

    Yield its first state, and a function that asks for the present one.
    """
    async with httpx2.AsyncClient(base_url=url, timeout=http_client.TIMEOUT, trust_env=False) as client:
        if await server_answers(client):
            first = await _answer(client, "POST", _PATH, wanted.model_dump())
            yield first, lambda: _answer(client, "GET", f"{_PATH}/{first['id']}")
            return
    settings = load_settings()
    failures.log_trouble_only(settings)
    typer.echo(f"No server at {url}: loading into the database.", err=True)
    if wanted.provider is None and settings.followed:
        wanted = wanted.model_copy(update={"provider": settings.followed[0].provider})
    with failures.database_faults():
        async with running(settings.without_feeds(), CollectorRegistry()) as context:
            run = await begin(BackfillParts(context.required_backfills, context.sources, context.supervisor), wanted)

            async def ask() -> _Report:
                return report_of(run).model_dump(mode="json")

            yield await ask(), ask


async def _answer(client: httpx2.AsyncClient, method: str, path: str, body: _Report | None = None) -> _Report:
    try:
        response = await client.request(method, path, json=body, headers=http_client.CHANGES)
    except httpx2.TransportError as error:
        raise Unavailable(f"the connection failed; a server that still runs goes on: {error!r}") from error
    if not response.is_success:
        raise StockPulseError(f"the server refuses: {http_client.message_of(response)}")
    report: _Report = response.json()
    return report


def _progress() -> Progress:
    return Progress(
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[text]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _state(report: _Report) -> str:
    text = f"{report['bars']:,} bars, {report['requests']:,} requests"
    if report["status"] != "waiting":
        return text
    until = str(report["waits_until"])[:19].replace("T", " ")
    return f"{text}, waits until {until} UTC: {report['last_fault']}"


def _summary(report: _Report) -> str:
    counts = f"{report['bars']:,} bars loaded with {report['requests']:,} requests; {report['refused']:,} refused"
    lines = [counts, *(f"  {one}" for one in report["refusals"][:_SHOWN_REFUSALS])]
    return "\n".join(lines)

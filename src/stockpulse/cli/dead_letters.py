"""`stockpulse dlq`: the dead letters of the running server."""

from typing import Annotated, Any, Final

import httpx2
import typer

from stockpulse.cli import failures, http_client
from stockpulse.errors import StockPulseError, Unavailable

_SHOWN_REJECTS: Final = 5

dlq = typer.Typer(cls=failures.Commands, help="Dead letters: records that were rejected.", no_args_is_help=True)

_Url = Annotated[str, typer.Option(help="The address of the server.")]
_Source = Annotated[str | None, typer.Option(help="Only dead letters of this provider or topic.")]


@dlq.command("list")
def list_dead_letters(
    url: _Url = "http://127.0.0.1:8000",
    source: _Source = None,
    limit: Annotated[int, typer.Option(help="Maximum number of dead letters.", min=1, max=10_000)] = 20,
) -> None:
    """Show the newest dead letters with their reasons."""
    for letter in _asked(url, "GET", "", source, limit)["dead_letters"]:
        place = f"[{letter['topic_partition']}]@{letter['topic_offset']}" if letter["topic"] else ""
        again = f" (sent again {letter['retried_at']})" if letter["retried_at"] else ""
        again += f" (stands for {letter['count']:,} records)" if letter["count"] > 1 else ""
        typer.echo(f"{letter['id']} {letter['received_at']} {letter['source']}{place}: {letter['reason']}{again}")
        typer.echo(f"    {letter['record']}")


@dlq.command("retry")
def retry_dead_letters(
    url: _Url = "http://127.0.0.1:8000",
    source: _Source = None,
    limit: Annotated[int, typer.Option(help="Maximum number of dead letters.", min=1, max=10_000)] = 1000,
) -> None:
    """Send dead letters that no earlier retry has stored. Records that are still wrong remain dead letters."""
    outcome = _asked(url, "POST", "/retry", source, limit)
    typer.echo(f"{outcome['retried']:,} records stored, {len(outcome['refused']):,} still refused")
    if len(outcome["refused"]) > _SHOWN_REJECTS:
        typer.echo("The first ones:")
    for number, reason in list(outcome["refused"].items())[:_SHOWN_REJECTS]:
        typer.echo(f"  {number}: {reason}")


def _asked(url: str, method: str, path: str, source: str | None, limit: int) -> dict[str, Any]:
    """Return the answer of the running server."""
    query: dict[str, str | int] = {"limit": limit} | ({} if source is None else {"source": source})
    try:
        with httpx2.Client(base_url=url, timeout=http_client.TIMEOUT, trust_env=False) as client:
            response = client.request(method, f"/api/v1/dead-letters{path}", params=query, headers=http_client.CHANGES)
    except httpx2.TransportError as error:
        raise Unavailable(f"no server at {url}: {error}") from error
    if not response.is_success:
        raise StockPulseError(f"the server refuses: {http_client.message_of(response)}")
    answer: dict[str, Any] = response.json()
    return answer

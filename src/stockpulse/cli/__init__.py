"""The command line: serve, replay, backfill, providers, forget, migrate, move, topics, dlq, version."""

import asyncio
from typing import Annotated

import typer
import uvicorn

from stockpulse import __version__
from stockpulse.app import create_app
from stockpulse.cli import backfill, dead_letters, failures, forget, providers, replay, topics
from stockpulse.node.database import database_address
from stockpulse.node.log_migration import Target, move
from stockpulse.postgres.migrate import upgrade
from stockpulse.settings import load_settings
from stockpulse.telemetry.logs import configure_logging

cli = typer.Typer(
    cls=failures.Commands,
    help="A whole market-data backend in one process.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 means all addresses.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on.", min=0, max=65535)] = 8000,
) -> None:
    """Run the server. The settings are environment variables."""
    settings = load_settings()
    configure_logging(settings.log_format, debug=settings.debug)
    uvicorn.run(create_app(settings), host=host, port=port, log_config=None)


@cli.command("migrate")
def migrate_schema() -> None:
    """Bring the schema of the database up to date."""
    settings = load_settings()
    failures.log_trouble_only(settings)

    async def run() -> None:
        async with database_address(settings) as dsn:
            await upgrade(dsn)

    with failures.database_faults():
        asyncio.run(run())
    typer.echo("the schema is up to date")


@cli.command("move")
def move_log(
    target: Annotated[Target, typer.Argument(help="The new place of the log: kafka or postgres.")],
) -> None:
    """Move the log to Kafka or back to the database. Stored data stays as it is.

    Stop every process on this database first. Set KAFKA_BOOTSTRAP_SERVERS for both targets.
    """
    settings = load_settings()
    failures.log_trouble_only(settings)

    with failures.database_faults():
        moved = asyncio.run(move(settings, target))
    typer.echo(f"moved to {target}: {moved.symbols:,} symbols, shards: {moved.shards}")


@cli.command()
def version() -> None:
    """Show the version."""
    typer.echo(f"stockpulse {__version__}")


cli.command("replay")(replay.replay)
cli.command("backfill")(backfill.backfill)
cli.command("forget")(forget.forget)
cli.add_typer(providers.providers, name="providers")
cli.add_typer(topics.topics, name="topics")
cli.add_typer(dead_letters.dlq, name="dlq")

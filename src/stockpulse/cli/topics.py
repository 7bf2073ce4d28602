"""`stockpulse topics`: the topics on Kafka."""

import asyncio
from collections.abc import Iterable

import typer
from rich.console import Console
from rich.table import Table

from stockpulse.cli import failures
from stockpulse.errors import InvalidInput
from stockpulse.journal.kafka.offsets import bounds_of
from stockpulse.journal.kafka.topics import Topic
from stockpulse.node.kafka import KafkaTarget, kafka_target
from stockpulse.node.log_migration import accept_loss
from stockpulse.settings import Settings, load_settings

topics = typer.Typer(cls=failures.Commands, help="The topics on Kafka.", no_args_is_help=True)


@topics.command("create")
def create_topics() -> None:
    """Create missing topics, and check the existing ones."""
    _print_topics(asyncio.run(kafka_target(_kafka_settings())).cluster.topics.values())


@topics.command("list")
def list_topics() -> None:
    """Show the topics, and the first offset and the end of each partition of the log."""
    settings = _kafka_settings()

    async def run() -> tuple[KafkaTarget, dict[int, int], dict[int, int]]:
        target = await kafka_target(settings, create=False)
        return target, *await bounds_of(target.connection, target.topic, target.partitions)

    target, oldest, ends = asyncio.run(run())
    _print_topics(target.cluster.topics.values())
    table = _table("partition", "oldest", "end", right=3)
    for partition, end in ends.items():
        table.add_row(str(partition), f"{oldest[partition]:,}", f"{end:,}")
    Console().print(table)


@topics.command("accept-loss")
def accept_lost_records() -> None:
    """Continue although records are lost.

    Kafka dropped them before they were processed, or the topic was deleted and created again.
    """
    settings = _kafka_settings()

    with failures.database_faults():
        losses = asyncio.run(accept_loss(settings))
    typer.echo("\n".join(losses) if losses else "nothing is lost")


def _kafka_settings() -> Settings:
    settings = load_settings()
    if settings.kafka_bootstrap_servers is None:
        raise InvalidInput("KAFKA_BOOTSTRAP_SERVERS", "is not set; takes host:port, several separated by commas")
    failures.log_trouble_only(settings)
    return settings


def _print_topics(found: Iterable[Topic]) -> None:
    table = _table("topic", "partitions", "replicas", "retention", right=3)
    for topic in found:
        hours = int(topic.settings.get("retention.ms", "-1")) / 3_600_000
        kept = f"{hours:,.0f} h" if hours >= 0 else "for good"
        table.add_row(topic.name, str(topic.partitions), str(topic.replication), kept)
    Console().print(table)


def _table(*columns: str, right: int) -> Table:
    """Return a table whose last `right` columns are numbers."""
    table = Table(box=None)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at >= len(columns) - right else "left")
    return table

"""The command line: serve, replay, migrate, move, topics, dlq, version."""

import asyncio
import io
import ipaddress
import logging
import re
import signal
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Final, Protocol, TypeVar

import asyncpg
import httpx2
import polars as pl
import typer
import uvicorn
from prometheus_client import CollectorRegistry
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import DBAPIError
from typer.core import TyperGroup

from stockpulse import __version__
from stockpulse.app import create_app, database_of, foundation, running
from stockpulse.assembly import KafkaTarget, kafka_target
from stockpulse.calendar import trading_calendar
from stockpulse.clock import Clock
from stockpulse.database.connect import TRANSIENT
from stockpulse.database.migrate import upgrade
from stockpulse.errors import DatabaseUnavailable, InvalidInput, OutcomeUnknown, StockPulseError, Unavailable
from stockpulse.ingest.conditions import rule_named
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.journal.kafka.offsets import bounds_of
from stockpulse.journal.kafka.topics import Topic
from stockpulse.moving import Moved, Target, accept_loss, move
from stockpulse.names import PROVIDER
from stockpulse.pipeline import Pipeline
from stockpulse.providers.replay import ReplayProvider, parse_speed
from stockpulse.settings import Settings, load_settings
from stockpulse.telemetry import configure_logging

_T = TypeVar("_T")

_BATCH_ROWS: Final = 50_000
_SHOWN_REJECTS: Final = 5
_RETRY_SECONDS: Final = (0.25, 0.5, 1, 2, 4, 8, 8, 8)
_TIMEOUT: Final = httpx2.Timeout(10, read=310)  # a server may wait for durability for 300 seconds
_LIMITS: Final = httpx2.Limits(keepalive_expiry=2)  # before the server, which waits for 5 seconds, closes it
_DATABASE_FAULTS: Final[tuple[type[BaseException], ...]] = (*TRANSIENT, asyncpg.PostgresError, DBAPIError)


class _Commands(TyperGroup):
    """Commands that end with one plain line on stderr where StockPulse says what is wrong."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except StockPulseError as error:
            typer.echo(f"stockpulse: {error}", err=True)
            raise typer.Exit(1) from None


cli = typer.Typer(
    cls=_Commands,
    help="A whole market-data backend in one process.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@cli.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen at; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen at.", min=0, max=65535)] = 8000,
) -> None:
    """Run the server. What can be set, is set by environment variables."""
    settings = load_settings()
    configure_logging(settings.log_format, debug=settings.debug)
    uvicorn.run(create_app(settings), host=host, port=port, log_config=None)


@cli.command("migrate")
def migrate_schema() -> None:
    """Bring the schema of the database up to date."""
    settings = load_settings()
    _log_trouble_only(settings)

    async def run() -> None:
        async with database_of(settings) as dsn:
            await upgrade(dsn)

    with _database_faults():
        asyncio.run(run())
    typer.echo("the schema is up to date")


@cli.command("move")
def move_log(
    target: Annotated[Target, typer.Argument(help="Where the log is to be from now on: kafka or postgres.")],
) -> None:
    """Move from the log in the database to the one on Kafka, or back, with all that is stored.

    Stop every process on this database before. KAFKA_BOOTSTRAP_SERVERS is needed both ways.
    """
    settings = load_settings()
    _log_trouble_only(settings)

    async def run() -> Moved:
        async with foundation(settings) as base:
            return await move(base, target)

    with _database_faults():
        moved = asyncio.run(run())
    typer.echo(f"moved to {target}: {moved.symbols:,} symbols, shards: {moved.shards}")


@cli.command()
def version() -> None:
    """Say which version this is."""
    typer.echo(f"stockpulse {__version__}")


@cli.command()
def replay(
    files: Annotated[
        list[Path], typer.Argument(help="Recorded trades (.parquet, .csv, .csv.gz, .arrow), one after the other.")
    ],
    speed: Annotated[
        str, typer.Option(help="1: as recorded, 60: a minute in a second, max: as fast as they are taken.")
    ] = "1",
    url: Annotated[str, typer.Option(help="The running server.")] = "http://127.0.0.1:8000",
    calendar: Annotated[str, typer.Option(help="Trading calendar of new symbols: XNYS, 24/7, …")] = "XNYS",
    conditions: Annotated[str, typer.Option(help="The rule by which trade conditions count.")] = "all",
    provider: Annotated[str, typer.Option(help="Under which name the trades are stored.")] = "replay",
) -> None:
    """Send recorded trades through the running server, by the clock of the recording.

    Where no server runs on this machine, they go into its database directly.
    """
    if not re.fullmatch(PROVIDER, provider):
        raise InvalidInput("provider", f"got {provider!r}; takes 1 to 32 of a-z 0-9 _, beginning with a letter")
    factor = parse_speed(speed)
    recordings = [ReplayProvider(path, factor, calendar, batch_rows=_BATCH_ROWS) for path in files]
    tally = _Tally()
    try:
        asyncio.run(_replay(recordings, url, conditions, provider, tally))
    except asyncio.CancelledError:
        raise StockPulseError("stopped before the end") from None
    finally:
        if tally.sent:
            typer.echo(tally.summary())


# Topics -----------------------------------------------------------------------------------------

topics = typer.Typer(cls=_Commands, help="The topics on Kafka.", no_args_is_help=True)
cli.add_typer(topics, name="topics")


@topics.command("create")
def create_topics() -> None:
    """Make the topics that are missing, and check those that are there."""
    _print_topics(asyncio.run(kafka_target(_kafka_settings())).cluster.topics.values())


@topics.command("list")
def list_topics() -> None:
    """Show the topics, and how far the partitions of the log are worked in."""
    settings = _kafka_settings()

    async def run() -> tuple[KafkaTarget, dict[int, int], dict[int, int]]:
        target = await kafka_target(settings)
        return target, *await bounds_of(target.connection, target.topic, target.partitions)

    target, oldest, ends = asyncio.run(run())
    _print_topics(target.cluster.topics.values())
    table = _table("partition", "oldest", "end", right=3)
    for partition, end in ends.items():
        table.add_row(str(partition), f"{oldest[partition]:,}", f"{end:,}")
    Console().print(table)


@topics.command("accept-loss")
def accept_lost_records() -> None:
    """Go on without records that the log dropped before they were worked in, or after its topic was made anew."""
    settings = _kafka_settings()

    async def run() -> list[str]:
        async with foundation(settings) as base:
            return await accept_loss(base)

    with _database_faults():
        losses = asyncio.run(run())
    typer.echo("\n".join(losses) if losses else "nothing is lost")


def _kafka_settings() -> Settings:
    settings = load_settings()
    if settings.kafka_bootstrap_servers is None:
        raise InvalidInput("KAFKA_BOOTSTRAP_SERVERS", "is not set; takes host:port, several separated by commas")
    _log_trouble_only(settings)
    return settings


def _print_topics(found: Iterable[Topic]) -> None:
    table = _table("topic", "partitions", "replicas", "retention", right=3)
    for topic in found:
        hours = int(topic.settings.get("retention.ms", "-1")) / 3_600_000
        kept = f"{hours:,.0f} h" if hours >= 0 else "for good"
        table.add_row(topic.name, str(topic.partitions), str(topic.replication), kept)
    Console().print(table)


def _table(*columns: str, right: int) -> Table:
    """A table whose last columns are numbers."""
    table = Table(box=None)
    for at, column in enumerate(columns):
        table.add_column(column, justify="right" if at >= len(columns) - right else "left")
    return table


# Dead letters -----------------------------------------------------------------------------------

dlq = typer.Typer(cls=_Commands, help="Records that could not be taken.", no_args_is_help=True)
cli.add_typer(dlq, name="dlq")

_Url = Annotated[str, typer.Option(help="The running server.")]
_Source = Annotated[str | None, typer.Option(help="Only those of this provider or topic.")]


@dlq.command("list")
def list_dead_letters(
    url: _Url = "http://127.0.0.1:8000",
    source: _Source = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 20,
) -> None:
    """Show the newest ones, with what is wrong with each."""
    for letter in _asked(url, "GET", "", source, limit)["dead_letters"]:
        place = f" {letter['topic']}[{letter['topic_partition']}]@{letter['topic_offset']}" if letter["topic"] else ""
        again = f" (sent again {letter['retried_at']})" if letter["retried_at"] else ""
        typer.echo(f"{letter['id']} {letter['received_at']} {letter['source']}{place}: {letter['reason']}{again}")
        typer.echo(f"    {letter['record']}")


@dlq.command("retry")
def retry_dead_letters(
    url: _Url = "http://127.0.0.1:8000",
    source: _Source = None,
    limit: Annotated[int, typer.Option(help="How many.", min=1, max=10_000)] = 1000,
) -> None:
    """Send them again, those that were not yet; what is still wrong stays."""
    outcome = _asked(url, "POST", "/retry", source, limit)
    typer.echo(f"{outcome['retried']:,} are stored now, {len(outcome['refused']):,} are still refused")
    for number, reason in list(outcome["refused"].items())[:_SHOWN_REJECTS]:
        typer.echo(f"  {number}: {reason}")


def _asked(url: str, method: str, path: str, source: str | None, limit: int) -> dict[str, Any]:
    """What the running server answers."""
    query: dict[str, str | int] = {"limit": limit} | ({} if source is None else {"source": source})
    try:
        with httpx2.Client(base_url=url, timeout=_TIMEOUT, trust_env=False) as client:
            response = client.request(method, f"/api/v1/dead-letters{path}", params=query)
    except httpx2.TransportError as error:
        raise Unavailable(f"no server at {url}: {error}") from error
    if not response.is_success:
        raise StockPulseError(f"the server refuses: {_message_of(response)}")
    answer: dict[str, Any] = response.json()
    return answer


# Replay -----------------------------------------------------------------------------------------


class _Destination(Protocol):
    """Where trades are replayed to."""

    async def send(self, ticks: pl.DataFrame) -> Receipt:
        """Returns once what is good of them is durable."""
        ...

    async def end(self) -> None:
        """Say that nothing more comes."""
        ...


@dataclass
class _Tally:
    """What became of the rows."""

    sent: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    first_rejects: list[str] = field(default_factory=list)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def stop_clock(self) -> None:
        """All that was counted up to now is durable."""
        self.seconds = time.monotonic() - self.started

    def add(self, rows: int, receipt: Receipt, path: Path, before: int) -> None:
        """Count a batch that came after so many rows of the file."""
        self.sent += rows
        self.accepted += receipt.accepted
        self.duplicates += receipt.duplicates
        self.rejected += len(receipt.rejected)
        self.stop_clock()
        for row, reason in receipt.rejected[: _SHOWN_REJECTS - len(self.first_rejects)]:
            self.first_rejects.append(f"  {path}, row {before + row + 1:,}: {reason}")

    @property
    def rate(self) -> float:
        """Rows per second."""
        return self.sent / max(self.seconds, 1e-9)

    def summary(self) -> str:
        """A line of figures, and the first rows that were not taken."""
        line = (
            f"{self.sent:,} rows sent: {self.accepted:,} accepted, {self.duplicates:,} duplicates, "
            f"{self.rejected:,} rejected; {self.seconds:.2f} s, {self.rate:,.0f} rows/s"
        )
        if not self.rejected:
            return line
        return "\n".join(
            [line, "The rejected rows are in the table dead_letters. The first ones:", *self.first_rejects]
        )


async def _replay(recordings: list[ReplayProvider], url: str, conditions: str, provider: str, tally: _Tally) -> None:
    """All recordings, in this order, to the server or into the database."""
    current = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: current and current.cancel())
    total = await asyncio.to_thread(lambda: sum(recording.total_rows for recording in recordings))
    with _progress() as progress:
        async with _destination(url, recordings[0].calendar, conditions, provider, progress.console) as destination:
            task = progress.add_task("", total=total, rate=0, event_time="")
            tally.started = time.monotonic()
            for recording in recordings:
                async for ticks in _send_all(recording, destination, tally):
                    reached = _shown(ticks["ts"].max())
                    progress.update(task, completed=tally.sent, rate=tally.rate, event_time=reached)
            await destination.end()
            tally.stop_clock()


async def _send_all(recording: ReplayProvider, destination: _Destination, tally: _Tally) -> AsyncIterator[pl.DataFrame]:
    """The batches of a recording, each after it was sent and counted."""
    before = 0
    async with aclosing(_ahead(recording.stream())) as batches:
        async for ticks in batches:
            receipt = await _send(destination, ticks, recording.path, before)
            tally.add(len(ticks), receipt, recording.path, before)
            before += len(ticks)
            yield ticks


async def _send(destination: _Destination, ticks: pl.DataFrame, path: Path, before: int) -> Receipt:
    """Send a batch; a failure says how far all is certain."""
    try:
        return await destination.send(ticks)
    except StockPulseError as error:
        last = before + len(ticks)
        outcome = "may or may not be stored" if isinstance(error, OutcomeUnknown) else "are not stored"
        raise StockPulseError(
            f"{error}; of {path}, {before:,} rows are stored, rows {before + 1:,} to {last:,} {outcome}"
        ) from error


def _shown(moment: object) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S}" if isinstance(moment, datetime) else ""


def _progress() -> Progress:
    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[rate]:,.0f}/s"),
        TextColumn("{task.fields[event_time]}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
    )


async def _ahead(batches: AsyncIterator[_T]) -> AsyncGenerator[_T, None]:
    """The same batches; the next one is read while the last one is worked on."""

    async def read() -> _T | None:
        return await anext(batches, None)

    coming = asyncio.create_task(read())
    try:
        while (batch := await coming) is not None:
            coming = asyncio.create_task(read())
            yield batch
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


@asynccontextmanager
async def _destination(
    url: str, calendar: str, conditions: str, provider: str, console: Console
) -> AsyncIterator[_Destination]:
    """The server at this address or, where nothing listens on this machine, the database itself."""
    query = {"provider": provider, "calendar": calendar, "conditions": conditions, "clock": Clock.EVENT.value}
    # The proxies that the environment may name are for the world outside.
    async with httpx2.AsyncClient(base_url=url, timeout=_TIMEOUT, limits=_LIMITS, trust_env=False) as client:
        if await _server_answers(client):
            yield _Server(client, query)
            return
    settings = load_settings().model_copy(update={"provider": "none"})
    feed = Feed(provider, trading_calendar(calendar).name, Clock.EVENT, rule=rule_named(conditions))
    _log_trouble_only(settings)
    console.print(f"No server at {url}: replaying into the database.", highlight=False, soft_wrap=True)
    with _database_faults():
        async with running(settings, CollectorRegistry()) as context:
            yield _Database(context.pipeline, feed)


async def _server_answers(client: httpx2.AsyncClient) -> bool:
    """Whether a server is there; False where nothing listens on this machine."""
    try:
        response = await client.get("/api/v1/version")
        if response.status_code == httpx2.codes.OK and response.json().get("name") == "stockpulse":
            return True
    except httpx2.ConnectError as error:
        if _is_here(client.base_url.host):
            return False
        raise Unavailable(f"no server at {client.base_url}: {error}") from error
    except (httpx2.HTTPError, ValueError, AttributeError) as error:
        raise Unavailable(f"no StockPulse at {client.base_url}: {error!r}") from error
    raise Unavailable(f"what answers at {client.base_url} is no StockPulse")


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class _Database:
    """The database of this machine, written to by this process."""

    def __init__(self, pipeline: Pipeline, feed: Feed) -> None:
        self._pipeline = pipeline
        self._feed = feed

    async def send(self, ticks: pl.DataFrame) -> Receipt:
        return await self._pipeline.submit(ticks, self._feed)

    async def end(self) -> None:
        await self._pipeline.end(self._feed)


class _Server:
    """A running StockPulse.

    A batch whose outcome is unknown is sent again only where each of its rows has a trade_id, by which the
    server tells that it has it already.
    """

    def __init__(self, client: httpx2.AsyncClient, query: Mapping[str, str]) -> None:
        self._client = client
        self._query = query

    async def send(self, ticks: pl.DataFrame) -> Receipt:
        body = io.BytesIO()
        ticks.write_ipc_stream(body)
        return await self._post(body.getvalue(), {}, repeatable=not ticks["trade_id"].has_nulls())

    async def end(self) -> None:
        await self._post(b"", {"end_of_stream": "true"}, repeatable=True)

    async def _post(self, body: bytes, query: Mapping[str, str], *, repeatable: bool) -> Receipt:
        pauses, unknown = iter(_RETRY_SECONDS), False
        while True:
            try:
                return await self._post_once(body, {**self._query, **query})
            except (OutcomeUnknown, Unavailable) as fault:
                unknown = unknown or isinstance(fault, OutcomeUnknown)
                pause = next(pauses, None)
                if pause is None or (unknown and not repeatable):
                    raise (OutcomeUnknown if unknown else Unavailable)(str(fault)) from fault
            await asyncio.sleep(pause)

    async def _post_once(self, body: bytes, query: Mapping[str, str]) -> Receipt:
        headers = {"content-type": "application/vnd.apache.arrow.stream"}
        try:
            response = await self._client.post("/api/v1/ticks", params=query, content=body, headers=headers)
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise Unavailable(f"the server is gone: {error}") from error
        except httpx2.TransportError as error:
            raise OutcomeUnknown(f"the connection failed: {error!r}") from error
        if response.is_success:
            answer = response.json()
            rejected = tuple((one["row"], one["reason"]) for one in answer["rejected"])
            return Receipt(answer["accepted"], answer["duplicates"], rejected)
        if response.is_server_error:
            raise OutcomeUnknown(f"the server fails: {_message_of(response)}")
        raise StockPulseError(f"the server refuses: {_message_of(response)}")


def _message_of(response: httpx2.Response) -> str:
    try:
        return str(response.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"status {response.status_code}"


def _log_trouble_only(settings: Settings) -> None:
    """What goes well, the command itself shows."""
    configure_logging(settings.log_format, debug=settings.debug)
    if not settings.debug:
        logging.getLogger().setLevel(logging.WARNING)


@contextmanager
def _database_faults() -> Iterator[None]:
    """Turns what goes wrong on the way to the database into one line."""
    try:
        yield
    except _DATABASE_FAULTS as fault:
        raise DatabaseUnavailable(f"the database does not answer: {fault!r}") from fault

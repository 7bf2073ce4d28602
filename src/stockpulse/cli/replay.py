"""`stockpulse replay`: sends recorded trades, at the pace of the recording or faster."""

import asyncio
import math
import signal
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Final

import polars as pl
import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from stockpulse.aio.ahead import ahead
from stockpulse.cli.replay_target import Destination, destination_at
from stockpulse.cli.vendor_recording import VendorDay, read_symbols, read_vendor_day, record
from stockpulse.errors import OutcomeUnknown, StockPulseError
from stockpulse.ingest.feed import Receipt
from stockpulse.market.symbology import check_provider_name
from stockpulse.providers.replay import ReplayProvider, parse_speed
from stockpulse.providers.trade_conditions import RULES

_BATCH_ROWS: Final = 50_000
_SHOWN_REJECTS: Final = 5
_AUTO: Final = "auto"
_CHECKED_SYMBOLS: Final = 20
"""The number of symbols whose bars are looked up before a replay, for the warning."""


def replay(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Recorded trades (.parquet, .csv, .csv.gz, .arrow), one after the other; or a past day of a provider:"
            " alpaca:2024-11-14."
        ),
    ],
    speed: Annotated[
        str,
        typer.Option(
            help="Speed factor: 1 keeps the pace of the recording, 60 replays one minute per second, max is as fast as"
            " the server accepts the trades."
        ),
    ] = "1",
    url: Annotated[str, typer.Option(help="The address of the server.")] = "http://127.0.0.1:8000",
    calendar: Annotated[str, typer.Option(help="Trading calendar of new symbols: XNYS, 24/7, …")] = "XNYS",
    conditions: Annotated[
        str,
        typer.Option(
            help=f"The rule for trade conditions: {', '.join(RULES)}; auto: that of the provider of a day, or all."
        ),
    ] = _AUTO,
    provider: Annotated[str, typer.Option(help="The name under which the trades are stored.")] = "replay",
    symbols: Annotated[
        str | None, typer.Option(help="The symbols of a day of a provider, separated by commas.")
    ] = None,
    bars: Annotated[
        bool, typer.Option("--bars", help="Replay the minute bars of the provider, as four trades each.")
    ] = False,
) -> None:
    """Send recorded trades, or a past day of a provider, to the running server at the pace of the recording or faster.

    If --url is on this machine and no server answers, the command writes into the database itself.
    """
    check_provider_name(provider)
    factor = parse_speed(speed)
    days = [read_vendor_day(one) for one in files]
    tally = _Tally()
    try:
        with tempfile.TemporaryDirectory(prefix="stockpulse-") as folder:
            paths = [
                Path(name) if day is None else _loaded(day, symbols, calendar, Path(folder), bars=bars)
                for name, day in zip(files, days, strict=True)
            ]
            recordings = [ReplayProvider(path, factor, calendar, batch_rows=_BATCH_ROWS) for path in paths]
            rule = _rule_of(days, bars=bars) if conditions == _AUTO else conditions
            asyncio.run(_replay(recordings, url, rule, provider, tally))
    except asyncio.CancelledError:
        raise StockPulseError("stopped before the end") from None
    finally:
        if tally.sent:
            typer.echo(tally.summary())


def _loaded(day: VendorDay, symbols: str | None, calendar: str, folder: Path, *, bars: bool) -> Path:
    """Load a day from its provider, and show that it is being loaded."""
    wanted = read_symbols(symbols)
    with Console(stderr=True).status(f"Loading {day}: {', '.join(wanted)}"):
        return asyncio.run(record(day, wanted, calendar, folder, bars=bars))


def _rule_of(days: list[VendorDay | None], *, bars: bool) -> str:
    """Return the name of the provider's rule for its trades; all trades count if the recordings are from elsewhere."""
    names = {None if day is None else day.provider for day in days}
    name = names.pop() if len(names) == 1 else None
    return name if name in RULES and not bars else "all"


@dataclass
class _Tally:
    """Counts of the outcomes of rows."""

    sent: int = 0
    accepted: int = 0
    duplicates: int = 0
    rejected: int = 0
    first_rejects: list[str] = field(default_factory=list)
    seconds: float = 0.0
    started: float = field(default_factory=time.monotonic)

    def stop_clock(self) -> None:
        """Take the time: all rows that were counted are durable now."""
        self.seconds = time.monotonic() - self.started

    def add(self, rows: int, receipt: Receipt, path: Path, before: int) -> None:
        """Count a batch, which follows `before` rows of the file."""
        self.sent += rows
        self.accepted += receipt.accepted
        self.duplicates += receipt.duplicates
        self.rejected += receipt.rejected_rows
        self.stop_clock()
        for row, reason in receipt.rejected[: _SHOWN_REJECTS - len(self.first_rejects)]:
            self.first_rejects.append(f"  {path}, row {before + row + 1:,}: {reason}")

    @property
    def rate(self) -> float:
        """Rows sent per second."""
        return self.sent / max(self.seconds, 1e-9)

    def summary(self) -> str:
        """Return a line of figures, and the first rejected rows."""
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
    """Send all recordings, in this order, to the server or into the database."""
    current = asyncio.current_task()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: current and current.cancel())
    total = await asyncio.to_thread(lambda: sum(recording.total_rows for recording in recordings))
    with _progress() as progress:
        async with destination_at(url, recordings[0].calendar, conditions, provider, progress.console) as destination:
            for recording in recordings:
                await _say_first(recording, destination, progress.console)
            task = progress.add_task("", total=total, rate=0, event_time="")
            tally.started = time.monotonic()
            for recording in recordings:
                async for ticks in _send_all(recording, destination, tally):
                    reached = _shown(ticks["ts"].max())
                    progress.update(task, completed=tally.sent, rate=tally.rate, event_time=reached)
            progress.console.print("All rows are sent. Waiting until their bars are stored.", highlight=False)
            await destination.end()
            tally.stop_clock()


async def _say_first(recording: ReplayProvider, destination: Destination, console: Console) -> None:
    """Print the duration of the replay at its speed, and warn if bars of its times are stored already."""
    overview = await asyncio.to_thread(recording.overview)
    if math.isfinite(recording.speed):
        covers, takes = (timedelta(seconds=round(overview.seconds / by)) for by in (1, recording.speed))
        line = (
            f"{recording.path} covers {covers}; at --speed {recording.speed:g} it takes {takes}; --speed max is faster."
        )
        console.print(line, highlight=False, soft_wrap=True)
    for symbol, (first, last) in list(overview.without_id.items())[:_CHECKED_SYMBOLS]:
        start = first.replace(second=0, microsecond=0)
        if await destination.has_bars(symbol, start, last + timedelta(microseconds=1)):
            line = (
                f"Warning: {symbol} has bars between {_shown(first)} and {_shown(last)} already, and trades of"
                f" {recording.path} have no trade_id. If they were replayed before, volumes double."
            )
            console.print(line, highlight=False, soft_wrap=True)
            return


async def _send_all(recording: ReplayProvider, destination: Destination, tally: _Tally) -> AsyncIterator[pl.DataFrame]:
    """Send the batches of a recording; yield each after it was counted."""
    before = 0
    async with aclosing(ahead(recording.stream())) as batches:
        async for ticks in batches:
            receipt = await _send(destination, ticks, recording.path, before)
            tally.add(len(ticks), receipt, recording.path, before)
            before += len(ticks)
            yield ticks


async def _send(destination: Destination, ticks: pl.DataFrame, path: Path, before: int) -> Receipt:
    """Send a batch; an error names the rows that are certainly stored."""
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
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("rows, {task.fields[rate]:,.0f}/s"),
        TextColumn("{task.fields[event_time]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

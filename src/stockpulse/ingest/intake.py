"""Prepares batches for the log: validates, drops redeliveries, replaces names by ids."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.ingest.corrected_trades import SEARCHED, CorrectedTrades, rounds
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.ingest.new_names import NewNames
from stockpulse.ingest.redelivery import KEY, Redeliveries
from stockpulse.ingest.validate import Validated, refuse, validate_bars, validate_corrections, validate_ticks
from stockpulse.market.schemas import Kind

_LISTED: Final = 5

VALIDATE: Final = {"ticks": validate_ticks, "bars": validate_bars, "corrections": validate_corrections}
"""The check of each kind of rows."""

FindTrades = Callable[[pl.DataFrame, str], Awaitable[pl.DataFrame]]
"""Finds trades of a provider in the database; see `RedeliveryWindow.times_of`."""


@dataclass(frozen=True)
class Submission:
    """A batch that was received and validated, and waits for its place in the log."""

    feed: Feed
    received_at: datetime
    checked: Validated
    kind: Kind = "ticks"


class Intake:
    """Prepares batches one after the other, since redeliveries depend on their order."""

    def __init__(
        self,
        encoder: Encoder,
        redeliveries: Redeliveries,
        tolerance: timedelta,
        max_kinds: int,
        new_names: NewNames | None = None,
        corrected: CorrectedTrades | None = None,
    ) -> None:
        self._encoder = encoder
        self._new_names = new_names
        self._max_kinds = max_kinds
        self._redeliveries = redeliveries
        self._tolerance = tolerance
        self._corrected = corrected or CorrectedTrades()

    async def check(self, frame: pl.DataFrame, feed: Feed, received_at: datetime, kind: Kind) -> Submission:
        """Validate the rows of a batch."""
        checked = await offload.run(len(frame), partial(VALIDATE[kind], frame, received_at, self._tolerance))
        if kind != "bars" and (wrong := self._encoder.beyond(self._max_kinds, checked.good, feed)) is not None:
            checked = refuse(
                checked,
                wrong,
                f"exchange, conditions, tape: a new combination, and {self._max_kinds:,} are the most:"
                " see STOCKPULSE_MAX_TICK_KINDS",
            )
        if self._new_names is not None:
            checked = self._with_room(checked, feed, received_at, self._new_names)
        return Submission(feed, received_at, checked, kind)

    def _with_room(self, checked: Validated, feed: Feed, now: datetime, new_names: NewNames) -> Validated:
        """Reject rows of new symbols and new providers that are beyond the limits."""
        good = checked.good
        if not len(good):
            return checked
        if (reason := new_names.refuses_provider(feed.provider)) is not None:
            return refuse(checked, np.ones(len(good), np.bool_), reason)
        symbols, reason = new_names.refused_symbols(good["symbol"], now)
        return refuse(checked, good["symbol"].is_in(symbols).to_numpy(), reason) if symbols else checked

    async def sift(self, submission: Submission) -> tuple[pl.DataFrame, Receipt]:
        """Return the new rows, and the receipt. Call it once for each submission: it remembers the new rows."""
        good, rejected = submission.checked.good, submission.checked.rejected
        provider = submission.feed.provider
        if submission.kind == "ticks":
            fresh = await self._redeliveries.sift(self._corrected.without_corrected(good, provider), provider)
        else:
            fresh = self._corrected.sift(good, provider) if submission.kind == "corrections" else good
        reasons = tuple(zip(rejected["row"].to_list(), rejected["reason"].to_list(), strict=True))
        return fresh, Receipt(len(fresh), len(good) - len(fresh), reasons)

    async def forget(self, symbol: str | None, provider: str | None, start: int, end: int) -> None:
        """Forget the keys of ticks that were taken back, so that they are new when they arrive again."""
        await self._redeliveries.forget(symbol, provider, start, end)
        self._corrected.forget(symbol, provider, start, end)

    async def locate(self, corrections: pl.DataFrame, provider: str, find: FindTrades) -> pl.DataFrame:
        """Find the trades of sifted corrections, and remember both.

        Returns the frame with `since` and `traded_at`, between which the trade lies, and `venue`, its exchange. If a
        trade is not found, `traded_at` is the time in the message; one that is only cancelled is left to the shard.
        """
        parts = [await self._locate(part, provider, find) for part in rounds(corrections)]
        return pl.concat(parts)

    async def _locate(self, corrections: pl.DataFrame, provider: str, find: FindTrades) -> pl.DataFrame:
        wanted = corrections.with_columns(since=pl.col("ts") - SEARCHED, until="ts").with_row_index("row")
        found = await self._redeliveries.times_of(wanted, provider)
        left = wanted.filter(~pl.col("row").is_in(found["row"].implode()) & pl.col("price").is_not_null())
        if len(left):
            more = await find(left.drop("row"), provider)
            found = pl.concat([found, more.with_columns(left["row"].gather(more["row"]))])
        located = wanted.join(found, on="row", how="left", maintain_order="left").with_columns(
            since=pl.coalesce("traded_at", "since"),
            traded_at=pl.coalesce("traded_at", "ts"),
            venue=pl.coalesce("venue", "exchange"),
        )
        located = located.select(*corrections.columns, "since", "traded_at", "venue")
        self._corrected.remember(located, provider)
        right = located.filter(pl.col("price").is_not_null()).with_columns(
            trade_id=pl.coalesce("new_trade_id", "trade_id"),
            ts="traded_at",
            exchange="venue",
            provider=pl.lit(provider),
        )
        await self._redeliveries.remember(right.select(*KEY, "provider"))
        return located

    async def encode(self, fresh: pl.DataFrame, submission: Submission) -> pl.DataFrame:
        """Return sifted rows as the log stores them. It may be called again after a fault of the database."""
        encoder = self._encoder
        encode = {"ticks": encoder.ticks, "bars": encoder.bars, "corrections": encoder.corrections}[submission.kind]
        return await encode(fresh, submission.feed, submission.received_at)

    def warnings(self, encoded: pl.DataFrame, submission: Submission) -> tuple[str, ...]:
        """Return the warnings for the sender of accepted rows."""
        symbols = self._encoder.without_bars(encoded) if submission.kind == "ticks" else []
        if not symbols:
            return ()
        listed = ", ".join(symbols[:_LISTED]) + (" and others" if len(symbols) > _LISTED else "")
        return (f"provider: ticks of {listed} are stored and count for no bar: another provider builds its bars now",)

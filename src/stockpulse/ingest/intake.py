"""Prepares batches for the log: validates, drops redeliveries, replaces names by ids."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final

import numpy as np
import polars as pl

from stockpulse.aio import offload
from stockpulse.ingest.encode import Encoder
from stockpulse.ingest.feed import Feed, Receipt
from stockpulse.ingest.new_names import NewNames
from stockpulse.ingest.redelivery import Redeliveries
from stockpulse.ingest.validate import Validated, refuse, validate_bars, validate_ticks

_LISTED: Final = 5


@dataclass(frozen=True)
class Submission:
    """A batch that was received and validated, and waits for its place in the log."""

    feed: Feed
    received_at: datetime
    checked: Validated
    of_bars: bool = False


class Intake:
    """Prepares batches one after the other, since redeliveries depend on their order."""

    def __init__(
        self,
        encoder: Encoder,
        redeliveries: Redeliveries,
        tolerance: timedelta,
        max_kinds: int,
        new_names: NewNames | None = None,
    ) -> None:
        self._encoder = encoder
        self._new_names = new_names
        self._max_kinds = max_kinds
        self._redeliveries = redeliveries
        self._tolerance = tolerance

    async def check(self, frame: pl.DataFrame, feed: Feed, received_at: datetime, *, of_bars: bool) -> Submission:
        """Validate the rows of a batch of ticks or bars."""
        validate = validate_bars if of_bars else validate_ticks
        checked = await offload.run(len(frame), partial(validate, frame, received_at, self._tolerance))
        if not of_bars and (wrong := self._encoder.beyond(self._max_kinds, checked.good, feed)) is not None:
            checked = refuse(
                checked,
                wrong,
                f"exchange, conditions, tape: a new combination, and {self._max_kinds:,} are the most:"
                " see STOCKPULSE_MAX_TICK_KINDS",
            )
        if self._new_names is not None:
            checked = self._with_room(checked, feed, received_at, self._new_names)
        return Submission(feed, received_at, checked, of_bars)

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
        fresh = good if submission.of_bars else await self._redeliveries.sift(good, submission.feed.provider)
        reasons = tuple(zip(rejected["row"].to_list(), rejected["reason"].to_list(), strict=True))
        return fresh, Receipt(len(fresh), len(good) - len(fresh), reasons)

    async def forget(self, symbol: str | None, provider: str | None, start: int, end: int) -> None:
        """Forget the keys of ticks that were taken back, so that they are new when they arrive again."""
        await self._redeliveries.forget(symbol, provider, start, end)

    async def encode(self, fresh: pl.DataFrame, submission: Submission) -> pl.DataFrame:
        """Return sifted rows as the log stores them. It may be called again after a fault of the database."""
        encode = self._encoder.bars if submission.of_bars else self._encoder.ticks
        return await encode(fresh, submission.feed, submission.received_at)

    def warnings(self, encoded: pl.DataFrame, submission: Submission) -> tuple[str, ...]:
        """Return the warnings for the sender of accepted rows."""
        symbols = [] if submission.of_bars else self._encoder.without_bars(encoded)
        if not symbols:
            return ()
        listed = ", ".join(symbols[:_LISTED]) + (" and others" if len(symbols) > _LISTED else "")
        return (f"provider: ticks of {listed} are stored and count for no bar: another provider builds its bars now",)

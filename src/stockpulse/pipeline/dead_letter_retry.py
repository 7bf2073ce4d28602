"""The retry of dead letters."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import polars as pl

from stockpulse.ingest.feed import sender
from stockpulse.ingest.intake import VALIDATE
from stockpulse.journal.codecs.json_codec import JsonCodec
from stockpulse.market.schemas import BARS, CORRECTIONS, TICKS, kind_of
from stockpulse.market.symbology import PROVIDER, Names
from stockpulse.pipeline.ingestor import Ingestor
from stockpulse.providers.registry import installed_providers
from stockpulse.storage.dead_letters import DeadLetter

_NOBODY: Final = "retry"


@dataclass(frozen=True)
class Retried:
    """The letters that are durable now, and the reasons why the others are not, by letter id."""

    done: list[DeadLetter]
    refused: dict[int, str]


async def retry(
    letters: list[DeadLetter], ingestor: Ingestor, names: Names, calendar: str, now: datetime, tolerance: timedelta
) -> Retried:
    """Send these letters again, the oldest first. A letter that would be refused again is not changed."""
    lost = {letter.id: why for letter in letters if (why := _loss(letter)) is not None}
    letters = sorted((one for one in letters if one.id not in lost), key=lambda one: (one.received_at, one.id))
    decoded = JsonCodec().decode([(letter.record or "").encode() for letter in letters])
    refused = lost | {letters[row].id: reason for row, reason in decoded.broken.select("row", "reason").iter_rows()}
    refused |= {letters[row].id: "the end of a recording is not sent again" for row, _ in decoded.ends}
    refused |= {letters[row].id: "a forget is not sent again: see `stockpulse forget`" for row, _ in decoded.forgets}
    done: list[DeadLetter] = []
    # The time in the message of a correction identifies it.
    corrections = decoded.corrections.with_columns(ts=pl.coalesce("sent_at", "ts"))
    for frame, schema in ((decoded.ticks, TICKS), (decoded.bars, BARS), (corrections, CORRECTIONS)):
        for (provider,), part in frame.with_columns(_sender(letters, frame)).group_by("sender", maintain_order=True):
            checked = VALIDATE[kind_of(part)](part, now, tolerance)
            rows = part["row"].gather(checked.rejected["row"])
            refused |= {letters[row].id: reason for row, reason in zip(rows, checked.rejected["reason"], strict=True)}
            if len(checked.good):
                name = str(provider)
                feed = sender(name, names, calendar, installed_providers().condition_rule(name))
                sent = checked.good.select(list(schema))
                receipt = await (await ingestor.enqueue_any(sent, feed, keep_rejected=False))
                beyond = dict(receipt.rejected)  # new names for which there is still no room
                for at, row in enumerate(checked.good["row"]):
                    if at in beyond:
                        refused[letters[row].id] = beyond[at]
                    else:
                        done.append(letters[row])
    return Retried(done, refused)


def _loss(letter: DeadLetter) -> str | None:
    """Return the reason why the record cannot be sent again in full; None if it can."""
    if letter.is_cut:
        return "a part of the record was cut: send it again from its source"
    if letter.count > 1:
        return f"stands for {letter.count:,} records that were only counted: send them again from their source"
    return None


def _sender(letters: list[DeadLetter], frame: pl.DataFrame) -> pl.Series:
    """Return the sender of each record: its own `provider`, or else the source of the letter if that is a provider."""
    sources = pl.Series([letters[row].source for row in frame["row"]], dtype=pl.String)
    named = frame["provider"].fill_null(sources) if len(frame) else frame["provider"]
    fits = named.str.contains(f"^{PROVIDER}$").fill_null(value=False)
    return named.zip_with(fits, pl.repeat(_NOBODY, len(frame), dtype=pl.String, eager=True)).alias("sender")

"""Rejected records, and sending them again."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from stockpulse.api.budget import AnswerRoom
from stockpulse.api.context import DeadLetters, Intake, Text
from stockpulse.api.error_responses import error_responses
from stockpulse.pipeline.dead_letter_retry import retry

router = APIRouter(prefix="/dead-letters", tags=["dead letters"])
retries = APIRouter(prefix="/dead-letters", tags=["dead letters"])

_LETTER_BYTES: Final = 10_000
"""The memory for a record of 8 KiB."""

Limit = Annotated[int, Query(ge=1, le=10_000, description="The maximum number of records.")]
Source = Annotated[
    Text | None,
    Query(max_length=256, description="Only records of this provider or topic.", examples=["market.prices.raw"]),
]


class Letter(BaseModel):
    """A rejected record."""

    id: int = Field(examples=[17])
    received_at: datetime = Field(examples=["2026-02-27T12:05:00Z"])
    source: str = Field(examples=["market.prices.raw"], description="the provider or the topic of the record")
    reason: str = Field(examples=["price: must be a number > 0 and <= 1e+12"])
    record: str | None = Field(
        description="the original text if the record could not be read, cut to 8 KiB, else the record as StockPulse"
        " read it, its texts cut to 100 characters; a text that was cut ends with …(cut)"
    )
    is_cut: bool = Field(description="true if a part of the record was cut; then it cannot be sent again")
    count: int = Field(
        examples=[1],
        description="the number of records that this one stands for; above 1, the others of its kind and minute were"
        " only counted, and it cannot be sent again",
    )
    topic: str | None = Field(examples=["market.prices.raw"])
    topic_partition: int | None = Field(examples=[3])
    topic_offset: int | None = Field(examples=[812])
    retried_at: datetime | None = Field(description="time of the successful retry; null if there was none")


class Letters(BaseModel):
    """Rejected records, the newest first."""

    dead_letters: list[Letter]


class Outcome(BaseModel):
    """The outcome of a retry."""

    retried: int = Field(examples=[12], description="the number of records that are stored now")
    refused: dict[int, str] = Field(
        examples=[{"17": "price: must be a number > 0 and <= 1e+12"}],
        description="the reasons why the other records are still refused, by `id`",
    )


@router.get("", summary="List rejected records", responses=error_responses(413, 422, 503))
async def dead_letters(letters: DeadLetters, room: AnswerRoom, limit: Limit = 100, source: Source = None) -> Letters:
    """Return rejected records, newest first. StockPulse keeps them for 30 days."""
    await room.grow_to(limit * _LETTER_BYTES, "ask with a smaller limit")
    found = await letters.newest(limit, source=source)
    return Letters(dead_letters=[Letter(**asdict(one), is_cut=one.is_cut) for one in found])


@retries.post("/retry", summary="Send rejected records again", responses=error_responses(413, 422, 503))
async def retry_dead_letters(
    letters: DeadLetters, intake: Intake, room: AnswerRoom, limit: Limit = 1000, source: Source = None
) -> Outcome:
    """Send the records that no earlier retry has stored. A record that is still wrong remains a dead letter.

    A tick with a `trade_id` that has arrived in the meantime counts as a duplicate, if StockPulse still remembers it:
    see Guarantees in the manual.
    """
    intake.pipeline.intake.require_disk()
    await room.grow_to(limit * _LETTER_BYTES, "ask with a smaller limit")
    waiting = await letters.newest(limit, source=source, waiting=True)
    now = intake.now()
    tolerance = timedelta(seconds=intake.future_seconds)
    outcome = await retry(waiting, intake.pipeline.intake, intake.names, intake.default_calendar, now, tolerance)
    await letters.mark_retried(outcome.done, now)
    return Outcome(retried=len(outcome.done), refused=outcome.refused)

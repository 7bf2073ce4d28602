"""Records that could not be taken, and sending them again."""

from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from stockpulse.api.context import Ctx
from stockpulse.api.error_responses import error_responses
from stockpulse.pipeline.dead_letter_retry import retry

router = APIRouter(prefix="/dead-letters", tags=["dead letters"])
retries = APIRouter(prefix="/dead-letters", tags=["dead letters"])

Limit = Annotated[int, Query(ge=1, le=10_000, description="How many.")]
Source = Annotated[
    str | None,
    Query(max_length=256, description="Only those of this provider or topic.", examples=["market.prices.raw"]),
]


class Letter(BaseModel):
    """A record that could not be taken."""

    id: int = Field(examples=[17])
    received_at: datetime = Field(examples=["2026-02-27T12:05:00Z"])
    source: str = Field(examples=["market.prices.raw"], description="the provider, or the topic, it came from")
    reason: str = Field(examples=["price: must be a number > 0 and <= 1e+12"])
    record: str | None = Field(description="as it came, cut to 8 KiB")
    topic: str | None = Field(examples=["market.prices.raw"])
    topic_partition: int | None = Field(examples=[3])
    topic_offset: int | None = Field(examples=[812])
    retried_at: datetime | None = Field(description="when it was sent again; null: never")


class Letters(BaseModel):
    """Records that could not be taken, the newest first."""

    dead_letters: list[Letter]


class Outcome(BaseModel):
    """What became of the records that were sent again."""

    retried: int = Field(examples=[12], description="these are durable now")
    refused: dict[int, str] = Field(
        examples=[{"17": "price: must be a number > 0 and <= 1e+12"}], description="why the others are not, by number"
    )


@router.get("", summary="Records that could not be taken", responses=error_responses(422, 503))
async def dead_letters(context: Ctx, limit: Limit = 100, source: Source = None) -> Letters:
    """The newest first. They are kept for 30 days."""
    found = await context.dead_letters.newest(limit, source=source)
    return Letters(dead_letters=[Letter(**asdict(one)) for one in found])


@retries.post("/retry", summary="Send them again", responses=error_responses(422, 503))
async def retry_dead_letters(context: Ctx, limit: Limit = 1000, source: Source = None) -> Outcome:
    """Those that were not sent again yet. What is still wrong stays as it is.

    What has a `trade_id` and came in meanwhile, within the window of redeliveries, is recognised.
    """
    letters = await context.dead_letters.newest(limit, source=source, waiting=True)
    now = context.now()
    tolerance = timedelta(seconds=context.future_seconds)
    outcome = await retry(letters, context.pipeline.intake, context.default_calendar, now, tolerance)
    await context.dead_letters.mark_retried(outcome.done, now)
    return Outcome(retried=len(outcome.done), refused=outcome.refused)

"""Corrections and cancels of trades, sent by POST."""

import asyncio
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from stockpulse.api.budget import ArrivalRoom, ParsingRoom
from stockpulse.api.context import Intake
from stockpulse.api.error_responses import error_responses
from stockpulse.api.limits import MAX_ROWS
from stockpulse.api.received_rows import received_rows
from stockpulse.api.ticks import Rejected
from stockpulse.errors import OutcomeUnknown, Unavailable
from stockpulse.ingest.feed import sender
from stockpulse.market.rows import CORRECTION_FIELDS
from stockpulse.market.symbology import PROVIDER, check_provider_name
from stockpulse.providers.trade_conditions import RULES, rule_named

router = APIRouter(prefix="/ticks", tags=["ticks"])

_LISTED: Final = 10_000

_SCHEMA: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["symbol", "ts", "trade_id"],
    "properties": {
        "symbol": {"type": "string"},
        "ts": {
            "type": ["string", "number"],
            "description": "the time of the trade, or that of the correction, up to a day later; formats as for ticks",
        },
        "trade_id": {"type": "string", "description": "the id of the wrong trade"},
        "exchange": {"type": "string", "description": "the exchange of the wrong trade; absent: any"},
        "price": {"type": "number", "exclusiveMinimum": 0, "description": "the right price; absent: a cancel"},
        "size": {"type": "number", "minimum": 0, "description": "the right size; absent: a cancel"},
        "conditions": {"type": "array", "items": {"type": "string"}, "description": "of the right trade"},
        "tape": {"type": "string", "description": "of the right trade"},
        "new_trade_id": {"type": "string", "description": "the id of the right trade; absent: it stays"},
    },
    "example": {
        "symbol": "AAPL",
        "ts": "2026-02-27T12:05:00.123456Z",
        "trade_id": "52983525029461",
        "price": 189.27,
        "size": 100,
    },
}
_BODY: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": {"type": "array", "items": _SCHEMA, "maxItems": MAX_ROWS}},
            "application/x-ndjson": {"schema": {"type": "string", "description": "one such object on each line"}},
        },
    }
}


class AcceptedCorrections(BaseModel):
    """The outcome of a request; accepted corrections are durable."""

    accepted: int = Field(examples=[2])
    duplicates: int = Field(examples=[0], description="corrections that StockPulse already has, all fields equal")
    rejected: list[Rejected] = Field(description="the rejected rows; at most 10,000 of them")
    rejected_further: int = Field(default=0, examples=[0], description="number of further rejected rows")


@router.post(
    "/corrections",
    summary="Correct or cancel trades",
    openapi_extra=_BODY,
    responses=error_responses(413, 422, 503),
)
async def post_corrections(
    parts: Intake,
    arrival: ArrivalRoom,
    parsing: ParsingRoom,
    request: Request,
    provider: Annotated[
        str,
        Query(
            description="The provider that sent the trades.",
            examples=["api"],
            json_schema_extra={"pattern": f"^{PROVIDER}$"},
        ),
    ] = "api",
    conditions: Annotated[
        str,
        Query(
            description=f"The rule for trade conditions: {', '.join(RULES)}.", json_schema_extra={"enum": list(RULES)}
        ),
    ] = "all",
) -> AcceptedCorrections:
    """Take trades back by their ids. A row with a price and a size puts the right trade in the place of the wrong one.

    The answer comes when the accepted rows are durable. Bars, indicators and signals then become those of the right
    trades. The right trade has the time of the wrong one; if that is not known, it has `ts`. The same row again changes
    nothing.
    """
    ingestor = parts.pipeline.intake
    ingestor.require_disk()
    feed = sender(check_provider_name(provider), parts.names, parts.default_calendar, rule_named(conditions))
    frame = await received_rows(request, arrival, parsing, CORRECTION_FIELDS)
    deadline = asyncio.get_running_loop().time() + parts.durable_timeout_seconds
    try:
        async with asyncio.timeout_at(deadline):
            durable = await ingestor.enqueue_corrections(frame, feed)
    except TimeoutError:
        raise Unavailable("too many ticks wait to become durable: none of these rows is stored") from None
    try:
        async with asyncio.timeout_at(deadline):
            receipt = await durable
    except TimeoutError:
        raise OutcomeUnknown from None
    rejected = [Rejected(row=row, reason=reason) for row, reason in receipt.rejected[:_LISTED]]
    return AcceptedCorrections(
        accepted=receipt.accepted,
        duplicates=receipt.duplicates,
        rejected=rejected,
        rejected_further=receipt.rejected_rows - len(rejected),
    )

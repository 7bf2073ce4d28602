"""Taking ticks and providers' bars back."""

import asyncio
from datetime import datetime
from typing import Annotated, Final

from fastapi import APIRouter, Query, Response, status
from pydantic import BaseModel, Field

from stockpulse.api.context import Intake, Symbols, symbol_named
from stockpulse.api.error_responses import error_responses
from stockpulse.api.time_params import micros, parse_time
from stockpulse.errors import InvalidInput, NotFound, OutcomeUnknown, Unavailable, shown
from stockpulse.journal.records import Forget
from stockpulse.market.symbology import PROVIDER, Names, check_provider_name
from stockpulse.market.times import EARLIEST, LATEST

router = APIRouter(prefix="/ticks", tags=["ticks"])

_TAKES: Final = "RFC 3339, a date (midnight UTC) or epoch seconds"


class TakenBack(BaseModel):
    """The numbers of records that were taken back and of bars that changed."""

    symbol: str | None = Field(examples=["AAPL"], description="null: all symbols")
    provider: str | None = Field(examples=["api"], description="null: all providers")
    start: datetime | None = Field(examples=["2013-10-10T00:00:00Z"])
    end: datetime | None = Field(examples=["2013-10-11T00:00:00Z"])
    done: bool = Field(
        examples=[True],
        description="false: the server is still working on the request, and the counts are not known yet",
    )
    ticks: int | None = Field(examples=[390_212], description="ticks that were taken back")
    provider_bars: int | None = Field(examples=[0], description="bars of providers that were taken back")
    bars_changed: int | None = Field(examples=[0], description="bars that were rebuilt from the remaining records")
    bars_removed: int | None = Field(examples=[469], description="bars that were deleted")
    bars_refused: int | None = Field(
        examples=[0], description="bars that stay unchanged, because the database no longer has all their ticks"
    )


@router.delete(
    "",
    summary="Take ticks back",
    responses=error_responses(404, 422, 503)
    | {202: {"model": TakenBack, "description": "The request is durable; the server is still working on it."}},
)
async def forget_ticks(
    parts: Intake,
    names: Symbols,
    response: Response,
    symbol: Annotated[
        str | None, Query(description="A symbol. Default: all symbols of the provider.", examples=["AAPL"])
    ] = None,
    provider: Annotated[
        str | None,
        Query(
            description="A provider, such as that of a recording. Default: all providers of the symbol.",
            examples=["api"],
            json_schema_extra={"pattern": f"^{PROVIDER}$"},
        ),
    ] = None,
    start: Annotated[
        str | None, Query(description=f"Take back ticks from this event time on: {_TAKES}.", max_length=64)
    ] = None,
    end: Annotated[
        str | None, Query(description=f"Take back ticks before this event time: {_TAKES}.", max_length=64)
    ] = None,
) -> TakenBack:
    """Take back the ticks, and the bars that providers sent, with start <= event time < end.

    Give a symbol, a provider, or both. StockPulse rebuilds bars, indicators and signals without these records, and
    deletes bars that have no records left. The request takes back only records that came before it in the log: ticks
    that you send again later are accepted. A bar stays unchanged if the database no longer has all its ticks;
    `bars_refused` counts such bars. You can safely send the request again.
    """
    begins = None if start is None else parse_time(start, "start")
    ends = None if end is None else parse_time(end, "end")
    forget = _forget_of(names, symbol, provider, begins, ends)
    parts.pipeline.intake.require_disk()
    deadline = asyncio.get_running_loop().time() + parts.durable_timeout_seconds
    try:
        async with asyncio.timeout_at(deadline):
            durable, outcome = await parts.pipeline.intake.enqueue_forget(forget)
    except TimeoutError:
        raise Unavailable("too many ticks wait to become durable: nothing is taken back") from None
    try:
        async with asyncio.timeout_at(deadline):
            await asyncio.shield(durable)
    except TimeoutError:
        raise OutcomeUnknown("nothing or all may be taken back; it is safe to send the request again") from None
    await asyncio.wait([outcome], timeout=deadline - asyncio.get_running_loop().time())
    done = outcome.result() if outcome.done() else None
    if done is None:
        response.status_code = status.HTTP_202_ACCEPTED
    counts = dict.fromkeys(("ticks", "provider_bars", "bars_changed", "bars_removed", "bars_refused"))
    return TakenBack(
        symbol=forget.symbol,
        provider=forget.provider,
        start=begins,
        end=ends,
        done=done is not None,
        **(counts if done is None else done.__dict__),
    )


def _forget_of(
    names: Names, symbol: str | None, provider: str | None, start: datetime | None, end: datetime | None
) -> Forget:
    if symbol is None and provider is None:
        raise InvalidInput("symbol", "give a symbol, a provider, or both")
    if provider is not None and check_provider_name(provider) not in names.providers:
        raise NotFound(f"no such provider: {shown(provider)}")
    begins, ends = EARLIEST if start is None else micros(start), LATEST if end is None else micros(end)
    if begins >= ends:
        raise InvalidInput("end", "comes after start")
    return Forget(None if symbol is None else symbol_named(names, symbol).name, provider, begins, ends)

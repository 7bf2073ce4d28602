"""The known providers: their data, limits, keys and state."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from stockpulse.api.context import Providers, ProvidersInUse
from stockpulse.pipeline.provider_facts import ProviderFacts, facts_of_all

router = APIRouter(tags=["providers"])

_DAY_SECONDS = 86_400


class HistoryOf(BaseModel):
    """The bars of the past of one interval."""

    depth_days: float | None = Field(examples=[29], description="how far back they go; null: no known limit")
    window_days: float = Field(examples=[7], description="the longest range of one request")
    symbols: int = Field(examples=[1], description="the number of symbols that one request may ask for")


class ProviderInfo(BaseModel):
    """A provider."""

    name: str = Field(examples=["alpaca"])
    aliases: list[str] = Field(examples=[["yfinance"]], description="other names that settings and requests may use")
    description: str = Field(examples=["Stocks of the US."])
    stream: bool = Field(examples=[True], description="it streams live ticks or bars")
    latest: bool = Field(examples=[True], description="it has latest prices")
    trades: bool = Field(examples=[True], description="it has trades of the past")
    history: dict[str, HistoryOf] = Field(
        examples=[{"1d": {"depth_days": None, "window_days": 365, "symbols": 1}}], description="bars, by interval"
    )
    delay_seconds: float | None = Field(examples=[0.0], description="delay of its data; null if it cannot be used")
    poll_seconds: float = Field(examples=[15.0], description="the shortest pause between two requests for a price")
    stream_symbols: int | None = Field(examples=[30], description="symbols of one stream; null: no known limit")
    limits: str = Field(examples=["200 requests a minute"])
    key: str = Field(examples=["set"], description="set, missing or not needed")
    uses: list[str] = Field(examples=[["feed"]], description="its uses in the settings: feed, fallback")
    state: str = Field(
        examples=["live"],
        description="the state of its feed (connecting, live, waiting, refused, ended); otherwise ready, or unusable",
    )
    why: str | None = Field(examples=[None], description="what is wrong, or null")


class ProviderList(BaseModel):
    """All known providers."""

    providers: list[ProviderInfo]


@router.get("/providers", summary="List the providers")
async def providers(parts: Providers) -> ProviderList:
    """Return all known providers with their data and limits. No provider is asked for this."""
    return ProviderList(providers=[_info(one, parts) for one in facts_of_all(parts.sources)])


def _info(one: ProviderFacts, parts: ProvidersInUse) -> ProviderInfo:
    has, feed = one.has, parts.feeds.get(one.entry.name)
    state = "unusable" if one.why else "ready"
    return ProviderInfo(
        name=one.entry.name,
        aliases=list(one.entry.aliases),
        description=one.entry.description,
        stream=has.ticks,
        latest=has.latest,
        trades=has.trades,
        history={
            interval: HistoryOf(
                depth_days=None if bars.depth is None else bars.depth.total_seconds() / _DAY_SECONDS,
                window_days=bars.window.total_seconds() / _DAY_SECONDS,
                symbols=bars.symbols,
            )
            for interval, bars in has.history.items()
        },
        delay_seconds=one.delay_seconds,
        poll_seconds=has.poll_seconds,
        stream_symbols=has.stream_symbols,
        limits=has.limits,
        key=one.key,
        uses=list(one.uses),
        state=state if feed is None else feed.phase.value,
        why=one.why or (feed.why if feed else None),
    )

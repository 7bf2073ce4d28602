"""The shapes of Alpaca's rows in the OpenAPI document."""

from datetime import datetime

from pydantic import BaseModel, Field


class Bar(BaseModel):
    """A bar."""

    t: datetime = Field(examples=["2026-07-14T13:30:00Z"], description="start of the bar")
    o: float = Field(examples=[231.12])
    h: float = Field(examples=[231.98])
    l: float = Field(examples=[230.9])  # noqa: E741  # Alpaca's name
    c: float = Field(examples=[231.75])
    v: int | float = Field(examples=[482113], description="volume; 0 if it is not known")
    n: int | None = Field(examples=[5127], description="number of trades; null if it is not known")
    vw: float | None = Field(examples=[231.447812], description="vwap; null if it is not known")


class Trade(BaseModel):
    """A trade."""

    t: datetime = Field(examples=["2026-07-14T14:05:07.086175Z"])
    x: str = Field(examples=["V"], description="exchange")
    p: float = Field(examples=[231.88], description="price")
    s: int | float = Field(examples=[100], description="size")
    c: list[str] = Field(examples=[["@"]], description="conditions")
    i: int = Field(
        examples=[71675241580934],
        description="trade id; for a trade without an integer as its id, the number of its record in StockPulse",
    )
    z: str = Field(examples=["C"], description="tape")


class Quote(BaseModel):
    """A quote. StockPulse has none."""


class Snapshot(BaseModel):
    """The newest data of a symbol. StockPulse has no quotes."""

    latestTrade: Trade | None  # noqa: N815  # Alpaca's name
    latestQuote: None  # noqa: N815
    minuteBar: Bar | None  # noqa: N815
    dailyBar: Bar | None  # noqa: N815
    prevDailyBar: Bar | None  # noqa: N815


class SnapshotOfSymbol(Snapshot):
    """The newest data of one symbol, with its name."""

    symbol: str

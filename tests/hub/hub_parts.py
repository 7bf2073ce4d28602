"""A hub without a pipeline, on a clock that the test sets."""

from datetime import UTC, datetime

import numpy as np
import polars as pl

from stockpulse.engine.bar_math import BAR
from stockpulse.hub.hub import Hub
from stockpulse.hub.messages import Batch, Change, Channel, Missed, Topic
from stockpulse.hub.served_rows import ServedRows
from stockpulse.market.clocks import Clock
from stockpulse.market.intervals import M5
from stockpulse.market.schemas import LOGGED_TICKS, PRIMARY
from stockpulse.market.symbology import Names, ProviderName, Symbol, TickKind

START = 1_772_000_000_000_000
TICKS = (Channel.TICKS, "", "")


class Time:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def names_of(*symbols):
    names = Names()
    names.add_symbols(Symbol(number, name, "24/7") for number, name in enumerate(symbols, 1))
    names.add_provider(ProviderName(1, "test", Clock.WALL, 0))
    names.add_kinds([(1, TickKind(1, "X", "@", PRIMARY | 3))])
    return names


def hub_of(*symbols, **options):
    names = names_of(*symbols)
    return Hub(names, ServedRows(names, ["golden"], M5), **options)


def logged(*rows):
    """Ticks of the log from (symbol id, seq, price)."""
    moment = datetime.fromtimestamp(START / 1e6, UTC)
    return pl.DataFrame(
        [(seq, symbol, 1, moment, moment, float(price), 1.0, None) for symbol, seq, price in rows],
        schema=LOGGED_TICKS,
        orient="row",
    )


def bars(*rows):
    """The engine's bars from (symbol id, minute, close, revision)."""
    found = np.zeros(len(rows), BAR)
    found["final"] = True
    for at, (symbol, minute, close, revision) in enumerate(rows):
        found["symbol_id"][at], found["ts"][at], found["revision"][at] = symbol, START + minute * 60_000_000, revision
        for price in ("open", "high", "low", "close"):
            found[price][at] = close
    return found


def publish(hub, *rows):
    """Publish rows (symbol, number) as new ticks."""
    frame = pl.DataFrame(rows, schema={"symbol": pl.String, "number": pl.Int64}, orient="row")
    hub.publish(TICKS, Change.NEW, Batch(frame))


def numbers(taken):
    """The numbers of the rows of messages, in order."""
    return [row["number"] for one in taken if not isinstance(one, Missed) for row in one.rows]


def ticks_of(*symbols):
    return [Topic(Channel.TICKS, symbol) for symbol in symbols]

"""The hub of a process, and its tasks."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from stockpulse.api.bars import largest_moves
from stockpulse.api.context import Context
from stockpulse.hub.derived_bars import DerivedBars
from stockpulse.hub.forming_bars import FormingBars
from stockpulse.hub.hub import Hub
from stockpulse.hub.live_indicators import LiveIndicators
from stockpulse.hub.live_movers import LiveMovers
from stockpulse.hub.marks import Marks
from stockpulse.hub.messages import Channel
from stockpulse.hub.served_rows import ServedRows
from stockpulse.node.node import Node
from stockpulse.node.parts import NewestData


@dataclass(frozen=True)
class Stream:
    """The hub, and the conversion of its rows."""

    hub: Hub
    served: ServedRows


WITHOUT_SIGNALS: Final = frozenset(Channel) - {Channel.SIGNALS}
"""The channels of a process that follows others."""


def build_stream(node: Node, channels: Collection[Channel] = tuple(Channel)) -> Stream:
    """Return a hub without tasks, which has these channels."""
    names = node.database.names
    served = ServedRows(names, [rule.name for rule in node.spec.rules.rules], node.spec.signal_interval)
    return Stream(Hub(names, served, channels=channels), served)


def start_stream(node: Node, stream: Stream, newest: NewestData, context: Context) -> None:
    """Start the tasks that publish."""
    hub, names, bars = stream.hub, node.database.names, context.bars
    closed_until = context.clocks.closed_until
    marks = Marks(hub, names)
    indicators = LiveIndicators(hub, bars, context.compiler, closed_until)
    derived = DerivedBars(hub, marks, bars, indicators, closed_until, extended_day=node.settings.extended_day)
    hub.watch(derived.watch)
    forming = FormingBars(hub, names, stream.served, newest.bars, marks.note_traded)

    async def moves(minutes: int, most: int) -> list[dict[str, Any]]:
        return [one.model_dump() for one in await largest_moves(bars, context.clocks, names, minutes, most)]

    node.tasks.start("stream", hub.run)
    node.tasks.start("stream_check", hub.check)
    node.tasks.start("stream_forming", forming.run)
    node.tasks.start("stream_derived", derived.run)
    node.tasks.start("stream_movers", LiveMovers(hub, moves).run)

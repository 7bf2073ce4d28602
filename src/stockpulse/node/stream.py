"""The hub of a process, and its tasks."""

from dataclasses import dataclass

from stockpulse.hub.forming_bars import FormingBars
from stockpulse.hub.hub import Hub
from stockpulse.hub.served_rows import ServedRows
from stockpulse.node.node import Node
from stockpulse.node.parts import NewestData


@dataclass(frozen=True)
class Stream:
    """The hub, and the conversion of its rows."""

    hub: Hub
    served: ServedRows


def build_stream(node: Node) -> Stream:
    """Return a hub without tasks."""
    names = node.database.names
    served = ServedRows(names, [rule.name for rule in node.spec.rules.rules], node.spec.signal_interval)
    return Stream(Hub(names, served), served)


def start_stream(node: Node, stream: Stream, newest: NewestData) -> None:
    """Start the tasks that publish."""
    forming = FormingBars(stream.hub, node.database.names, stream.served, newest.bars)
    node.tasks.start("stream", stream.hub.run)
    node.tasks.start("stream_check", stream.hub.check)
    node.tasks.start("stream_forming", forming.run)

"""The open connections: their number by peer, and the ones that must make room or have waited too long."""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address, ip_network
from typing import Final, Protocol

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from stockpulse.api.connections.limits import ConnectionLimits
from stockpulse.api.connections.refusals import MANY, MANY_OF_PEER, REASONS, Refusal

_LOOK_SECONDS: Final = 1.0
_SAY_SECONDS: Final = 10.0
_SHORT_WAIT: Final = 0.5
"""A client that the server has waited for this long may lose its connection to a newcomer."""

log = structlog.get_logger(__name__)


class Connection(Protocol):
    """A connection that can be closed."""

    def waited(self, now: float) -> float:
        """Return the seconds that the server has waited for the client; 0 while the client waits for the server."""

    def make_room(self) -> None:
        """Close the connection at once."""

    def check(self, now: float) -> None:
        """Close the connection if its client takes too long."""


class OpenConnections(Collector):
    """All open connections by peer. A peer is an IPv4 address, a network of IPv6 (/64), or the local socket."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.fault: str | None = None
        """The reason why the limits do not hold; None if they hold."""
        self.closed: Counter[str] = Counter(dict.fromkeys(REASONS, 0))
        """Connections that were refused or closed for each reason."""
        self._of_peer: defaultdict[str, set[Connection]] = defaultdict(set)
        self._count = 0
        self._said: dict[str, tuple[float, int]] = {}

    def __len__(self) -> int:
        return self._count

    def refusal(self, peer: str, now: float) -> Refusal | None:
        """Return the reason to refuse one more connection of a peer; None if there is room, or if one makes room.

        At the limit of a peer, its own connection that has kept the server waiting for the longest makes room; at the
        limit of all, one of the peer with the most connections does.
        """
        if len(self._of_peer.get(peer, ())) >= self.limits.per_peer and not self._make_room(peer, now):
            return MANY_OF_PEER
        if self._count >= self.limits.total:
            greediest = max(self._of_peer, key=lambda one: len(self._of_peer[one]))
            if not self._make_room(greediest, now):
                return MANY
        return None

    def add(self, peer: str, connection: Connection) -> None:
        """Count a connection until it is removed."""
        self._of_peer[peer].add(connection)
        self._count += 1

    def remove(self, peer: str, connection: Connection) -> None:
        """Count a connection no longer."""
        of_peer = self._of_peer.get(peer, set())
        if connection in of_peer:
            of_peer.remove(connection)
            self._count -= 1
            if not of_peer:
                del self._of_peer[peer]

    def note(self, reason: str, peer: str) -> None:
        """Count a refused or closed connection, and log it; a repeated reason once in a while, with its number."""
        self.closed[reason] += 1
        at, count = self._said.get(reason, (-_SAY_SECONDS, 0))
        if (now := time.monotonic()) - at >= _SAY_SECONDS:
            log.warning("connection_closed", reason=reason, peer=peer, number=self.closed[reason] - count)
            self._said[reason] = (now, self.closed[reason])

    async def watch(self) -> None:
        """Close the connections of slow clients, for ever."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = loop.time()
            for connection in [one for of_peer in self._of_peer.values() for one in of_peer]:
                connection.check(now)

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        yield GaugeMetricFamily("stockpulse_connections", "Open connections", value=len(self))
        closed = CounterMetricFamily(
            "stockpulse_connections_closed", "Connections that were refused or closed at a limit", labels=["reason"]
        )
        for reason, count in self.closed.items():
            closed.add_metric([reason], count)
        yield closed

    def _make_room(self, peer: str, now: float) -> bool:
        """Close the connection of a peer that has kept the server waiting for the longest; False if none has."""
        slowest = max(self._of_peer[peer], key=lambda one: one.waited(now))
        if slowest.waited(now) < _SHORT_WAIT:
            return False
        slowest.make_room()
        return True


def peer_of(address: object) -> str:
    """Return the peer of a socket's address: one network of IPv6 has more addresses than there are connections."""
    if not isinstance(address, tuple):
        return "local socket"
    try:
        one = ip_address(address[0])
    except ValueError:
        return str(address[0])
    if isinstance(one, IPv6Address) and not one.is_loopback:
        return str(one.ipv4_mapped or ip_network((one, 64), strict=False))
    return str(one)

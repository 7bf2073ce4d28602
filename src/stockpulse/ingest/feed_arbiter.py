"""Chooses one provider for the bars of a symbol that several stream; with all of them, volumes would double."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

SILENCE_MICROS: Final = 60_000_000
"""A feed that sent no tick for a minute loses the lead to the next one that does."""


@dataclass
class _Lead:
    provider: str
    standing: int
    last_heard: int


class FeedArbiter:
    """Decides, before the log and for good, which provider's ticks build the bars of a symbol.

    The first provider leads until it is silent for a minute. A provider on standby, such as the simulated market, loses
    the lead to any other at once.
    """

    def __init__(self, standby: Iterable[str] = ()) -> None:
        self._standby = frozenset(standby)
        self._leads: dict[str, _Lead] = {}

    def followers(self, symbols: Iterable[str], provider: str, now: int) -> set[str]:
        """Return the symbols that another provider leads; `now` is the time of receipt in UTC microseconds."""
        standing = 0 if provider in self._standby else 1
        return {symbol for symbol in symbols if not self._leads_with(symbol, provider, standing, now)}

    def _leads_with(self, symbol: str, provider: str, standing: int, now: int) -> bool:
        lead = self._leads.get(symbol)
        if (
            lead is None
            or lead.provider == provider
            or standing > lead.standing
            or now - lead.last_heard > SILENCE_MICROS
        ):
            self._leads[symbol] = _Lead(provider, standing, now)
            return True
        return False

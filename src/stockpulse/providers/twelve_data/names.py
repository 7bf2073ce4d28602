"""The names of symbols in requests and in the messages of the stream: RY:TSX is RY on the exchange TSX."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any


class AskedNames:
    """Finds the symbol that was asked for by the names in a message."""

    def __init__(self, symbols: Iterable[str]) -> None:
        self._by_name: dict[str, dict[str, str]] = defaultdict(dict)
        for symbol in symbols:
            name, _, venue = symbol.partition(":")
            self._by_name[name.upper()][venue.upper()] = symbol

    def asked(self, message: Mapping[str, Any]) -> str | None:
        """Return the symbol that a message is about; its own name if nothing like it was asked for; None without one.

        Of several venues of one name, that of the message counts: its exchange or its market code.
        """
        symbol = message.get("symbol")
        if not isinstance(symbol, str):
            return None
        name, _, venue = symbol.upper().partition(":")
        by_venue = self._by_name.get(name, {})
        if len(by_venue) == 1:
            return next(iter(by_venue.values()))
        venues = [venue, *(message.get(field) for field in ("exchange", "mic_code")), ""]
        found = (by_venue[one.upper()] for one in venues if isinstance(one, str) and one.upper() in by_venue)
        return next(found, symbol)

"""The time zones of Finnhub's symbols: `VOD.L` is of London, `BINANCE:BTCUSDT` of no exchange with a day of its own."""

from typing import Final
from zoneinfo import ZoneInfo

_UTC: Final = ZoneInfo("UTC")
_US: Final = ZoneInfo("America/New_York")
_SUFFIXES: Final = {
    "Africa/Johannesburg": "JO",
    "America/Argentina/Buenos_Aires": "BA",
    "America/Caracas": "CR",
    "America/Mexico_City": "MX",
    "America/Santiago": "SN",
    "America/Sao_Paulo": "SA",
    "America/Toronto": "TO V CN NE",
    "Asia/Bangkok": "BK",
    "Asia/Hong_Kong": "HK",
    "Asia/Jakarta": "JK",
    "Asia/Jerusalem": "TA",
    "Asia/Kolkata": "NS BO",
    "Asia/Kuala_Lumpur": "KL",
    "Asia/Qatar": "QA",
    "Asia/Riyadh": "SR",
    "Asia/Seoul": "KS KQ",
    "Asia/Shanghai": "SS SZ",
    "Asia/Singapore": "SI",
    "Asia/Taipei": "TW TWO",
    "Asia/Tokyo": "T",
    "Atlantic/Reykjavik": "IC",
    "Australia/Sydney": "AX",
    "Europe/Amsterdam": "AS",
    "Europe/Athens": "AT",
    "Europe/Berlin": "DE F BE MU SG DU HM HA",
    "Europe/Brussels": "BR",
    "Europe/Budapest": "BD",
    "Europe/Copenhagen": "CO",
    "Europe/Dublin": "IR",
    "Europe/Helsinki": "HE",
    "Europe/Istanbul": "IS",
    "Europe/Lisbon": "LS",
    "Europe/London": "L",
    "Europe/Madrid": "MC",
    "Europe/Moscow": "ME",
    "Europe/Oslo": "OL",
    "Europe/Paris": "PA",
    "Europe/Prague": "PR",
    "Europe/Riga": "RG",
    "Europe/Rome": "MI",
    "Europe/Stockholm": "ST",
    "Europe/Tallinn": "TL",
    "Europe/Vienna": "VI",
    "Europe/Vilnius": "VS",
    "Europe/Warsaw": "WA",
    "Europe/Zurich": "SW",
    "Pacific/Auckland": "NZ",
}
_ZONES: Final = {suffix: ZoneInfo(name) for name, suffixes in _SUFFIXES.items() for suffix in suffixes.split()}


def zone_of(symbol: str) -> ZoneInfo:
    """Return the zone of the exchange of a symbol: of its suffix, UTC for coins and currencies, else New York's."""
    return _UTC if ":" in symbol else _ZONES.get(market_of_symbol(symbol), _US)


def market_of_symbol(symbol: str) -> str:
    """Return the market of a symbol: BINANCE of BINANCE:BTCUSDT, L of VOD.L, and US of AAPL and BRK.B."""
    market, colon, _ = symbol.partition(":")
    if colon:
        return market
    suffix = symbol.rpartition(".")[2] if "." in symbol else ""
    return suffix if suffix in _ZONES else "US"

"""The names of trading calendars: market codes of ISO 10383, and the customary names of exchanges."""

from typing import Final

ALWAYS_OPEN: Final = "24/7"

#: Customary names, in upper case, and the calendars that they stand for.
_CUSTOMARY: Final = {
    "24X7": ALWAYS_OPEN,
    "CRYPTO": ALWAYS_OPEN,
    "FOREX": "24/5",
    "FX": "24/5",
    "NYSE": "XNYS",
    "NASDAQ": "XNAS",
    "AMEX": "XASE",
    "ARCA": "ARCX",
    "BATS": "XNYS",
    "CBOE": "XCBF",
    "CFE": "XCBF",
    "CME": "CMES",
    "CBOT": "CMES",
    "COMEX": "CMES",
    "NYMEX": "CMES",
    "ICE": "IEPA",
    "ICEUS": "IEPA",
    "NYFE": "IEPA",
    "US_FUTURES": "us_futures",
    "TSX": "XTSE",
    "TSXV": "XTSX",
    "B3": "BVMF",
    "BMF": "BVMF",
    "BOVESPA": "BVMF",
    "BMV": "XMEX",
    "LSE": "XLON",
    "XETRA": "XETR",
    "FWB": "XFRA",
    "EUREX": "XEUR",
    "SIX": "XSWX",
    "BME": "XMAD",
    "OSE": "XOSL",
    "WSE": "XWAR",
    "GPW": "XWAR",
    "BVB": "XBSE",
    "LUXSE": "XLUX",
    "ATHEX": "ASEX",
    "BIST": "XIST",
    "MOEX": "XMOS",
    "TASE": "XTAE",
    "TADAWUL": "XSAU",
    "JSE": "XJSE",
    "NSE": "XBOM",  # the National Stock Exchange of India, which keeps the sessions of Bombay
    "XNSE": "XBOM",
    "BSE": "XBOM",
    "JPX": "XTKS",
    "TSE": "XTKS",
    "HKEX": "XHKG",
    "SEHK": "XHKG",
    "SSE": "XSHG",
    "SZSE": "XSHG",
    "XSHE": "XSHG",
    "KRX": "XKRX",
    "TWSE": "XTAI",
    "SGX": "XSES",
    "SET": "XBKK",
    "IDX": "XIDX",
    "JKT": "XIDX",
    "ASX": "XASX",
    "NZX": "XNZE",
}


_LIBRARY: Final = """
24/5 24/7 AIXK ARCX ASEX ASX BATS BMF BSE BVB BVMF CBOT CFE CME CMES COMEX FWB HKEX ICE ICEUS IEPA JKT JPX LSE
LUXSE NASDAQ NYFE NYMEX NYSE OOTC OSE SIX SSE TASE TSX XAMS XASE XASX XBDA XBEL XBKK XBOG XBOM XBRA XBRU XBSE
XBUD XBUE XCBF XCSE XCYS XDUB XDUS XEEE XETR XEUR XFRA XHAM XHEL XHKG XICE XIDX XIST XJSE XKAR XKLS XKRX XLIM
XLIS XLIT XLJU XLON XLUX XMAD XMEX XMIL XMOS XNAS XNYS XNZE XOSL XPAR XPHS XPRA XRIS XSAU XSES XSGO XSHG XSTO
XSTU XSWX XTAE XTAI XTAL XTKS XTSE XTSX XWAR XWBO XZAG us_futures
"""
LIBRARY_NAMES: Final = frozenset(_LIBRARY.split())
"""The names of the library, which takes a second to load."""


def accepted_names() -> list[str]:
    """Return all names of calendars; they are accepted in any case of letters."""
    return sorted({ALWAYS_OPEN, *_CUSTOMARY, *(name.upper() for name in LIBRARY_NAMES)})


def calendar_name(text: str) -> str:
    """Return the canonical name of a calendar: `nyse` is `XNYS`. An unknown name is returned unchanged."""
    name = text.strip().upper()
    return _CUSTOMARY.get(name, name)

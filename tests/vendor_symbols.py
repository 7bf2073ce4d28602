"""Symbols in the form of vendors, and in stored form."""

_AS_THEY_ARE = [
    "AAPL",  # exchanges
    "BRK.B",
    "BF-B",
    "BRK/B",
    "BAC^E",
    "BP.",
    "0700.HK",
    "005930.KS",
    "600519",
    "^GSPC",  # Yahoo
    "^NSEI",
    "M&M.NS",
    "EURUSD=X",
    "GC=F",
    "BTC-USD",
    "ES_F",  # futures
    "/ES",
    "/ESZ26:XCME",
    "BTC/USD",  # pairs and perpetuals
    "BTC_USDT",
    "BTCUSD_PERP",
    "BTC/USDT:USDT",
    "BTC/USDT:USDT-261225-100000-C",
    "BTC-27DEC26-100000-C",
    "1INCH/USDT",
    "X:BTCUSD",  # with the market before it
    "C:EURUSD",
    "I:SPX",
    "BINANCE:BTCUSDT",
    "O:SPY261218C00650000",
    "AAPL261218C00150000",
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345",
]
#: (sent form, stored form)
VENDOR_SYMBOLS = [
    *((symbol, symbol) for symbol in _AS_THEY_ARE),
    ("SPY   261218P00650000", "SPY261218P00650000"),  # OCC pads the root to six characters
    ("BRKB1 261218C00400000", "BRKB1261218C00400000"),
]

"""Finnhub: streamed trades, quotes, and candles on paid plans."""

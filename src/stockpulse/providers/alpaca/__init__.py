"""Alpaca: US stocks, over REST and a WebSocket."""

"""Alpaca's stream: trades and bars over a WebSocket, in JSON or MessagePack."""
